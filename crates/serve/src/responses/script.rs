//! An answer built up item by item, with an event for each step of it.
use super::status;
use crate::error::{ApiError, Result};
use crate::piece::Piece;
use crate::running::{Output, Running};
use crate::sse::{Events, Voice};
use crate::tools::Delta;
use crate::turn::Speaker;
use crate::wire::responses::{
    CachedTokens, Incomplete, OutputItem, OutputText, ReasoningText, ReasoningTokens, ResponseObject, ResponsesUsage,
};
use planish_engine::FinishReason;
use serde_json::{Value, json};

/// The answer so far.
pub struct Script {
    response: ResponseObject,
    speaker: Speaker,
    /// Events are wanted.
    live: bool,
    sequence: u64,
    /// The last item is not complete.
    open: bool,
    end: Option<FinishReason>,
}

/// What an item is.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Text,
    Thought,
}

impl Script {
    /// Nothing was said yet.
    pub fn new(response: ResponseObject, speaker: Speaker, live: bool) -> Script {
        Script { response, speaker, live, sequence: 0, open: false, end: None }
    }

    /// Takes a piece.
    pub fn hear(&mut self, piece: &Piece, running: &mut Running, out: &mut Events) {
        for part in self.speaker.hear(piece) {
            match part {
                Delta::Content(text) => self.say(Kind::Text, &text, out),
                Delta::Reasoning(text) => self.say(Kind::Thought, &text, out),
                Delta::Call { id, name, .. } => self.call(id, name, out),
                Delta::Arguments { text, .. } => self.argue(&text, out),
                Delta::CallEnd { .. } => self.close_item(out),
            }
        }
        self.end = self.end.or(piece.end);
        if self.speaker.is_over() && self.end.is_none() {
            self.end = Some(FinishReason::Stop);
            running.close(0);
        }
    }

    /// Ends the answer.
    pub fn close(&mut self, running: &Running, out: &mut Events) -> ResponseObject {
        self.response.status = status(self.end);
        self.mark_open();
        self.close_item(out);
        let usage = running.usage();
        self.response.incomplete_details =
            (self.response.status == "incomplete").then_some(Incomplete { reason: "max_output_tokens" });
        self.response.usage = Some(ResponsesUsage {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: CachedTokens::default(),
            output_tokens: usage.completion_tokens,
            output_tokens_details: ReasoningTokens::default(),
            total_tokens: usage.total_tokens,
        });
        self.response.clone()
    }

    /// The item that the end of the answer cuts is as complete as the answer.
    fn mark_open(&mut self) {
        let whole = self.response.status;
        if let Some(OutputItem::Message { status, .. } | OutputItem::FunctionCall { status, .. }) =
            self.response.output.last_mut().filter(|_| self.open)
        {
            *status = whole;
        }
    }

    fn event(&mut self, kind: &str, fields: impl FnOnce(&Script) -> Value, out: &mut Events) {
        if !self.live {
            return;
        }
        let mut event = json!({"type": kind, "sequence_number": self.sequence});
        if let (Value::Object(event), Value::Object(fields)) = (&mut event, fields(self)) {
            event.extend(fields);
        }
        self.sequence += 1;
        out.named(kind, &event);
    }

    /// Index and id of the last item.
    fn place(&self) -> (usize, String) {
        let at = self.response.output.len().saturating_sub(1);
        let id = match self.response.output.last() {
            Some(OutputItem::Message { id, .. } | OutputItem::FunctionCall { id, .. }) => id.clone(),
            Some(OutputItem::Reasoning { id, .. }) => id.clone(),
            None => String::new(),
        };
        (at, id)
    }

    fn kind(&self) -> Option<Kind> {
        match self.response.output.last().filter(|_| self.open)? {
            OutputItem::Message { .. } => Some(Kind::Text),
            OutputItem::Reasoning { .. } => Some(Kind::Thought),
            OutputItem::FunctionCall { .. } => None,
        }
    }

    fn id(&self, prefix: &str) -> String {
        let own = self.response.id.trim_start_matches("resp_");
        format!("{prefix}_{own}_{}", self.response.output.len())
    }

    fn say(&mut self, kind: Kind, text: &str, out: &mut Events) {
        if self.kind() != Some(kind) {
            self.close_item(out);
            self.open_item(kind, out);
        }
        match self.response.output.last_mut() {
            Some(OutputItem::Message { content, .. }) => content[0].text.push_str(text),
            Some(OutputItem::Reasoning { content, .. }) => content[0].text.push_str(text),
            _ => {}
        }
        let name = match kind {
            Kind::Text => "response.output_text.delta",
            Kind::Thought => "response.reasoning_text.delta",
        };
        let (at, id) = self.place();
        let fields = json!({"item_id": id, "output_index": at, "content_index": 0, "delta": text, "logprobs": []});
        self.event(name, |_| fields, out);
    }

    fn open_item(&mut self, kind: Kind, out: &mut Events) {
        let (id, shown) = match kind {
            Kind::Text => (self.id("msg"), json!({"type": "message", "status": "in_progress", "role": "assistant"})),
            Kind::Thought => (self.id("rs"), json!({"type": "reasoning", "summary": []})),
        };
        let item = match kind {
            Kind::Text => {
                let empty =
                    OutputText { r#type: "output_text", text: String::new(), annotations: vec![], logprobs: vec![] };
                OutputItem::Message { id: id.clone(), status: "completed", role: "assistant", content: vec![empty] }
            }
            Kind::Thought => {
                let empty = ReasoningText { r#type: "reasoning_text", text: String::new() };
                OutputItem::Reasoning { id: id.clone(), summary: vec![], content: vec![empty] }
            }
        };
        self.response.output.push(item);
        self.open = true;
        let at = self.response.output.len() - 1;
        let mut shown = shown;
        shown["id"] = json!(id);
        shown["content"] = json!([]);
        self.event("response.output_item.added", |_| json!({"output_index": at, "item": shown}), out);
        let part = match kind {
            Kind::Text => json!({"type": "output_text", "text": "", "annotations": [], "logprobs": []}),
            Kind::Thought => json!({"type": "reasoning_text", "text": ""}),
        };
        let fields = json!({"item_id": id, "output_index": at, "content_index": 0, "part": part});
        self.event("response.content_part.added", |_| fields, out);
    }

    fn call(&mut self, call_id: String, name: String, out: &mut Events) {
        self.close_item(out);
        let id = self.id("fc");
        let item = |status| OutputItem::FunctionCall {
            id: id.clone(),
            call_id: call_id.clone(),
            name: name.clone(),
            arguments: String::new(),
            status,
        };
        let (shown, at) = (json!(item("in_progress")), self.response.output.len());
        self.response.output.push(item("completed"));
        self.open = true;
        self.event("response.output_item.added", |_| json!({"output_index": at, "item": shown}), out);
    }

    fn argue(&mut self, text: &str, out: &mut Events) {
        if let Some(OutputItem::FunctionCall { arguments, .. }) = self.response.output.last_mut() {
            arguments.push_str(text);
        }
        let (at, id) = self.place();
        let fields = json!({"item_id": id, "output_index": at, "delta": text});
        self.event("response.function_call_arguments.delta", |_| fields, out);
    }

    fn close_item(&mut self, out: &mut Events) {
        if !std::mem::replace(&mut self.open, false) {
            return;
        }
        let (at, id) = self.place();
        let place = json!({"item_id": id, "output_index": at});
        let with = |field: &str, value: Value| {
            let mut fields = place.clone();
            fields[field] = value;
            fields
        };
        match self.response.output.last().cloned() {
            Some(OutputItem::Message { content, .. }) => {
                let (mut text, mut part) = (with("text", json!(content[0].text)), with("part", json!(content[0])));
                (text["content_index"], part["content_index"]) = (json!(0), json!(0));
                text["logprobs"] = json!([]);
                self.event("response.output_text.done", |_| text, out);
                self.event("response.content_part.done", |_| part, out);
            }
            Some(OutputItem::Reasoning { content, .. }) => {
                let mut text = with("text", json!(content[0].text));
                text["content_index"] = json!(0);
                self.event("response.reasoning_text.done", |_| text, out);
            }
            Some(OutputItem::FunctionCall { arguments, name, .. }) => {
                let mut fields = with("arguments", json!(arguments));
                fields["name"] = json!(name);
                self.event("response.function_call_arguments.done", |_| fields, out);
            }
            None => {}
        }
        let done = |script: &Script| json!({"output_index": at, "item": script.response.output[at]});
        self.event("response.output_item.done", done, out);
    }
}

impl Voice for Script {
    fn begin(&mut self, out: &mut Events) {
        for kind in ["response.created", "response.in_progress"] {
            self.event(kind, |script| json!({"response": script.response}), out);
        }
    }

    fn tell(&mut self, output: Output, running: &mut Running, out: &mut Events) -> Result<()> {
        if let Output::Delta(delta) = output {
            self.hear(&delta.piece, running, out);
        }
        Ok(())
    }

    fn end(&mut self, running: &Running, out: &mut Events) {
        let response = self.close(running, out);
        let kind = format!("response.{}", response.status);
        self.event(&kind, |_| json!({"response": response}), out);
    }

    fn fail(&mut self, error: &ApiError, out: &mut Events) {
        let fields = error.body()["error"].clone();
        let event =
            json!({"code": fields["code"], "message": fields["message"], "param": fields["param"], "error": fields});
        self.event("error", |_| event, out);
    }
}
