//! What travels over the wire: OpenAI's JSON, with the names that vLLM added. Nothing outside this folder knows it. The
//! same types make `/openapi.json`.
pub mod chat;
pub mod completions;
mod generation;
pub mod lists;
pub mod messages;
pub mod responses;
mod rest;
pub mod tokens;
mod whole;

pub use rest::{Asked, Rest, read};

pub use generation::{Floats, OneOrMany, SamplingFields, StreamOptions, Usage};

use crate::error::{ApiError, Result};
use serde_json::Value;

/// Fields of other servers that this one does not offer. A value that asks for nothing is let pass.
const UNSUPPORTED: [&str; 45] = [
    "allowed_token_ids",
    "audio",
    "bad_words",
    "chat_template",
    "documents",
    "early_stopping",
    "function_call",
    "functions",
    "grammar",
    "guided_choice",
    "guided_decoding_backend",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "guided_whitespace_pattern",
    "image_data",
    "input_ids",
    "kv_transfer_params",
    "length_penalty",
    "logits_processors",
    "max_new_tokens",
    "media_io_kwargs",
    "mm_processor_kwargs",
    "modalities",
    "prediction",
    "prompt_cache_retention",
    "prompt_embeds",
    "prompt_logprobs",
    "reasoning_effort",
    "repetition_ngram_size",
    "return_logprob",
    "return_token_ids",
    "return_tokens_as_token_ids",
    "service_tier",
    "session_id",
    "spaces_between_special_tokens",
    "store",
    "structured_outputs",
    "tools",
    "top_logprobs",
    "truncate_prompt_tokens",
    "use_beam_search",
    "verbosity",
    "vllm_xargs",
    "web_search_options",
];

/// Fields of chats and completions that the other ways to hold a conversation have no place for.
const GENERATION: [&str; 26] = [
    "best_of",
    "cache_salt",
    "chat_template_kwargs",
    "enable_thinking",
    "frequency_penalty",
    "ignore_eos",
    "include_stop_str_in_output",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "min_new_tokens",
    "min_p",
    "min_tokens",
    "n",
    "presence_penalty",
    "priority",
    "repetition_penalty",
    "response_format",
    "seed",
    "separate_reasoning",
    "skip_special_tokens",
    "stop",
    "stop_token_ids",
    "top_k",
    "top_logprobs",
];

/// Fields that are taken and change nothing: labels, and hints that need no obeying.
const LABELS: [&str; 5] = ["metadata", "prompt_cache_key", "request_id", "safety_identifier", "user"];

/// Values that ask for what happens anyway.
fn asks_nothing(name: &str, value: &Value) -> bool {
    match (name, value) {
        (_, Value::Null | Value::Bool(false)) => true,
        ("modalities", Value::Array(list)) => list.iter().all(|m| m == "text"),
        ("service_tier", Value::String(tier)) => tier == "auto" || tier == "default",
        ("length_penalty" | "repetition_penalty" | "n" | "best_of", Value::Number(x)) => x.as_f64() == Some(1.0),
        ("frequency_penalty" | "presence_penalty" | "min_p" | "min_tokens", Value::Number(x)) => {
            x.as_f64() == Some(0.0)
        }
        ("top_k" | "top_logprobs" | "priority", Value::Number(x)) => x.as_f64() == Some(0.0),
        ("skip_special_tokens" | "separate_reasoning", Value::Bool(true)) => true,
        ("response_format", Value::Object(format)) => format.get("type").is_some_and(|kind| kind == "text"),
        // An empty schema is one: any JSON.
        ("guided_json", Value::Object(_)) => false,
        ("spaces_between_special_tokens", Value::Bool(true)) => true,
        (_, Value::Array(list)) => list.is_empty(),
        (_, Value::Object(map)) => map.is_empty(),
        _ => false,
    }
}

/// Refuses fields that only chats and completions have.
pub fn check_generation(rest: &Rest) -> Result<()> {
    let foreign = |(name, value): &(&String, &Value)| GENERATION.contains(&name.as_str()) && !asks_nothing(name, value);
    rest.iter().find(foreign).map_or(Ok(()), |(name, _)| Err(ApiError::unsupported(name)))
}

/// Refuses fields that are known and not offered, and with `strict` those that nobody knows.
pub fn check_rest(rest: &Rest, strict: bool) -> Result<()> {
    for (name, value) in rest {
        let known = UNSUPPORTED.contains(&name.as_str());
        if known && !asks_nothing(name, value) {
            return Err(ApiError::unsupported(name));
        }
        if strict && !known && !LABELS.contains(&name.as_str()) {
            let name: String = name.chars().take(100).collect();
            return Err(ApiError::invalid(&name, format!("{name}: this field is not known")).code("unknown_parameter"));
        }
    }
    Ok(())
}
