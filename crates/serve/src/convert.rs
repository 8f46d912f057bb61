//! From what was asked to what is run: every value checked against its range and the model's limits, once, before the
//! engine hears of it.
use crate::auth::Tenant;
use crate::error::{ApiError, Result};
use crate::model::Model;
use crate::options::Options;
use crate::piece::TextRules;
use crate::running::Ask;
use crate::state::State;
use crate::wire::SamplingFields;
use crate::wire::chat::ResponseFormat;
use planish_checkpoint::generation::GenerationDefaults;
use planish_engine::{Grammar, GrammarSpec, MOST_CHOICES, Request, Sampling};
use planish_text::StopStrings;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Most stop strings, and bytes of one.
const STOPS: usize = 16;
const STOP_BYTES: usize = 4096;
/// Most answers that one request may ask for, over all its prompts.
const MOST_ANSWERS: usize = 2048;
/// Most entries of `logit_bias` and of `stop_token_ids`.
const MOST_IDS: usize = 1024;

/// Most log-probabilities of a request, about a hundred bytes each until they are sent: 64 prompts of 2,000 tokens, or one
/// of 200,000, with 5 others beside each token and much room.
const MOST_LOGPROBS: usize = 2 << 20;
/// Tokens that are counted of an answer without a length.
const UNASKED: usize = 4096;

/// Prompts and the field that they came from.
pub struct Prompts {
    /// Token ids.
    pub ids: Vec<Vec<u32>>,
    /// `messages` or `prompt`.
    pub param: &'static str,
    /// Answer length if none is given; without, as long as the context allows.
    pub default_len: Option<usize>,
}

/// Decides everything about a request; a grammar is compiled off the threads that serve connections.
pub async fn ask(
    state: &State,
    model: Arc<Model>,
    prompts: Prompts,
    mut fields: SamplingFields,
    tenant: Tenant,
    grammar: Option<GrammarSpec>,
) -> Result<Ask> {
    let blamed = if grammar.is_some() { "tools" } else { "response_format" };
    let spec = grammar.or(structure(fields.response_format.take())?);
    let sampling = sampling(&fields, &model, &state.options)?;
    let seeds = seeds(state, &fields, prompts.ids.len());
    let logprobs = top(fields.logprobs, model.vocab())?;
    let prompt_logprobs = top(fields.prompt_logprobs.map(|n| ("logprobs", n)), model.vocab())?;
    let [n, max_new_tokens, min_new_tokens] = sizes(&fields, &model, &prompts)?;
    let cache_salt = tenant.salt(fields.cache_salt.as_deref())?;
    let rules = rules(&mut fields)?;
    let grammar = compile(state, &model, spec, blamed).await?;
    state.counts.asked(prompts.ids.iter().map(Vec::len), max_new_tokens, n);
    let request = Request {
        prompt: Vec::new(),
        sampling,
        n,
        max_new_tokens,
        min_new_tokens,
        stop_ids: stop_ids(&fields, &model, grammar.is_some())?,
        logprobs,
        prompt_logprobs,
        priority: fields.priority,
        cache_salt,
        grammar,
    };
    Ok(Ask {
        model,
        prompts: prompts.ids,
        seeds,
        request,
        rules,
        time: state.options.request_time,
        backlog: state.options.backlog,
        ending: state.ending(),
        counts: state.counts.clone(),
    })
}

/// How many answers, and the most and the fewest tokens of one.
fn sizes(fields: &SamplingFields, model: &Model, prompts: &Prompts) -> Result<[usize; 3]> {
    let n = answers(fields, prompts)?;
    let most = answer_length(fields, model, prompts)?;
    check_rows(fields, prompts, [n, most], model.context())?;
    let fewest = within("min_tokens", fields.min_tokens, 0..=most as u64)? as usize;
    Ok([n, most, fewest])
}

/// Answers to each prompt.
fn answers(fields: &SamplingFields, prompts: &Prompts) -> Result<usize> {
    let n = within("n", fields.n.unwrap_or(1), 1..=MOST_CHOICES as u64)? as usize;
    let all = prompts.ids.len().saturating_mul(n);
    match all > MOST_ANSWERS {
        true => Err(ApiError::invalid("n", format!("expected at most {MOST_ANSWERS} answers, found {all}"))),
        false => Ok(n),
    }
}

/// The rows of log-probabilities of all answers: they wait in memory for the last, and the engine makes those of a prompt
/// once, however many answers repeat them.
fn check_rows(fields: &SamplingFields, prompts: &Prompts, [n, len]: [usize; 2], context: usize) -> Result<()> {
    let Some((name, top)) = fields.logprobs else { return Ok(()) };
    let echoed = match fields.prompt_logprobs {
        Some(_) => prompts.ids.iter().map(Vec::len).sum(),
        None => 0,
    };
    // A length that nobody asked for is as long as the context: answers are seldom that.
    let len = if fields.max_tokens.is_some() { len } else { len.min(UNASKED) };
    let of_one = prompts.ids.len().saturating_mul(len).saturating_add(echoed);
    let rows = of_one.saturating_mul(n);
    // What the model can read and write at all may be scored.
    let most = (MOST_LOGPROBS / (top as usize + 1)).max(context);
    if rows <= most {
        return Ok(());
    }
    let param = if of_one <= most { "n" } else { name };
    let message = format!(
        "{param}: expected at most {most} tokens with log-probabilities of {top} others, found {rows}: \
         max_tokens and the prompts that are given back, for each of n"
    );
    Err(ApiError::invalid(param, message))
}

/// What the text must be.
fn structure(format: Option<ResponseFormat>) -> Result<Option<GrammarSpec>> {
    Ok(match format {
        None | Some(ResponseFormat::Text) => None,
        Some(ResponseFormat::JsonObject) => Some(GrammarSpec::JsonObject),
        Some(ResponseFormat::Regex { regex }) => Some(GrammarSpec::Regex(regex)),
        Some(ResponseFormat::JsonSchema { json_schema }) => match json_schema.schema {
            Some(schema) => Some(GrammarSpec::JsonSchema(schema.to_string())),
            None => Some(GrammarSpec::JsonObject),
        },
    })
}

/// `blamed` is the field that a grammar came from.
async fn compile(
    state: &State,
    model: &Arc<Model>,
    spec: Option<GrammarSpec>,
    blamed: &'static str,
) -> Result<Option<Grammar>> {
    let Some(spec) = spec else { return Ok(None) };
    let model = model.clone();
    let compiled = state.desk.run(move || Ok(Some(Grammar::compile(&model.vocabulary, &spec)?))).await;
    compiled.map_err(|error| match error.param.as_deref() {
        Some("response_format") => ApiError { param: Some(blamed.into()), ..error },
        _ => error,
    })
}

fn sampling(fields: &SamplingFields, model: &Model, options: &Options) -> Result<Sampling> {
    let suggested = match options.model_defaults {
        true => model.served.defaults.clone(),
        false => GenerationDefaults::default(),
    };
    let temperature = real("temperature", fields.temperature, 0.0..=2.0)?;
    let top_p = real("top_p", fields.top_p, 0.0..=1.0)?;
    let top_k = fields.top_k.map(|k| within("top_k", k, -1..=u32::MAX.into())).transpose()?;
    let penalty = real("repetition_penalty", fields.repetition_penalty, f64::MIN_POSITIVE..=1000.0)?;
    let one = |name, value| Ok::<f32, ApiError>(real(name, value, -2.0..=2.0)?.unwrap_or(0.0) as f32);
    let sampling = Sampling {
        temperature: temperature.or(suggested.temperature).unwrap_or(1.0) as f32,
        // -1 and 0 both keep all.
        top_k: top_k.map_or(suggested.top_k.unwrap_or(0), |k| k.max(0) as usize),
        // A mass of nothing still keeps the likeliest.
        top_p: (top_p.or(suggested.top_p).unwrap_or(1.0) as f32).max(f32::MIN_POSITIVE),
        min_p: real("min_p", fields.min_p, 0.0..=1.0)?.or(suggested.min_p).unwrap_or(0.0) as f32,
        repetition_penalty: (penalty.or(suggested.repetition_penalty).unwrap_or(1.0) as f32).max(f32::MIN_POSITIVE),
        presence_penalty: one("presence_penalty", fields.presence_penalty)?,
        frequency_penalty: one("frequency_penalty", fields.frequency_penalty)?,
        logit_bias: logit_bias(fields, model.vocab())?,
        // Each prompt's own.
        seed: 0,
    };
    sampling.validate()?;
    Ok(sampling)
}

/// A seed for each prompt: without one equal prompts differ, as each draws its own numbers.
fn seeds(state: &State, fields: &SamplingFields, prompts: usize) -> Vec<u64> {
    (0..prompts).map(|_| fields.seed.map_or_else(|| state.ids.number(), |seed| seed as u64)).collect()
}

fn logit_bias(fields: &SamplingFields, vocab: usize) -> Result<Vec<(u32, f32)>> {
    count("logit_bias", fields.logit_bias.len(), MOST_IDS)?;
    let entry = |(id, &bias): (&String, &f64)| {
        let known = id.parse::<u32>().ok().filter(|&id| (id as usize) < vocab);
        let shown: String = id.chars().take(40).collect();
        let unknown = || ApiError::invalid("logit_bias", format!("expected token ids below {vocab}, found {shown:?}"));
        let id = known.ok_or_else(unknown)?;
        let bias = real("logit_bias", Some(bias), -100.0..=100.0)?.unwrap_or(0.0);
        Ok((id, bias as f32))
    };
    fields.logit_bias.iter().map(entry).collect()
}

/// Most tokens of an answer; what was asked for must fit beside the longest prompt.
fn answer_length(fields: &SamplingFields, model: &Model, prompts: &Prompts) -> Result<usize> {
    let (context, vocab) = (model.context(), model.vocab());
    let longest = prompts.ids.iter().map(Vec::len).max().unwrap_or(0);
    if let Some(bad) = prompts.ids.iter().flatten().find(|&&id| id as usize >= vocab) {
        return Err(ApiError::invalid(prompts.param, format!("expected token ids below {vocab}, found {bad}")));
    }
    if prompts.ids.iter().any(Vec::is_empty) {
        return Err(ApiError::invalid(prompts.param, "expected at least one token in each prompt, found none"));
    }
    let full = |wanted: u64| {
        let message = format!(
            "this model's longest sequence is {context} tokens: {longest} of the prompt and {wanted} of the answer are more"
        );
        ApiError::too_long(prompts.param, message)
    };
    match fields.max_tokens {
        Some((name, wanted)) => {
            let least = if name == "max_tokens" && prompts.param == "prompt" { 0 } else { 1 };
            let wanted = within(name, wanted, least..=u32::MAX.into())?;
            let fits = (longest as u64).checked_add(wanted).is_some_and(|all| all <= context as u64);
            if fits { Ok(wanted as usize) } else { Err(full(wanted)) }
        }
        None if longest >= context => Err(full(1)),
        None => {
            let suggested = model.served.defaults.max_new_tokens.filter(|&n| n > 0);
            Ok(prompts.default_len.or(suggested).unwrap_or(context).min(context - longest))
        }
    }
}

fn top(asked: Option<(&'static str, u64)>, vocab: usize) -> Result<Option<usize>> {
    let Some((name, asked)) = asked else { return Ok(None) };
    let most = if name == "top_logprobs" { 20 } else { 5 };
    Ok(Some((within(name, asked, 0..=most)? as usize).min(vocab)))
}

fn rules(fields: &mut SamplingFields) -> Result<TextRules> {
    count("stop", fields.stop.len(), STOPS)?;
    if let Some(found) = fields.stop.iter().map(String::len).find(|&len| len == 0 || len > STOP_BYTES) {
        return Err(ApiError::invalid("stop", format!("expected texts of 1 to {STOP_BYTES} bytes, found {found}")));
    }
    let stop = std::mem::take(&mut fields.stop);
    let (include_stop, skip_special) = (fields.include_stop, fields.skip_special);
    Ok(TextRules { stop: StopStrings::new(stop)?, include_stop, skip_special, keep: Vec::new() })
}

/// The model's own ends and those asked for. A grammar ends a text with the model's own, whatever is to be ignored.
fn stop_ids(fields: &SamplingFields, model: &Model, structured: bool) -> Result<Vec<u32>> {
    count("stop_token_ids", fields.stop_token_ids.len(), MOST_IDS)?;
    let vocab = model.vocab();
    if let Some(bad) = fields.stop_token_ids.iter().find(|&&id| id as usize >= vocab) {
        return Err(ApiError::invalid("stop_token_ids", format!("expected token ids below {vocab}, found {bad}")));
    }
    let own = if fields.ignore_eos && !structured { &[] } else { &model.served.eos[..] };
    Ok(fields.stop_token_ids.iter().chain(own).copied().collect())
}

fn count(name: &'static str, found: usize, most: usize) -> Result<()> {
    match found > most {
        true => Err(ApiError::invalid(name, format!("{name}: expected at most {most} entries, found {found}"))),
        false => Ok(()),
    }
}

/// A whole number in a range.
pub fn within<T: PartialOrd + Display + Copy>(name: &'static str, found: T, range: RangeInclusive<T>) -> Result<T> {
    if range.contains(&found) {
        return Ok(found);
    }
    let (least, most) = (range.start(), range.end());
    Err(ApiError::invalid(name, format!("{name}: expected a number from {least} to {most}, found {found}")))
}

fn real(name: &'static str, value: Option<f64>, range: RangeInclusive<f64>) -> Result<Option<f64>> {
    value.map(|value| within(name, value, range)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is to blame for too many log-probabilities, if there are: so many prompts of so many tokens.
    fn blamed(prompts: [usize; 2], [n, len]: [usize; 2], context: usize, top: u64, echo: bool) -> Option<String> {
        let prompts = Prompts { ids: vec![vec![0; prompts[1]]; prompts[0]], param: "prompt", default_len: None };
        let logprobs = Some(("logprobs", top));
        let fields = SamplingFields { logprobs, prompt_logprobs: echo.then_some(top), ..SamplingFields::default() };
        check_rows(&fields, &prompts, [n, len], context).err().map(|error| error.param.unwrap())
    }

    #[test]
    fn log_probabilities_have_a_budget() {
        // As evaluation harnesses ask, and one sequence of whatever the model reads.
        assert_eq!(blamed([64, 2000], [1, 1], 4096, 5, true), None);
        assert_eq!(blamed([1, 131_072], [1, 0], 131_072, 5, true), None);
        assert_eq!(blamed([1, 999_999], [1, 1], 1_000_000, 20, true), None);
        assert_eq!(blamed([1, 100], [8, 4096], 8192, 20, false), None);
        // The prompt counts for each answer that repeats it, if any does.
        assert_eq!(blamed([1, 30_000], [128, 1], 32_768, 5, true).as_deref(), Some("n"));
        assert_eq!(blamed([1, 30_000], [128, 1], 32_768, 5, false), None);
        assert_eq!(blamed([200, 2000], [1, 1], 4096, 5, true).as_deref(), Some("logprobs"));
        assert_eq!(blamed([1, 100], [128, 4096], 8192, 5, false).as_deref(), Some("n"));
        assert_eq!(blamed([2048, 1], [1, 4096], 8192, 0, false).as_deref(), Some("logprobs"));
    }
}
