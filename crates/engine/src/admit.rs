//! What is asked of a request before it is taken in. Every refusal names the field, what was expected and what was found.
use crate::config::EngineConfig;
use crate::error::{Error, Result};
use crate::request::Request;

/// Most continuations of one prompt (as OpenAI allows).
pub const MOST_CHOICES: usize = 128;
/// Most log-probabilities of one position: 100,000 positions of a whole vocabulary would be 60 GiB.
pub const MOST_LOGPROBS: usize = 1000;

/// Checks a request; the answer's length is cut to the context.
pub fn admit(mut request: Request, config: &EngineConfig, vocab: usize) -> Result<Request> {
    check_tokens(&request.prompt, config, vocab)?;
    request.sampling.validate()?;
    within("n", request.n, 1, MOST_CHOICES)?;
    let most = MOST_LOGPROBS.min(vocab);
    within("logprobs", request.logprobs.unwrap_or(0), 0, most)?;
    within("prompt_logprobs", request.prompt_logprobs.unwrap_or(0), 0, most)?;
    within("min_new_tokens", request.min_new_tokens, 0, request.max_new_tokens)?;
    if let Some((bad, _)) = request.sampling.logit_bias.iter().find(|(id, _)| *id as usize >= vocab) {
        return refuse(format!("logit_bias: expected token ids below {vocab}, found {bad}"));
    }
    // An id that the model cannot produce ends nothing.
    request.stop_ids.retain(|&id| (id as usize) < vocab);
    request.max_new_tokens = request.max_new_tokens.min(config.max_model_len - request.prompt.len());
    check_room(request.prompt.len() + request.max_new_tokens, config)?;
    Ok(request)
}

/// Checks a text to be scored from position `first` on.
pub fn admit_score(tokens: &[u32], first: usize, config: &EngineConfig, vocab: usize) -> Result<()> {
    check_tokens(tokens, config, vocab)?;
    if first >= tokens.len() {
        return refuse(format!("first: expected a position below {}, found {first}", tokens.len()));
    }
    check_room(tokens.len(), config)
}

/// Checks a text whose continuations are to be judged.
pub fn admit_judging(context: &[u32], continuations: &[Vec<u32>], config: &EngineConfig, vocab: usize) -> Result<()> {
    check_tokens(context, config, vocab)?;
    within("continuations", continuations.len(), 1, MOST_CHOICES)?;
    for (i, tokens) in continuations.iter().enumerate() {
        let Some((last, read)) = tokens.split_last() else {
            return refuse(format!("continuation {i} is empty: expected at least one token"));
        };
        // The last token is only looked up: it is not read.
        check_tokens(&[context, read].concat(), config, vocab)?;
        check_tokens(&[*last], config, vocab)?;
        check_room(context.len() + read.len(), config)?;
    }
    Ok(())
}

fn check_tokens(tokens: &[u32], config: &EngineConfig, vocab: usize) -> Result<()> {
    let longest = config.max_model_len;
    if tokens.is_empty() {
        return refuse("the prompt is empty: expected at least one token".into());
    }
    if tokens.len() > longest {
        let found = tokens.len();
        return refuse(format!("the prompt has {found} tokens: expected at most {longest} (--max-model-len)"));
    }
    match tokens.iter().find(|&&t| t as usize >= vocab) {
        Some(bad) => refuse(format!("token id {bad}: expected ids below {vocab}")),
        None => Ok(()),
    }
}

/// Alone in the KV cache a sequence must find room, or it would wait for ever.
fn check_room(tokens: usize, config: &EngineConfig) -> Result<()> {
    let room = config.pages * config.page_size;
    match tokens > room {
        true => refuse(format!(
            "prompt and answer may need {tokens} tokens of KV cache: expected at most {room} ({} pages of {})",
            config.pages, config.page_size
        )),
        false => Ok(()),
    }
}

fn within(field: &str, found: usize, least: usize, most: usize) -> Result<()> {
    match (least..=most).contains(&found) {
        true => Ok(()),
        false => refuse(format!("{field}: expected a number from {least} to {most}, found {found}")),
    }
}

fn refuse<T>(message: String) -> Result<T> {
    Err(Error::Request(message))
}
