//! What the reference does with rows: norms and nonlinearities.
use super::Scalar;
use crate::access::{f32s, f32s_mut};
use planish_tensor::layout::require;
use planish_tensor::{Activation, Result, Tensor};

/// One row of a root-mean-square norm; the mean square is summed in f64.
pub(super) fn rms_norm_row(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mean = (x.iter().map(|&v| v as f64 * v as f64).sum::<f64>() / x.len() as f64) as f32;
    let factor = 1.0 / (mean + eps).sqrt();
    for i in 0..x.len() {
        out[i] = x[i] * factor * weight[i];
    }
}

/// See `Backend::layer_norm`; mean and variance are summed in f64.
pub(super) fn layer_norm(
    x: &Tensor<Scalar>,
    [weight, bias]: [&Tensor<Scalar>; 2],
    eps: f32,
    out: &mut Tensor<Scalar>,
) -> Result<()> {
    let fits = x.cols == out.cols && x.rows == out.rows && weight.cols == x.cols && bias.cols == x.cols;
    require("layer_norm", fits)?;
    let h = x.cols;
    let (x, weight, bias, out) = (f32s(x)?, f32s(weight)?, f32s(bias)?, f32s_mut(out)?);
    for (x, out) in x.chunks_exact(h).zip(out.chunks_exact_mut(h)) {
        let mean = (x.iter().map(|&v| v as f64).sum::<f64>() / h as f64) as f32;
        let square = x.iter().map(|&v| ((v - mean) as f64).powi(2)).sum::<f64>();
        let factor = 1.0 / ((square / h as f64) as f32 + eps).sqrt();
        for i in 0..h {
            out[i] = (x[i] - mean) * factor * weight[i] + bias[i];
        }
    }
    Ok(())
}

/// See `Backend::rms_norm_stretches`.
pub(super) fn rms_norm_stretches(
    x: &mut Tensor<Scalar>,
    first: usize,
    count: usize,
    weight: &Tensor<Scalar>,
    eps: f32,
) -> Result<()> {
    let (cols, w) = (x.cols, weight.cols);
    require("rms_norm_stretches", first + count * w <= cols)?;
    let weight = f32s(weight)?;
    for row in f32s_mut(x)?.chunks_exact_mut(cols) {
        for stretch in row[first..first + count * w].chunks_exact_mut(w) {
            let before = stretch.to_vec();
            rms_norm_row(&before, weight, eps, stretch);
        }
    }
    Ok(())
}

/// Value of an MLP's nonlinearity.
pub fn activate(act: Activation, x: f32) -> f32 {
    match act {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            // x (1 + tanh(u)) / 2 = x / (1 + exp(-2u)), which keeps the digits that 1 + tanh(u) loses near -1.
            let u = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            x / (1.0 + (-2.0 * u).exp())
        }
        Activation::Gelu => (x as f64 * (1.0 + erf(x as f64 * std::f64::consts::FRAC_1_SQRT_2)) / 2.0) as f32,
        Activation::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
    }
}

/// The error function: `2/√π exp(-x²) Σ 2ⁿ x²ⁿ⁺¹ / (2n + 1)!!`, whose terms have one sign (DLMF 7.6.2).
fn erf(x: f64) -> f64 {
    if x.is_nan() || x.abs() > 6.0 {
        // 1 - erf(6) is below 3e-17.
        return if x.is_nan() { x } else { x.signum() };
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > sum.abs() * 1e-17 {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_at_known_points() {
        // Table 7.1 of Abramowitz and Stegun.
        for (x, y) in [(0.0, 0.0), (0.5, 0.5204998778), (1.0, 0.8427007929), (2.0, 0.9953222650), (3.0, 0.9999779095)] {
            assert!((erf(x) - y).abs() < 1e-10 && (erf(-x) + y).abs() < 1e-10, "{x}: {}", erf(x));
        }
        assert_eq!((erf(7.0), erf(f64::NEG_INFINITY), erf(f64::NAN).is_nan()), (1.0, -1.0, true));
    }

    #[test]
    fn nonlinearities_at_the_ends() {
        for act in Activation::ALL {
            assert!(activate(act, f32::NAN).is_nan(), "{act:?}");
            assert_eq!(activate(act, 0.0), 0.0, "{act:?}");
            assert!(activate(act, -50.0).abs() < 1e-6 && activate(act, 50.0) == 50.0, "{act:?}");
        }
        assert_eq!(activate(Activation::Relu, -3.0 / 7.0), 0.0);
        assert!((activate(Activation::Gelu, 1.0) - 0.841_344_8).abs() < 1e-7);
    }
}
