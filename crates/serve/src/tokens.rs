//! `/tokenize`, `/detokenize`, `/tokenizer_info`: the model's words without the model.
use crate::completions::encode_one;
use crate::conversation::{Conversation, check_length};
use crate::error::{ApiError, ErrorBody, Result};
use crate::intake::Question;
use crate::model::Served;
use crate::state::State;
use crate::wire::check_rest;
use crate::wire::tokens::{DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse};
use axum::Json;
use axum::extract::State as Shared;
use serde_json::{Value, json};
use std::sync::Arc;

/// Most ids to decode.
const MOST_IDS: usize = 1 << 20;

/// Token ids of a text or a conversation.
#[utoipa::path(post, path = "/tokenize", tag = "Tokens", request_body = TokenizeRequest, responses(
    (status = 200, description = "The ids", body = TokenizeResponse),
    (status = "4XX", description = "The text cannot be encoded", body = ErrorBody),
    (status = "5XX", description = "The server cannot answer", body = ErrorBody)
))]
pub async fn tokenize(
    Shared(state): Shared<Arc<State>>,
    Question { seat: _seat, body: request }: Question<TokenizeRequest>,
) -> Result<Json<TokenizeResponse>> {
    check_rest(&request.rest, state.options.strict_fields)?;
    let model = state.model(request.model.as_deref())?;
    let tokens = match (request.prompt, request.messages) {
        (Some(text), None) => {
            check_length("prompt", text.len(), model.context().max(1 << 16))?;
            let (model, special) = (model.clone(), request.add_special_tokens.unwrap_or(true));
            state.desk.run(move || encode_one(&model, &text, special)).await?
        }
        (None, Some(messages)) => {
            let conversation = Conversation {
                messages,
                tools: request.tools.unwrap_or_default().into_iter().map(Into::into).collect(),
                begin_answer: request.add_generation_prompt.unwrap_or(true),
                variables: request.chat_template_kwargs.unwrap_or_default(),
            };
            conversation.encode(&state, &model).await?.ids
        }
        _ => return Err(ApiError::invalid("prompt", "expected either prompt or messages")),
    };
    let spell = |&id: &u32| model.tokenizer().id_to_token(id).unwrap_or_default();
    let token_strs = request.return_token_strs.unwrap_or(false).then(|| tokens.iter().map(spell).collect());
    Ok(Json(TokenizeResponse { count: tokens.len(), max_model_len: model.context(), tokens, token_strs }))
}

/// The text of token ids.
#[utoipa::path(post, path = "/detokenize", tag = "Tokens", request_body = DetokenizeRequest, responses(
    (status = 200, description = "The text", body = DetokenizeResponse),
    (status = "4XX", description = "The ids cannot be decoded", body = ErrorBody),
    (status = "5XX", description = "The server cannot answer", body = ErrorBody)
))]
pub async fn detokenize(
    Shared(state): Shared<Arc<State>>,
    Question { seat: _seat, body: request }: Question<DetokenizeRequest>,
) -> Result<Json<DetokenizeResponse>> {
    check_rest(&request.rest, state.options.strict_fields)?;
    let model = state.model(request.model.as_deref())?;
    let vocab = model.vocab();
    if request.tokens.len() > MOST_IDS {
        let found = request.tokens.len();
        return Err(ApiError::invalid("tokens", format!("tokens: expected at most {MOST_IDS}, found {found}")));
    }
    if let Some(bad) = request.tokens.iter().find(|&&id| id as usize >= vocab) {
        return Err(ApiError::invalid("tokens", format!("tokens: expected ids below {vocab}, found {bad}")));
    }
    let decode = move || Ok(model.tokenizer().decode(&request.tokens, false)?);
    Ok(Json(DetokenizeResponse { prompt: state.desk.run(decode).await? }))
}

/// The tokenizer's configuration.
#[utoipa::path(get, path = "/tokenizer_info", tag = "Tokens", responses(
    (status = 200, description = "tokenizer_config.json", body = Object),
    (status = "4XX", description = "No key", body = ErrorBody),
    (status = 503, description = "Loading", body = ErrorBody)
))]
pub async fn info(Shared(state): Shared<Arc<State>>) -> Result<Json<Value>> {
    Ok(Json(describe(&state.model(None)?.served)))
}

/// In vLLM's shape: special tokens are texts, and the chat template is there wherever its file is.
fn describe(served: &Served) -> Value {
    let Value::Object(mut info) = plain(&served.tokenizer_config) else { return json!({}) };
    info.entry("tokenizer_class").or_insert("PreTrainedTokenizerFast".into());
    if !served.template.is_empty() {
        info.entry("chat_template").or_insert(served.template.clone().into());
    }
    // A GGUF file has no configuration of this kind.
    if let Some(end) = served.eos.first().and_then(|&id| served.tokenizer.id_to_token(id)) {
        info.entry("eos_token").or_insert(end.into());
    }
    Value::Object(info)
}

/// The same with each token that is spelled out with its properties as its text.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(token) if token.contains_key("lstrip") && token.get("content").is_some_and(Value::is_string) => {
            token["content"].clone()
        }
        Value::Object(map) => map.iter().map(|(name, value)| (name.clone(), plain(value))).collect(),
        Value::Array(list) => list.iter().map(plain).collect(),
        other => other.clone(),
    }
}
