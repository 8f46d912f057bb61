//! What the parts of an answer say: OpenAI's chunks, whole completions and errors.
use super::super::talk::{Part, Reply};
use super::connection::{Failure, Progress, error_message};
use anyhow::{Result, anyhow};
use serde_json::Value;

/// An answer in the making.
#[derive(Default)]
pub struct Answer {
    reply: Reply,
    /// Why it ended, once it did.
    finish: Option<String>,
    done: bool,
    seen: bool,
}

impl Answer {
    /// Takes the data of one event, or a whole completion.
    pub fn take(&mut self, data: &str, show: &mut dyn FnMut(Part<'_>) -> Result<()>) -> Result<Progress> {
        if data.trim() == "[DONE]" {
            self.done = true;
            return Ok(Progress::Complete);
        }
        let broken = |_| {
            let start: String = data.chars().take(100).collect();
            anyhow!("the answer: expected JSON, found {start:?}")
        };
        let chunk: Value = serde_json::from_str(data).map_err(broken)?;
        if let Some(message) = error_message(&chunk) {
            return Err(Failure { status: 200, message }.into());
        }
        if let Some(tokens) = chunk["usage"]["completion_tokens"].as_u64() {
            self.reply.tokens = Some(tokens as usize);
        }
        let choice = &chunk["choices"][0];
        for part in [&choice["delta"], &choice["message"]] {
            self.part(part, show)?;
        }
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.finish = Some(reason.to_owned());
        }
        Ok(match (self.done || self.finish.is_some(), self.seen) {
            (true, _) => Progress::Complete,
            (false, true) => Progress::Begun,
            (false, false) => Progress::Nothing,
        })
    }

    /// What was said.
    pub fn finish(mut self) -> Reply {
        self.reply.cut = self.finish.filter(|reason| reason != "stop");
        self.reply
    }

    fn part(&mut self, part: &Value, show: &mut dyn FnMut(Part<'_>) -> Result<()>) -> Result<()> {
        for field in ["reasoning_content", "reasoning"] {
            if let Some(text) = part[field].as_str().filter(|text| !text.is_empty()) {
                self.seen = true;
                show(Part::Thought(text))?;
                break;
            }
        }
        if let Some(text) = part["content"].as_str().filter(|text| !text.is_empty()) {
            self.seen = true;
            self.reply.text += text;
            show(Part::Text(text))?;
        }
        Ok(())
    }
}
