//! Models loaded beside the server, which may be told to stop before they are there.
use super::Flags;
use crate::Global;
use crate::commands::{flags::EngineFlags, open};
use anyhow::{Context, Result, anyhow};
use planish::Model;
use planish_serve::Served;
use planish_serve::tools::Format;
use serde_json::json;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// Between two looks whether the server still runs.
const LOOK: Duration = Duration::from_millis(50);

/// Loads models under their names on a thread of its own; `None` if the server has ended meanwhile. That thread then ends
/// with the process: a load cannot be broken off.
pub fn beside(
    global: &Global,
    flags: &Flags,
    models: Vec<Model>,
    titles: &[String],
    ended: impl Fn() -> bool,
) -> Result<Option<Vec<Served>>> {
    let (global, titles) = (global.clone(), titles.to_vec());
    let engine = flags.engine.clone();
    let format = flags.tool_call_parser.as_deref().and_then(Format::named);
    let (sender, loaded) = channel();
    std::thread::Builder::new().name("planish-load".into()).spawn(move || {
        let pairs = models.iter().zip(&titles);
        // Nobody listens any more once the server has ended.
        let _ = sender.send(pairs.map(|(model, title)| load(&global, &engine, format, model, title)).collect());
    })?;
    first(&loaded, ended)?.transpose()
}

/// What comes out of a channel, unless something ends before.
fn first<T>(loaded: &Receiver<T>, ended: impl Fn() -> bool) -> Result<Option<T>> {
    loop {
        match loaded.recv_timeout(LOOK) {
            Ok(loaded) => return Ok(Some(loaded)),
            Err(RecvTimeoutError::Timeout) if ended() => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(anyhow!("loading the models panicked")),
        }
    }
}

fn load(
    global: &Global,
    engine: &EngineFlags,
    tool_format: Option<&'static Format>,
    model: &Model,
    title: &str,
) -> Result<Served> {
    let pipeline = open(global, model, &engine.options(global))?;
    let (handle, words, eos) = pipeline.into_parts();
    let missing = || format!("{}: expected tokenizer.json, found none", model.path.display());
    let words = words.with_context(missing)?;
    let config = model.companions.iter().find(|(name, _)| name == "tokenizer_config.json");
    Ok(Served {
        name: title.into(),
        handle,
        tokenizer: words.tokenizer,
        chat: words.chat,
        template: words.template,
        family: model.config.model_type()?.into(),
        tool_format,
        tokenizer_config: config.and_then(|(_, bytes)| serde_json::from_slice(bytes).ok()).unwrap_or(json!({})),
        eos,
        defaults: model.generation.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_load_is_waited_for_as_long_as_the_server_runs() {
        let (sender, loaded) = channel();
        // It never comes, and the server ends at the third look.
        let looks = Cell::new(0);
        let ended = || looks.replace(looks.get() + 1) == 2;
        assert_eq!(first(&loaded, ended).unwrap(), None::<u8>);
        assert_eq!(looks.get(), 3);
        sender.send(7).unwrap();
        assert_eq!(first(&loaded, || true).unwrap(), Some(7));
        drop(sender);
        assert!(first(&loaded, || false).unwrap_err().to_string().contains("panicked"));
    }
}
