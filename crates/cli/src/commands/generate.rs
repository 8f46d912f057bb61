//! `planish generate`: offline answers, many prompts in one batch.
use super::{print, print_json};
use crate::Global;
use anyhow::{Result, bail};
use clap::Args;
use planish::{Answer, Generation, Model, Pipeline, PipelineOptions};
use planish_engine::{EngineOptions, Sampling};
use planish_tensor::DType;
use planish_text::Message;
use serde_json::{Value, json};
use std::time::Instant;

/// Flags of the engine, shared by the commands that run a model.
#[derive(Args, Clone, Default)]
pub struct EngineFlags {
    /// Longest sequence, prompt and answer together (default: what the model was made for)
    #[arg(long)]
    pub max_model_len: Option<usize>,
    /// Sequences that run at once
    #[arg(long)]
    pub max_batch: Option<usize>,
    /// Bytes for keys and values (default: a share of the free memory)
    #[arg(long)]
    pub kv_cache_memory: Option<u64>,
    /// Element type of keys and values
    #[arg(long, default_value = "auto", value_parser = ["auto", "f32", "bf16"])]
    pub kv_dtype: String,
}

impl EngineFlags {
    /// The pipeline's options.
    pub fn options(&self, global: &Global) -> PipelineOptions {
        let kv_dtype = match self.kv_dtype.as_str() {
            "f32" => Some(DType::F32),
            "bf16" => Some(DType::BF16),
            _ => None,
        };
        PipelineOptions {
            device: Some(global.device.clone()),
            threads: global.threads,
            engine: EngineOptions {
                max_model_len: self.max_model_len,
                max_batch: self.max_batch,
                kv_cache_memory: self.kv_cache_memory,
                kv_dtype,
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
    /// Seed of the sampling
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Text that ends an answer (repeatable)
    #[arg(long)]
    pub stop: Vec<String>,
    /// Go on after the end-of-text token
    #[arg(long)]
    pub ignore_eos: bool,
}

impl SamplingFlags {
    /// The generation they ask for.
    pub fn generation(&self) -> Generation {
        Generation {
            max_new_tokens: self.max_new_tokens,
            sampling: Sampling {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                repetition_penalty: self.repetition_penalty,
                seed: self.seed,
                ..Sampling::default()
            },
            stop: self.stop.clone(),
            ignore_eos: self.ignore_eos,
            logprobs: None,
        }
    }
}

/// Flags of the command.
#[derive(Args)]
pub struct Flags {
    /// Directory, .gguf file or hub id
    model: String,
    /// A prompt (repeatable; all run as one batch)
    #[arg(short, long = "prompt")]
    prompt: Vec<String>,
    /// A prompt as token ids, such as "1 2 3" (repeatable)
    #[arg(long)]
    input_ids: Vec<String>,
    /// Put each prompt into the model's chat template
    #[arg(long)]
    chat: bool,
    /// Report the log-probabilities of this many of the likeliest tokens
    #[arg(long)]
    logprobs: Option<usize>,
    #[command(flatten)]
    sampling: SamplingFlags,
    #[command(flatten)]
    engine: EngineFlags,
}

/// Runs the command.
pub fn run(global: &Global, flags: &Flags) -> Result<()> {
    if flags.prompt.is_empty() && flags.input_ids.is_empty() {
        bail!("--prompt: expected at least one prompt (or --input-ids), found none");
    }
    let model = Model::open(&flags.model)?;
    let pipeline = Pipeline::open(&model, &flags.engine.options(global))?;
    let mut texts: Vec<Value> = flags.prompt.iter().map(|p| p.clone().into()).collect();
    let mut prompts = flags.prompt.iter().map(|p| encode(&pipeline, p, flags.chat)).collect::<Result<Vec<_>>>()?;
    for ids in &flags.input_ids {
        prompts.push(parse_ids(ids)?);
        texts.push(ids.clone().into());
    }
    let generation = Generation { logprobs: flags.logprobs, ..flags.sampling.generation() };
    let start = Instant::now();
    let answers = pipeline.generate(prompts, &generation)?;
    let seconds = start.elapsed().as_secs_f64();
    if global.json {
        return print_json(&document(&texts, &answers, seconds));
    }
    for (prompt, answer) in texts.iter().zip(&answers) {
        let prompt = prompt.as_str().unwrap_or_default();
        print(&format!("> {prompt}\n{}\n\n", answer.text.trim()))?;
    }
    Ok(())
}

fn encode(pipeline: &Pipeline, prompt: &str, chat: bool) -> Result<Vec<u32>> {
    if !chat {
        return pipeline.encode(prompt);
    }
    pipeline.encode_chat(&[Message { role: "user".into(), content: prompt.into() }])
}

fn parse_ids(text: &str) -> Result<Vec<u32>> {
    let words = text.split(|c: char| c.is_whitespace() || c == ',').filter(|w| !w.is_empty());
    words.map(|w| w.parse().map_err(|_| anyhow::anyhow!("--input-ids: expected token ids, found {w:?}"))).collect()
}

fn document(texts: &[Value], answers: &[Answer], seconds: f64) -> Value {
    let results: Vec<Value> = texts.iter().zip(answers).map(|(t, a)| result(t, a)).collect();
    let count = |f: fn(&Answer) -> usize| answers.iter().map(f).sum::<usize>();
    json!({
        "results": results,
        "usage": {
            "prompt_tokens": count(|a| a.prompt_token_ids.len()),
            "completion_tokens": count(|a| a.token_ids.len()),
        },
        "seconds": seconds,
    })
}

fn result(prompt: &Value, answer: &Answer) -> Value {
    let mut out = json!({
        "prompt": prompt,
        "text": answer.text,
        "token_ids": answer.token_ids,
        "prompt_token_ids": answer.prompt_token_ids,
        "finish_reason": answer.finish_reason.name(),
    });
    if !answer.logprobs.is_empty() {
        let each = answer.logprobs.iter().zip(&answer.token_ids).map(|(l, id)| {
            let top: Vec<Value> = l.top.iter().map(|(id, p)| json!({"id": id, "logprob": p})).collect();
            json!({"id": id, "logprob": l.chosen, "top": top})
        });
        out["logprobs"] = each.collect();
    }
    out
}
