//! What the engine knows of its callers: their requests, how far each continuation is, and where events go.
use crate::device::Wish;
use crate::error::{Error, Result};
use crate::grammar::Guide;
use crate::judge::Judging;
use crate::mailbox::{Flow, Writer};
use crate::outlet::Outlet;
use crate::request::{FinishReason, Request, Sampling, ScoreChunk};
use crate::sampler::{self, History};
use std::time::Instant;

/// Continuations have the ids `request * 128 + choice`, so that neither needs a table.
const CHOICE_BITS: u32 = 7;

/// The id of a sequence in the scheduler.
pub(crate) fn sequence_id(request: u64, choice: usize) -> u64 {
    request << CHOICE_BITS | choice as u64
}

/// The request and the choice that a sequence belongs to.
pub(crate) fn owner(sequence: u64) -> (u64, usize) {
    (sequence >> CHOICE_BITS, (sequence & ((1 << CHOICE_BITS) - 1)) as usize)
}

/// One request that was taken in.
pub(crate) struct Caller {
    pub work: Work,
    pub arrived: Instant,
    /// When a step first saw it.
    pub started: Option<Instant>,
    /// Its caller has fallen behind, so its sequences wait.
    pub paused: bool,
}

pub(crate) enum Work {
    Generate(Box<Generation>),
    Score(Scoring),
    Judge(Judging),
}

/// A prompt being continued.
pub(crate) struct Generation {
    pub request: Request,
    pub outlet: Outlet,
    pub choices: Vec<Choice>,
    /// Continuations that have not ended.
    pub live: usize,
    /// When its first token was given.
    pub begun: Option<Instant>,
}

/// One continuation.
pub(crate) struct Choice {
    /// With the continuation's own seed.
    pub sampling: Sampling,
    pub history: History,
    /// Follows the grammar, on a thread of its own.
    pub guide: Option<Guide>,
    pub generated: usize,
    /// When its last token was given.
    pub last: Option<Instant>,
}

/// A text being scored.
pub(crate) struct Scoring {
    pub chunks: Writer<Result<ScoreChunk>>,
    /// Tokens of the text.
    pub total: usize,
}

impl Generation {
    pub fn new(request: Request, outlet: Outlet) -> Generation {
        // Without tokens to generate, one reading of the prompt serves every choice.
        let live = if request.max_new_tokens == 0 { 1 } else { request.n };
        let history = match request.sampling.penalizes() {
            true => History::new(&request.prompt),
            false => History::of_length(request.prompt.len()),
        };
        let choice = |i| Choice {
            sampling: Sampling { seed: request.sampling.seed.wrapping_add(i as u64), ..request.sampling.clone() },
            history: history.clone(),
            guide: request.grammar.clone().map(Guide::start),
            generated: 0,
            last: None,
        };
        let choices = (0..live).map(choice).collect();
        Generation { request, outlet, choices, live, begun: None }
    }

    /// First position whose logits are wanted, for one of the choices: the prompt's are told once.
    pub fn rows_from(&self, choice: usize) -> usize {
        match self.request.prompt_logprobs.is_some() && choice == 0 {
            true => 0,
            false => self.request.prompt.len() - 1,
        }
    }

    /// Whether the likeliest token is all that matters at a choice's next position.
    pub fn is_plain(&self, choice: usize) -> bool {
        let choice = &self.choices[choice];
        let s = &choice.sampling;
        let unchanged = !s.penalizes() && s.logit_bias.is_empty() && choice.guide.is_none();
        let free = choice.generated >= self.request.min_new_tokens || self.request.stop_ids.is_empty();
        s.temperature == 0.0 && unchanged && free && self.request.logprobs.is_none()
    }

    /// What is wanted of the row after a position of a choice's text; whether a device may choose at all is said by `sample`.
    pub fn wish(&self, choice: usize, position: usize, sample: bool) -> Wish {
        let request = &self.request;
        if let Some(&next) = request.prompt.get(position + 1) {
            return Wish::Logprobs(next, request.prompt_logprobs.unwrap_or(0));
        }
        if request.max_new_tokens == 0 {
            return Wish::Nothing;
        }
        if self.is_plain(choice) {
            return Wish::Likeliest;
        }
        let choice = &self.choices[choice];
        // A mask that is being computed meanwhile is awaited afterwards, on the host. Log-probabilities under a grammar are
        // always told there: whether the mask was early must not show in their last digit.
        let mask = match &choice.guide {
            Some(guide) if request.logprobs.is_none() => guide.mask_if_known(),
            _ => None,
        };
        if !sample || (choice.guide.is_some() && mask.is_none()) {
            return Wish::Logits;
        }
        let row = sampler::row(&choice.sampling, &choice.history, position + 1, self.banned(choice), mask.as_deref());
        Wish::Token(Box::new(row), request.logprobs)
    }

    /// Whether what is wished of a choice's rows does not depend on the tokens before, so that it can be said before they are
    /// known.
    pub fn is_foreseen(&self, choice: usize) -> bool {
        let choice = &self.choices[choice];
        let free = choice.generated >= self.request.min_new_tokens || self.request.stop_ids.is_empty();
        !choice.sampling.penalizes() && free && choice.guide.is_none() && self.request.logprobs.is_none()
    }

    /// Tokens that a choice must not have yet.
    pub fn banned(&self, choice: &Choice) -> &[u32] {
        if choice.generated < self.request.min_new_tokens { &self.request.stop_ids } else { &[] }
    }

    /// The end of a choice, told to the caller.
    pub fn end(&mut self, choice: usize, reason: FinishReason) -> Flow {
        self.live -= 1;
        let ended = if self.request.max_new_tokens == 0 { 0..self.request.n } else { choice..choice + 1 };
        let mut flow = Flow::Open;
        for choice in ended {
            flow = self.outlet.send(crate::request::Event::Done { choice, reason });
        }
        flow
    }
}

impl Caller {
    pub fn new(work: Work) -> Caller {
        Caller { work, arrived: Instant::now(), started: None, paused: false }
    }

    /// Its sequences in the scheduler; some may have ended.
    pub fn sequences(&self, request: u64) -> impl Iterator<Item = u64> + use<> {
        let choices = match &self.work {
            Work::Generate(generation) => generation.choices.len(),
            Work::Score(_) => 1,
            Work::Judge(judging) => judging.sequences(),
        };
        (0..choices).map(move |choice| sequence_id(request, choice))
    }

    /// The last word to a caller whose request fails.
    pub fn fail(self, error: Error) {
        match self.work {
            Work::Generate(generation) => generation.outlet.fail(error),
            Work::Score(scoring) => drop(scoring.chunks.push(Err(error), 0)),
            Work::Judge(judging) => drop(judging.likelihoods.push(Err(error), 0)),
        }
    }

    /// Lets go of a caller who has heard everything, or does not listen.
    pub fn end(self) {
        if let Work::Generate(generation) = self.work {
            generation.outlet.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(sampling: Sampling) -> Generation {
        let request = Request { prompt: vec![7, 3, 7], n: 3, max_new_tokens: 4, sampling, ..Request::default() };
        Generation::new(request, Outlet::sink(Box::new(|_| true)))
    }

    /// A long prompt's tokens are gone through only if they are asked for, and then once.
    #[test]
    fn choices_share_what_is_known_of_their_prompt() {
        let mut plain = generation(Sampling::default());
        plain.choices[1].history.push(9);
        let known: Vec<_> = plain.choices.iter().map(|c| (c.history.position(), c.history.seen().count())).collect();
        assert_eq!(known, [(3, 0), (4, 0), (3, 0)]);
        let neutral = Sampling::default();
        for penalty in [
            Sampling { repetition_penalty: 1.1, ..neutral.clone() },
            Sampling { presence_penalty: 0.5, ..neutral.clone() },
            Sampling { frequency_penalty: -0.5, ..neutral },
        ] {
            let mut penalized = generation(penalty);
            penalized.choices[1].history.push(9);
            let [first, second, _] = &penalized.choices[..] else { panic!("three choices") };
            assert!(second.history.shares_prompt_with(&first.history));
            assert_eq!(first.history.seen().collect::<Vec<_>>(), [(7, 0), (3, 0)]);
            assert_eq!(second.history.seen().collect::<Vec<_>>(), [(7, 0), (3, 0), (9, 1)]);
        }
    }
}
