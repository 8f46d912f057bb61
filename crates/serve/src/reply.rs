//! A model's answer, from its bytes to its parts: characters, then reasoning, then tool calls.

use crate::reasoning::Splitter;
use crate::tools::{Delta, ToolReader, push_content};

/// Reads one answer.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    /// The beginning of a character.
    bytes: Vec<u8>,
    reasoning: Option<Splitter>,
    tools: Option<ToolReader>,
}

impl Reply {
    /// An answer in which `reasoning` is split off and calls are read by `tools`, as far as they are given.
    pub fn new(reasoning: Option<Splitter>, tools: Option<ToolReader>) -> Reply {
        Reply { bytes: Vec::new(), reasoning, tools }
    }

    /// Takes more of the answer, cut anywhere; returns what became certain.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Delta> {
        self.bytes.extend_from_slice(bytes);
        let mut text = String::new();
        let mut used = 0;
        for chunk in self.bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            used += chunk.valid().len();
            let rest = self.bytes.len() - used;
            let unfinished = chunk.invalid().len() == rest
                && std::str::from_utf8(chunk.invalid()).is_err_and(|e| e.error_len().is_none());
            if !chunk.invalid().is_empty() && !unfinished {
                text.push(char::REPLACEMENT_CHARACTER);
                used += chunk.invalid().len();
            }
        }
        self.bytes.drain(..used);
        let mut deltas = Vec::new();
        self.read(&text, false, &mut deltas);
        deltas
    }

    /// The answer ends; returns the rest.
    pub fn finish(&mut self) -> Vec<Delta> {
        let text = String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned();
        let mut deltas = Vec::new();
        self.read(&text, true, &mut deltas);
        deltas
    }

    /// Tool calls so far: if there is one, the answer's `finish_reason` is `tool_calls`.
    pub fn calls(&self) -> usize {
        self.tools.as_ref().map_or(0, ToolReader::calls)
    }

    /// Whether nothing that may still come counts: generating can end.
    pub fn is_over(&self) -> bool {
        self.tools.as_ref().is_some_and(ToolReader::is_over)
    }

    fn read(&mut self, text: &str, last: bool, deltas: &mut Vec<Delta>) {
        let mut parts = Vec::new();
        match &mut self.reasoning {
            Some(splitter) => {
                splitter.push(text, &mut parts);
                if last {
                    splitter.finish(&mut parts);
                }
            }
            None => push_content(&mut parts, text),
        }
        for part in parts {
            match (part, &mut self.tools) {
                (Delta::Content(text), Some(tools)) => tools.push(&text, deltas),
                (part, _) => deltas.push(part),
            }
        }
        if let Some(tools) = self.tools.as_mut().filter(|_| last) {
            tools.finish(deltas);
        }
    }
}
