//! What is wanted of rows of logits, found: by the device's own operations where it has them, else by its threads if the
//! rows lie in the host's memory, else here. A row is answered alike in any company.
use crate::device::{Found, Wish};
use crate::error::Result;
use crate::request::TokenLogprobs;
use crate::sampler::{self, NoChoice};
use planish_tensor::{Asked, Backend, Likely, SampleRow, Tensor};
use std::sync::OnceLock;

#[cfg(test)]
mod tests;

/// Rows that come to the host at once, where it answers for a device.
const AT_ONCE: usize = 16;

/// Answers every wish for a token or its log-probabilities. What rows that were chosen at hold afterwards is not said.
pub(crate) fn answer<B: Backend>(
    backend: &B,
    logits: &mut Tensor<B>,
    wishes: &[Wish],
    found: &mut [Found],
) -> Result<()> {
    choose_there(backend, logits, wishes, found)?;
    look_up_there(backend, logits, wishes, found)?;
    let left = |(row, (wish, found)): (usize, (&Wish, &Found))| {
        (wish.is_of_tokens() && *found == Found::Nothing).then_some(row as u32)
    };
    let rows: Vec<u32> = wishes.iter().zip(found.iter()).enumerate().filter_map(left).collect();
    if rows.is_empty() || by_threads(backend, logits, wishes, &rows, found)? {
        return Ok(());
    }
    let v = logits.cols;
    let mut values = vec![0f32; AT_ONCE.min(rows.len()) * v];
    for few in rows.chunks(AT_ONCE) {
        let values = &mut values[..few.len() * v];
        backend.download_rows(logits, few, bytemuck::cast_slice_mut(values))?;
        for (&row, values) in few.iter().zip(values.chunks_exact_mut(v)) {
            found[row as usize] = here(&wishes[row as usize], values);
        }
    }
    Ok(())
}

/// The tokens that the device chooses.
fn choose_there<B: Backend>(backend: &B, logits: &Tensor<B>, wishes: &[Wish], found: &mut [Found]) -> Result<()> {
    let greedy = SampleRow::GREEDY;
    let rule = |(row, wish)| match wish {
        &Wish::Likeliest => Some((row as u32, &greedy)),
        Wish::Token(how, _) => Some((row as u32, &**how)),
        _ => None,
    };
    let rules: Vec<(u32, &SampleRow)> = wishes.iter().enumerate().filter_map(rule).collect();
    if rules.is_empty() {
        return Ok(());
    }
    let tokens: Vec<Option<u32>> = match wishes.iter().any(|wish| matches!(wish, Wish::Token(..))) {
        true => backend.sample(logits, &rules)?,
        // Nothing else is wanted: the quickest way.
        false => {
            let likeliest = backend.argmax(logits)?;
            rules.iter().map(|(row, _)| Some(likeliest[*row as usize])).collect()
        }
    };
    for ((row, _), token) in rules.iter().zip(tokens) {
        if let Some(token) = token {
            found[*row as usize] = Found::Token(token_of(token), None);
        }
    }
    Ok(())
}

/// The log-probabilities that the device tells. A row whose own it does not tell is left to be answered as a whole.
fn look_up_there<B: Backend>(backend: &B, logits: &Tensor<B>, wishes: &[Wish], found: &mut [Found]) -> Result<()> {
    let asked = wishes.iter().zip(found.iter()).enumerate().filter_map(|(row, pair)| match pair {
        (&Wish::Logprobs(token, top), _) | (&Wish::Token(_, Some(top)), &Found::Token(Ok(token), _)) => {
            Some(Asked { row: row as u32, token, top })
        }
        _ => None,
    });
    let asked: Vec<Asked> = asked.collect();
    if asked.is_empty() {
        return Ok(());
    }
    for (asked, likely) in asked.iter().zip(backend.likely(logits, &asked)?) {
        let found = &mut found[asked.row as usize];
        *found = match (likely, &*found) {
            (Some(likely), &Found::Token(token, _)) => Found::Token(token, Some(likely.into())),
            (Some(likely), _) => Found::Logprobs(likely.into()),
            (None, _) => Found::Nothing,
        };
    }
    Ok(())
}

/// False if the rows do not lie in the host's memory.
fn by_threads<B: Backend>(
    backend: &B,
    logits: &mut Tensor<B>,
    wishes: &[Wish],
    rows: &[u32],
    found: &mut [Found],
) -> Result<bool> {
    let answers: Vec<OnceLock<Found>> = rows.iter().map(|_| OnceLock::new()).collect();
    let called = backend.each_row(logits, &|row, values| {
        if let Ok(place) = rows.binary_search(&(row as u32)) {
            // Each row is called once.
            let _ = answers[place].set(here(&wishes[row], values));
        }
    })?;
    for (&row, answer) in rows.iter().zip(answers) {
        found[row as usize] = answer.into_inner().unwrap_or_default();
    }
    Ok(called)
}

/// The answer from a row of logits in the host's memory, which mean nothing afterwards.
pub fn here(wish: &Wish, logits: &mut [f32]) -> Found {
    match wish {
        Wish::Likeliest => Found::Token(sampler::choose_as(logits, &SampleRow::GREEDY), None),
        Wish::Token(how, None) => Found::Token(sampler::choose_as(logits, how), None),
        Wish::Token(how, Some(top)) => {
            // Choosing changes the logits; the log-probabilities are those of the model's own.
            let own = logits.to_vec();
            let token = sampler::choose_as(logits, how);
            Found::Token(token, token.ok().map(|token| sampler::logprobs(&own, token, *top)))
        }
        &Wish::Logprobs(token, top) => Found::Logprobs(sampler::logprobs(logits, token, top)),
        Wish::Nothing | Wish::Logits | Wish::LogProbs => Found::Nothing,
    }
}

/// What a device tells in the place of a token.
pub(crate) fn token_of(number: u32) -> std::result::Result<u32, NoChoice> {
    match number {
        SampleRow::NOT_A_NUMBER => Err(NoChoice::NotANumber),
        SampleRow::NOTHING_ALLOWED => Err(NoChoice::NothingAllowed),
        token => Ok(token),
    }
}

impl From<Likely> for TokenLogprobs {
    fn from(likely: Likely) -> TokenLogprobs {
        TokenLogprobs { chosen: likely.log_prob, top: likely.top }
    }
}
