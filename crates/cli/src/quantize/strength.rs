//! A recipe on one block: how strongly each input is smoothed, and how weights become codes.
use crate::source::Model;
use planish_model::{Absorber, Input};
use planish_quant::calibrate::fold::{absorber_name, reader_names, smoothed_readers};
use planish_quant::calibrate::solve::Algorithm;
use planish_quant::calibrate::strength::Strength;
use planish_quant::gptq::GptqOptions;
use planish_quant::recipe::{Recipe, Smooth, WeightMethod};

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
    let mut readers = smoothed_readers(&model.plan, layer, input);
    readers.retain(|role| !role.steers());
    let readers = reader_names(&model.plan, layer, &readers);
    let readers: Vec<&str> = readers.iter().map(String::as_str).collect();
    recipe.smooths(&absorber_name(&model.plan, layer, absorber), &readers).then_some(strength)
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
