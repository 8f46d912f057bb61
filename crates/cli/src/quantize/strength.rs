//! A recipe on one block: how strongly each input is smoothed, and how weights become codes.
use crate::source::Model;
use anyhow::{Result, bail};
use planish_model::{Absorber, Input, Plan};
use planish_quant::calibrate::fold::{absorber_name, reader_names, smoothed_inputs, smoothed_readers};
use planish_quant::calibrate::solve::Algorithm;
use planish_quant::calibrate::strength::Strength;
use planish_quant::gptq::GptqOptions;
use planish_quant::recipe::{Mapping, Recipe, Smooth, WeightMethod};

/// Smoothing between two linears (v to o, up to down) is no stronger than this, the paper's own default. Their
/// channels have no gain that grows outliers: a few tokens make the maxima, and a strength that suits norms would
/// stretch the weights for those tokens' sake (docs/accuracy.md has the figures).
const LINEAR_PAIR_ALPHA: f64 = 0.5;

/// How strongly a layer's input is smoothed. Experts are smoothed only where a recipe's mappings name them: one norm
/// would have to serve the router and all experts, which costs more than it saves.
pub fn strength(model: &Model, recipe: &Recipe, layer: usize, input: Input) -> Option<Strength> {
    let of_mixture = matches!(input, Input::MlpNorm | Input::MlpInner(_)) && model.plan.mixture(layer).is_some();
    if of_mixture && recipe.mappings.is_none() {
        return None;
    }
    let absorber = model.plan.absorber(input)?;
    let strength = match (recipe.smooth, absorber) {
        (Smooth::Off, _) => return None,
        (Smooth::Auto, _) => Strength::Search,
        (Smooth::Alpha(alpha), Absorber::Rows(_)) => Strength::Alpha(alpha.min(LINEAR_PAIR_ALPHA)),
        (Smooth::Alpha(alpha), Absorber::Norm(_)) => Strength::Alpha(alpha),
    };
    let (smooth, balance) = pair(&model.plan, layer, input, absorber);
    let balance: Vec<&str> = balance.iter().map(String::as_str).collect();
    recipe.smooths(&smooth, &balance).then_some(strength)
}

/// What takes up 1/s, and the linears that take up s, as mappings name them.
fn pair(plan: &Plan, layer: usize, input: Input, absorber: Absorber) -> (String, Vec<String>) {
    let mut readers = smoothed_readers(plan, layer, input);
    readers.retain(|role| !role.steers());
    (absorber_name(plan, layer, absorber), reader_names(plan, layer, &readers))
}

/// The mappings of a recipe that name no pair of the model, as text.
///
/// # Errors
/// None of them names one: nothing would be smoothed.
pub fn idle_mappings(plan: &Plan, recipe: &Recipe) -> Result<Vec<String>> {
    let Some(mappings) = recipe.mappings.as_ref().filter(|_| recipe.smooth != Smooth::Off) else {
        return Ok(Vec::new());
    };
    let pairs: Vec<(String, Vec<String>)> = (0..plan.layers)
        .flat_map(|layer| smoothed_inputs(plan, layer).into_iter().map(move |(i, a)| pair(plan, layer, i, a)))
        .collect();
    let names = |mapping: &&Mapping| {
        let named = |(smooth, balance): &(String, Vec<String>)| {
            mapping.names(smooth, &balance.iter().map(String::as_str).collect::<Vec<_>>())
        };
        !pairs.iter().any(named)
    };
    let idle: Vec<String> = mappings.iter().filter(names).map(said).collect();
    if !idle.is_empty() && idle.len() == mappings.len() {
        let own = pairs.iter().take(smoothed_inputs(plan, 0).len());
        let own: Vec<String> = own.map(|(smooth, balance)| format!("[[{}], {smooth}]", shortened(balance))).collect();
        bail!(
            "recipe: SmoothQuantModifier.mappings: expected pairs of this {} model, whose first block has {}; found {}, \
             which name none (all linears of a pair must be named)",
            plan.arch.name,
            own.join(", "),
            idle.join(", ")
        );
    }
    Ok(idle)
}

fn said(mapping: &Mapping) -> String {
    let balance: Vec<&str> = mapping.balance.iter().map(|p| p.text()).collect();
    format!("[[{}], {}]", balance.join(", "), mapping.smooth.text())
}

/// The names of a mixture's experts would fill a page.
fn shortened(names: &[String]) -> String {
    let more = if names.len() > 4 { format!(", … ({} in all)", names.len()) } else { String::new() };
    names.iter().take(4).cloned().collect::<Vec<_>>().join(", ") + &more
}

/// How weights become codes.
pub fn algorithm(recipe: &Recipe, threads: usize) -> Algorithm {
    match recipe.weights {
        WeightMethod::Rtn if recipe.clip => Algorithm::Clipped(threads),
        WeightMethod::Rtn => Algorithm::Rtn,
        WeightMethod::Gptq => Algorithm::Gptq(GptqOptions {
            damping: recipe.damping,
            act_order: recipe.act_order,
            search_scales: recipe.clip,
            threads,
            ..GptqOptions::default()
        }),
    }
}
