//! A recipe on one model: which of its linears have which scheme, said as the checkpoint says it.
use super::fused;
use anyhow::{Result, bail};
use planish_checkpoint::scheme::{ActQuant, ActUnit, Group, LinearScheme, QuantFormat, Scheme};
use planish_model::{Mlp, Plan, Role};
use planish_quant::recipe::{Format, HEAD, Pattern, Recipe, RecipeGroup};

/// Refuses, before any work, a recipe that this model cannot follow.
pub fn check(plan: &Plan, recipe: &Recipe) -> Result<()> {
    let mut any = recipe.scheme_of_head(plan.arch.names.head).is_some();
    for layer in 0..plan.layers {
        let roles = plan.roles(layer);
        any |= roles.iter().any(|&role| scheme_of(plan, recipe, layer, role).is_some());
        for pair in roles.windows(2).filter(|pair| one_product(pair[0], pair[1])) {
            let [a, b] = [pair[0], pair[1]].map(|role| scheme_of(plan, recipe, layer, role));
            if a != b {
                let [name_a, name_b] = [pair[0], pair[1]].map(|role| plan.linear_name(layer, role));
                let said = |scheme: Option<&LinearScheme>| scheme.map_or("float".into(), described);
                bail!(
                    "{name_a} and {name_b} read one input and run as one product: expected one scheme for both, found {} and {}",
                    said(a),
                    said(b)
                );
            }
        }
    }
    if !any {
        let targets: Vec<&str> = recipe.groups.iter().flat_map(|g| &g.targets).map(|t| t.text()).collect();
        let ignore: Vec<&str> = recipe.ignore.iter().map(|t| t.text()).collect();
        bail!(
            "expected linears to quantize, found that all stay in float: no linear of a {} model is named by {} and not \
             ignored (--ignore, or the recipe's ignore) by {}",
            plan.arch.name,
            targets.join(", "),
            ignore.join(", ")
        );
    }
    Ok(())
}

/// The targets of groups that no linear has.
pub fn idle_targets(plan: &Plan, recipe: &Recipe) -> Vec<String> {
    let idle = recipe.groups.iter().filter(|group| !is_used(plan, recipe, group));
    idle.map(|group| group.targets.iter().map(|t| t.text()).collect::<Vec<_>>().join(", ")).collect()
}

/// The scheme as saved: each group by its targets, and by name what stays in float. Where vLLM would take such targets for
/// another group's, each linear is named instead.
pub fn scheme(plan: &Plan, recipe: &Recipe) -> Result<Scheme> {
    let mut ignore = kept(plan, recipe);
    if recipe.format == Format::Lmdeploy {
        let first = recipe.groups[0].scheme.weights;
        return Ok(Scheme::w8a8(QuantFormat::LmDeploy, first.dtype, ignore)?);
    }
    let used: Vec<&RecipeGroup> = recipe.groups.iter().filter(|group| is_used(plan, recipe, group)).collect();
    let group_of = |name: &str| {
        let scheme = recipe.scheme_of(name)?;
        used.iter().position(|group| std::ptr::eq(&group.scheme, scheme))
    };
    let said = |group: &&RecipeGroup| {
        let targets = group.targets.iter().map(|target| match target.text() {
            HEAD => plan.arch.names.head.to_owned(),
            other => other.to_owned(),
        });
        Group { targets: targets.collect(), scheme: group.scheme }
    };
    let mut groups: Vec<Group> = used.iter().map(said).collect();
    if !fused::agree(plan, &groups, &group_of) {
        let named = used.iter().map(|group| Group { targets: linears_of(plan, recipe, group), scheme: group.scheme });
        groups = named.collect();
    }
    for layer in (0..plan.layers).filter(|&layer| expert_schemes(plan, recipe, layer) == [None]) {
        ignore.extend(fused::aliases(plan, layer).into_iter().map(|(alias, _)| alias));
    }
    Ok(Scheme::new(QuantFormat::CompressedTensors, groups, ignore)?.with_kv_cache(recipe.kv_cache))
}

/// The blocks whose experts are not all quantized alike.
pub fn mixed_experts(plan: &Plan, recipe: &Recipe) -> Vec<String> {
    let mixed = (0..plan.layers).filter(|&layer| expert_schemes(plan, recipe, layer).len() > 1);
    mixed.map(|layer| plan.block_prefix(layer).trim_end_matches('.').to_owned()).collect()
}

/// The schemes of a layer's experts, each once.
fn expert_schemes<'a>(plan: &Plan, recipe: &'a Recipe, layer: usize) -> Vec<Option<&'a LinearScheme>> {
    let mut out = Vec::new();
    for role in plan.roles(layer) {
        let (Role::Gate(mlp) | Role::Up(mlp) | Role::Down(mlp)) = role else { continue };
        let scheme = scheme_of(plan, recipe, layer, role);
        if matches!(mlp, Mlp::Expert(_)) && !out.contains(&scheme) {
            out.push(scheme);
        }
    }
    out
}

/// Every linear that has the scheme of this group by its targets, by name.
fn linears_of(plan: &Plan, recipe: &Recipe, group: &RecipeGroup) -> Vec<String> {
    let own = |found: Option<&LinearScheme>| found.is_some_and(|scheme| std::ptr::eq(scheme, &group.scheme));
    let mut out: Vec<String> = Vec::new();
    for layer in 0..plan.layers {
        let roles = plan.roles(layer).into_iter().filter(|&role| own(scheme_of(plan, recipe, layer, role)));
        for name in roles.map(|role| plan.linear_name(layer, role)) {
            out.extend((out.last() != Some(&name)).then_some(name));
        }
        let aliases = fused::aliases(plan, layer).into_iter().filter(|(_, linear)| own(recipe.scheme_of(linear)));
        out.extend(aliases.map(|(alias, _)| alias));
    }
    let head = plan.arch.names.head;
    out.extend(own(recipe.scheme_of_head(head)).then(|| head.to_owned()));
    out
}

/// Names of the modules that stay in float, the output projection's first.
pub fn kept(plan: &Plan, recipe: &Recipe) -> Vec<String> {
    let head = plan.arch.names.head;
    let mut out: Vec<String> = recipe.scheme_of_head(head).is_none().then(|| head.to_owned()).into_iter().collect();
    for layer in 0..plan.layers {
        let roles = plan.roles(layer).into_iter();
        let floats = roles.filter(|&role| scheme_of(plan, recipe, layer, role).is_none());
        for name in floats.map(|role| plan.linear_name(layer, role)) {
            if out.last() != Some(&name) {
                out.push(name);
            }
        }
    }
    out
}

/// The recipe as another program would have to read it: routers, which this one never quantizes, are among what it
/// ignores, and so is the output projection by the family's own name for it.
pub fn spelled_out(plan: &Plan, recipe: &Recipe) -> Result<Recipe> {
    let mut out = recipe.clone();
    let mut ignore = |name: String| -> Result<()> {
        if out.scheme_of(&name).is_some() {
            out.ignore.push(Pattern::new(&name)?);
        }
        Ok(())
    };
    for layer in 0..plan.layers {
        for role in plan.roles(layer).into_iter().filter(|role| role.steers()) {
            ignore(plan.linear_name(layer, role))?;
        }
    }
    if recipe.scheme_of_head(plan.arch.names.head).is_none() {
        ignore(plan.arch.names.head.to_owned())?;
    }
    Ok(out)
}

fn scheme_of<'a>(plan: &Plan, recipe: &'a Recipe, layer: usize, role: Role) -> Option<&'a LinearScheme> {
    recipe.scheme_of(&plan.linear_name(layer, role)).filter(|_| !role.steers())
}

/// Whether any linear has the scheme of this group by its targets.
fn is_used(plan: &Plan, recipe: &Recipe, group: &RecipeGroup) -> bool {
    let own = |found: Option<&LinearScheme>| found.is_some_and(|scheme| std::ptr::eq(scheme, &group.scheme));
    let block = |layer| plan.roles(layer).into_iter().any(|role| own(scheme_of(plan, recipe, layer, role)));
    own(recipe.scheme_of_head(plan.arch.names.head)) || (0..plan.layers).any(block)
}

/// Linears that are packed as one weight: in the order of a block they are neighbours.
fn one_product(a: Role, b: Role) -> bool {
    let attention = |role| matches!(role, Role::Q | Role::K | Role::V);
    let mlp = |role| match role {
        Role::Gate(mlp) | Role::Up(mlp) => Some(mlp),
        _ => None::<Mlp>,
    };
    (attention(a) && attention(b)) || (mlp(a).is_some() && mlp(a) == mlp(b))
}

fn described(scheme: &LinearScheme) -> String {
    let activations = match scheme.activations {
        ActQuant::None => "float",
        ActQuant::Static { .. } => "static",
        ActQuant::Dynamic { unit: ActUnit::Token, .. } => "per token",
        ActQuant::Dynamic { .. } => "dynamic",
    };
    format!("{:?} {:?} with {activations} activations", scheme.weights.dtype, scheme.weights.strategy)
}
