//! One turn of a conversation, whatever the API: prompt, tools and structure decided, the engine started, and for each
//! answer something that tells its parts from one another.
use crate::auth::Tenant;
use crate::conversation::Conversation;
use crate::convert::{self, Prompts};
use crate::error::{ApiError, Result};
use crate::model::Model;
use crate::piece::Piece;
use crate::reasoning::Splitter;
use crate::reply::Reply;
use crate::running::Running;
use crate::state::State;
use crate::tools::{Delta, Tool, ToolChoice, ToolReader, call_grammar};
use crate::wire::{SamplingFields, chat};
use planish_engine::FinishReason;
use std::sync::Arc;

/// What is asked, in no API's words.
pub struct Turn {
    /// Which model.
    pub model: Arc<Model>,
    /// What was said; its tools are those that may be called.
    pub conversation: Conversation,
    /// Whether and what to call.
    pub choice: ToolChoice,
    /// Several calls in one answer are welcome.
    pub parallel: bool,
    /// Split what the model thinks from its answer.
    pub split_reasoning: bool,
    /// The answer comes piece by piece.
    pub stream: bool,
    /// How tokens are chosen, and how many.
    pub fields: SamplingFields,
    /// Whose part of the prefix cache is used.
    pub tenant: Tenant,
}

/// Reads one answer.
pub struct Speaker {
    reply: Reply,
}

impl Turn {
    /// Starts it; one speaker for each answer.
    pub async fn begin(self, state: &State) -> Result<(Running, Vec<Speaker>)> {
        let Turn { model, mut conversation, choice, parallel, split_reasoning, stream, mut fields, tenant } = self;
        choice.check(&conversation.tools).map_err(|error| ApiError::invalid(&error.field, error.to_string()))?;
        if choice == ToolChoice::None {
            conversation.tools.clear();
        }
        let names: Vec<String> = conversation.tools.iter().map(|tool| tool.name.clone()).collect();
        let grammar = call_grammar(model.format, &conversation.tools, &choice, parallel, model.tokenizer());
        if grammar.is_some() && fields.response_format.take().is_some_and(|format| !format.is_free()) {
            let message = "response_format: expected none where tool_choice asks for a call";
            return Err(ApiError::invalid("response_format", message));
        }
        let forced = grammar.is_some();
        let encoded = conversation.encode(state, &model).await?;
        // A forced call leaves no room for thought, and a schema none for either.
        let structured = forced || fields.response_format.as_ref().is_some_and(|format| !format.is_free());
        let reasoning = (split_reasoning && model.reasons && !structured).then(|| Splitter::new(encoded.thinking));
        let prompts = Prompts { ids: vec![encoded.ids], param: "messages", default_len: None };
        let mut ask = convert::ask(state, model.clone(), prompts, fields, tenant, grammar).await?;
        if !names.is_empty() || reasoning.is_some() {
            ask.rules.keep = model.marks();
        }
        let reader = |seed| {
            let reader = ToolReader::new(model.format, names.clone(), seed);
            let reader = if parallel { reader } else { reader.single() };
            if stream { reader } else { reader.whole() }
        };
        let speaker = |_| {
            let tools = (!names.is_empty()).then(|| reader(state.ids.number()));
            Speaker { reply: Reply::new(reasoning.clone(), tools) }
        };
        let speakers = (0..ask.request.n).map(speaker).collect();
        Ok((Running::start(ask)?, speakers))
    }
}

impl Speaker {
    /// The parts of a piece.
    pub fn hear(&mut self, piece: &Piece) -> Vec<Delta> {
        let mut parts = self.reply.push(piece.text.as_bytes());
        if piece.end.is_some() {
            parts.extend(self.reply.finish());
        }
        parts
    }

    /// Whether nothing that may still come counts.
    pub fn is_over(&self) -> bool {
        self.reply.is_over()
    }

    /// Whether it has called a tool.
    pub fn has_called(&self) -> bool {
        self.reply.calls() > 0
    }

    /// OpenAI's word for an end.
    pub fn finish_word(&self, reason: FinishReason) -> &'static str {
        match reason {
            FinishReason::Stop if self.has_called() => "tool_calls",
            reason => reason.name(),
        }
    }
}

impl From<chat::Tool> for Tool {
    fn from(tool: chat::Tool) -> Tool {
        let chat::Function { name, description, parameters, .. } = tool.function;
        Tool { name, description, parameters }
    }
}

impl From<chat::ToolChoice> for ToolChoice {
    fn from(choice: chat::ToolChoice) -> ToolChoice {
        match choice {
            chat::ToolChoice::Mode(chat::ToolMode::None) => ToolChoice::None,
            chat::ToolChoice::Mode(chat::ToolMode::Auto) => ToolChoice::Auto,
            chat::ToolChoice::Mode(chat::ToolMode::Required) => ToolChoice::Required,
            chat::ToolChoice::Named(tool) => ToolChoice::Named(tool.function.name),
        }
    }
}
