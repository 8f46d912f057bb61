//! `/v1/messages` and `/v1/messages/count_tokens`, as Anthropic's clients speak.
mod script;

use crate::conversation::{Conversation, empty_message};
use crate::convert::within;
use crate::error::{ApiError, ErrorBody, Result};
use crate::intake::{Job, Question};
use crate::running::{Output, Running};
use crate::sse;
use crate::state::State;
use crate::tools::{Tool, ToolChoice};
use crate::turn::Turn;
use crate::wire::chat::{CalledFunction, ChatMessage, Content, Role, ToolCall};
use crate::wire::messages::{
    Block, Blocks, Choice, Message, MessageObject, MessagesRequest, Speaker as Who, TokenCount,
};
use crate::wire::{SamplingFields, check_generation, check_rest};
use axum::Json;
use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use script::Script;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Takes a turn.
#[utoipa::path(
    post, path = "/v1/messages", tag = "Anthropic", request_body = MessagesRequest,
    responses(
        (status = 200, description = "The answer; with `stream` server-sent events that build it up", content(
            (MessageObject = "application/json"), (String = "text/event-stream"))),
        (status = "4XX", description = "The request cannot be answered", body = ErrorBody),
        (status = "5XX", description = "The server cannot answer", body = ErrorBody)
    )
)]
pub async fn create(Shared(state): Shared<Arc<State>>, job: Job<MessagesRequest>) -> Result<Response> {
    let Job { place, tenant, body: mut request } = job;
    check(&request, state.options.strict_fields)?;
    check_last(&request.messages)?;
    let missing = || ApiError::invalid("max_tokens", "max_tokens: expected a number, found none");
    let most = request.max_tokens.ok_or_else(missing)?;
    let model = state.model(request.model.as_deref())?;
    let stream = request.stream.unwrap_or(false);
    let one_call = request.tool_choice.as_ref().is_some_and(|c| c.disable_parallel_tool_use == Some(true));
    let turn = Turn {
        model: model.clone(),
        choice: choice(request.tool_choice.take())?,
        parallel: !one_call,
        split_reasoning: true,
        stream,
        fields: SamplingFields {
            temperature: request.temperature,
            top_p: request.top_p,
            top_k: request.top_k,
            stop: request.stop_sequences.take().unwrap_or_default(),
            max_tokens: Some(("max_tokens", most)),
            skip_special: true,
            ..SamplingFields::default()
        },
        conversation: conversation(request)?,
        tenant,
    };
    let (running, mut speakers) = turn.begin(&state).await?;
    let speaker = speakers.pop().ok_or_else(|| ApiError::internal("a turn without an answer"))?;
    let script = Script::new(state.ids.label("msg_"), model.name().into(), speaker, stream);
    match stream {
        true => Ok(sse::respond(running, script, state.options.keep_alive, place)),
        false => Ok(Json(collect(running, script).await?).into_response()),
    }
}

async fn collect(mut running: Running, mut script: Script) -> Result<MessageObject> {
    let mut unseen = sse::Events::default();
    while let Some(output) = running.next().await {
        let Output::Delta(delta) = output? else { continue };
        script.hear(&delta.piece, &mut running, &mut unseen);
    }
    Ok(script.close(&running, &mut unseen))
}

/// Tokens of a conversation.
#[utoipa::path(
    post, path = "/v1/messages/count_tokens", tag = "Anthropic", request_body = MessagesRequest,
    responses(
        (status = 200, description = "How many", body = TokenCount),
        (status = "4XX", description = "The conversation cannot be encoded", body = ErrorBody),
        (status = "5XX", description = "The server cannot answer", body = ErrorBody)
    )
)]
pub async fn count(
    Shared(state): Shared<Arc<State>>,
    Question { seat: _seat, body: request }: Question<MessagesRequest>,
) -> Result<Json<TokenCount>> {
    check(&request, state.options.strict_fields)?;
    let model = state.model(request.model.as_deref())?;
    let encoded = conversation(request)?.encode(&state, &model).await?;
    Ok(Json(TokenCount { input_tokens: encoded.ids.len() }))
}

fn check(request: &MessagesRequest, strict: bool) -> Result<()> {
    for name in ["container", "mcp_servers", "context_management", "output_config", "output_format"] {
        if request.rest.get(name).is_some_and(|value| !value.is_null()) {
            return Err(ApiError::unsupported(name));
        }
    }
    let tier = |(name, value): &(&String, &Value)| *name != "service_tier" || *value != "standard_only";
    let rest: Map<String, Value> =
        request.rest.iter().filter(tier).map(|(name, value)| (name.clone(), value.clone())).collect();
    check_rest(&rest, strict)?;
    check_generation(&rest)?;
    check_ranges(request)?;
    match request.thinking.as_ref().map(|thinking| thinking.r#type.as_str()) {
        None | Some("disabled" | "enabled" | "adaptive") => Ok(()),
        Some(_) => Err(ApiError::invalid("thinking.type", "thinking.type: expected enabled, adaptive or disabled")),
    }
}

/// Narrower than what the engine takes.
fn check_ranges(request: &MessagesRequest) -> Result<()> {
    within("temperature", request.temperature.unwrap_or(0.0), 0.0..=1.0)?;
    within("top_k", request.top_k.unwrap_or(0), 0..=u32::MAX.into())?;
    Ok(())
}

/// A template would end the assistant's turn, and the model would begin another.
fn check_last(messages: &[Message]) -> Result<()> {
    match messages.last() {
        Some(last) if last.role == Who::Assistant => {
            let param = format!("messages[{}]", messages.len() - 1);
            let message =
                format!("{param}: expected the user's message last: an answer that is begun is not continued");
            Err(ApiError::invalid(&param, message))
        }
        _ => Ok(()),
    }
}

fn conversation(request: MessagesRequest) -> Result<Conversation> {
    let mut messages = Vec::new();
    if let Some(system) = request.system {
        let text = texts("system", system)?;
        messages.push(ChatMessage { content: Some(Content::Text(text)), ..empty_message(Role::System) });
    }
    for (at, message) in request.messages.into_iter().enumerate() {
        add(at, message, &mut messages)?;
    }
    let mut variables = Map::new();
    if request.thinking.is_some_and(|thinking| thinking.r#type == "disabled") {
        variables.insert("enable_thinking".into(), false.into());
    }
    let mut tools = Vec::new();
    for (at, tool) in request.tools.unwrap_or_default().into_iter().enumerate() {
        if tool.r#type.as_deref().is_some_and(|kind| kind != "custom") {
            let param = format!("tools[{at}].type");
            return Err(ApiError::invalid(&param, format!("{param}: expected custom: other tools are not offered")));
        }
        tools.push(Tool { name: tool.name, description: tool.description, parameters: tool.input_schema });
    }
    Ok(Conversation { messages, tools, begin_answer: true, variables })
}

/// One message becomes several where results of calls are in it: each of these is a message of its own.
fn add(at: usize, message: Message, out: &mut Vec<ChatMessage>) -> Result<()> {
    let blocks = match message.content {
        Blocks::Text(text) => {
            let role = if message.role == Who::User { Role::User } else { Role::Assistant };
            out.push(ChatMessage { content: Some(Content::Text(text)), ..empty_message(role) });
            return Ok(());
        }
        Blocks::List(blocks) => blocks,
    };
    let mut said: Vec<String> = Vec::new();
    let mut spoken = empty_message(if message.role == Who::User { Role::User } else { Role::Assistant });
    for (number, block) in blocks.into_iter().enumerate() {
        let place = format!("messages[{at}].content[{number}]");
        match (block.r#type.as_str(), message.role) {
            ("text", _) => said.push(block.text.unwrap_or_default()),
            ("thinking", Who::Assistant) => spoken.reasoning_content = block.thinking,
            ("redacted_thinking", Who::Assistant) => {}
            ("tool_use", Who::Assistant) => spoken.tool_calls.get_or_insert_default().push(used(&place, block)?),
            ("tool_result", Who::User) => out.push(result(&place, block)?),
            _ => {
                let expected = "text, thinking, tool_use (of the assistant) or tool_result (of the user)";
                return Err(ApiError::invalid(&place, format!("{place}: expected a block of type {expected}")));
            }
        }
    }
    if !said.is_empty() {
        spoken.content = Some(Content::Text(said.join("\n")));
    }
    if spoken.content.is_some() || spoken.tool_calls.is_some() || message.role == Who::Assistant {
        out.push(spoken);
    }
    Ok(())
}

fn used(place: &str, block: Block) -> Result<ToolCall> {
    let (Some(id), Some(name)) = (block.id, block.name) else {
        return Err(ApiError::invalid(place, format!("{place}: expected id and name")));
    };
    let arguments = block.input.unwrap_or_else(|| Value::Object(Map::new())).to_string();
    Ok(ToolCall { id, r#type: "function".into(), function: CalledFunction { name, arguments } })
}

fn result(place: &str, block: Block) -> Result<ChatMessage> {
    let Some(id) = block.tool_use_id else {
        return Err(ApiError::invalid(place, format!("{place}: expected tool_use_id")));
    };
    let mut text = block.content.map(|content| texts(place, *content)).transpose()?.unwrap_or_default();
    if block.is_error == Some(true) {
        // Templates have no place for it.
        text.insert_str(0, "error: ");
    }
    Ok(ChatMessage { content: Some(Content::Text(text)), tool_call_id: Some(id), ..empty_message(Role::Tool) })
}

fn texts(place: &str, blocks: Blocks) -> Result<String> {
    let blocks = match blocks {
        Blocks::Text(text) => return Ok(text),
        Blocks::List(blocks) => blocks,
    };
    let text = |block: Block| match (block.r#type.as_str(), block.text) {
        ("text", Some(text)) => Ok(text),
        _ => Err(ApiError::invalid(place, format!("{place}: expected blocks of text only"))),
    };
    Ok(blocks.into_iter().map(text).collect::<Result<Vec<_>>>()?.join("\n"))
}

fn choice(given: Option<Choice>) -> Result<ToolChoice> {
    let Some(given) = given else { return Ok(ToolChoice::Auto) };
    match (given.r#type.as_str(), given.name) {
        ("auto", _) => Ok(ToolChoice::Auto),
        ("none", _) => Ok(ToolChoice::None),
        ("any", _) => Ok(ToolChoice::Required),
        ("tool", Some(name)) => Ok(ToolChoice::Named(name)),
        _ => {
            let message = "tool_choice: expected type auto, any, none, or tool with a name";
            Err(ApiError::invalid("tool_choice", message))
        }
    }
}
