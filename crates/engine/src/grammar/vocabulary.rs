//! What grammars know of a model: its tokens as bytes, built once and only when a grammar comes.
use super::GrammarSpec;
use super::cache::Cache;
use super::compile::{self, Compilations, Compiled};
use super::limits;
use super::worker::Worker;
use crate::error::{Error, Result};
use llguidance::ParserFactory;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use planish_text::Tokenizer;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The tokens of a model, for grammars. Cheap to clone and to make: the token trie, the cache and the worker thread
/// come into being with the first grammar.
#[derive(Clone)]
pub struct Vocabulary {
    shared: Arc<Shared>,
}

struct Shared {
    tokenizer: Tokenizer,
    end_ids: Vec<u32>,
    width: usize,
    factory: OnceLock<Result<ParserFactory>>,
    cache: Mutex<Cache>,
    compilations: Arc<Compilations>,
    worker: OnceLock<Worker>,
}

impl Vocabulary {
    /// `end_ids` are the tokens that may end a text (the first is the usual one); `width` is the number of logits,
    /// which may exceed the tokenizer's vocabulary.
    pub fn new(tokenizer: Tokenizer, end_ids: Vec<u32>, width: usize) -> Vocabulary {
        let shared = Shared {
            tokenizer,
            end_ids,
            width,
            factory: OnceLock::new(),
            cache: Mutex::default(),
            compilations: Arc::default(),
            worker: OnceLock::new(),
        };
        Vocabulary { shared: Arc::new(shared) }
    }

    /// Builds now what the first grammar would build (some hundreds of milliseconds): for a thread that has nothing
    /// else to do.
    ///
    /// # Errors
    /// [`Error::Grammar`] if no grammar can be followed with this vocabulary, as without an end token.
    pub fn prepare(&self) -> Result<()> {
        self.factory().map(drop)
    }

    /// The number of tokens that a mask covers.
    pub fn width(&self) -> usize {
        self.shared.width
    }

    /// How many compiled grammars are kept, and about how many bytes they take.
    pub fn cached(&self) -> (usize, usize) {
        self.cache().size()
    }

    pub(super) fn compiled(&self, spec: &GrammarSpec) -> Result<Arc<Compiled>> {
        limits::check_size(spec.kind(), spec.text())?;
        if let Some(found) = self.cache().get(spec) {
            return Ok(found);
        }
        let compiled = Arc::new(compile::within_time(self.clone(), spec.clone())?);
        self.cache().insert(spec.clone(), compiled.clone());
        Ok(compiled)
    }

    pub(super) fn compilations(&self) -> &Arc<Compilations> {
        &self.shared.compilations
    }

    pub(super) fn worker(&self) -> &Worker {
        self.shared.worker.get_or_init(Worker::start)
    }

    pub(super) fn factory(&self) -> Result<&ParserFactory> {
        self.shared.factory.get_or_init(|| self.shared.build()).as_ref().map_err(Error::clone)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.shared.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vocabulary").field("width", &self.shared.width).finish_non_exhaustive()
    }
}

impl Shared {
    fn build(&self) -> Result<ParserFactory> {
        let failed = |reason: String| Error::Grammar(format!("the tokenizer's vocabulary: {reason}"));
        let width = u32::try_from(self.width).map_err(|_| failed("too large".into()))?;
        let ends: Vec<u32> = self.end_ids.iter().copied().filter(|&id| id < width).collect();
        let Some(&first) = ends.first() else {
            return Err(failed(format!("expected a token that ends a text, found none below {width}")));
        };
        let words = self.words(&ends);
        let trie = TokTrie::from(&TokRxInfo::new(width, first), &words).with_eos_tokens(&ends);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&env).map_err(|error| failed(error.to_string()))?;
        factory.quiet();
        *factory.limits_mut() = limits::parser_limits();
        Ok(factory)
    }

    /// `[width]` bytes of the tokens as toktrie wants them: control tokens behind its marker byte, so that no text
    /// matches them; nothing for tokens that cannot be part of a text.
    fn words(&self, ends: &[u32]) -> Vec<Vec<u8>> {
        let tokens = self.tokenizer.vocabulary();
        let word = |id: u32| {
            let bytes = tokens.bytes(id);
            match tokens.is_special(id) || ends.contains(&id) {
                true if !bytes.is_empty() => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
                false if !bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER) => bytes.to_vec(),
                _ => Vec::new(),
            }
        };
        (0..self.width as u32).map(word).collect()
    }
}
