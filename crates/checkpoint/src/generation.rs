//! `generation_config.json`: what a model's authors suggest for sampling.
use crate::{Result, config::Config, entry::Root};
use std::path::Path;

/// Suggested sampling; every field may be absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// Token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Padding, which we do not use.
    pub pad_token_id: Option<u32>,
    /// False asks for the likeliest token always.
    pub do_sample: Option<bool>,
    /// Divisor of the logits.
    pub temperature: Option<f64>,
    /// Probability mass to sample from.
    pub top_p: Option<f64>,
    /// Number of tokens to sample from; 0 means all.
    pub top_k: Option<usize>,
    /// Smallest probability, relative to the likeliest token.
    pub min_p: Option<f64>,
    /// Divisor of the logits of tokens seen before.
    pub repetition_penalty: Option<f64>,
    /// Most tokens to generate.
    pub max_new_tokens: Option<usize>,
}

impl GenerationDefaults {
    /// Reads the text of a `generation_config.json`; `path` is for messages.
    pub fn from_json(bytes: &[u8], path: &Path) -> Result<GenerationDefaults> {
        let c = Config::from_json(bytes, path)?;
        Ok(GenerationDefaults {
            eos_token_ids: c.eos_token_ids()?,
            bos_token_id: c.token_id("bos_token_id")?,
            pad_token_id: c.token_id("pad_token_id")?,
            do_sample: c.opt_bool("do_sample")?,
            temperature: c.opt_f64("temperature")?,
            top_p: c.opt_f64("top_p")?,
            top_k: c.opt_count("top_k")?,
            min_p: c.opt_f64("min_p")?,
            repetition_penalty: c.opt_f64("repetition_penalty")?,
            max_new_tokens: c.opt_usize("max_new_tokens")?,
        })
    }

    /// Reads it from a model directory; a directory without the file gives all fields absent.
    pub fn open(dir: &Path) -> Result<GenerationDefaults> {
        const NAME: &str = "generation_config.json";
        let root = Root::open(dir)?;
        if !root.exists(NAME) {
            return Ok(GenerationDefaults::default());
        }
        let (bytes, path) = root.read(NAME, 16 << 20)?;
        GenerationDefaults::from_json(&bytes, &path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_there() {
        let text = br#"{"eos_token_id": [1, 2], "temperature": 0.6, "top_k": 0, "do_sample": true}"#;
        let g = GenerationDefaults::from_json(text, Path::new("generation_config.json")).unwrap();
        assert_eq!(
            (g.eos_token_ids, g.temperature, g.top_k, g.do_sample),
            (vec![1, 2], Some(0.6), Some(0), Some(true))
        );
        assert_eq!((g.top_p, g.max_new_tokens), (None, None));
        let error = GenerationDefaults::from_json(br#"{"top_p": "all"}"#, Path::new("g.json")).unwrap_err();
        assert_eq!(error.to_string(), "g.json: field top_p: expected a finite number, found \"all\"");
    }
}
