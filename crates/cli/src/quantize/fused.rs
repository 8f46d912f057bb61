//! What vLLM takes for the scheme of linears that it runs as one. It asks for a name that no file has, such as
//! `qkv_proj`, in three steps: by name or expression among the targets, then by class (`Linear` is part of
//! `QKVParallelLinear`), and only then by the names of the parts. Newer versions ask for the parts first.
use planish_checkpoint::scheme::Group;
use planish_model::{Mlp, Plan, Role};
use planish_quant::recipe::Pattern;

/// Linears that are run as one, or one alone.
struct Fused {
    /// As vLLM calls them.
    name: String,
    class: &'static str,
    /// As they are called in the checkpoint.
    parts: Vec<String>,
    /// Whether it knows which parts the name has.
    split: bool,
}

/// Names that vLLM gives the projections of a layer's experts, of which it looks at the first one's.
const EXPERT: [(&str, Role); 3] = [
    ("gate_proj", Role::Gate(Mlp::Expert(0))),
    ("up_proj", Role::Up(Mlp::Expert(0))),
    ("down_proj", Role::Down(Mlp::Expert(0))),
];

/// Whether these groups mean the same to vLLM as to a reader that asks for each linear by itself.
pub fn agree(plan: &Plan, groups: &[Group], group_of: &dyn Fn(&str) -> Option<usize>) -> bool {
    let targets: Vec<(usize, Pattern)> = groups
        .iter()
        .enumerate()
        .flat_map(|(i, group)| group.targets.iter().filter_map(move |text| Some((i, Pattern::new(text).ok()?))))
        .collect();
    let same = |fused: &Fused| {
        let expected = fused.parts.first().and_then(|part| group_of(part));
        // What stays in float is named in `ignore`, part by part.
        expected.is_none() || expected == found(&targets, fused)
    };
    (0..plan.layers).all(|layer| fused_of(plan, layer).iter().all(same))
}

/// The names that vLLM asks for where a family calls its experts' projections otherwise, each with the linear meant.
pub fn aliases(plan: &Plan, layer: usize) -> Vec<(String, String)> {
    let experts = expert_names(plan, layer).into_iter();
    experts.map(|fused| (fused.name, fused.parts.concat())).filter(|(alias, own)| alias != own).collect()
}

fn fused_of(plan: &Plan, layer: usize) -> Vec<Fused> {
    let roles = plan.roles(layer);
    let of = |name: &str, class, wanted: &[Role]| {
        let parts: Vec<String> = wanted
            .iter()
            .filter(|role| roles.contains(role))
            .map(|&role| plan.linear_name(layer, role))
            .fold(Vec::new(), |mut all, name| {
                all.extend((!all.contains(&name)).then_some(name));
                all
            });
        let name = if let [one] = &parts[..] { one.clone() } else { beside(parts.first()?, name) };
        Some(Fused { name, class, parts, split: true })
    };
    let mut out = vec![of("qkv_proj", "QKVParallelLinear", &[Role::Q, Role::K, Role::V])];
    for mlp in [Mlp::Dense, Mlp::Shared] {
        out.push(of("gate_up_proj", "MergedColumnParallelLinear", &[Role::Gate(mlp), Role::Up(mlp)]));
    }
    // Of linears that stand alone it takes the first target that fits, though a later one may name them exactly.
    for role in [Role::O, Role::Down(Mlp::Dense), Role::Down(Mlp::Shared)] {
        out.push(of("", "RowParallelLinear", &[role]));
    }
    out.into_iter().flatten().chain(expert_names(plan, layer)).collect()
}

fn expert_names(plan: &Plan, layer: usize) -> Vec<Fused> {
    let roles = plan.roles(layer);
    let named = EXPERT.iter().filter(|(_, role)| roles.contains(role)).map(|&(name, role)| {
        let own = plan.linear_name(layer, role);
        // For experts `Linear` stands too.
        Fused { name: beside(&own, name), class: "FusedMoE Linear", parts: vec![own], split: false }
    });
    named.collect()
}

/// A module's name with another last part.
fn beside(module: &str, last: &str) -> String {
    module.rsplit_once('.').map_or(last.into(), |(above, _)| format!("{above}.{last}"))
}

/// The group that vLLM finds.
fn found(targets: &[(usize, Pattern)], fused: &Fused) -> Option<usize> {
    let first = |matches: &dyn Fn(&Pattern) -> bool| targets.iter().find(|(_, t)| matches(t)).map(|(group, _)| *group);
    let by_class = |t: &Pattern| match t.text().starts_with("re:") {
        true => t.matches(fused.class),
        false => fused.class.to_lowercase().contains(&t.text().to_lowercase()),
    };
    let by_parts = || {
        let parts: Option<Vec<usize>> = fused.parts.iter().map(|part| first(&|t| t.matches(part))).collect();
        parts.filter(|_| fused.split)?.first().copied()
    };
    first(&|t| t.matches(&fused.name)).or_else(|| first(&by_class)).or_else(by_parts)
}
