//! Rotary angles: frequencies by the configuration's rule, and the tables that layers read.
use crate::error::Result;
use crate::plan::Plan;
use planish_checkpoint::rope::{RopeConfig, RopeScaling};
use planish_tensor::{Backend, HostTensor, RopeTable};
use std::f32::consts::PI;

/// A rule, worked out.
pub struct Rotation {
    /// `[half]` angular frequencies.
    pub frequencies: Vec<f32>,
    /// Factor on cosines and sines.
    pub factor: f32,
}

/// Frequencies of heads of which `rotated` channels rotate, computed in f32 as transformers does.
///
/// Two rules depend on the length of the text: dynamic NTK moves theta beyond the trained length, LongRoPE changes
/// to other factors there. The longest text that may come, `positions`, decides for all, so that a token's angle does
/// not depend on what follows it, and keys in the cache stay good.
pub fn rotation(rope: &RopeConfig, rotated: usize, positions: usize) -> Result<Rotation> {
    let plain = powers(rope.theta, rotated);
    let frequencies = match &rope.scaling {
        RopeScaling::None => plain,
        RopeScaling::Linear { factor } => plain.into_iter().map(|f| f / *factor as f32).collect(),
        RopeScaling::Dynamic { factor, original_max } => {
            let longer = (positions as f64 / *original_max as f64).max(1.0);
            let grown = (factor * longer - (factor - 1.0)).powf(rotated as f64 / (rotated as f64 - 2.0));
            powers(rope.theta * grown, rotated)
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max } => {
            let rule = Llama3 {
                factor: *factor as f32,
                low: *low_freq_factor as f32,
                high: *high_freq_factor as f32,
                original: *original_max as f32,
            };
            plain.into_iter().map(|f| rule.apply(f)).collect()
        }
        RopeScaling::Yarn { .. } => yarn(rope, plain, rotated),
        RopeScaling::LongRope { short_factor, long_factor, original_max, .. } => {
            let factors = if positions > *original_max { long_factor } else { short_factor };
            check_count(factors.len(), rotated / 2)?;
            // The factor multiplies the power of theta, which is then inverted.
            let slowed = |(i, f): (usize, &f64)| 1.0 / (*f as f32 * power(rope.theta, i, rotated) as f32);
            factors.iter().enumerate().map(slowed).collect()
        }
    };
    Ok(Rotation { frequencies, factor: attention_factor(&rope.scaling) as f32 })
}

/// `theta^(2i / rotated)`.
fn power(theta: f64, i: usize, rotated: usize) -> f64 {
    let exponent = (2 * i) as f32 / rotated as f32;
    (theta as f32 as f64).powf(exponent as f64)
}

/// The frequencies of an unscaled rule.
fn powers(theta: f64, rotated: usize) -> Vec<f32> {
    (0..rotated / 2).map(|i| 1.0 / power(theta, i, rotated) as f32).collect()
}

/// What cosines and sines are multiplied with.
fn attention_factor(scaling: &RopeScaling) -> f64 {
    match scaling {
        RopeScaling::Yarn { factor, attention_factor, mscale, mscale_all_dim, .. } => {
            let gain = |scale: f64| if *factor > 1.0 { 0.1 * scale * factor.ln() + 1.0 } else { 1.0 };
            let usual = match (mscale, mscale_all_dim) {
                (Some(a), Some(b)) if *a != 0.0 && *b != 0.0 => gain(*a) / gain(*b),
                _ => gain(1.0),
            };
            attention_factor.unwrap_or(usual)
        }
        RopeScaling::LongRope { original_max, factor, attention_factor, .. } => {
            let usual = if *factor > 1.0 { (1.0 + factor.ln() / (*original_max as f64).ln()).sqrt() } else { 1.0 };
            attention_factor.unwrap_or(usual)
        }
        _ => 1.0,
    }
}

fn check_count(found: usize, half: usize) -> Result<()> {
    if found == half {
        return Ok(());
    }
    let message = format!("rope scaling: expected {half} factors, one for each rotating pair, found {found}");
    Err(crate::Error::Unsupported(message))
}

/// Peng et al. 2023: frequencies that turn often within the trained length are kept, others slowed, with a ramp between.
fn yarn(rope: &RopeConfig, plain: Vec<f32>, rotated: usize) -> Vec<f32> {
    let RopeScaling::Yarn { factor, original_max, beta_fast, beta_slow, truncate, .. } = rope.scaling else {
        return plain;
    };
    let turns_at = |turns: f64| {
        let wavelengths = original_max as f64 / (turns * 2.0 * std::f64::consts::PI);
        rotated as f64 * wavelengths.ln() / (2.0 * rope.theta.ln())
    };
    let (mut low, mut high) = (turns_at(beta_fast), turns_at(beta_slow));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, mut high) = (low.max(0.0), high.min(rotated as f64 - 1.0));
    if low == high {
        high += 0.001;
    }
    let ramp = |(i, f): (usize, f32)| {
        let slowed = (((i as f64 - low) / (high - low)) as f32).clamp(0.0, 1.0);
        f / factor as f32 * slowed + f * (1.0 - slowed)
    };
    plain.into_iter().enumerate().map(ramp).collect()
}

struct Llama3 {
    factor: f32,
    low: f32,
    high: f32,
    original: f32,
}

impl Llama3 {
    fn apply(&self, frequency: f32) -> f32 {
        let wavelength = 2.0 * PI / frequency;
        if wavelength > self.original / self.low {
            frequency / self.factor
        } else if wavelength < self.original / self.high {
            frequency
        } else {
            let kept = (self.original / wavelength - self.low) / (self.high - self.low);
            (1.0 - kept) * frequency / self.factor + kept * frequency
        }
    }
}

/// The tables of the first `positions` positions on a device, one for each of the plan's rules.
pub fn tables<B: Backend>(backend: &B, plan: &Plan, positions: usize) -> Result<Vec<RopeTable<B>>> {
    plan.ropes.iter().map(|rope| table(backend, plan, rope, positions)).collect()
}

fn table<B: Backend>(backend: &B, plan: &Plan, rope: &RopeConfig, positions: usize) -> Result<RopeTable<B>> {
    let rotated = (plan.d as f64 * rope.rotary_fraction) as usize & !1;
    let Rotation { frequencies, factor } = rotation(rope, rotated, positions)?;
    let half = frequencies.len();
    let mut values = Vec::with_capacity(positions * 2 * half);
    for position in 0..positions {
        let angle = |f: &f32| (position as f32 * f) as f64;
        values.extend(frequencies.iter().map(|f| angle(f).cos() as f32 * factor));
        values.extend(frequencies.iter().map(|f| angle(f).sin() as f32 * factor));
    }
    let cos_sin = backend.load(&HostTensor::from_f32(vec![positions, 2 * half], &values)?)?;
    Ok(RopeTable { cos_sin, half, interleaved: plan.arch.interleaved })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(scaling: RopeScaling, rotated: usize, positions: usize) -> Vec<f32> {
        let rope = RopeConfig { theta: 500000.0, rotary_fraction: 1.0, scaling };
        rotation(&rope, rotated, positions).unwrap().frequencies
    }

    #[test]
    fn llama3_keeps_high_and_slows_low_frequencies() {
        let scaling =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max: 32 };
        let (scaled, plain) = (frequencies(scaling, 16, 64), frequencies(RopeScaling::None, 16, 64));
        assert_eq!(scaled[0], plain[0]);
        assert_eq!(scaled[7], plain[7] / 8.0);
    }

    #[test]
    fn dynamic_theta_grows_beyond_the_trained_length() {
        let dynamic = |positions| frequencies(RopeScaling::Dynamic { factor: 2.0, original_max: 64 }, 16, positions);
        let plain = frequencies(RopeScaling::None, 16, 64);
        assert_eq!(dynamic(64), plain);
        // At twice the length theta is 3^(16/14) times as large.
        let grown = (500000.0 * 3f64.powf(16.0 / 14.0)).powf(-14.0 / 16.0);
        assert_eq!(dynamic(128)[0], 1.0);
        assert!((dynamic(128)[7] as f64 / grown - 1.0).abs() < 1e-6);
    }

    #[test]
    fn longrope_counts_its_factors() {
        let scaling = |n| RopeScaling::LongRope {
            short_factor: vec![1.0; n],
            long_factor: vec![2.0; n],
            original_max: 32,
            factor: 4.0,
            attention_factor: None,
        };
        let plain = frequencies(RopeScaling::None, 16, 64);
        assert!((frequencies(scaling(8), 16, 32)[7] / plain[7] - 1.0).abs() < 1e-6);
        assert!((frequencies(scaling(8), 16, 33)[7] / plain[7] - 0.5).abs() < 1e-6);
        let rope = RopeConfig { theta: 500000.0, rotary_fraction: 1.0, scaling: scaling(7) };
        assert!(rotation(&rope, 16, 64).err().unwrap().to_string().contains("expected 8 factors"));
        assert!(
            (rotation(&RopeConfig { scaling: scaling(8), ..rope }, 16, 9).unwrap().factor - 1.183_216).abs() < 1e-6
        );
    }
}
