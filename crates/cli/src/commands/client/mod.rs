//! `planish client`: talk to any OpenAI-compatible server.
mod address;
mod chunk;
pub mod connection;
mod events;

pub use address::{ServerFlags, first_model};

use super::talk::{self, Conversation, Part, Partner, Reply, TalkFlags};
use crate::Global;
use anyhow::{Result, bail};
use chunk::Answer;
use clap::Args;
use connection::{Connection, Failure};
use serde_json::{Value, json};
use std::time::Duration;

/// Flags of the command.
#[derive(Args)]
pub struct Flags {
    #[command(flatten)]
    server: ServerFlags,
    /// 0 takes the likeliest token always (default: the server's own)
    #[arg(long, allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Keep the likeliest tokens up to this probability
    #[arg(long)]
    top_p: Option<f32>,
    /// Most tokens of an answer
    #[arg(long, visible_alias = "max-new-tokens")]
    max_tokens: Option<usize>,
    /// Seed of the sampling
    #[arg(long)]
    seed: Option<u64>,
    /// Text that ends an answer (repeatable)
    #[arg(long)]
    stop: Vec<String>,
    /// How often to try again while the server cannot be reached or is busy, before anything of an answer came
    #[arg(long, default_value_t = 5)]
    retries: u32,
    /// Seconds before the first of them; each next pause is twice as long, 30 s at most
    #[arg(long, default_value_t = 0.5, allow_negative_numbers = true)]
    retry_delay: f64,
    /// Seconds without anything from the server before it is given up
    #[arg(long, default_value_t = 600.0, allow_negative_numbers = true)]
    timeout: f64,
    #[command(flatten)]
    talk: TalkFlags,
}

/// Runs the command until the input ends.
pub fn run(global: &Global, flags: &Flags) -> Result<()> {
    let pause = |name: &str, seconds: f64| match Duration::try_from_secs_f64(seconds) {
        Ok(pause) if seconds <= 86400.0 => Ok(pause),
        _ => bail!("--{name}: expected seconds from 0 to 86400, found {seconds}"),
    };
    if let Some(found) = flags.temperature.filter(|t| !(0.0..=100.0).contains(t)) {
        bail!("--temperature: expected a number from 0 up, found {found}");
    }
    let mut connection = flags.server.connect(pause("timeout", flags.timeout)?)?;
    connection.retries = flags.retries;
    connection.pause = pause("retry-delay", flags.retry_delay)?;
    connection.talks = global.talks();
    let model = flags.server.model.clone();
    let greeting = format!("{}{}.", connection.base(), model.iter().map(|m| format!(", {m}")).collect::<String>());
    let mut server = Server { connection, model, flags, usage: true };
    talk::talk(global, &flags.talk, flags.temperature, &greeting, &mut server)
}

/// Who answers: a model behind a connection.
struct Server<'a> {
    connection: Connection,
    model: Option<String>,
    flags: &'a Flags,
    /// Ask for the number of tokens.
    usage: bool,
}

impl Partner for Server<'_> {
    fn answer(&mut self, talk: &Conversation, show: &mut dyn FnMut(Part<'_>) -> Result<()>) -> Result<Reply> {
        let model = self.model()?;
        let body = self.body(&model, talk);
        match self.stream(&body, show) {
            // Some servers know no stream_options: then the tokens are not counted.
            Err(error) if self.usage && refuses_usage(&error) => {
                self.usage = false;
                let body = self.body(&model, talk);
                self.stream(&body, show)
            }
            done => done,
        }
    }
}

impl Server<'_> {
    /// The model that was asked for, or the first of the server's.
    fn model(&mut self) -> Result<String> {
        if let Some(model) = &self.model {
            return Ok(model.clone());
        }
        let name = first_model(&self.connection)?;
        Ok(self.model.insert(name).clone())
    }

    fn body(&self, model: &str, talk: &Conversation) -> Value {
        let mut body = json!({"model": model, "messages": talk.all(), "stream": true});
        if self.usage {
            body["stream_options"] = json!({"include_usage": true});
        }
        // 0.7 as it was typed, not as the nearest f32.
        let number = |value: f32| value.to_string().parse::<f64>().unwrap_or(f64::from(value));
        let fields = [
            ("temperature", talk.temperature.map(|value| json!(number(value)))),
            ("top_p", self.flags.top_p.map(|value| json!(number(value)))),
            ("max_tokens", self.flags.max_tokens.map(Value::from)),
            ("seed", self.flags.seed.map(Value::from)),
            ("stop", (!self.flags.stop.is_empty()).then(|| json!(self.flags.stop))),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        body
    }

    fn stream(&self, body: &Value, show: &mut dyn FnMut(Part<'_>) -> Result<()>) -> Result<Reply> {
        let mut answer = Answer::default();
        self.connection.post("chat/completions", body, &mut |event| answer.take(event, show))?;
        Ok(answer.finish())
    }
}

fn refuses_usage(error: &anyhow::Error) -> bool {
    let refused = |failure: &Failure| matches!(failure.status, 400 | 422) && failure.message.contains("stream_options");
    error.downcast_ref::<Failure>().is_some_and(refused)
}
