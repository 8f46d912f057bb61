//! Flags that several commands share: how the engine runs, and how answers are made.
use super::structure::StructureFlags;
use crate::Global;
use anyhow::{Result, bail};
use clap::Args;
use planish::pipeline::{KV_DTYPES, kv_dtype};
use planish::quantize::parse_size;
use planish::{Generation, PipelineOptions};
use planish_devices::Opening;
use planish_engine::{EngineOptions, MOST_CHOICES, Sampling};

/// Flags of the engine, shared by the commands that run a model.
#[derive(Args, Clone, Default)]
pub struct EngineFlags {
    /// Longest sequence, prompt and answer together (default: what the model was made for)
    #[arg(long)]
    pub max_model_len: Option<usize>,
    /// Sequences that run at once
    #[arg(long)]
    pub max_batch: Option<usize>,
    /// Bytes for keys and values, such as 500MB or 8GB (default: a share of the free memory)
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub kv_cache_memory: Option<u64>,
    /// Element type of keys and values; int8 and fp8 keep a scale for each token and head
    #[arg(long, default_value = "auto", value_parser = KV_DTYPES.map(|(name, _)| name))]
    pub kv_dtype: String,
    /// Output projection: as the model has it, or quantized to INT8 while loading (faster, with a small loss)
    #[arg(long, default_value = "auto", value_parser = ["auto", "int8"])]
    pub lm_head: String,
    /// Forget computed prompts at once, instead of keeping them for later prompts that begin alike
    #[arg(long)]
    pub no_prefix_cache: bool,
    /// Prepare a step while the one before runs
    #[arg(long, default_value = "auto", value_parser = ["auto", "on", "off"])]
    pub overlap: String,
    /// Guess up to this many tokens from repetitions in the text; answers stay the same
    #[arg(long, value_name = "TOKENS")]
    pub speculate: Option<usize>,
    /// The same answer in any batch, for FP8 on a GPU too; all else keeps this promise anyhow
    #[arg(long)]
    pub batch_invariant: bool,
}

impl EngineFlags {
    /// The pipeline's options.
    pub fn options(&self, global: &Global) -> PipelineOptions {
        let overlap = match self.overlap.as_str() {
            "on" => Some(true),
            "off" => Some(false),
            _ => None,
        };
        PipelineOptions {
            device: Some(global.device.clone()),
            opening: Opening { threads: global.threads, batch_invariant: self.batch_invariant },
            engine: EngineOptions {
                max_model_len: self.max_model_len,
                max_batch: self.max_batch,
                kv_cache_memory: self.kv_cache_memory,
                kv_dtype: kv_dtype(&self.kv_dtype),
                prefix_cache: self.no_prefix_cache.then_some(false),
                overlap,
                speculate: self.speculate,
                int8_head: self.lm_head == "int8",
                ..EngineOptions::default()
            },
        }
    }
}

/// How answers are made, shared by generate and chat.
#[derive(Args, Clone)]
pub struct SamplingFlags {
    /// Most tokens to generate
    #[arg(long, default_value_t = 256)]
    pub max_new_tokens: usize,
    /// Tokens to generate before the end-of-text token or a --stop-id may be chosen
    #[arg(long, default_value_t = 0)]
    pub min_new_tokens: usize,
    /// 0 takes the likeliest token always
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub temperature: f32,
    /// Keep this many of the likeliest tokens (0: all)
    #[arg(long, default_value_t = 0)]
    pub top_k: usize,
    /// Keep the likeliest tokens up to this probability
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f32,
    /// Keep tokens at least this probable, relative to the likeliest
    #[arg(long, default_value_t = 0.0)]
    pub min_p: f32,
    /// Push tokens that were seen down by this factor
    #[arg(long, default_value_t = 1.0)]
    pub repetition_penalty: f32,
    /// Subtract this from the logit of every token that was generated (below 0 adds)
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f32,
    /// Subtract this from a token's logit for every time that it was generated (below 0 adds)
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f32,
    /// Add to the logit of one token, such as 42=-5 (repeatable)
    #[arg(long, value_name = "ID=BIAS", value_parser = parse_bias, allow_hyphen_values = true)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the sampling
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Text that ends an answer (repeatable)
    #[arg(long)]
    pub stop: Vec<String>,
    /// Token that ends an answer (repeatable)
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    pub stop_id: Vec<u32>,
    /// Go on after the end-of-text token
    #[arg(long)]
    pub ignore_eos: bool,
    #[command(flatten)]
    pub structure: StructureFlags,
}

impl SamplingFlags {
    /// The generation they ask for; an error names the flag.
    pub fn generation(&self) -> Result<Generation> {
        self.validate()?;
        Ok(Generation {
            max_new_tokens: self.max_new_tokens,
            min_new_tokens: self.min_new_tokens,
            sampling: Sampling {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                repetition_penalty: self.repetition_penalty,
                presence_penalty: self.presence_penalty,
                frequency_penalty: self.frequency_penalty,
                logit_bias: self.logit_bias.clone(),
                seed: self.seed,
            },
            stop: self.stop.clone(),
            stop_ids: self.stop_id.clone(),
            ignore_eos: self.ignore_eos,
            grammar: self.structure.spec()?,
            ..Generation::default()
        })
    }

    fn validate(&self) -> Result<()> {
        let ranges: [(&str, f32, &str, bool); 6] = [
            ("temperature", self.temperature, "a number from 0 up", self.temperature >= 0.0),
            ("top_p", self.top_p, "a number above 0 and at most 1", self.top_p > 0.0 && self.top_p <= 1.0),
            ("min_p", self.min_p, "a number from 0 to 1", (0.0..=1.0).contains(&self.min_p)),
            ("repetition_penalty", self.repetition_penalty, "a number above 0", self.repetition_penalty > 0.0),
            ("presence_penalty", self.presence_penalty, "a number", true),
            ("frequency_penalty", self.frequency_penalty, "a number", true),
        ];
        for (name, found, expected, holds) in ranges {
            if !holds || !found.is_finite() {
                bail!("--{} ({name}): expected {expected}, found {found}", name.replace('_', "-"));
            }
        }
        if self.min_new_tokens > self.max_new_tokens {
            let (least, most) = (self.min_new_tokens, self.max_new_tokens);
            bail!("--min-new-tokens: expected at most --max-new-tokens, which is {most}, found {least}");
        }
        Ok(())
    }
}

/// Answers to a prompt.
pub fn parse_n(text: &str) -> Result<usize, String> {
    let fits = text.parse().ok().filter(|n| (1..=MOST_CHOICES).contains(n));
    fits.ok_or_else(|| format!("expected a number from 1 to {MOST_CHOICES}"))
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once('=').and_then(|(id, bias)| Some((id.trim().parse().ok()?, bias.trim().parse().ok()?)));
    let finite = parsed.filter(|(_, bias): &(u32, f32)| bias.is_finite());
    finite.ok_or_else(|| "expected ID=BIAS, a token's id and a number, such as 42=-5".into())
}
