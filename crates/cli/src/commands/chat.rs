//! `planish chat`: talk to a model in the terminal; its answers appear as they are made.
use super::flags::{EngineFlags, SamplingFlags};
use super::{open, print};
use crate::Global;
use anyhow::Result;
use clap::Args;
use planish::Model;
use planish_text::Message;
use std::io::{BufRead, IsTerminal};
use std::time::Instant;

/// Flags of the command.
#[derive(Args)]
pub struct Flags {
    /// Directory, .gguf file or hub id
    model: String,
    /// What the model is told before the conversation
    #[arg(long)]
    system: Option<String>,
    #[command(flatten)]
    sampling: SamplingFlags,
    #[command(flatten)]
    engine: EngineFlags,
}

/// Runs the command until the input ends.
pub fn run(global: &Global, flags: &Flags) -> Result<()> {
    let generation = flags.sampling.generation()?;
    let model = Model::open(&flags.model)?;
    let pipeline = open(global, &model, &flags.engine.options(global))?;
    let terminal = std::io::stdin().is_terminal();
    let system = flags.system.iter().map(|text| message("system", text));
    let mut messages: Vec<Message> = system.clone().collect();
    if terminal && global.talks() {
        eprintln!("{} on {}. /clear forgets, /exit ends.", model.path.display(), pipeline.handle().info().device);
    }
    loop {
        if terminal {
            print("> ")?;
        }
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line)? == 0 {
            return Ok(());
        }
        match line.trim() {
            "" => continue,
            "/exit" | "/quit" => return Ok(()),
            "/clear" => messages = system.clone().collect(),
            text => {
                messages.push(message("user", text));
                let start = Instant::now();
                let mut broken = None;
                let answers = pipeline.stream(pipeline.encode_chat(&messages)?, &generation, |_, piece| {
                    if let Err(e) = print(piece) {
                        broken = Some(e);
                    }
                })?;
                let answer = &answers[0];
                if let Some(e) = broken {
                    return Err(e);
                }
                print("\n")?;
                if terminal && global.talks() {
                    let rate = answer.token_ids.len() as f64 / start.elapsed().as_secs_f64();
                    eprintln!("({} tokens, {rate:.1} tokens/s)", answer.token_ids.len());
                }
                messages.push(message("assistant", &answer.text));
            }
        }
    }
}

fn message(role: &str, content: &str) -> Message {
    Message { role: role.into(), content: content.into() }
}
