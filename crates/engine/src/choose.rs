//! From what a step produced to what becomes of each sequence: tokens chosen, texts ended, rows for scores. Decides
//! only; the runner tells the scheduler and the callers.
use crate::answer::here;
use crate::caller::{Caller, Generation, Scoring, Work, owner};
use crate::device::{Found, Produced, Wish};
use crate::error::{Error, Result};
use crate::grammar::Guide;
use crate::judge::Judging;
use crate::request::{FinishReason, ScoreChunk, TokenLogprobs};
use crate::runner::Step;
use crate::sampler::{self, NoChoice};
use crate::scheduler::Slice;
use std::collections::HashMap;
use std::ops::Range;

/// A token that was chosen.
pub(crate) struct Chosen {
    pub id: u32,
    pub logprobs: Option<TokenLogprobs>,
}

/// What a step did to one sequence.
pub(crate) enum Verdict {
    /// Nothing yet: its prompt is still being read.
    Reads,
    /// The next `count` of [`Verdicts::tokens`], after rows of the prompt, if asked for.
    Chose { prompt: Vec<TokenLogprobs>, count: usize, end: Option<FinishReason> },
    /// Rows of a scored text.
    Scored { chunk: ScoreChunk, last: bool },
    /// Rows of a judged text; whether they are its last.
    Judged { last: bool },
    /// Its request cannot go on.
    Failed(Error),
    /// Its caller went away while it ran.
    Gone,
}

/// What a step did, in the order of its slices.
#[derive(Default)]
pub(crate) struct Verdicts {
    pub list: Vec<Verdict>,
    /// Of all sequences, one after the other.
    pub tokens: Vec<Chosen>,
}

impl Verdicts {
    /// The same failure for everyone in the step.
    pub fn all_failed(step: &Step, error: &Error) -> Verdicts {
        let list = step.slices.iter().map(|_| Verdict::Failed(error.clone())).collect();
        Verdicts { list, tokens: Vec::new() }
    }
}

/// Judges every slice of a step.
pub(crate) fn choose(
    step: &Step,
    produced: &mut Produced,
    callers: &mut HashMap<u64, Caller>,
    vocab: usize,
) -> Verdicts {
    let mut verdicts = Verdicts { list: Vec::with_capacity(step.slices.len()), tokens: Vec::new() };
    let mut row = 0;
    let mut rows_of_step = Rows { step, produced, vocab };
    for (slice, &id) in step.slices.iter().zip(&step.ids) {
        let rows = row..row + slice.rows;
        row = rows.end;
        let (request, choice) = owner(id);
        verdicts.list.push(match callers.get_mut(&request).map(|caller| &mut caller.work) {
            None => Verdict::Gone,
            Some(_) if rows.is_empty() => Verdict::Reads,
            Some(Work::Score(scoring)) => rows_of_step.score(slice, rows, scoring),
            Some(Work::Judge(judging)) => rows_of_step.judge(slice, rows, judging, choice),
            Some(Work::Generate(g)) => rows_of_step.generate(slice, rows, g, choice, &mut verdicts.tokens),
        });
    }
    verdicts
}

/// A step's rows of logits.
struct Rows<'a> {
    step: &'a Step,
    produced: &'a mut Produced,
    vocab: usize,
}

impl Rows<'_> {
    /// Position of a slice's first row.
    fn first_position(slice: &Slice) -> usize {
        slice.start + slice.count - slice.rows
    }

    fn score(&mut self, slice: &Slice, rows: Range<usize>, scoring: &Scoring) -> Verdict {
        let first = Self::first_position(slice);
        let Found::LogProbs(place) = self.produced.rows[rows.start] else { return Verdict::Failed(unanswered(first)) };
        let wanted = place * self.vocab..(place + rows.len()) * self.vocab;
        // Alone in the step, as large scores are, the rows need no copy.
        let log_probs = match wanted.len() == self.produced.log_probs.len() {
            true => std::mem::take(&mut self.produced.log_probs),
            false => self.produced.log_probs[wanted].to_vec(),
        };
        // A row with NaN is NaN throughout: its sum is.
        match log_probs.chunks(self.vocab).position(|row| row[0].is_nan()) {
            Some(row) => Verdict::Failed(Error::NotANumber { position: first + row }),
            None => Verdict::Scored {
                chunk: ScoreChunk { first, log_probs },
                last: slice.start + slice.count == scoring.total,
            },
        }
    }

    fn judge(&self, slice: &Slice, rows: Range<usize>, judging: &mut Judging, sequence: usize) -> Verdict {
        let at = |row: usize| self.step.want.judged.partition_point(|target| (target.row as usize) < row);
        let found = &self.produced.judged[at(rows.start)..at(rows.end)];
        let first = Self::first_position(slice);
        match judging.read(sequence, first..first + rows.len(), found) {
            Ok(()) => Verdict::Judged { last: judging.is_read(sequence, slice.start + slice.count) },
            Err(error) => Verdict::Failed(error),
        }
    }

    fn generate(
        &mut self,
        slice: &Slice,
        rows: Range<usize>,
        generation: &mut Generation,
        choice: usize,
        tokens: &mut Vec<Chosen>,
    ) -> Verdict {
        let before = tokens.len();
        let mut prompt = Vec::new();
        let mut end = None;
        for (position, row) in (Self::first_position(slice)..).zip(rows.clone()) {
            if position + 1 < generation.request.prompt.len() {
                match self.prompt_logprobs(row, position) {
                    Ok(logprobs) => prompt.push(logprobs),
                    Err(e) => return Verdict::Failed(e),
                }
                continue;
            }
            match self.next_token(row, generation, choice, position, tokens) {
                Ok(ended) => end = ended,
                Err(e) => {
                    tokens.truncate(before);
                    return Verdict::Failed(e);
                }
            }
            let agreed = || tokens.last().is_some_and(|chosen| self.input_after(row) == Some(chosen.id));
            if end.is_some() || (row + 1 < rows.end && !agreed()) {
                break;
            }
        }
        Verdict::Chose { prompt, count: tokens.len() - before, end }
    }

    /// The draft that was put in after a row's token.
    fn input_after(&self, row: usize) -> Option<u32> {
        self.step.batch.tokens.get(self.step.batch.logit_rows[row] as usize + 1).copied()
    }

    fn prompt_logprobs(&mut self, row: usize, position: usize) -> Result<TokenLogprobs> {
        match std::mem::take(&mut self.produced.rows[row]) {
            Found::Logprobs(logprobs) if logprobs.chosen.is_nan() => Err(Error::NotANumber { position }),
            Found::Logprobs(logprobs) => Ok(logprobs),
            _ => Err(unanswered(position)),
        }
    }

    /// Chooses at one row; the reason if that ends the text. An ending stop id is not among the tokens.
    fn next_token(
        &mut self,
        row: usize,
        generation: &mut Generation,
        choice: usize,
        position: usize,
        tokens: &mut Vec<Chosen>,
    ) -> Result<Option<FinishReason>> {
        let most = generation.request.max_new_tokens;
        if most == 0 {
            return Ok(Some(FinishReason::Length));
        }
        if generation.choices[choice].guide.as_ref().map_or(Ok(false), Guide::is_complete)? {
            return Ok(Some(FinishReason::Stop));
        }
        let chosen = self.pick(row, generation, choice, position)?;
        if generation.request.stop_ids.contains(&chosen.id) {
            return Ok(Some(FinishReason::Stop));
        }
        let choice = &mut generation.choices[choice];
        choice.history.push(chosen.id);
        if let Some(guide) = &mut choice.guide {
            guide.advance(chosen.id);
        }
        choice.generated += 1;
        tokens.push(chosen);
        Ok((choice.generated == most).then_some(FinishReason::Length))
    }

    fn pick(&mut self, row: usize, generation: &Generation, choice: usize, position: usize) -> Result<Chosen> {
        let found = match std::mem::take(&mut self.produced.rows[row]) {
            Found::Logits(place) => self.pick_here(place, generation, choice)?,
            found => found,
        };
        match found {
            Found::Token(Ok(id), logprobs) => Ok(Chosen { id, logprobs }),
            Found::Token(Err(NoChoice::NotANumber), _) => Err(Error::NotANumber { position }),
            Found::Token(Err(NoChoice::NothingAllowed), _) => Err(Error::NothingAllowed { position }),
            _ => Err(unanswered(position)),
        }
    }

    /// Chooses at a row whose logits have come; waits for the grammar's mask.
    fn pick_here(&mut self, place: usize, generation: &Generation, choice: usize) -> Result<Found> {
        let choice = &generation.choices[choice];
        let mask = choice.guide.as_ref().map(Guide::mask).transpose()?;
        let how = sampler::row(
            &choice.sampling,
            &choice.history,
            choice.history.position(),
            generation.banned(choice),
            mask.as_deref(),
        );
        let logits = &mut self.produced.logits[place * self.vocab..][..self.vocab];
        Ok(here(&Wish::Token(Box::new(how), generation.request.logprobs), logits))
    }
}

/// A machine that does not do as asked.
fn unanswered(position: usize) -> Error {
    Error::Device(format!("what was wanted of the logits at position {position} did not come"))
}
