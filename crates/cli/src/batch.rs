//! Prompts that are answered together: what happens to each, in the order in which it happens.
use crate::answer::{Answer, Answering};
use crate::feed::Feed;
use crate::pipeline::{Generation, Pipeline};
use anyhow::{Context, Result};
use planish_engine::{Event, FinishReason, TokenLogprobs};
use std::time::Duration;

/// Prompts in flight. Dropping it ends those that are not answered yet.
pub struct Batch {
    feed: Feed,
    answering: Vec<Answering>,
    open: usize,
}

/// What happened to one answer.
#[derive(Clone, Debug)]
pub struct Step {
    /// Number of the prompt.
    pub prompt: usize,
    /// Number of the answer to it.
    pub choice: usize,
    /// Text that became certain.
    pub text: String,
    /// A token, and its log-probabilities if asked for.
    pub token: Option<(u32, Option<TokenLogprobs>)>,
    /// Log-probabilities of further tokens of the prompt, if asked for.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    /// Why the answer has ended, if it has.
    pub finish_reason: Option<FinishReason>,
    /// Tokens of the answer so far.
    pub tokens: usize,
}

impl Batch {
    /// Starts all prompts, given as ids.
    pub fn start<'a>(
        pipeline: &Pipeline,
        prompts: impl IntoIterator<Item = (Vec<u32>, &'a Generation)>,
    ) -> Result<Batch> {
        let (mut feed, mut answering) = (Feed::default(), Vec::new());
        for (prompt, generation) in prompts {
            feed.submit(pipeline.handle(), pipeline.request(prompt.clone(), generation)?)?;
            answering.push(pipeline.answering(prompt, generation)?);
        }
        let open = answering.len();
        Ok(Batch { feed, answering, open })
    }

    /// Prompts in all.
    pub fn prompts(&self) -> usize {
        self.answering.len()
    }

    /// The token ids of a prompt.
    pub fn prompt(&self, number: usize) -> &[u32] {
        self.answering[number].prompt()
    }

    /// Whether all answers are complete.
    pub fn is_done(&self) -> bool {
        self.open == 0
    }

    /// Waits for something to happen, so long at most. Not to be called once all is done: nothing happens then.
    ///
    /// # Errors
    /// A prompt failed, which is named if there are several; or the engine has.
    pub fn step(&mut self, patience: Duration) -> Result<Option<Step>> {
        let Some(arrival) = self.feed.next_within(patience)? else { return Ok(None) };
        let (prompt, count) = (arrival.request, self.answering.len());
        let answers = &mut self.answering[prompt];
        if answers.is_done() {
            return Ok(None);
        }
        let mut step = Step::of(prompt, &arrival.event);
        // A token that comes after a stop string is none of its answer.
        let open = answers.finish_reason(step.choice).is_none();
        let done = answers.take(arrival.event, &mut |_, piece| step.text.push_str(piece));
        let done = match count {
            1 => done?,
            _ => done.with_context(|| format!("prompt {} of {count}", prompt + 1))?,
        };
        (step.tokens, step.finish_reason) = (answers.tokens(step.choice), answers.finish_reason(step.choice));
        if done {
            self.feed.complete(prompt);
            self.open -= 1;
        }
        Ok(open.then_some(step))
    }

    /// Runs to the end.
    pub fn finish(mut self) -> Result<Vec<Answer>> {
        while !self.is_done() {
            self.step(Duration::from_secs(60))?;
        }
        Ok(self.into_answers())
    }

    /// What there is: all answers to the first prompt, then those to the second, …
    pub fn into_answers(self) -> Vec<Answer> {
        self.answering.into_iter().flat_map(Answering::into_answers).collect()
    }
}

impl Step {
    fn of(prompt: usize, event: &Event) -> Step {
        let (choice, token, prompt_logprobs) = match event {
            Event::Token { choice, id, logprobs } => (*choice, Some((*id, logprobs.clone())), Vec::new()),
            Event::Prompt(logprobs) => (0, None, logprobs.clone()),
            Event::Done { choice, .. } => (*choice, None, Vec::new()),
            Event::Failed(_) => (0, None, Vec::new()),
        };
        Step { prompt, choice, text: String::new(), token, prompt_logprobs, finish_reason: None, tokens: 0 }
    }
}
