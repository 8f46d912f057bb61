//! An answer built up block by block, with an event for each step of it.
use crate::error::{ApiError, Result};
use crate::piece::Piece;
use crate::running::{Output, Running};
use crate::sse::{Events, Voice};
use crate::tools::Delta;
use crate::turn::Speaker;
use crate::wire::messages::{AnswerBlock, MessageObject, MessageUsage};
use planish_engine::FinishReason;
use serde_json::{Map, Value, json};

/// The answer so far.
pub struct Script {
    message: MessageObject,
    speaker: Speaker,
    /// Events are wanted.
    live: bool,
    begun: bool,
    /// The last block is not complete.
    open: bool,
    /// Of a call that is not complete.
    arguments: String,
    end: Option<FinishReason>,
}

impl Script {
    /// Nothing was said yet.
    pub fn new(id: String, model: String, speaker: Speaker, live: bool) -> Script {
        let message = MessageObject {
            id,
            r#type: "message",
            role: "assistant",
            model,
            content: Vec::new(),
            stop_reason: None,
            stop_sequence: None,
            usage: MessageUsage::default(),
        };
        Script { message, speaker, live, begun: false, open: false, arguments: String::new(), end: None }
    }

    /// Takes a piece.
    pub fn hear(&mut self, piece: &Piece, running: &mut Running, out: &mut Events) {
        self.start(running, out);
        for part in self.speaker.hear(piece) {
            match part {
                Delta::Content(text) => self.say(text, out),
                Delta::Reasoning(text) => self.think(text, out),
                Delta::Call { id, name, .. } => {
                    let input = Value::Object(Map::new());
                    self.open_block(AnswerBlock::ToolUse { id, name, input }, out);
                }
                Delta::Arguments { text, .. } => {
                    self.arguments.push_str(&text);
                    self.delta(&json!({"type": "input_json_delta", "partial_json": text}), out);
                }
                Delta::CallEnd { .. } => self.close_block(out),
            }
        }
        self.end = self.end.or(piece.end);
        self.message.stop_sequence = self.message.stop_sequence.take().or(piece.stop.clone());
        if self.speaker.is_over() && self.end.is_none() {
            self.end = Some(FinishReason::Stop);
            running.close(0);
        }
    }

    /// Ends the answer.
    pub fn close(&mut self, running: &Running, out: &mut Events) -> MessageObject {
        self.close_block(out);
        let usage = running.usage();
        self.message.usage = MessageUsage { input_tokens: usage.prompt_tokens, output_tokens: usage.completion_tokens };
        self.message.stop_reason = Some(match self.end {
            Some(FinishReason::Length) | None => "max_tokens",
            Some(FinishReason::Stop) if self.message.stop_sequence.is_some() => "stop_sequence",
            Some(FinishReason::Stop) if self.speaker.has_called() => "tool_use",
            Some(FinishReason::Stop) => "end_turn",
        });
        self.message.clone()
    }

    fn start(&mut self, running: &Running, out: &mut Events) {
        if !std::mem::replace(&mut self.begun, true) {
            self.message.usage.input_tokens = running.usage().prompt_tokens;
            let message = json!(self.message);
            self.event("message_start", json!({"message": message}), out);
        }
    }

    fn event(&self, kind: &str, mut fields: Value, out: &mut Events) {
        if self.live {
            fields["type"] = json!(kind);
            out.named(kind, &fields);
        }
    }

    fn delta(&self, delta: &Value, out: &mut Events) {
        let index = self.message.content.len().saturating_sub(1);
        self.event("content_block_delta", json!({"index": index, "delta": delta}), out);
    }

    fn say(&mut self, text: String, out: &mut Events) {
        if !self.open || !matches!(self.message.content.last(), Some(AnswerBlock::Text { .. })) {
            self.open_block(AnswerBlock::Text { text: String::new() }, out);
        }
        self.delta(&json!({"type": "text_delta", "text": text}), out);
        if let Some(AnswerBlock::Text { text: all }) = self.message.content.last_mut() {
            all.push_str(&text);
        }
    }

    fn think(&mut self, text: String, out: &mut Events) {
        if !self.open || !matches!(self.message.content.last(), Some(AnswerBlock::Thinking { .. })) {
            self.open_block(AnswerBlock::Thinking { thinking: String::new(), signature: "" }, out);
        }
        self.delta(&json!({"type": "thinking_delta", "thinking": text}), out);
        if let Some(AnswerBlock::Thinking { thinking, .. }) = self.message.content.last_mut() {
            thinking.push_str(&text);
        }
    }

    fn open_block(&mut self, block: AnswerBlock, out: &mut Events) {
        self.close_block(out);
        let fields = json!({"index": self.message.content.len(), "content_block": block});
        self.message.content.push(block);
        self.open = true;
        self.event("content_block_start", fields, out);
    }

    fn close_block(&mut self, out: &mut Events) {
        if !std::mem::replace(&mut self.open, false) {
            return;
        }
        let arguments = std::mem::take(&mut self.arguments);
        if let Some(AnswerBlock::ToolUse { input, .. }) = self.message.content.last_mut() {
            // Arguments that broke off are no JSON: the call then has none.
            *input = serde_json::from_str(&arguments).unwrap_or_else(|_| Value::Object(Map::new()));
        }
        let index = self.message.content.len() - 1;
        self.event("content_block_stop", json!({"index": index}), out);
    }
}

impl Voice for Script {
    fn tell(&mut self, output: Output, running: &mut Running, out: &mut Events) -> Result<()> {
        if let Output::Delta(delta) = output {
            self.hear(&delta.piece, running, out);
        }
        Ok(())
    }

    fn end(&mut self, running: &Running, out: &mut Events) {
        let message = self.close(running, out);
        let delta = json!({"stop_reason": message.stop_reason, "stop_sequence": message.stop_sequence});
        self.event("message_delta", json!({"delta": delta, "usage": message.usage}), out);
        self.event("message_stop", json!({}), out);
    }

    fn fail(&mut self, error: &ApiError, out: &mut Events) {
        self.event("error", error.body(), out);
    }
}
