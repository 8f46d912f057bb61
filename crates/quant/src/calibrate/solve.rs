//! Quantizing the linears of one block.
use super::fold::FloatBlock;
use crate::error::{Error, Result};
use crate::gptq::{self, Factor, GptqOptions};
use crate::report::LinearReport;
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
    /// Its entry in the report; the output error is measured later.
    pub report: LinearReport,
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
    let named =
        |role| move |e| Error::Tensor { tensor: plan.linear_name(layer, role) + ".weight", source: Box::new(e) };
    let factor = match (algorithm, gram) {
        (Algorithm::Gptq(options), Some(gram)) => {
            let factor = Factor::new(gram, plan.input_width(input), options).map_err(named(roles[0]))?;
            Some((factor, options))
        }
        _ => None,
    };
    let solve = |&role: &Role| {
        let (n, k) = plan.linear_size(role);
        let (w, name) = (&block.weights[role as usize], plan.linear_name(layer, role));
        let solved = match &factor {
            Some((factor, options)) => gptq::solve(factor, kind, w, n, options).map(|result| {
                let report = LinearReport::gptq(&name, w, &result);
                Solved { role, weight: result.weight, report }
            }),
            None => rtn::quantize_rows(kind, w, n, k).map(|weight| {
                let report = LinearReport::rtn(&name, w, &weight);
                Solved { role, weight, report }
            }),
        };
        solved.map_err(named(role))
    };
    roles.iter().map(solve).collect()
}

/// A quantized weight as a linear.
pub fn to_part(weight: &QuantizedWeight, bias: Option<Vec<f32>>) -> Result<LinearPart> {
    let codes = HostTensor::from_bytes(weight.kind.dtype(), vec![weight.n, weight.k], weight.codes.clone())?;
    Ok(LinearPart { weight: codes, scales: Some(weight.scales.clone()), bias })
}
