//! Quantizing the linears of one block.
use super::fold::FloatBlock;
use crate::error::{Error, Result};
use crate::gptq::{self, Factor, GptqOptions};
use crate::rtn::{self, QuantizedWeight};
use planish_model::{Input, Plan, Role};
use planish_tensor::{HostTensor, LinearPart, Q8};

/// How weights become codes.
#[derive(Clone, Debug, PartialEq)]
pub enum Algorithm {
    /// Round-to-nearest.
    Rtn,
    /// GPTQ with these settings.
    Gptq(GptqOptions),
}

/// One quantized linear.
#[derive(Clone, Debug)]
pub struct Solved {
    /// What it is for.
    pub role: Role,
    /// Codes and scales.
    pub weight: QuantizedWeight,
    /// `||W - Wq|| / ||W||`.
    pub weight_error: f64,
    /// GPTQ's loss and that of round-to-nearest.
    pub proxy_loss: Option<(f64, f64)>,
    /// Damping that GPTQ needed.
    pub damping: Option<f64>,
    /// GPTQ gave up on the Gram matrix.
    pub fell_back_to_rtn: bool,
    /// Input channels without a single token.
    pub dead_columns: usize,
}

/// Quantizes the linears of one input, except those for which `keep` says no. `gram` is needed by GPTQ alone.
pub fn solve_input(
    plan: &Plan,
    layer: usize,
    block: &FloatBlock,
    input: Input,
    kind: Q8,
    algorithm: &Algorithm,
    gram: Option<&[f32]>,
    quantized: &dyn Fn(Role) -> bool,
) -> Result<Vec<Solved>> {
    let roles: Vec<Role> = input.readers().iter().copied().filter(|&r| quantized(r)).collect();
    if roles.is_empty() {
        return Ok(Vec::new());
    }
    let named = |role| move |e| Error::Tensor { tensor: plan.linear_name(layer, role) + ".weight", source: Box::new(e) };
    let factor = match (algorithm, gram) {
        (Algorithm::Gptq(options), Some(gram)) => {
            let factor = Factor::new(gram, plan.input_width(input), options).map_err(named(roles[0]))?;
            Some((factor, options))
        }
        _ => None,
    };
    let solve = |&role: &Role| {
        let (n, k) = plan.linear_size(role);
        let w = &block.weights[role as usize];
        match &factor {
            Some((factor, options)) => by_gptq(role, factor, options, kind, w, n),
            None => by_rtn(role, kind, w, n, k),
        }
        .map_err(named(role))
    };
    roles.iter().map(solve).collect()
}

fn by_rtn(role: Role, kind: Q8, w: &[f32], n: usize, k: usize) -> Result<Solved> {
    let weight = rtn::quantize_rows(kind, w, n, k)?;
    let weight_error = weight.relative_error(w);
    Ok(Solved {
        role,
        weight,
        weight_error,
        proxy_loss: None,
        damping: None,
        fell_back_to_rtn: false,
        dead_columns: 0,
    })
}

fn by_gptq(role: Role, factor: &Factor, options: &GptqOptions, kind: Q8, w: &[f32], n: usize) -> Result<Solved> {
    let result = gptq::solve(factor, kind, w, n, options)?;
    Ok(Solved {
        role,
        weight_error: result.weight.relative_error(w),
        proxy_loss: result.proxy_loss.zip(result.rtn_proxy_loss),
        damping: result.damping_used,
        fell_back_to_rtn: result.fell_back_to_rtn,
        dead_columns: result.dead_columns.len(),
        weight: result.weight,
    })
}

/// A quantized weight as a linear.
pub fn to_part(weight: &QuantizedWeight, bias: Option<Vec<f32>>) -> Result<LinearPart> {
    let codes = HostTensor::from_bytes(weight.kind.dtype(), vec![weight.n, weight.k], weight.codes.clone())?;
    Ok(LinearPart { weight: codes, scales: Some(weight.scales.clone()), bias })
}
