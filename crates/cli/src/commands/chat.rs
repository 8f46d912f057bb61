//! `planish chat`: talk to a model in the terminal; its answers appear as they are made.
use super::flags::{EngineFlags, SamplingFlags};
use super::open;
use super::talk::{self, Conversation, Part, Partner, Reply, TalkFlags};
use crate::Global;
use anyhow::{Result, bail};
use clap::Args;
use planish::{Generation, Model, Pipeline};
use planish_engine::FinishReason;
use planish_serve::reasoning::Splitter;
use planish_serve::tools::Delta;

/// Flags of the command.
#[derive(Args)]
pub struct Flags {
    /// Directory, .gguf file or hub id
    model: String,
    #[command(flatten)]
    talk: TalkFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
    #[command(flatten)]
    engine: EngineFlags,
}

/// Runs the command until the input ends.
pub fn run(global: &Global, flags: &Flags) -> Result<()> {
    let generation = flags.sampling.generation()?;
    let model = Model::open(&flags.model, global.talks())?;
    let pipeline = open(global, &model, &flags.engine.options(global))?;
    let greeting = format!("{} on {}.", model.path.display(), pipeline.handle().info().device);
    let temperature = Some(generation.sampling.temperature);
    let mut engine = Engine { pipeline: &pipeline, generation };
    talk::talk(global, &flags.talk, temperature, &greeting, &mut engine)
}

/// Who answers: a model in this process.
struct Engine<'a> {
    pipeline: &'a Pipeline,
    generation: Generation,
}

impl Partner for Engine<'_> {
    fn answer(&mut self, talk: &Conversation, show: &mut dyn FnMut(Part<'_>) -> Result<()>) -> Result<Reply> {
        let mut generation = self.generation.clone();
        generation.sampling.temperature = talk.temperature.unwrap_or(generation.sampling.temperature);
        let prompt = self.pipeline.encode_chat(&talk.all())?;
        let mut splitter = Splitter::new(self.pipeline.begins_reasoning(&prompt));
        let (mut text, mut broken) = (String::new(), None);
        let mut tell = |deltas: Vec<Delta>| {
            for delta in deltas {
                let shown = match &delta {
                    Delta::Reasoning(part) => show(Part::Thought(part)),
                    Delta::Content(part) => {
                        text += part;
                        show(Part::Text(part))
                    }
                    _ => Ok(()),
                };
                if let Err(error) = shown {
                    broken.get_or_insert(error);
                }
            }
        };
        let answers = self.pipeline.stream(prompt, &generation, |_, piece| {
            let mut deltas = Vec::new();
            splitter.push(piece, &mut deltas);
            tell(deltas);
        })?;
        let mut rest = Vec::new();
        splitter.finish(&mut rest);
        tell(rest);
        if let Some(error) = broken {
            return Err(error);
        }
        let Some(answer) = answers.first() else { bail!("the engine: expected an answer, found none") };
        let cut = (answer.finish_reason == FinishReason::Length).then(|| "length".to_owned());
        Ok(Reply { text, tokens: Some(answer.token_ids.len()), cut })
    }
}
