//! `/v1/responses`: one turn, told as items. Nothing is remembered between requests.
mod script;

use crate::conversation::{Conversation, empty_message};
use crate::error::{ApiError, ErrorBody, Result};
use crate::intake::Job;
use crate::running::{Output, Running};
use crate::sse;
use crate::state::State;
use crate::tools::ToolChoice;
use crate::turn::Turn;
use crate::wire::chat::{CalledFunction, ChatMessage, Content, NamedSchema, ResponseFormat, Role, ToolCall, ToolMode};
use crate::wire::responses::{FlatChoice, FlatTool, Input, Item, ResponseObject, ResponsesRequest, TextFormat};
use crate::wire::{SamplingFields, check_generation, check_rest};
use axum::Json;
use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use planish_engine::FinishReason;
use script::Script;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Takes a turn.
#[utoipa::path(
    post, path = "/v1/responses", tag = "OpenAI", request_body = ResponsesRequest,
    responses(
        (status = 200, description = "The answer; with `stream` server-sent events that build it up", content(
            (ResponseObject = "application/json"), (String = "text/event-stream"))),
        (status = "4XX", description = "The request cannot be answered", body = ErrorBody),
        (status = "5XX", description = "The server cannot answer", body = ErrorBody)
    )
)]
pub async fn respond(Shared(state): Shared<Arc<State>>, job: Job<ResponsesRequest>) -> Result<Response> {
    let Job { place, tenant, body: mut request } = job;
    check(&request, state.options.strict_fields)?;
    let model = state.model(request.model.as_deref())?;
    let stream = request.stream.unwrap_or(false);
    let tools = request.tools.clone().unwrap_or_default();
    let turn = Turn {
        model: model.clone(),
        conversation: Conversation {
            messages: messages(request.instructions.clone(), request.input.take())?,
            tools: tools.iter().enumerate().map(tool).collect::<Result<_>>()?,
            begin_answer: true,
            variables: Map::new(),
        },
        choice: choice(request.tool_choice.as_ref()),
        parallel: request.parallel_tool_calls.unwrap_or(true),
        split_reasoning: true,
        stream,
        fields: SamplingFields {
            temperature: request.temperature,
            top_p: request.top_p,
            response_format: request.text.take().and_then(|text| text.format).map(format),
            max_tokens: request.max_output_tokens.map(|n| ("max_output_tokens", n)),
            skip_special: true,
            ..SamplingFields::default()
        },
        tenant,
    };
    let response = empty(&state, request, model.name().into());
    let (running, mut speakers) = turn.begin(&state).await?;
    let speaker = speakers.pop().ok_or_else(|| ApiError::internal("a turn without an answer"))?;
    let script = Script::new(response, speaker, stream);
    match stream {
        true => Ok(sse::respond(running, script, state.options.keep_alive, place)),
        false => Ok(Json(collect(running, script).await?).into_response()),
    }
}

async fn collect(mut running: Running, mut script: Script) -> Result<ResponseObject> {
    let mut unseen = sse::Events::default();
    while let Some(output) = running.next().await {
        let Output::Delta(delta) = output? else { continue };
        script.hear(&delta.piece, &mut running, &mut unseen);
    }
    Ok(script.close(&running, &mut unseen))
}

fn check(request: &ResponsesRequest, strict: bool) -> Result<()> {
    for (name, value) in &request.rest {
        let idle = match (name.as_str(), value) {
            (_, Value::Null | Value::Bool(false)) => true,
            ("truncation", value) => value == "disabled",
            ("include", Value::Array(list)) => list.is_empty(),
            ("reasoning", Value::Object(map)) => map.values().all(Value::is_null),
            _ => false,
        };
        let known = [
            "background",
            "conversation",
            "include",
            "max_tool_calls",
            "prompt",
            "reasoning",
            "top_logprobs",
            "truncation",
        ];
        if known.contains(&name.as_str()) && !idle {
            return Err(ApiError::unsupported(name));
        }
    }
    let strange = |name: &String| !["background", "include", "reasoning", "truncation"].contains(&name.as_str());
    let rest: Map<String, Value> =
        request.rest.iter().filter(|(name, _)| strange(name)).map(|(name, v)| (name.clone(), v.clone())).collect();
    check_rest(&rest, strict)?;
    check_generation(&rest)?;
    if request.previous_response_id.is_some() {
        let message = "previous_response_id: answers are not kept here: send the whole conversation as input";
        return Err(ApiError::invalid("previous_response_id", message).code("unsupported_parameter"));
    }
    if request.store == Some(true) {
        return Err(ApiError::unsupported("store"));
    }
    match request.text.as_ref().is_some_and(|text| text.verbosity.is_some()) {
        true => Err(ApiError::unsupported("text.verbosity")),
        false => Ok(()),
    }
}

/// Items as messages; a call joins the assistant's message before it.
fn messages(instructions: Option<String>, input: Option<Input>) -> Result<Vec<ChatMessage>> {
    let mut out: Vec<ChatMessage> = Vec::new();
    out.extend(instructions.map(|text| message(Role::System, Content::Text(text))));
    let items = match input {
        Some(Input::Text(text)) => {
            out.push(message(Role::User, Content::Text(text)));
            return Ok(out);
        }
        Some(Input::Items(items)) if !items.is_empty() => items,
        _ => return Err(ApiError::invalid("input", "input: expected a text or items, found none")),
    };
    for (at, item) in items.into_iter().enumerate() {
        add(at, item, &mut out)?;
    }
    Ok(out)
}

fn add(at: usize, item: Item, out: &mut Vec<ChatMessage>) -> Result<()> {
    let wrong = |field: &str, expected: &str| {
        let param = format!("input[{at}].{field}");
        Err(ApiError::invalid(&param, format!("{param}: expected {expected}")))
    };
    match item.r#type.as_deref().unwrap_or("message") {
        "message" => match (item.role, item.content) {
            (Some(role), Some(content)) => out.push(message(role, content)),
            (None, _) => return wrong("role", "who speaks"),
            _ => return wrong("content", "a text or parts"),
        },
        "function_call" => {
            let (Some(id), Some(name), Some(arguments)) = (item.call_id, item.name, item.arguments) else {
                return wrong("call_id", "call_id, name and arguments");
            };
            let call = ToolCall { id, r#type: "function".into(), function: CalledFunction { name, arguments } };
            match out.last_mut().filter(|last| last.role == Role::Assistant) {
                Some(last) => last.tool_calls.get_or_insert_default().push(call),
                None => out.push(ChatMessage { tool_calls: Some(vec![call]), ..empty_message(Role::Assistant) }),
            }
        }
        "function_call_output" => match (item.call_id, item.output) {
            (Some(id), Some(output)) => {
                out.push(ChatMessage { tool_call_id: Some(id), ..message(Role::Tool, output) });
            }
            _ => return wrong("output", "call_id and output"),
        },
        // What the model thought is not shown to it again, as templates would drop it.
        "reasoning" => {}
        _ => return wrong("type", "message, function_call, function_call_output or reasoning"),
    }
    Ok(())
}

fn message(role: Role, content: Content) -> ChatMessage {
    ChatMessage { content: Some(content), ..empty_message(role) }
}

fn tool((at, tool): (usize, &FlatTool)) -> Result<crate::tools::Tool> {
    match (tool.r#type.as_str(), &tool.name) {
        ("function", Some(name)) => Ok(crate::tools::Tool {
            name: name.clone(),
            description: tool.description.clone(),
            parameters: tool.parameters.clone(),
        }),
        _ => {
            let param = format!("tools[{at}].type");
            let message = format!("{param}: expected a function with a name: other tools are not offered");
            Err(ApiError::invalid(&param, message))
        }
    }
}

fn choice(given: Option<&FlatChoice>) -> ToolChoice {
    match given {
        None | Some(FlatChoice::Mode(ToolMode::Auto)) => ToolChoice::Auto,
        Some(FlatChoice::Mode(ToolMode::None)) => ToolChoice::None,
        Some(FlatChoice::Mode(ToolMode::Required)) => ToolChoice::Required,
        Some(FlatChoice::Named(tool)) => ToolChoice::Named(tool.name.clone()),
    }
}

fn format(format: TextFormat) -> ResponseFormat {
    match format {
        TextFormat::Text => ResponseFormat::Text,
        TextFormat::JsonObject => ResponseFormat::JsonObject,
        TextFormat::JsonSchema { name, schema, strict } => ResponseFormat::JsonSchema {
            json_schema: NamedSchema { name, description: None, schema: Some(schema), strict },
        },
    }
}

/// The answer before anything was said.
fn empty(state: &State, request: ResponsesRequest, model: String) -> ResponseObject {
    ResponseObject {
        id: state.ids.label("resp_"),
        object: "response",
        created_at: crate::clock::unix_seconds(),
        status: "in_progress",
        error: None,
        incomplete_details: None,
        instructions: request.instructions,
        max_output_tokens: request.max_output_tokens,
        model,
        output: Vec::new(),
        parallel_tool_calls: request.parallel_tool_calls.unwrap_or(true),
        previous_response_id: None,
        temperature: request.temperature.unwrap_or(1.0),
        top_p: request.top_p.unwrap_or(1.0),
        tool_choice: request.tool_choice.map_or(json!("auto"), |choice| json!(choice)),
        tools: request.tools.unwrap_or_default(),
        truncation: "disabled",
        usage: None,
        metadata: request.metadata.unwrap_or_default(),
        store: false,
    }
}

/// Why an answer ended, in this API's words.
fn status(end: Option<FinishReason>) -> &'static str {
    match end {
        Some(FinishReason::Stop) => "completed",
        Some(FinishReason::Length) | None => "incomplete",
    }
}
