//! Quantizing the linears of one block.
use super::changing::Changing;
use super::fold::FloatBlock;
use crate::clip;
use crate::error::{Error, Result};
use crate::gptq::{self, DeviceFactor, Factor, GptqOptions};
use crate::report::LinearReport;
use crate::rtn::{self, QuantizedWeight};
use planish_model::{Input, Plan, Role};
use planish_tensor::{Backend, HostTensor, LinearPart, Q8, Tensor};

/// How weights become codes.
#[derive(Clone, Debug, PartialEq)]
pub enum Algorithm {
    /// Round-to-nearest.
    Rtn,
    /// Round-to-nearest on scales that are searched, see [`crate::clip`], with this many threads.
    Clipped(usize),
    /// GPTQ with these settings.
    Gptq(GptqOptions),
}

impl Algorithm {
    /// Whether it needs Gram matrices.
    pub fn needs_grams(&self) -> bool {
        *self != Algorithm::Rtn
    }

    /// What is left of the squared rounding error of weights, see [`crate::search::Group::weight_share`]: GPTQ's share
    /// is what it leaves of a language model's in the mean (docs/accuracy.md).
    pub fn weight_share(&self) -> f64 {
        match self {
            Algorithm::Rtn | Algorithm::Clipped(_) => 1.0,
            Algorithm::Gptq(_) => 0.4,
        }
    }

    /// Whether a device's [`planish_tensor::Solver`] can do it.
    pub fn solvable(&self) -> bool {
        match self {
            Algorithm::Rtn => true,
            Algorithm::Clipped(_) => false,
            Algorithm::Gptq(options) => !options.search_scales && !options.refit_scales,
        }
    }
}

/// One quantized linear.
#[derive(Clone, Debug)]
pub struct Solved {
    /// What it is for.
    pub role: Role,
    /// Codes and scales.
    pub part: LinearPart,
    /// Its entry in the report; the output error is measured later.
    pub report: LinearReport,
}

/// What GPTQ needs to know of an input, where the weights are.
pub enum Correlation<B: Backend> {
    /// `[k, k]` Gram matrix in host memory.
    Host(Vec<f32>),
    /// `[k, k]` Gram matrix on the device.
    Device(Tensor<B>),
}

/// A factor, where the weights are.
enum Factored<'a, B: Backend> {
    Host(Factor, &'a GptqOptions),
    Device(DeviceFactor<B>, &'a GptqOptions),
    /// The Gram matrix itself, and threads.
    Clip(Vec<f32>, usize),
}

/// Quantizes the linears of one input to the types that `kind` says. `gram` is needed by GPTQ alone.
pub fn solve_input<B: Backend>(
    plan: &Plan,
    layer: usize,
    block: &FloatBlock<'_, B>,
    input: Input,
    kind: &dyn Fn(Role) -> Option<Q8>,
    algorithm: &Algorithm,
    gram: Option<Correlation<B>>,
) -> Result<Vec<Solved>> {
    let readers = plan.readers(layer, input).into_iter();
    let roles: Vec<(Role, Q8)> = readers.filter_map(|role| Some((role, kind(role)?))).collect();
    if roles.is_empty() {
        return Ok(Vec::new());
    }
    let named =
        |role| move |e| Error::Tensor { tensor: plan.linear_name(layer, role) + ".weight", source: Box::new(e) };
    let factored = factorize(plan.input_width(input), block, algorithm, gram).map_err(named(roles[0].0))?;
    let solve = |&(role, kind): &(Role, Q8)| {
        let bias = block.biases.get(&role).cloned();
        let name = plan.linear_label(layer, role);
        let solved = solve_one(block, role, plan.linear_size(role), kind, factored.as_ref(), &name);
        let (weight, report) = solved.map_err(named(role))?;
        Ok(Solved { role, part: to_part(weight, bias)?, report })
    };
    roles.iter().map(solve).collect()
}

fn factorize<'a, B: Backend>(
    k: usize,
    block: &FloatBlock<'_, B>,
    algorithm: &'a Algorithm,
    gram: Option<Correlation<B>>,
) -> Result<Option<Factored<'a, B>>> {
    let options = match algorithm {
        Algorithm::Rtn => return Ok(None),
        Algorithm::Clipped(threads) => {
            return Ok(match gram {
                Some(Correlation::Host(gram)) => Some(Factored::Clip(gram, *threads)),
                _ => None,
            });
        }
        Algorithm::Gptq(options) => options,
    };
    Ok(match (gram, &block.weights) {
        (Some(Correlation::Host(gram)), _) => Some(Factored::Host(Factor::new(&gram, k, options)?, options)),
        (Some(Correlation::Device(gram)), Changing::Device(_, solver, _)) => {
            Some(Factored::Device(DeviceFactor::new(*solver, &gram, options)?, options))
        }
        _ => None,
    })
}

fn solve_one<B: Backend>(
    block: &FloatBlock<'_, B>,
    role: Role,
    (n, k): (usize, usize),
    kind: Q8,
    factored: Option<&Factored<'_, B>>,
    name: &str,
) -> Result<(QuantizedWeight, LinearReport)> {
    match (&block.weights, factored) {
        (Changing::Device(backend, solver, tensors), factored) => {
            let nothing = GptqOptions::default();
            let (factor, options) = match factored {
                Some(Factored::Device(factor, options)) => (Some(factor), *options),
                _ => (None, &nothing),
            };
            let (result, error) = gptq::solve_on(*backend, *solver, factor, kind, &tensors[&role], options)?;
            let report = match factor {
                Some(_) => LinearReport::solved(name, &result, error),
                None => LinearReport::rounded(name, &result.weight, error),
            };
            Ok((result.weight, report))
        }
        (Changing::Host(weights), Some(Factored::Host(factor, options))) => {
            solve_host(kind, &weights[&role], (n, k), &OnHost::Gptq(factor, options), name)
        }
        (Changing::Host(weights), Some(Factored::Clip(gram, threads))) => {
            solve_host(kind, &weights[&role], (n, k), &OnHost::Clip(gram, *threads), name)
        }
        (Changing::Host(weights), _) => solve_host(kind, &weights[&role], (n, k), &OnHost::Rtn, name),
    }
}

/// An algorithm with what it knows of the input, in host memory.
enum OnHost<'a> {
    Rtn,
    Gptq(&'a Factor, &'a GptqOptions),
    /// The Gram matrix itself, and threads.
    Clip(&'a [f32], usize),
}

fn solve_host(
    kind: Q8,
    w: &[f32],
    (n, k): (usize, usize),
    by: &OnHost<'_>,
    name: &str,
) -> Result<(QuantizedWeight, LinearReport)> {
    Ok(match by {
        OnHost::Gptq(factor, options) => {
            let result = gptq::solve(factor, kind, w, n, options)?;
            let report = LinearReport::gptq(name, w, &result);
            (result.weight, report)
        }
        OnHost::Clip(gram, threads) => {
            let result = clip::quantize_rows(kind, w, n, gram, k, *threads)?;
            let report = LinearReport::clipped(name, w, &result);
            (result.weight, report)
        }
        OnHost::Rtn => {
            let weight = rtn::quantize_rows(kind, w, n, k)?;
            let report = LinearReport::rtn(name, w, &weight);
            (weight, report)
        }
    })
}

/// Quantizes one weight `[n, k]` in host memory; `gram` is what [`Algorithm::needs_grams`] asks for.
pub(super) fn solve_alone(
    kind: Q8,
    w: &[f32],
    size: (usize, usize),
    algorithm: &Algorithm,
    gram: Option<&[f32]>,
    name: &str,
) -> Result<(LinearPart, LinearReport)> {
    let (weight, report) = match (algorithm, gram) {
        (Algorithm::Gptq(options), Some(gram)) => {
            let factor = Factor::new(gram, size.1, options)?;
            solve_host(kind, w, size, &OnHost::Gptq(&factor, options), name)?
        }
        (Algorithm::Clipped(threads), Some(gram)) => solve_host(kind, w, size, &OnHost::Clip(gram, *threads), name)?,
        _ => solve_host(kind, w, size, &OnHost::Rtn, name)?,
    };
    Ok((to_part(weight, None)?, report))
}

/// A quantized weight as a linear.
fn to_part(weight: QuantizedWeight, bias: Option<Vec<f32>>) -> Result<LinearPart> {
    let codes = HostTensor::from_bytes(weight.kind.dtype(), vec![weight.n, weight.k], weight.codes)?;
    Ok(LinearPart::channels(codes, weight.scales, bias))
}
