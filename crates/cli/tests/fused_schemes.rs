//! Checkpoints with several schemes as vLLM reads them: it asks for the scheme of linears that it runs as one by a name
//! that no file has, and must find what the file holds of their parts.
mod program;

use planish_quant::recipe::Pattern;
use program::tensors::File;
use program::{answers, golden, inspect, quantize, read_json, scratch, tiny};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The targets of a checkpoint in vLLM's order, each with its group's type of weights.
fn targets(dir: &Path) -> Vec<(Pattern, String)> {
    let section = read_json(&dir.join("config.json"))["quantization_config"].clone();
    let groups = section["config_groups"].as_object().unwrap().clone();
    let one = |group: &Value| {
        let dtype = if group["weights"]["type"] == "int" { "I8" } else { "F8_E4M3" };
        let texts = group["targets"].as_array().unwrap().clone();
        texts.into_iter().map(move |t| (Pattern::new(t.as_str().unwrap()).unwrap(), dtype.to_owned()))
    };
    groups.values().flat_map(one).collect()
}

/// vLLM's `find_matched_target` before it asked for the parts first: the name, then the class, then the parts.
fn matched(targets: &[(Pattern, String)], name: &str, class: &str, parts: &[String]) -> Option<String> {
    let first = |test: &dyn Fn(&Pattern) -> bool| targets.iter().find(|(t, _)| test(t)).map(|(_, dtype)| dtype.clone());
    let contained = |t: &Pattern| match t.text().strip_prefix("re:") {
        Some(_) => t.matches(class),
        None => class.to_lowercase().contains(&t.text().to_lowercase()),
    };
    let each = || parts.iter().map(|part| first(&|t| t.matches(part))).collect::<Option<Vec<_>>>();
    first(&|t| t.matches(name)).or_else(|| first(&contained)).or_else(|| each()?.into_iter().next())
}

/// Every fused name of two layers is of the type that the file has of its parts.
#[track_caller]
fn assert_fused(dir: &Path) {
    let (targets, file) = (targets(dir), File::open(&dir.join("model.safetensors")));
    for layer in 0..2 {
        for (fused, class, parts) in [
            ("self_attn.qkv_proj", "QKVParallelLinear", &["q_proj", "k_proj", "v_proj"][..]),
            ("mlp.gate_up_proj", "MergedColumnParallelLinear", &["gate_proj", "up_proj"]),
            ("self_attn.o_proj", "RowParallelLinear", &[]),
            ("mlp.down_proj", "RowParallelLinear", &[]),
        ] {
            let name = format!("model.layers.{layer}.{fused}");
            let above = name.rsplit_once('.').unwrap().0;
            let parts: Vec<String> = parts.iter().map(|part| format!("{above}.{part}")).collect();
            let stored = file.kind(&format!("{}.weight", parts.first().unwrap_or(&name))).0;
            let found = if stored == "BF16" { Some(stored.clone()) } else { matched(&targets, &name, class, &parts) };
            assert_eq!(found, Some(stored), "{name} in {}", read_json(&dir.join("config.json")));
        }
    }
}

fn recipe(dir: &Path, scheme: &str) -> PathBuf {
    let path = dir.join("typed.yaml");
    let text = format!("a_stage: {{b_modifiers: {{QuantizationModifier: {{ignore: [lm_head], scheme: {scheme}}}}}}}");
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn vllm_finds_what_the_file_holds() {
    let dir = scratch();
    for (i, (scheme, by_name)) in [
        // What a budget does: some fused linears by name, the rest by class.
        (
            "{FP8_DYNAMIC: [model.layers.1.mlp.gate_proj, model.layers.1.mlp.up_proj, model.layers.0.mlp.down_proj], \
             W8A8: [Linear]}",
            true,
        ),
        ("{W8A8: [Linear], FP8_DYNAMIC: ['re:.*layers.0.self_attn.(q|k|v)_proj$']}", true),
        ("{FP8_DYNAMIC: [Linear], W8A8: ['re:.*self_attn.(q|k|v)_proj', 're:.*mlp.(gate|up)_proj']}", true),
        // The first that fits, though a later one names it.
        ("{W8A8: ['re:.*_proj$'], FP8_DYNAMIC: [model.layers.0.mlp.down_proj]}", true),
        // Only what stands alone is split off: the class may stay.
        ("{FP8_DYNAMIC: ['re:.*down_proj$', 're:.*o_proj$'], W8A8: [Linear]}", false),
        ("{W8A8: ['re:.*(q|k|v|o|gate|up)_proj$'], FP8_DYNAMIC: ['re:.*down_proj$']}", false),
        ("{W8A8: [Linear]}", false),
    ]
    .into_iter()
    .enumerate()
    {
        let out = dir.path().join(i.to_string());
        quantize(&tiny(), &out).arg("--recipe").arg(recipe(dir.path(), scheme)).run().ok();
        assert_fused(&out);
        let texts: Vec<String> = targets(&out).iter().map(|(t, _)| t.text().to_owned()).collect();
        let named = texts.iter().all(|t| t.starts_with("model.layers."));
        assert_eq!(named, by_name, "{scheme}: {texts:?}");
        inspect(&out).words("--verify").run().ok();
        answers(&out);
    }
}

/// Of experts it asks for the first one's projections, by names of its own.
#[test]
fn experts_are_found_by_the_first_ones_names() {
    let dir = scratch();
    let names = ["q_proj", "k_proj", "v_proj"].map(|part| format!("model.layers.1.self_attn.{part}")).join(", ");
    let scheme = format!("{{FP8_DYNAMIC: [{names}], W8A8: [Linear]}}");
    for (model, experts) in [("mixtral", "block_sparse_moe.experts"), ("qwen3_moe", "mlp.experts")] {
        let out = dir.path().join(model);
        quantize(&golden(model), &out).arg("--recipe").arg(recipe(dir.path(), &scheme)).run().ok();
        let targets = targets(&out);
        assert!(targets.iter().all(|(t, _)| t.text() != "Linear"));
        for projection in ["gate_proj", "up_proj", "down_proj"] {
            let name = format!("model.layers.0.{experts}.0.{projection}");
            assert_eq!(matched(&targets, &name, "FusedMoE", &[]), Some("I8".into()), "{name}");
        }
        answers(&out);
    }
}

/// Experts that are all in float are ignored by the names that vLLM asks for.
#[test]
fn experts_in_float_are_ignored_by_the_first_ones_names() {
    let dir = scratch();
    let out = dir.path().join("float");
    let document = quantize(&golden("mixtral"), &out).words("--json --ignore re:.*layers.1.*experts.*").run().json();
    let ignore = read_json(&out.join("config.json"))["quantization_config"]["ignore"].clone();
    for projection in ["gate_proj", "up_proj", "down_proj"] {
        let name = |layer| json!(format!("model.layers.{layer}.block_sparse_moe.experts.0.{projection}"));
        let ignored = |layer| ignore.as_array().unwrap().contains(&name(layer));
        assert!(ignored(1) && !ignored(0), "{ignore}");
    }
    assert!(!document["warnings"].to_string().contains("differ in scheme"), "{}", document["warnings"]);
    answers(&out);
}
