//! `/v1/completions`: texts or token ids in, their continuations out. With `echo` and `logprobs` it scores a text, which
//! is what evaluation harnesses ask of it.
use crate::conversation::check_length;
use crate::convert::{self, Prompts};
use crate::desk::SHORT;
use crate::error::{ApiError, ErrorBody, Result};
use crate::intake::Job;
use crate::logprobs::Ledger;
use crate::model::Model;
use crate::piece::Piece;
use crate::running::{Ask, Output, Running};
use crate::sse::{self, Events, Voice};
use crate::state::State;
use crate::wire::completions::{CompletionChoice, CompletionLogprobs, CompletionRequest, CompletionResponse, Prompt};
use crate::wire::{StreamOptions, Usage, check_rest};
use axum::Json;
use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use planish_engine::{FinishReason, TokenLogprobs};
use planish_text::Detokenizer;
use std::sync::Arc;

/// Tokens of an answer if nothing is said, as OpenAI has it.
const DEFAULT_LEN: usize = 16;
/// Most prompts of one request.
const MOST_PROMPTS: usize = 2048;

/// Continues texts.
#[utoipa::path(
    post, path = "/v1/completions", tag = "OpenAI", request_body = CompletionRequest,
    responses(
        (status = 200, description = "The answers; with `stream` server-sent events of the same shape", content(
            (CompletionResponse = "application/json"), (CompletionResponse = "text/event-stream"))),
        (status = "4XX", description = "The request cannot be answered", body = ErrorBody),
        (status = "5XX", description = "The server cannot answer", body = ErrorBody)
    )
)]
pub async fn complete(Shared(state): Shared<Arc<State>>, job: Job<CompletionRequest>) -> Result<Response> {
    let Job { place, tenant, body: mut request } = job;
    check(&request, state.options.strict_fields)?;
    let model = state.model(request.model.as_deref())?;
    let mut fields = request.sampling();
    fields.max_tokens = request.max_tokens.map(|n| ("max_tokens", n));
    fields.logprobs = request.logprobs.map(|n| ("logprobs", n));
    let echo = request.echo.unwrap_or(false);
    fields.prompt_logprobs = request.logprobs.filter(|_| echo);
    let special = request.add_special_tokens.unwrap_or(true);
    let prompt =
        request.prompt.take().ok_or_else(|| ApiError::invalid("prompt", "prompt: expected one, found none"))?;
    let (ids, texts) = encode(&state, &model, prompt, special).await?;
    let prompts = Prompts { ids, param: "prompt", default_len: Some(DEFAULT_LEN) };
    let ask = convert::ask(&state, model.clone(), prompts, fields, tenant, None).await?;
    // Behind all checks: ids that are no tokens are not decoded, and neither are more than the model can read.
    let sources = if echo { sources(&state, &model, &ask.prompts, texts).await? } else { Vec::new() };
    let ledgers = if request.logprobs.is_some() { ledgers(&model, &ask) } else { Vec::new() };
    let (n, answers) = (ask.request.n, ask.request.n * ask.prompts.len());
    let teller = Teller {
        id: state.ids.label("cmpl-").into(),
        created: crate::clock::unix_seconds(),
        name: model.name().into(),
        model,
        sources,
        begun: vec![false; answers],
        ledgers,
        n,
        options: request.stream_options.unwrap_or_default(),
    };
    let running = Running::start(ask)?;
    match request.stream.unwrap_or(false) {
        true => Ok(sse::respond(running, teller, state.options.keep_alive, place)),
        false => Ok(Json(collect(running, teller, answers).await?).into_response()),
    }
}

fn check(request: &CompletionRequest, strict: bool) -> Result<()> {
    check_rest(&request.rest, strict)?;
    if request.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
        return Err(ApiError::unsupported("suffix"));
    }
    convert::within("best_of", request.best_of.unwrap_or(1), 1..=20)?;
    if request.best_of.is_some_and(|best| best != request.n.unwrap_or(1)) {
        return Err(ApiError::invalid("best_of", "best_of: expected the same number as n, or nothing"));
    }
    if request.stream_options.is_some() && request.stream != Some(true) {
        return Err(ApiError::invalid("stream_options", "stream_options: expected only with stream: true"));
    }
    Ok(())
}

/// Token ids of each prompt, and the texts that were given.
async fn encode(
    state: &State,
    model: &Arc<Model>,
    prompt: Prompt,
    special: bool,
) -> Result<(Vec<Vec<u32>>, Vec<Option<String>>)> {
    let texts = match prompt {
        Prompt::Ids(ids) => return Ok((vec![ids], vec![None])),
        Prompt::IdLists(lists) => {
            check_count(lists.len())?;
            let texts = vec![None; lists.len()];
            return Ok((lists, texts));
        }
        Prompt::Text(text) => vec![text],
        Prompt::Texts(texts) => texts,
    };
    check_count(texts.len())?;
    for text in &texts {
        check_length("prompt", text.len(), model.context())?;
    }
    let short = texts.iter().map(String::len).sum::<usize>() <= SHORT;
    let model = model.clone();
    let encode = move || {
        let ids = texts.iter().map(|text| encode_one(&model, text, special)).collect::<Result<_>>()?;
        Ok((ids, texts.into_iter().map(Some).collect()))
    };
    if short { encode() } else { state.desk.run(encode).await }
}

/// Token ids of a text.
pub fn encode_one(model: &Model, text: &str, special: bool) -> Result<Vec<u32>> {
    Ok(match special {
        true => model.tokenizer().encode_with_special(text)?,
        false => model.tokenizer().encode(text, planish_text::SpecialText::Recognised)?,
    })
}

fn check_count(found: usize) -> Result<()> {
    match (1..=MOST_PROMPTS).contains(&found) {
        true => Ok(()),
        false => {
            let message = format!("prompt: expected 1 to {MOST_PROMPTS} prompts, found {found}");
            Err(ApiError::invalid("prompt", message))
        }
    }
}

/// A prompt that is to be given back.
struct Source {
    ids: Vec<u32>,
    text: String,
    /// Of each token but the first, as they come.
    logprobs: Vec<TokenLogprobs>,
}

impl Source {
    fn new(model: &Model, ids: &[u32], text: Option<String>) -> Result<Source> {
        let text = match text {
            Some(text) => text,
            None => model.tokenizer().decode(ids, false)?,
        };
        Ok(Source { ids: ids.to_vec(), text, logprobs: Vec::new() })
    }
}

/// Prompts with their texts; many ids are decoded on the desk.
async fn sources(
    state: &State,
    model: &Arc<Model>,
    prompts: &[Vec<u32>],
    texts: Vec<Option<String>>,
) -> Result<Vec<Source>> {
    let pairs = |prompts: &[Vec<u32>], model: &Model| {
        prompts.iter().zip(texts).map(|(ids, text)| Source::new(model, ids, text)).collect()
    };
    if prompts.iter().map(Vec::len).sum::<usize>() <= SHORT {
        return pairs(prompts, model);
    }
    let (prompts, model) = (prompts.to_vec(), model.clone());
    state.desk.run(move || pairs(&prompts, &model)).await
}

/// One for each answer.
fn ledgers(model: &Model, ask: &Ask) -> Vec<Ledger> {
    let skip = ask.rules.skip_special;
    let of_prompt = |ids: &Vec<u32>| {
        let ledger = Ledger::new(Detokenizer::after(model.tokenizer().clone(), ids, skip));
        std::iter::repeat_n(ledger, ask.request.n)
    };
    ask.prompts.iter().flat_map(of_prompt).collect()
}

/// Tells completions, whole or in pieces.
struct Teller {
    id: Arc<str>,
    created: u64,
    name: Arc<str>,
    model: Arc<Model>,
    /// One for each prompt, if they are to be given back.
    sources: Vec<Source>,
    /// Whether each answer has begun.
    begun: Vec<bool>,
    /// How far each answer's log-probabilities have come; none if they are not wanted.
    ledgers: Vec<Ledger>,
    n: usize,
    options: StreamOptions,
}

impl Teller {
    fn response(&self, choices: Vec<CompletionChoice>, usage: Option<Option<Usage>>) -> CompletionResponse {
        CompletionResponse {
            id: self.id.clone(),
            object: "text_completion",
            created: self.created,
            model: self.name.clone(),
            choices,
            usage,
        }
    }

    /// One piece of an answer; the first brings the prompt, if that is to be given back.
    fn choice(&mut self, index: usize, piece: Piece) -> Result<CompletionChoice> {
        let first = !std::mem::replace(&mut self.begun[index], true);
        let source = self.sources.get(index / self.n).filter(|_| first);
        let mut text = source.map_or_else(String::new, |source| source.text.clone());
        text.push_str(&piece.text);
        let mut logprobs = None;
        if let Some(ledger) = self.ledgers.get_mut(index) {
            let (tokenizer, mut out) = (self.model.tokenizer(), CompletionLogprobs::default());
            if let Some(source) = source {
                // Nothing comes before the first token, so nothing is known of it.
                let known = std::iter::once(None).chain(source.logprobs.iter().map(Some));
                ledger.quote(tokenizer, &source.text, source.ids.iter().copied().zip(known), &mut out)?;
            }
            let tokens = piece.tokens.iter().map(|token| (token.id, token.logprobs.as_ref()));
            ledger.write(tokenizer, tokens, &mut out)?;
            logprobs = Some(out);
        }
        Ok(CompletionChoice { index, text, logprobs, finish_reason: piece.end.map(FinishReason::name) })
    }

    fn take(&mut self, output: Output) -> Result<Option<CompletionChoice>> {
        match output {
            Output::Prompt { prompt, logprobs } => {
                if let Some(source) = self.sources.get_mut(prompt) {
                    source.logprobs.extend(logprobs);
                }
                Ok(None)
            }
            Output::Delta(delta) => self.choice(delta.index, delta.piece).map(Some),
        }
    }
}

async fn collect(mut running: Running, mut teller: Teller, answers: usize) -> Result<CompletionResponse> {
    let with_logprobs = !teller.ledgers.is_empty();
    let mut choices: Vec<CompletionChoice> = (0..answers)
        .map(|index| CompletionChoice {
            index,
            text: String::new(),
            logprobs: with_logprobs.then(CompletionLogprobs::default),
            finish_reason: None,
        })
        .collect();
    while let Some(output) = running.next().await {
        let Some(piece) = teller.take(output?)? else { continue };
        let choice = &mut choices[piece.index];
        choice.text.push_str(&piece.text);
        choice.finish_reason = choice.finish_reason.or(piece.finish_reason);
        if let (Some(all), Some(new)) = (&mut choice.logprobs, piece.logprobs) {
            all.tokens.extend(new.tokens);
            all.token_logprobs.extend(new.token_logprobs);
            all.top_logprobs.extend(new.top_logprobs);
            all.text_offset.extend(new.text_offset);
        }
    }
    Ok(teller.response(choices, Some(Some(running.usage()))))
}

impl Voice for Teller {
    fn tell(&mut self, output: Output, running: &mut Running, out: &mut Events) -> Result<()> {
        if let Some(choice) = self.take(output)? {
            let each = self.options.continuous_usage_stats == Some(true);
            let told = self.options.include_usage == Some(true);
            out.data(&self.response(vec![choice], told.then(|| each.then(|| running.usage()))));
        }
        Ok(())
    }

    fn end(&mut self, running: &Running, out: &mut Events) {
        if self.options.include_usage == Some(true) {
            out.data(&self.response(Vec::new(), Some(Some(running.usage()))));
        }
        out.done();
    }
}
