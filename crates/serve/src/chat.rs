//! `/v1/chat/completions`: a conversation in, answers out, at once or piece by piece.
use crate::conversation::Conversation;
use crate::error::{ApiError, ErrorBody, Result};
use crate::intake::Job;
use crate::logprobs;
use crate::model::Model;
use crate::piece::Piece;
use crate::running::{Output, Running};
use crate::sse::{self, Events, Voice};
use crate::state::State;
use crate::tools::Delta;
use crate::turn::{Speaker, Turn};
use crate::wire::chat::{
    AnswerMessage, CalledFunction, ChatChoice, ChatChunk, ChatLogprobs, ChatRequest, ChatResponse, ChunkCall,
    ChunkChoice, ChunkDelta, ChunkFunction, Tool, ToolCall,
};
use crate::wire::{StreamOptions, Usage, check_rest};
use axum::Json;
use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use planish_engine::FinishReason;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Continues a conversation.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "OpenAI", request_body = ChatRequest,
    responses(
        (status = 200, description = "The answers; with `stream` server-sent events of chunks", content(
            (ChatResponse = "application/json"), (ChatChunk = "text/event-stream"))),
        (status = "4XX", description = "The request cannot be answered", body = ErrorBody),
        (status = "5XX", description = "The server cannot answer", body = ErrorBody)
    )
)]
pub async fn chat(Shared(state): Shared<Arc<State>>, job: Job<ChatRequest>) -> Result<Response> {
    let Job { place, tenant, body: mut request } = job;
    check(&request, state.options.strict_fields)?;
    let model = state.model(request.model.as_deref())?;
    let mut fields = request.sampling();
    fields.max_tokens = most_tokens(&request);
    fields.logprobs = wanted_logprobs(&request)?;
    let with_logprobs = fields.logprobs.is_some();
    let stream = request.stream.unwrap_or(false);
    let tools = request.tools.take().unwrap_or_default();
    check_tools(&tools)?;
    let turn = Turn {
        model: model.clone(),
        conversation: Conversation {
            messages: std::mem::take(&mut request.messages),
            tools: tools.into_iter().map(Into::into).collect(),
            begin_answer: request.add_generation_prompt.unwrap_or(true),
            variables: variables(&mut request),
        },
        choice: request.tool_choice.take().map(Into::into).unwrap_or_default(),
        parallel: request.parallel_tool_calls.unwrap_or(true),
        split_reasoning: request.separate_reasoning.unwrap_or(true),
        stream,
        fields,
        tenant,
    };
    let (running, speakers) = turn.begin(&state).await?;
    let id = state.ids.label("chatcmpl-");
    let created = crate::clock::unix_seconds();
    if stream {
        let options = request.stream_options.unwrap_or_default();
        let voice = ChatVoice::new(id, created, &model, speakers, with_logprobs, options);
        return Ok(sse::respond(running, voice, state.options.keep_alive, place));
    }
    let (choices, usage) = collect(running, speakers, with_logprobs).await?;
    let (object, model) = ("chat.completion", model.name().to_owned());
    Ok(Json(ChatResponse { id, object, created, model, choices, usage }).into_response())
}

fn check(request: &ChatRequest, strict: bool) -> Result<()> {
    check_rest(&request.rest, strict)?;
    if request.continue_final_message == Some(true) {
        return Err(ApiError::unsupported("continue_final_message"));
    }
    if request.stream_options.is_some() && request.stream != Some(true) {
        return Err(ApiError::invalid("stream_options", "stream_options: expected only with stream: true"));
    }
    Ok(())
}

/// What the template is given besides the conversation.
fn variables(request: &mut ChatRequest) -> Map<String, Value> {
    let mut variables = request.chat_template_kwargs.take().unwrap_or_default();
    if let Some(think) = request.enable_thinking {
        variables.entry("enable_thinking").or_insert(think.into());
    }
    variables
}

/// Most tokens of an answer, by the name that was used.
fn most_tokens(request: &ChatRequest) -> Option<(&'static str, u64)> {
    let new = request.max_completion_tokens.map(|n| ("max_completion_tokens", n));
    new.or(request.max_tokens.map(|n| ("max_tokens", n)))
}

fn check_tools(tools: &[Tool]) -> Result<()> {
    match tools.iter().position(|tool| tool.r#type != "function") {
        Some(at) => {
            let param = format!("tools[{at}].type");
            Err(ApiError::invalid(&param, format!("{param}: expected \"function\": other tools are not offered")))
        }
        None => Ok(()),
    }
}

fn wanted_logprobs(request: &ChatRequest) -> Result<Option<(&'static str, u64)>> {
    match (request.logprobs.unwrap_or(false), request.top_logprobs) {
        (true, top) => Ok(Some(("top_logprobs", top.unwrap_or(0)))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => {
            Err(ApiError::invalid("top_logprobs", "top_logprobs: expected only together with logprobs: true"))
        }
    }
}

/// Waits for whole answers.
async fn collect(
    mut running: Running,
    mut speakers: Vec<Speaker>,
    with_logprobs: bool,
) -> Result<(Vec<ChatChoice>, Usage)> {
    let model = running.model().clone();
    let empty = |index| ChatChoice {
        index,
        message: AnswerMessage { role: "assistant", ..AnswerMessage::default() },
        logprobs: with_logprobs.then(ChatLogprobs::default),
        finish_reason: FinishReason::Length.name(),
    };
    let mut choices: Vec<ChatChoice> = (0..speakers.len()).map(empty).collect();
    while let Some(output) = running.next().await {
        let Output::Delta(delta) = output? else { continue };
        let (choice, speaker) = (&mut choices[delta.choice], &mut speakers[delta.choice]);
        speaker.hear(&delta.piece).into_iter().for_each(|part| add(&mut choice.message, part));
        if let Some(logprobs) = &mut choice.logprobs {
            logprobs.content.extend(logprobs::chat(model.tokenizer(), &delta.piece.tokens).content);
        }
        let over = speaker.is_over() && delta.piece.end.is_none();
        if let Some(end) = delta.piece.end.or(over.then_some(FinishReason::Stop)) {
            choice.finish_reason = speaker.finish_word(end);
        }
        if over {
            running.close(delta.index);
        }
    }
    for choice in &mut choices {
        if choice.message.tool_calls.is_empty() {
            choice.message.content.get_or_insert_default();
        }
    }
    Ok((choices, running.usage()))
}

fn add(message: &mut AnswerMessage, part: Delta) {
    match part {
        Delta::Content(text) => message.content.get_or_insert_default().push_str(&text),
        Delta::Reasoning(text) => message.reasoning_content.get_or_insert_default().push_str(&text),
        Delta::Call { id, name, .. } => {
            let function = CalledFunction { name, arguments: String::new() };
            message.tool_calls.push(ToolCall { id, r#type: "function".into(), function });
        }
        Delta::Arguments { index, text } => {
            if let Some(call) = message.tool_calls.get_mut(index) {
                call.function.arguments.push_str(&text);
            }
        }
        Delta::CallEnd { .. } => {}
    }
}

/// Chunks of a conversation's answers.
struct ChatVoice {
    id: Arc<str>,
    created: u64,
    name: Arc<str>,
    model: Arc<Model>,
    /// Whether each answer has begun.
    begun: Vec<bool>,
    speakers: Vec<Speaker>,
    with_logprobs: bool,
    options: StreamOptions,
}

impl ChatVoice {
    fn new(
        id: String,
        created: u64,
        model: &Arc<Model>,
        speakers: Vec<Speaker>,
        with_logprobs: bool,
        options: StreamOptions,
    ) -> Self {
        let (name, model, begun) = (model.name().into(), model.clone(), vec![false; speakers.len()]);
        ChatVoice { id: id.into(), created, name, model, begun, speakers, with_logprobs, options }
    }

    fn chunk(&self, choices: Vec<ChunkChoice>, running: &Running, last: bool) -> ChatChunk {
        let each = self.options.continuous_usage_stats == Some(true);
        let told = self.options.include_usage == Some(true);
        let usage = (last || each).then(|| running.usage());
        ChatChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk",
            created: self.created,
            model: self.name.clone(),
            choices,
            usage: told.then_some(usage),
        }
    }

    /// What one piece adds to its answer: several parts may be in it.
    fn deltas(&mut self, index: usize, piece: &Piece) -> Vec<ChunkDelta> {
        let mut deltas: Vec<ChunkDelta> = self.speakers[index].hear(piece).into_iter().filter_map(told).collect();
        if !std::mem::replace(&mut self.begun[index], true) {
            // The first piece says who speaks, and has a text even if it is empty.
            match deltas.first_mut() {
                Some(first) => first.role = Some("assistant"),
                None => deltas.push(ChunkDelta { role: Some("assistant"), ..ChunkDelta::default() }),
            }
            if deltas[0].reasoning_content.is_none() && deltas[0].tool_calls.is_empty() {
                deltas[0].content.get_or_insert_default();
            }
        }
        deltas
    }
}

/// A part as a chunk tells it.
fn told(part: Delta) -> Option<ChunkDelta> {
    let call = |index, id: Option<String>, name: Option<String>, arguments| ChunkDelta {
        tool_calls: vec![ChunkCall {
            index,
            r#type: id.is_some().then_some("function"),
            id,
            function: ChunkFunction { name, arguments },
        }],
        ..ChunkDelta::default()
    };
    Some(match part {
        Delta::Content(text) => ChunkDelta { content: Some(text), ..ChunkDelta::default() },
        Delta::Reasoning(text) => ChunkDelta { reasoning_content: Some(text), ..ChunkDelta::default() },
        Delta::Call { index, id, name } => call(index, Some(id), Some(name), String::new()),
        Delta::Arguments { index, text } => call(index, None, None, text),
        Delta::CallEnd { .. } => return None,
    })
}

impl Voice for ChatVoice {
    fn tell(&mut self, output: Output, running: &mut Running, out: &mut Events) -> Result<()> {
        let Output::Delta(crate::piece::Delta { choice: index, piece, .. }) = output else { return Ok(()) };
        let mut deltas = self.deltas(index, &piece);
        let over = self.speakers[index].is_over() && piece.end.is_none();
        let end = piece.end.or(over.then_some(FinishReason::Stop));
        let logprobs = (self.with_logprobs && !piece.tokens.is_empty())
            .then(|| logprobs::chat(self.model.tokenizer(), &piece.tokens));
        if deltas.is_empty() && (end.is_some() || logprobs.is_some()) {
            deltas.push(ChunkDelta::default());
        }
        let last = deltas.len().saturating_sub(1);
        let mut logprobs = logprobs;
        for (at, delta) in deltas.into_iter().enumerate() {
            let finish_reason = end.filter(|_| at == last).map(|end| self.speakers[index].finish_word(end));
            let choice = ChunkChoice { index, delta, logprobs: logprobs.take(), finish_reason };
            out.data(&self.chunk(vec![choice], running, false));
        }
        if over {
            running.close(index);
        }
        Ok(())
    }

    fn end(&mut self, running: &Running, out: &mut Events) {
        if self.options.include_usage == Some(true) {
            out.data(&self.chunk(Vec::new(), running, true));
        }
        out.done();
    }
}
