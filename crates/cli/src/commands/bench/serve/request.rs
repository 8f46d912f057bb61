//! One request over HTTP, and when the parts of its answer came.
use super::Endpoint;
use super::load::Job;
use crate::commands::client::connection::{Connection, Failure, Progress, error_message};
use anyhow::{Error, Result, anyhow};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Who is asked, and how.
pub struct Target {
    /// The server.
    pub connection: Connection,
    /// The model.
    pub model: String,
    /// What is asked.
    pub endpoint: Endpoint,
    /// Answers have exactly the wanted length.
    pub ignore_eos: bool,
    /// Of the sampling.
    pub temperature: f64,
}

/// What became of a request.
#[derive(Debug)]
pub struct Outcome {
    /// Tokens of its prompt.
    pub input: usize,
    /// Tokens of its answer.
    pub output: usize,
    /// From sending it until each part of the answer's text.
    pub parts: Vec<Duration>,
    /// Why it failed, if it did.
    pub error: Option<Error>,
}

impl Outcome {
    /// A request that was not even sent.
    pub fn failed(why: &str) -> Outcome {
        Outcome { input: 0, output: 0, parts: Vec::new(), error: Some(anyhow!("{why}")) }
    }
}

impl Target {
    /// Sends a job and waits for the end of its answer.
    pub fn ask(&self, job: &Job) -> Outcome {
        let mut outcome = Outcome { input: job.input, output: 0, parts: Vec::with_capacity(job.output), error: None };
        let endpoint = match self.endpoint {
            Endpoint::Completions => "completions",
            Endpoint::Chat => "chat/completions",
        };
        let body = self.body(job);
        let start = Instant::now();
        let asked = self.connection.post(endpoint, &body, &mut |data| take(data, start, &mut outcome));
        outcome.error = match asked {
            Ok(()) if outcome.parts.is_empty() => Some(anyhow!("expected text in the answer, found none")),
            asked => asked.err(),
        };
        // Servers that do not count: each part is a token.
        if outcome.output == 0 {
            outcome.output = outcome.parts.len();
        }
        outcome
    }

    fn body(&self, job: &Job) -> Value {
        let mut body = json!({
            "model": self.model,
            "max_tokens": job.output,
            "temperature": self.temperature,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        match self.endpoint {
            Endpoint::Completions => body["prompt"] = job.prompt.clone(),
            Endpoint::Chat => body["messages"] = json!([{"role": "user", "content": job.prompt}]),
        }
        if self.ignore_eos {
            body["ignore_eos"] = json!(true);
        }
        body
    }
}

fn take(data: &str, start: Instant, outcome: &mut Outcome) -> Result<Progress> {
    let now = start.elapsed();
    if data == "[DONE]" {
        return Ok(Progress::Complete);
    }
    let chunk: Value = serde_json::from_str(data).map_err(|_| anyhow!("expected JSON, found {data:.100?}"))?;
    if let Some(message) = error_message(&chunk) {
        return Err(Failure { status: 200, message }.into());
    }
    if let Some(usage) = chunk.get("usage").filter(|usage| usage.is_object()) {
        let count = |name: &str| usage[name].as_u64().map(|n| n as usize);
        outcome.input = count("prompt_tokens").unwrap_or(outcome.input);
        outcome.output = count("completion_tokens").unwrap_or(outcome.output);
    }
    let choice = &chunk["choices"][0];
    // As vLLM counts: every chunk of a choice but those of chat that hold no delta's text.
    let texts = [&choice["text"], &choice["delta"]["content"], &choice["delta"]["reasoning_content"]];
    let finished = choice["finish_reason"].is_string();
    if texts.iter().any(|text| text.as_str().is_some_and(|text| !text.is_empty() || !finished)) && !is_greeting(choice)
    {
        outcome.parts.push(now);
    }
    Ok(if finished { Progress::Complete } else { Progress::Begun })
}

/// The first chunk of a chat names the role and says nothing.
fn is_greeting(choice: &Value) -> bool {
    choice["delta"]["role"].is_string() && choice["delta"]["content"].as_str().is_none_or(str::is_empty)
}
