//! Weights that are no numbers: the tensor that holds them is named.
use crate::source::Model;
use anyhow::{Result, anyhow};

/// A model whose divergence is no number is not saved.
pub fn check(model: &Model, divergence: f64) -> Result<()> {
    if divergence.is_finite() {
        return Ok(());
    }
    let unknown = || anyhow!("the quantized model: expected a finite KL divergence, found {divergence}");
    Err(not_finite(model).unwrap_or_else(unknown))
}

/// Says more about a failure of the numbers.
pub fn explain(model: &Model, error: planish_quant::Error) -> anyhow::Error {
    use planish_quant::Error::{NotTheSame, Statistic, Tensor, Weight};
    match error {
        NotTheSame { .. } | Statistic { .. } | Tensor { .. } | Weight { .. } => {
            not_finite(model).unwrap_or_else(|| error.into())
        }
        _ => error.into(),
    }
}

/// NaN and infinity spread: what calibration stumbled over is seldom where they are. Names the tensor that holds one.
fn not_finite(model: &Model) -> Option<anyhow::Error> {
    for name in model.tensors.names() {
        let Ok(tensor) = model.tensors.tensor(&name) else { continue };
        let values = tensor.to_f32();
        if let Some(at) = values.iter().position(|x| !x.is_finite()) {
            let path = model.path.display();
            return Some(anyhow!(
                "{path}: tensor {name}: expected finite numbers, found {} at element {at}",
                values[at]
            ));
        }
        model.tensors.release(&name);
    }
    None
}
