//! `/v1/chat/completions`: a conversation in, answers out, at once or piece by piece.
use crate::conversation::Conversation;
use crate::convert::{self, Prompts};
use crate::error::{ApiError, ErrorBody, Result};
use crate::intake::Job;
use crate::logprobs;
use crate::model::Model;
use crate::piece::Piece;
use crate::running::{Output, Running};
use crate::sse::{self, Events, Voice};
use crate::state::State;
use crate::wire::chat::{
    AnswerMessage, ChatChoice, ChatChunk, ChatLogprobs, ChatRequest, ChatResponse, ChunkChoice, ChunkDelta,
};
use crate::wire::{StreamOptions, Usage, check_rest};
use axum::Json;
use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use planish_engine::FinishReason;
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
    fields.max_tokens = request.most_tokens();
    fields.logprobs = wanted_logprobs(&request)?;
    let with_logprobs = fields.logprobs.is_some();
    let conversation = Conversation {
        messages: std::mem::take(&mut request.messages),
        tools: Vec::new(),
        begin_answer: request.add_generation_prompt.unwrap_or(true),
        variables: request.chat_template_kwargs.take().unwrap_or_default(),
    };
    let ids = conversation.encode(&state, &model).await?;
    let prompts = Prompts { ids: vec![ids], param: "messages", default_len: None };
    let ask = convert::ask(&state, model.clone(), prompts, fields, tenant, None).await?;
    let n = ask.request.n;
    let running = Running::start(ask)?;
    let id = state.ids.label("chatcmpl-");
    let created = crate::clock::unix_seconds();
    if request.stream.unwrap_or(false) {
        let options = request.stream_options.unwrap_or_default();
        let voice = ChatVoice::new(id, created, &model, n, with_logprobs, options);
        return Ok(sse::respond(running, voice, state.options.keep_alive, place));
    }
    let (choices, usage) = collect(running, n, with_logprobs).await?;
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
async fn collect(mut running: Running, n: usize, with_logprobs: bool) -> Result<(Vec<ChatChoice>, Usage)> {
    let model = running.model().clone();
    let mut choices: Vec<ChatChoice> = (0..n)
        .map(|index| ChatChoice {
            index,
            message: AnswerMessage { role: "assistant", content: Some(String::new()), ..AnswerMessage::default() },
            logprobs: with_logprobs.then(ChatLogprobs::default),
            finish_reason: FinishReason::Length.name(),
        })
        .collect();
    while let Some(output) = running.next().await {
        let Output::Delta(delta) = output? else { continue };
        let choice = &mut choices[delta.choice];
        if let Some(content) = &mut choice.message.content {
            content.push_str(&delta.piece.text);
        }
        if let Some(logprobs) = &mut choice.logprobs {
            logprobs.content.extend(logprobs::chat(model.tokenizer(), &delta.piece.tokens).content);
        }
        if let Some(end) = delta.piece.end {
            choice.finish_reason = end.name();
        }
    }
    Ok((choices, running.usage()))
}

/// Chunks of a conversation's answers.
struct ChatVoice {
    id: Arc<str>,
    created: u64,
    name: Arc<str>,
    model: Arc<Model>,
    /// Whether each answer has begun.
    begun: Vec<bool>,
    with_logprobs: bool,
    options: StreamOptions,
}

impl ChatVoice {
    fn new(id: String, created: u64, model: &Arc<Model>, n: usize, logprobs: bool, options: StreamOptions) -> Self {
        let (name, model) = (model.name().into(), model.clone());
        ChatVoice { id: id.into(), created, name, model, begun: vec![false; n], with_logprobs: logprobs, options }
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

    fn choice(&self, index: usize, piece: Piece) -> ChunkChoice {
        let logprobs = (self.with_logprobs && !piece.tokens.is_empty())
            .then(|| logprobs::chat(self.model.tokenizer(), &piece.tokens));
        let content = (!piece.text.is_empty()).then_some(piece.text);
        let delta = ChunkDelta { content, ..ChunkDelta::default() };
        ChunkChoice { index, delta, logprobs, finish_reason: piece.end.map(FinishReason::name) }
    }
}

impl Voice for ChatVoice {
    fn tell(&mut self, output: Output, running: &Running, out: &mut Events) -> Result<()> {
        let Output::Delta(delta) = output else { return Ok(()) };
        let mut choice = self.choice(delta.choice, delta.piece);
        if !std::mem::replace(&mut self.begun[delta.choice], true) {
            // The first piece says who speaks, and has a text even if it is empty.
            choice.delta.role = Some("assistant");
            choice.delta.content.get_or_insert_default();
        }
        out.data(&self.chunk(vec![choice], running, false));
        Ok(())
    }

    fn end(&mut self, running: &Running, out: &mut Events) {
        if self.options.include_usage == Some(true) {
            out.data(&self.chunk(Vec::new(), running, true));
        }
        out.done();
    }
}
