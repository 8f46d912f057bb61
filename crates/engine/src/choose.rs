//! From what a step produced to what becomes of each sequence: tokens chosen, texts ended, rows for scores. Decides
//! only; the runner tells the scheduler and the callers.
use crate::caller::{Caller, Generation, Scoring, Work, owner};
use crate::device::Produced;
use crate::error::{Error, Result};
use crate::grammar::Guide;
use crate::judge::Judging;
use crate::request::{FinishReason, ScoreChunk, TokenLogprobs};
use crate::runner::Step;
use crate::sampler::{self, NoChoice};
use crate::scheduler::Slice;
use planish_tensor::SampleRow;
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
        let wanted = rows.start * self.vocab..rows.end * self.vocab;
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
            if let Some(&next) = generation.request.prompt.get(position + 1) {
                match self.prompt_logprobs(row, next, generation, position) {
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

    fn prompt_logprobs(&self, row: usize, next: u32, of: &Generation, position: usize) -> Result<TokenLogprobs> {
        let logits = &self.produced.logits[row * self.vocab..][..self.vocab];
        let logprobs = sampler::logprobs(logits, next, of.request.prompt_logprobs.unwrap_or(0));
        match logprobs.chosen.is_nan() {
            true => Err(Error::NotANumber { position }),
            false => Ok(logprobs),
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
        if generation.is_plain(choice)
            && let Some(&id) = self.produced.likeliest.get(row)
        {
            return match id {
                u32::MAX => Err(Error::NotANumber { position }),
                id => Ok(Chosen { id, logprobs: None }),
            };
        }
        if let Some(&id) = self.produced.chosen.get(row) {
            return match id {
                SampleRow::NOT_A_NUMBER => Err(Error::NotANumber { position }),
                SampleRow::NOTHING_ALLOWED => Err(Error::NothingAllowed { position }),
                id => Ok(Chosen { id, logprobs: None }),
            };
        }
        let request = &generation.request;
        let choice = &generation.choices[choice];
        let banned = generation.banned(choice);
        let logits = &mut self.produced.logits[row * self.vocab..][..self.vocab];
        // Choosing changes the logits; the log-probabilities are those of the model's own.
        let own = request.logprobs.map(|_| logits.to_vec());
        let mask = choice.guide.as_ref().map(Guide::mask).transpose()?;
        let id = match sampler::choose(logits, &choice.sampling, &choice.history, banned, mask.as_deref()) {
            Ok(id) => id,
            Err(NoChoice::NotANumber) => return Err(Error::NotANumber { position }),
            Err(NoChoice::NothingAllowed) => return Err(Error::NothingAllowed { position }),
        };
        let logprobs = own.zip(request.logprobs).map(|(own, top)| sampler::logprobs(&own, id, top));
        Ok(Chosen { id, logprobs })
    }
}
