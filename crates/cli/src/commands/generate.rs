//! `planish generate`: offline answers, many prompts in one batch.
use super::flags::{self, EngineFlags, SamplingFlags};
use super::{open, print, print_json};
use crate::Global;
use anyhow::{Result, bail};
use clap::Args;
use planish::{Answer, Generation, Model, Pipeline};
use planish_engine::TokenLogprobs;
use planish_text::Message;
use serde::{Serialize, Serializer};
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
    let model = Model::open(&flags.model, global.talks())?;
    let pipeline = open(global, &model, &flags.engine.options(global))?;
    let mut texts = flags.prompt.clone();
    let mut prompts = flags.prompt.iter().map(|p| encode(&pipeline, p, flags.chat)).collect::<Result<Vec<_>>>()?;
    for ids in &flags.input_ids {
        prompts.push(parse_ids(ids)?);
        texts.push(ids.clone());
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
        print(&format!("> {prompt}\n"))?;
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

/// What `--json` prints.
#[derive(Serialize)]
struct Document<'a> {
    results: Vec<Outcome<'a>>,
    usage: Usage,
    seconds: f64,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
}

#[derive(Serialize)]
struct Outcome<'a> {
    prompt: &'a str,
    text: &'a str,
    token_ids: &'a [u32],
    prompt_token_ids: &'a [u32],
    finish_reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    choice: Option<usize>,
    #[serde(skip_serializing_if = "Logprobs::is_empty")]
    logprobs: Logprobs<'a>,
    #[serde(skip_serializing_if = "Logprobs::is_empty")]
    prompt_logprobs: Logprobs<'a>,
}

/// Tokens and their log-probabilities, written one by one: those of a long prompt are many.
struct Logprobs<'a>(&'a [u32], &'a [TokenLogprobs]);

impl Logprobs<'_> {
    fn is_empty(&self) -> bool {
        self.1.is_empty()
    }
}

impl Serialize for Logprobs<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let tokens = self.0.iter().zip(self.1);
        to.collect_seq(tokens.map(|(id, l)| TokenRow { id: *id, logprob: l.chosen.into(), top: Top(&l.top) }))
    }
}

#[derive(Serialize)]
struct TokenRow<'a> {
    id: u32,
    logprob: f64,
    top: Top<'a>,
}

struct Top<'a>(&'a [(u32, f32)]);

impl Serialize for Top<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(|&(id, p)| Likely { id, logprob: p.into() }))
    }
}

#[derive(Serialize)]
struct Likely {
    id: u32,
    logprob: f64,
}

fn document<'a>(texts: &'a [String], answers: &'a [Answer], n: usize, seconds: f64) -> Document<'a> {
    let of_prompt = texts.iter().zip(answers.chunks(n));
    Document {
        results: of_prompt.clone().flat_map(|(text, all)| all.iter().map(move |a| outcome(text, a, n))).collect(),
        usage: Usage {
            // The answers to one prompt share it: it is read once.
            prompt_tokens: of_prompt.map(|(_, all)| all[0].prompt_token_ids.len()).sum(),
            completion_tokens: answers.iter().map(|a| a.token_ids.len()).sum(),
        },
        seconds,
    }
}

fn outcome<'a>(prompt: &'a str, answer: &'a Answer, n: usize) -> Outcome<'a> {
    Outcome {
        prompt,
        text: &answer.text,
        token_ids: &answer.token_ids,
        prompt_token_ids: &answer.prompt_token_ids,
        finish_reason: answer.finish_reason.name(),
        choice: (n > 1).then_some(answer.choice),
        logprobs: Logprobs(&answer.token_ids, &answer.logprobs),
        prompt_logprobs: Logprobs(answer.prompt_token_ids.get(1..).unwrap_or_default(), &answer.prompt_logprobs),
    }
}
