//! From a specification to llguidance's parser, within limits of size, depth and time.
use super::limits::{self, COMPILE_TIME};
use super::{GrammarSpec, Vocabulary};
use crate::error::{Error, Result};
use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, TokenParser};
use serde_json::{Value, json};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Compilations of a model's grammars at a time, those that outlived their caller's patience included.
const MAX_RUNNING: usize = 4;
/// llguidance recurses over schemas; [`limits::MAX_DEPTH`] levels must fit.
const STACK: usize = 16 << 20;
/// White space between JSON tokens: enough for indentation, an end for a model that would go on with it for ever.
const WHITE_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,40}";
/// How many bytes of lexer states are kept of a grammar between its followers.
const GROWTH: usize = 3 << 20;

/// A grammar's start state. Followers of one grammar share the lexer states that they discover ("warm"); one that
/// fails is tried again from an untouched copy, so that no text depends on what others did.
pub struct Compiled {
    kind: &'static str,
    bytes: usize,
    pristine: Mutex<TokenParser>,
    warm: Mutex<TokenParser>,
}

impl Compiled {
    /// Its kind, for messages.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The most bytes that it takes while nobody follows it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A start state that shares what others learned.
    pub fn warm(&self) -> Matcher {
        self.trim();
        Matcher::new(Ok(lock(&self.warm).clone()))
    }

    /// A start state of its own; also forgets what was learned, which may be what failed.
    pub fn alone(&self) -> Matcher {
        let own = lock(&self.pristine).deep_clone();
        *lock(&self.warm) = own.deep_clone();
        Matcher::new(Ok(own))
    }

    /// Forgets what was learned if it has grown large, or was left damaged by a panic.
    pub fn trim(&self) {
        let mut warm = lock(&self.warm);
        let size = catch_unwind(AssertUnwindSafe(|| lexer_bytes(&warm)));
        if size.is_ok_and(|bytes| bytes <= self.bytes) {
            return;
        }
        *warm = lock(&self.pristine).deep_clone();
    }
}

fn lexer_bytes(parser: &TokenParser) -> usize {
    parser.parser.lexer_stats().num_bytes
}

/// Compiles on a thread of its own and waits at most [`COMPILE_TIME`], the vocabulary's own construction aside.
pub fn within_time(vocabulary: Vocabulary, spec: GrammarSpec) -> Result<Compiled> {
    let kind = spec.kind();
    vocabulary.factory()?;
    let Some(slot) = Slot::take(vocabulary.compilations()) else {
        return Err(Error::Grammar(format!("{kind}: {MAX_RUNNING} others are being compiled for too long; try again")));
    };
    let (sender, receiver) = sync_channel(1);
    let work = move || {
        let result = catch_unwind(AssertUnwindSafe(|| compile(&vocabulary, &spec)));
        drop(slot);
        let _ = sender.send(result.unwrap_or_else(|_| Err(Error::Grammar(format!("{kind}: the compiler panicked")))));
    };
    let thread = thread::Builder::new().name("grammar compiler".into()).stack_size(STACK).spawn(work);
    thread.map_err(|error| Error::Grammar(format!("{kind}: no thread to compile it: {error}")))?;
    receiver.recv_timeout(COMPILE_TIME).unwrap_or_else(|error| {
        Err(Error::Grammar(match error {
            RecvTimeoutError::Timeout => {
                format!("{kind}: not compiled within {} s: too complex", COMPILE_TIME.as_secs())
            }
            RecvTimeoutError::Disconnected => format!("{kind}: the compiler ended without a result"),
        }))
    })
}

fn compile(vocabulary: &Vocabulary, spec: &GrammarSpec) -> Result<Compiled> {
    let grammar = top_level(spec)?;
    let factory = vocabulary.factory()?;
    let pristine = factory.create_parser(grammar).map_err(|error| refused(spec, &error.to_string()))?;
    let warm = pristine.deep_clone();
    let first = Matcher::new(Ok(warm.clone())).compute_mask();
    first.map_err(|error| refused(spec, &error.to_string()))?;
    let bytes = 2 * lexer_bytes(&pristine) + GROWTH + spec.text().len();
    Ok(Compiled { kind: spec.kind(), bytes, pristine: Mutex::new(pristine), warm: Mutex::new(warm) })
}

fn top_level(spec: &GrammarSpec) -> Result<TopLevelGrammar> {
    Ok(match spec {
        GrammarSpec::JsonObject => TopLevelGrammar::from_json_schema(with_white_space(json!({"type": "object"}))),
        GrammarSpec::JsonSchema(text) => {
            let schema: Value = serde_json::from_str(text).map_err(|error| refused(spec, &error.to_string()))?;
            limits::check_schema(&schema, "#", 0)?;
            TopLevelGrammar::from_json_schema(with_white_space(match schema {
                Value::Object(_) => schema,
                Value::Bool(true) => json!({}),
                other => return Err(refused(spec, &format!("expected an object, found {other}"))),
            }))
        }
        GrammarSpec::Regex(text) => {
            limits::check_pattern(spec.kind(), text, "")?;
            TopLevelGrammar::from_regex(text)
        }
        GrammarSpec::Lark(text) => {
            limits::check_pattern(spec.kind(), text, "")?;
            TopLevelGrammar::from_lark(text.clone())
        }
    })
}

/// Sets llguidance's own options, in the place of any that a caller put there.
fn with_white_space(mut schema: Value) -> Value {
    schema["x-guidance"] = json!({"whitespace_pattern": WHITE_SPACE});
    schema
}

fn refused(spec: &GrammarSpec, reason: &str) -> Error {
    let reason = reason.replace("\n<non-verbose/>", "");
    let reason = reason.split("\n<backtrace>").next().unwrap_or_default();
    let short: String = reason.chars().take(500).collect();
    Error::Grammar(format!("{}: {}", spec.kind(), short.trim()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The compilations that run.
#[derive(Default)]
pub struct Compilations {
    running: Mutex<usize>,
    ended: Condvar,
}

/// The right to compile.
struct Slot(Arc<Compilations>);

impl Slot {
    /// Waits for its turn, but no longer than for a compilation.
    fn take(all: &Arc<Compilations>) -> Option<Slot> {
        let full = |running: &mut usize| *running >= MAX_RUNNING;
        let waited = all.ended.wait_timeout_while(lock(&all.running), COMPILE_TIME, full);
        let (mut running, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        (!timeout.timed_out()).then(|| {
            *running += 1;
            Slot(all.clone())
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *lock(&self.0.running) -= 1;
        self.0.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use planish_text::Tokenizer;

    fn vocabulary(width: usize) -> Vocabulary {
        let json = include_bytes!("../../../text/tests/data/smollm2/tokenizer.json");
        Vocabulary::new(Tokenizer::from_json(json).unwrap(), vec![2], width)
    }

    #[test]
    fn one_models_compilations_leave_anothers_alone() {
        let (busy, idle) = (vocabulary(256), vocabulary(256));
        let mut taken: Vec<Slot> = (0..MAX_RUNNING).map(|_| Slot::take(busy.compilations()).unwrap()).collect();
        assert!(within_time(idle, GrammarSpec::Regex("[0-9]+".into())).is_ok());
        taken.pop();
        assert!(within_time(busy, GrammarSpec::Regex("[0-9]+".into())).is_ok());
    }

    #[test]
    fn a_panic_in_the_parser_leaves_the_grammar_usable() {
        let vocabulary = vocabulary(49152);
        let compiled = compile(&vocabulary, &GrammarSpec::Regex("[0-9]+".into())).unwrap();
        let expected: Vec<u32> = compiled.warm().compute_mask().unwrap().into();
        let mut broken = compiled.warm();
        let error = broken.test_trigger_lexer_error().unwrap_err().to_string();
        assert!(error.contains("synthetic"), "{error}");
        assert!(broken.compute_mask().is_err());
        let again: Vec<u32> = compiled.warm().compute_mask().unwrap().into();
        assert_eq!(again, expected);
        let alone: Vec<u32> = compiled.alone().compute_mask().unwrap().into();
        assert_eq!(alone, expected);
    }
}
