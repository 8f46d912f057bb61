//! The compiled grammars that were used last.
use super::GrammarSpec;
use super::compile::Compiled;
use std::collections::HashMap;
use std::sync::Arc;

/// Most grammars kept.
const MAX_COUNT: usize = 64;
/// About the most bytes kept.
const MAX_BYTES: usize = 256 << 20;

/// Least recently used first out, by count and by bytes. Who still holds a grammar keeps it alive.
#[derive(Default)]
pub struct Cache {
    kept: HashMap<GrammarSpec, Kept>,
    bytes: usize,
    clock: u64,
}

struct Kept {
    compiled: Arc<Compiled>,
    used: u64,
}

impl Cache {
    /// A grammar that was compiled before.
    pub fn get(&mut self, spec: &GrammarSpec) -> Option<Arc<Compiled>> {
        self.clock += 1;
        let kept = self.kept.get_mut(spec)?;
        kept.used = self.clock;
        Some(kept.compiled.clone())
    }

    /// Keeps a grammar, and lets go of the oldest for it.
    pub fn insert(&mut self, spec: GrammarSpec, compiled: Arc<Compiled>) {
        self.clock += 1;
        self.bytes += compiled.bytes();
        let replaced = self.kept.insert(spec, Kept { compiled, used: self.clock });
        self.bytes -= replaced.map_or(0, |kept| kept.compiled.bytes());
        while self.kept.len() > MAX_COUNT || (self.bytes > MAX_BYTES && self.kept.len() > 1) {
            self.drop_oldest();
        }
    }

    /// How many, and their bytes.
    pub fn size(&self) -> (usize, usize) {
        (self.kept.len(), self.bytes)
    }

    fn drop_oldest(&mut self) {
        let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.used).map(|(spec, _)| spec.clone());
        if let Some(kept) = oldest.and_then(|spec| self.kept.remove(&spec)) {
            self.bytes -= kept.compiled.bytes();
        }
    }
}
