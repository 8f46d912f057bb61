//! Rotary position embedding as configurations spell it: `rope_parameters` (transformers 5), or `rope_theta`
//! beside `rope_scaling` (transformers 4).
use crate::{Result, config::Config};

/// How positions turn into angles.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// Part of each head that rotates, in (0, 1].
    pub rotary_fraction: f64,
    /// Extension beyond the trained length.
    pub scaling: RopeScaling,
}

/// Ways to extend the context, named as in transformers.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// The trained frequencies.
    None,
    /// Positions divided by a factor (position interpolation).
    Linear {
        /// Divisor of the positions.
        factor: f64,
    },
    /// Theta grows with the sequence once it is longer than the trained length (dynamic NTK).
    Dynamic {
        /// Growth factor.
        factor: f64,
        /// Trained length, tokens.
        original_max: usize,
    },
    /// Llama 3.1: low frequencies are slowed, high ones kept.
    Llama3 {
        /// Slowing of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_max / low_freq_factor` are slowed wholly.
        low_freq_factor: f64,
        /// Wavelengths below `original_max / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Trained length, tokens.
        original_max: usize,
    },
    /// YaRN (Peng et al. 2023).
    Yarn {
        /// Slowing of the low frequencies.
        factor: f64,
        /// Trained length, tokens.
        original_max: usize,
        /// Rotations above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which a frequency is slowed wholly.
        beta_slow: f64,
        /// Factor on queries and keys, when given.
        attention_factor: Option<f64>,
        /// DeepSeek's numerator of that factor, when given.
        mscale: Option<f64>,
        /// DeepSeek's denominator, when given.
        mscale_all_dim: Option<f64>,
        /// Whether the ramp's ends are rounded to whole dimensions.
        truncate: bool,
    },
    /// LongRoPE: one factor for each frequency, one list for short and one for long sequences.
    LongRope {
        /// Factors up to `original_max` tokens; one per rotating pair.
        short_factor: Vec<f64>,
        /// Factors beyond.
        long_factor: Vec<f64>,
        /// Trained length, tokens.
        original_max: usize,
        /// Extended length / trained length.
        factor: f64,
        /// Factor on queries and keys, when given; else it follows from `factor`.
        attention_factor: Option<f64>,
    },
}

/// What transformers uses where a configuration names no theta.
const DEFAULT_THETA: f64 = 10_000.0;

/// The rotary embedding of `layer_type` layers.
pub(crate) fn read(config: &Config, layer_type: &str) -> Result<RopeConfig> {
    if let Some(parameters) = config.section("rope_parameters")? {
        // Where layer kinds differ, each has an object of its own.
        let parameters = match parameters.section_if_object(layer_type) {
            Some(section) => section,
            None => parameters,
        };
        let scaling = scaling(config, &parameters)?;
        return build(config, parameters.opt_f64("rope_theta")?, parameters.opt_f64("partial_rotary_factor")?, scaling);
    }
    if layer_type == "sliding_attention"
        && let Some(local) = config.opt_f64("rope_local_base_freq")?
    {
        return build(config, Some(local), None, RopeScaling::None);
    }
    let scaling = match config.section("rope_scaling")? {
        Some(section) => scaling(config, &section)?,
        None => RopeScaling::None,
    };
    build(config, None, None, scaling)
}

fn build(config: &Config, theta: Option<f64>, fraction: Option<f64>, scaling: RopeScaling) -> Result<RopeConfig> {
    let theta = match theta {
        Some(theta) => theta,
        None => first(config, &["rope_theta", "rotary_emb_base"])?.unwrap_or(DEFAULT_THETA),
    };
    let rotary_fraction = match fraction {
        Some(fraction) => fraction,
        None => first(config, &["partial_rotary_factor", "rotary_pct"])?.unwrap_or(1.0),
    };
    if theta <= 1.0 {
        return Err(config.wrong("rope_theta", "a number above 1"));
    }
    if !(rotary_fraction > 0.0 && rotary_fraction <= 1.0) {
        return Err(config.wrong("partial_rotary_factor", "a number above 0 and at most 1"));
    }
    Ok(RopeConfig { theta, rotary_fraction, scaling })
}

fn first(config: &Config, fields: &[&str]) -> Result<Option<f64>> {
    for field in fields {
        if let Some(value) = config.opt_f64(field)? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// The scaling that `section` (`rope_parameters` or `rope_scaling`) describes; lengths may stand in `config`.
fn scaling(config: &Config, section: &Config) -> Result<RopeScaling> {
    let field = if section.get("rope_type").is_some() { "rope_type" } else { "type" };
    let original_max = || original_max(config, section);
    Ok(match section.opt_str(field)?.unwrap_or("default") {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: positive(section, "factor")? },
        "dynamic" => RopeScaling::Dynamic { factor: positive(section, "factor")?, original_max: original_max()? },
        "llama3" => RopeScaling::Llama3 {
            factor: positive(section, "factor")?,
            low_freq_factor: positive(section, "low_freq_factor")?,
            high_freq_factor: positive(section, "high_freq_factor")?,
            original_max: section.usize("original_max_position_embeddings")?,
        },
        "yarn" => RopeScaling::Yarn {
            factor: positive(section, "factor")?,
            original_max: original_max()?,
            beta_fast: section.opt_f64("beta_fast")?.unwrap_or(32.0),
            beta_slow: section.opt_f64("beta_slow")?.unwrap_or(1.0),
            attention_factor: section.opt_f64("attention_factor")?,
            mscale: section.opt_f64("mscale")?,
            mscale_all_dim: section.opt_f64("mscale_all_dim")?,
            truncate: section.opt_bool("truncate")?.unwrap_or(true),
        },
        "longrope" | "su" => longrope(config, section, original_max()?)?,
        _ => return Err(section.wrong(field, "default, linear, dynamic, llama3, yarn or longrope")),
    })
}

fn longrope(config: &Config, section: &Config, original_max: usize) -> Result<RopeScaling> {
    let factors = |field: &str| -> Result<Vec<f64>> {
        let expected = "1 to 4096 positive numbers";
        let list = section.opt_f64s(field)?.ok_or_else(|| section.wrong(field, expected))?;
        let ok = !list.is_empty() && list.len() <= 4096 && list.iter().all(|&f| f > 0.0);
        if ok { Ok(list) } else { Err(section.wrong(field, expected)) }
    };
    let (short_factor, long_factor) = (factors("short_factor")?, factors("long_factor")?);
    if short_factor.len() != long_factor.len() {
        return Err(section.wrong("long_factor", &format!("{} numbers, as in short_factor", short_factor.len())));
    }
    let factor = match section.opt_f64("factor")? {
        Some(factor) => factor,
        None => config.usize("max_position_embeddings")? as f64 / original_max as f64,
    };
    let attention_factor = section.opt_f64("attention_factor")?;
    Ok(RopeScaling::LongRope { short_factor, long_factor, original_max, factor, attention_factor })
}

/// Trained length: from the section, else from the configuration, else the length it allows.
fn original_max(config: &Config, section: &Config) -> Result<usize> {
    const FIELD: &str = "original_max_position_embeddings";
    match (section.opt_usize(FIELD)?, config.opt_usize(FIELD)?) {
        (Some(n), _) | (None, Some(n)) => Ok(n),
        (None, None) => config.usize("max_position_embeddings"),
    }
}

fn positive(section: &Config, field: &str) -> Result<f64> {
    let value = section.f64(field)?;
    if value > 0.0 { Ok(value) } else { Err(section.wrong(field, "a positive number")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn rope(text: &str) -> Result<RopeConfig> {
        Config::from_json(text.as_bytes(), Path::new("config.json")).unwrap().rope()
    }

    #[test]
    fn both_spellings_of_yarn_agree() {
        let old = r#"{"rope_theta": 1e6, "max_position_embeddings": 40960,
            "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}"#;
        let new = r#"{"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1000000,
            "original_max_position_embeddings": 32768}}"#;
        let read = rope(old).unwrap();
        assert_eq!(read, rope(new).unwrap());
        let RopeScaling::Yarn { factor, original_max, beta_fast, truncate, .. } = read.scaling else { panic!() };
        assert_eq!((read.theta, factor, original_max, beta_fast, truncate), (1e6, 4.0, 32768, 32.0, true));
    }

    #[test]
    fn unknown_kinds_and_bad_numbers_name_the_field() {
        for (text, field) in [
            (r#"{"rope_scaling": {"type": "spiral"}}"#, "rope_scaling.type"),
            (r#"{"rope_parameters": {"rope_type": "spiral"}}"#, "rope_parameters.rope_type"),
            (r#"{"rope_scaling": {"type": "linear", "factor": 0}}"#, "rope_scaling.factor"),
            (r#"{"rope_scaling": {"type": "linear"}}"#, "rope_scaling.factor"),
            (r#"{"rope_scaling": {"type": "yarn", "factor": 2}}"#, "max_position_embeddings"),
            (r#"{"rope_theta": -5}"#, "rope_theta"),
            (r#"{"partial_rotary_factor": 1.5}"#, "partial_rotary_factor"),
            (
                r#"{"max_position_embeddings": 9, "rope_scaling": {"type": "su", "short_factor": [1], "long_factor": [1, 2]}}"#,
                "rope_scaling.long_factor",
            ),
        ] {
            let error = rope(text).unwrap_err().to_string();
            assert!(error.contains(&format!("field {field}: expected")), "{text}: {error}");
        }
        assert_eq!(rope("{}").unwrap().theta, DEFAULT_THETA);
    }
}
