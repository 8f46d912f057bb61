//! Rotary angles: frequencies by the configuration's rule, and the table that every layer reads.
use crate::error::{Error, Result};
use crate::plan::Plan;
use planish_checkpoint::rope::{RopeConfig, RopeScaling};
use planish_tensor::{Backend, HostTensor, RopeTable};
use std::f32::consts::PI;

/// `[half]` angular frequencies, computed in f32 as transformers does.
pub fn frequencies(rope: &RopeConfig, rotated: usize, positions: usize) -> Result<Vec<f32>> {
    let plain = (0..rotated / 2).map(|i| {
        let exponent = (2 * i) as f32 / rotated as f32;
        1.0 / (rope.theta as f32 as f64).powf(exponent as f64) as f32
    });
    match &rope.scaling {
        RopeScaling::None => Ok(plain.collect()),
        RopeScaling::Linear { factor } => Ok(plain.map(|f| f / *factor as f32).collect()),
        RopeScaling::Dynamic { original_max, .. } if positions <= *original_max => Ok(plain.collect()),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max } => {
            let rule = Llama3 {
                factor: *factor as f32,
                low: *low_freq_factor as f32,
                high: *high_freq_factor as f32,
                original: *original_max as f32,
            };
            Ok(plain.map(|f| rule.apply(f)).collect())
        }
        other => Err(Error::Unsupported(format!(
            "rope scaling: expected default, linear or llama3 (or dynamic within the trained length), found {other:?}"
        ))),
    }
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

/// The table of the first `positions` positions on a device.
pub fn table<B: Backend>(backend: &B, plan: &Plan, positions: usize) -> Result<RopeTable<B>> {
    let rotated = (plan.d as f64 * plan.rope.rotary_fraction) as usize & !1;
    let frequencies = frequencies(&plan.rope, rotated, positions)?;
    let half = frequencies.len();
    let mut values = Vec::with_capacity(positions * 2 * half);
    for position in 0..positions {
        let angle = |f: &f32| (position as f32 * f) as f64;
        values.extend(frequencies.iter().map(|f| angle(f).cos() as f32));
        values.extend(frequencies.iter().map(|f| angle(f).sin() as f32));
    }
    let cos_sin = backend.load(&HostTensor::from_f32(vec![positions, 2 * half], &values)?)?;
    Ok(RopeTable { cos_sin, half, interleaved: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_high_and_slows_low_frequencies() {
        let scaling =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max: 32 };
        let rope = RopeConfig { theta: 500000.0, rotary_fraction: 1.0, scaling };
        let plain = RopeConfig { scaling: RopeScaling::None, ..rope.clone() };
        let (scaled, plain) = (frequencies(&rope, 16, 64).unwrap(), frequencies(&plain, 16, 64).unwrap());
        assert_eq!(scaled[0], plain[0]);
        assert_eq!(scaled[7], plain[7] / 8.0);
    }
}
