//! The table of families, made from their declarations: `docs/models.md`.
use crate::arch::{Arch, Module, NormKind, Place, Rope, Rows, Scale, Scores, Window};
use crate::archs::ARCHS;

const INTRO: &str = "# Models

Generated from the declarations in `crates/model/src/archs/`: `cargo run -p planish-model --example models > docs/models.md`;
a test fails where this page is older than they are.

Each family below runs in float and in 8 bits, is smoothed, goes through GPTQ, and is saved in its own convention: names,
packed modules and norm offsets as its float checkpoints have them. `crates/model/tests/golden.rs` compares float logits
and greedy tokens with transformers; `families.rs` and `mixtures.rs` in `crates/quant/tests/` smooth, quantize, save and read back.
A model
whose tensors are not those of its family is refused with a list of what is missing and what is left over.
";

const COLUMNS: &str = "
## Families

| family | `architectures` | norms | positions | attention | MLP | packed modules | not smoothed |
|---|---|---|---|---|---|---|---|
";

const NOTES: &str = "
- *norms*: before or after attention and MLP; `1 + w` is a stored weight that is applied with 1 added. LayerNorm has a bias.
- *not smoothed*: inputs of these linears have nothing before them that could take up the inverse of a factor: no norm, or a
  nonlinearity that factors do not pass (ReLU lets them through). The report of a run says so too. Experts are smoothed only
  where a recipe names them.
- Rotary scaling by `linear`, `dynamic` (NTK), `llama3`, `yarn` and `longrope` works in every family that rotates. Two of them
  depend on length: the longest text that may come (`--max-model-len`) decides for all texts, so that a token's angle does not
  depend on what follows it. LongRoPE models take their short factors when that is at most the trained length.
- A residual multiplier (Granite) and a divisor of logits are folded into embeddings and norms where the model is loaded.
- A tokenizer is read from `tokenizer.json`, else from SentencePiece's `tokenizer.model` (InternLM2), with the names that
  `tokenizer_config.json` gives to pieces.

## Operations

Besides the operations that Llama needs, a back end runs these families with:

| operation | families |
|---|---|
";

/// Whether a family needs an operation.
type Need = fn(&Arch) -> bool;

/// The whole page.
pub fn page() -> String {
    let mut text = format!("{INTRO}{COLUMNS}");
    let mut archs = ARCHS.to_vec();
    archs.sort_by_key(|arch| arch.name.to_lowercase());
    for arch in &archs {
        text += &row(arch);
    }
    text += NOTES;
    let needs: [(&str, Need); 6] = [
        ("`layer_norm`", |a| a.norm == NormKind::Layer),
        ("`rms_norm_stretches` (norms of queries and keys)", |a| has(a, Place::Queries)),
        ("`activate` (MLPs without a gate)", |a| !a.gated),
        ("`add_positions` (learned positions)", |a| a.names.positions.is_some()),
        ("`softcap` (capped logits)", |a| a.scales.logit_cap.is_some()),
        ("mixtures of experts", |a| a.mixture.is_some()),
    ];
    for (operation, needed) in needs {
        let families: Vec<&str> = archs.iter().filter(|a| needed(a)).map(|a| a.name).collect();
        text += &format!("| {operation} | {} |\n", families.join(", "));
    }
    text
}

fn row(arch: &Arch) -> String {
    let classes: Vec<String> = arch.classes.iter().map(|class| format!("`{class}`")).collect();
    let cells = [
        arch.name.to_owned(),
        classes.join(", "),
        norms(arch),
        positions(arch),
        attention(arch),
        mlp(arch),
        packed(arch),
        unsmoothed(arch),
    ];
    format!("| {} |\n", cells.join(" | "))
}

fn has(arch: &Arch, place: Place) -> bool {
    arch.names.norms.iter().any(|(there, _)| *there == place)
}

fn norms(arch: &Arch) -> String {
    let kind = match arch.norm {
        NormKind::Rms { offset: 0.0 } => "RMS".to_owned(),
        NormKind::Rms { offset } => format!("RMS, {offset} + w"),
        NormKind::Layer => "LayerNorm".to_owned(),
    };
    let place = match (has(arch, Place::BeforeAttention), has(arch, Place::AfterAttention)) {
        (true, true) => "before and after",
        (false, true) => "after",
        _ => "before",
    };
    format!("{kind}, {place}")
}

fn positions(arch: &Arch) -> String {
    let pairs = if arch.interleaved { ", neighbouring pairs" } else { "" };
    match arch.rope {
        Rope::Never if arch.names.positions.is_some() => "learned".to_owned(),
        Rope::Never => "none".to_owned(),
        Rope::Always => format!("rotary{pairs}"),
        Rope::Listed => format!("rotary in listed layers{pairs}"),
        Rope::ByWindow => format!("rotary, another rule in windows{pairs}"),
    }
}

fn attention(arch: &Arch) -> String {
    let mut parts = Vec::new();
    if has(arch, Place::Queries) {
        parts.push(match arch.head_norm {
            crate::arch::Span::Head => "q/k norm by head".to_owned(),
            crate::arch::Span::Heads => "q/k norm over all heads".to_owned(),
        });
    }
    match arch.window {
        Window::Never => {}
        Window::All => parts.push("window where `sliding_window` is given".to_owned()),
        Window::Pattern(..) => parts.push("windows by pattern".to_owned()),
        Window::Asked | Window::Upper => parts.push("windows if `use_sliding_window`".to_owned()),
    }
    if let Scores::InverseRoot(field) | Scores::Field(field) = arch.scales.scores {
        parts.push(format!("scale by `{field}`"));
    }
    if arch.scales.score_cap.is_some() {
        parts.push("capped scores".to_owned());
    }
    if arch.scales.residual != Scale::One {
        parts.push("multipliers".to_owned());
    }
    if arch.parallel != crate::arch::Flag::Never {
        parts.push("beside the MLP".to_owned());
    }
    if parts.is_empty() { "plain".to_owned() } else { parts.join(", ") }
}

fn mlp(arch: &Arch) -> String {
    let kind = if arch.gated { "gated" } else { "without gate" };
    let usual = arch.fields.default_activation;
    let experts = if arch.mixture.is_some() { "experts, " } else { "" };
    format!("{experts}{kind}, {usual}")
}

fn packed(arch: &Arch) -> String {
    let name = |m: &Module| {
        let order = if m.rows == Rows::ByKvHead { " by key/value head" } else { "" };
        format!("`{}`{order}", m.name)
    };
    let names: Vec<String> = arch.names.modules.iter().filter(|m| m.roles.len() > 1).map(name).collect();
    if names.is_empty() { "–".to_owned() } else { names.join(", ") }
}

fn unsmoothed(arch: &Arch) -> String {
    let mut parts = Vec::new();
    if !has(arch, Place::BeforeAttention) {
        parts.push("q, k, v");
    }
    if !has(arch, Place::BeforeMlp) {
        parts.push("gate, up");
    }
    if !arch.gated {
        parts.push("down, unless behind ReLU");
    }
    if arch.mixture.is_some() {
        parts.push("experts");
    }
    if parts.is_empty() { "–".to_owned() } else { parts.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{Mlp, Role};

    #[test]
    fn the_page_is_up_to_date() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/models.md");
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(there == page(), "stale: cargo run -p planish-model --example models > docs/models.md");
    }

    /// What the rest of the program takes for granted of a declaration.
    #[test]
    fn declarations_are_whole() {
        let mut classes: Vec<&str> = Vec::new();
        for arch in ARCHS {
            classes.extend(arch.classes);
            let mut roles: Vec<Role> = arch.names.modules.iter().flat_map(|m| m.roles).copied().collect();
            roles.sort();
            let mut expected = vec![Role::Q, Role::K, Role::V, Role::O];
            let mlp = [Role::Gate(Mlp::Dense), Role::Up(Mlp::Dense), Role::Down(Mlp::Dense)];
            expected.extend(mlp.into_iter().skip(!arch.gated as usize));
            expected.sort();
            assert_eq!(roles, expected, "{}", arch.name);
            assert_eq!(has(arch, Place::Queries), has(arch, Place::Keys), "{}", arch.name);
            // Buffers change places after each norm behind a half of a block: twice or never.
            assert_eq!(has(arch, Place::AfterAttention), has(arch, Place::AfterMlp), "{}", arch.name);
            assert!(arch.rope != Rope::Never || arch.names.positions.is_some(), "{}", arch.name);
            let of_one_input = |m: &Module| m.roles.iter().all(|r| r.input() == m.roles[0].input());
            assert!(arch.names.modules.iter().all(of_one_input), "{}", arch.name);
        }
        let count = classes.len();
        classes.sort();
        classes.dedup();
        assert_eq!(classes.len(), count, "a class has one family");
    }
}
