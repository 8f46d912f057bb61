//! `planish generate`: offline answers, many prompts in one batch.
use super::flags::{self, EngineFlags, SamplingFlags};
use super::{open, print, print_json};
use crate::Global;
use anyhow::{Result, bail};
use clap::Args;
use planish::{Answer, Generation, Model, Pipeline};
use planish_engine::TokenLogprobs;
use planish_text::Message;
use serde_json::{Value, json};
use std::time::Instant;

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
    #[arg(long, value_name = "TOP")]
    logprobs: Option<usize>,
    /// The same for every token of the prompt but the first
    #[arg(long, value_name = "TOP")]
    prompt_logprobs: Option<usize>,
    /// Answers to each prompt; they share its keys and values, and answer i draws with seed + i
    #[arg(long, default_value_t = 1, value_parser = flags::parse_n)]
    n: usize,
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
    let sampled = flags.sampling.generation()?;
    let model = Model::open(&flags.model)?;
    let pipeline = open(global, &model, &flags.engine.options(global))?;
    let mut texts: Vec<Value> = flags.prompt.iter().map(|p| p.clone().into()).collect();
    let mut prompts = flags.prompt.iter().map(|p| encode(&pipeline, p, flags.chat)).collect::<Result<Vec<_>>>()?;
    for ids in &flags.input_ids {
        prompts.push(parse_ids(ids)?);
        texts.push(ids.clone().into());
    }
    let generation =
        Generation { n: flags.n, logprobs: flags.logprobs, prompt_logprobs: flags.prompt_logprobs, ..sampled };
    let start = Instant::now();
    let answers = pipeline.generate(prompts, &generation)?;
    let seconds = start.elapsed().as_secs_f64();
    if global.json {
        return print_json(&document(&texts, &answers, flags.n, seconds));
    }
    for (prompt, answers) in texts.iter().zip(answers.chunks(flags.n)) {
        print(&format!("> {}\n", prompt.as_str().unwrap_or_default()))?;
        for answer in answers {
            let number = if flags.n > 1 { format!("[{}] ", answer.choice) } else { String::new() };
            print(&format!("{number}{}\n\n", answer.text.trim()))?;
        }
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

fn document(texts: &[Value], answers: &[Answer], n: usize, seconds: f64) -> Value {
    let of_prompt = texts.iter().zip(answers.chunks(n));
    let results: Vec<Value> =
        of_prompt.clone().flat_map(|(text, all)| all.iter().map(move |a| result(text, a, n))).collect();
    json!({
        "results": results,
        "usage": {
            // The answers to one prompt share it: it is read once.
            "prompt_tokens": of_prompt.map(|(_, all)| all[0].prompt_token_ids.len()).sum::<usize>(),
            "completion_tokens": answers.iter().map(|a| a.token_ids.len()).sum::<usize>(),
        },
        "seconds": seconds,
    })
}

fn result(prompt: &Value, answer: &Answer, n: usize) -> Value {
    let mut out = json!({
        "prompt": prompt,
        "text": answer.text,
        "token_ids": answer.token_ids,
        "prompt_token_ids": answer.prompt_token_ids,
        "finish_reason": answer.finish_reason.name(),
    });
    if n > 1 {
        out["choice"] = answer.choice.into();
    }
    if !answer.logprobs.is_empty() {
        out["logprobs"] = logprobs(&answer.token_ids, &answer.logprobs);
    }
    if !answer.prompt_logprobs.is_empty() {
        out["prompt_logprobs"] = logprobs(&answer.prompt_token_ids[1..], &answer.prompt_logprobs);
    }
    out
}

fn logprobs(ids: &[u32], each: &[TokenLogprobs]) -> Value {
    let of_token = |(l, id): (&TokenLogprobs, &u32)| {
        let top: Vec<Value> = l.top.iter().map(|(id, p)| json!({"id": id, "logprob": p})).collect();
        json!({"id": id, "logprob": l.chosen, "top": top})
    };
    each.iter().zip(ids).map(of_token).collect()
}
