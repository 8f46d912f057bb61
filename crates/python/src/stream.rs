//! Answers as Python gets them: whole ones, and pieces of a batch that runs.
use crate::errors::unlocked;
use crate::patience::PAUSE;
use planish::{Answer, Batch, Pipeline, Step};
use planish_engine::{FinishReason, TokenLogprobs};
use pyo3::prelude::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Log-probabilities of one token: of the chosen one and of the likeliest.
type Logprobs = BTreeMap<u32, f32>;

/// An answer or a piece of one: the fields of `planish.Response`, in their order.
#[derive(IntoPyObject)]
pub struct Answered(
    String,
    usize,
    usize,
    Option<&'static str>,
    Vec<u32>,
    Option<Vec<Logprobs>>,
    usize,
    usize,
    Option<Vec<Logprobs>>,
);

impl Answered {
    /// A finished answer.
    pub fn whole(prompt: usize, answer: Answer) -> Answered {
        let ids = &answer.token_ids;
        let logprobs = of_tokens(ids, &answer.logprobs);
        let of_prompt = of_tokens(answer.prompt_token_ids.get(1..).unwrap_or_default(), &answer.prompt_logprobs);
        Answered(
            answer.text,
            ids.len(),
            answer.prompt_token_ids.len(),
            Some(answer.finish_reason.name()),
            answer.token_ids,
            logprobs,
            prompt,
            answer.choice,
            of_prompt,
        )
    }
}

fn of_tokens(ids: &[u32], each: &[TokenLogprobs]) -> Option<Vec<Logprobs>> {
    let one = |(id, l): (&u32, &TokenLogprobs)| l.top.iter().copied().chain([(*id, l.chosen)]).collect();
    (!each.is_empty()).then(|| ids.iter().zip(each).map(one).collect())
}

/// Pieces of the answers to some prompts, as they come. Dropping it ends those that run.
#[pyclass(frozen, module = "planish._planish")]
pub struct Stream {
    running: Mutex<Option<Running>>,
}

struct Running {
    /// Kept open while somebody listens.
    _pipeline: Arc<Pipeline>,
    batch: Batch,
    /// Tokens of the prompt whose log-probabilities were told.
    told: Vec<usize>,
}

#[pymethods]
impl Stream {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Answered>> {
        loop {
            let found = unlocked(py, || self.next());
            if found.is_err() {
                self.close(py)?;
            }
            match found? {
                Next::Piece(piece) => return Ok(Some(piece)),
                Next::End => return Ok(None),
                Next::Nothing => {}
            }
            py.check_signals().inspect_err(|_| self.end())?;
        }
    }

    /// Ends what is running.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        unlocked(py, || {
            self.end();
            Ok(())
        })
    }
}

enum Next {
    Piece(Answered),
    /// Not yet.
    Nothing,
    End,
}

impl Stream {
    /// Over a batch that was started.
    pub fn new(pipeline: Arc<Pipeline>, batch: Batch) -> Stream {
        let told = vec![0; batch.prompts()];
        Stream { running: Mutex::new(Some(Running { _pipeline: pipeline, batch, told })) }
    }

    fn next(&self) -> anyhow::Result<Next> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Running { batch, told, .. }) = running.as_mut() else { return Ok(Next::End) };
        if batch.is_done() {
            *running = None;
            return Ok(Next::End);
        }
        let Some(step) = batch.step(PAUSE)? else { return Ok(Next::Nothing) };
        let prompt = batch.prompt(step.prompt);
        let first = 1 + told[step.prompt];
        told[step.prompt] += step.prompt_logprobs.len();
        Ok(Next::Piece(piece(step, prompt, first)))
    }

    fn end(&self) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// What a step says; `first` is the place in the prompt of its first log-probabilities.
fn piece(step: Step, prompt: &[u32], first: usize) -> Answered {
    let (ids, logprobs) = match step.token {
        Some((id, logprobs)) => (vec![id], logprobs.map(|l| vec![l])),
        None => (Vec::new(), None),
    };
    let logprobs = of_tokens(&ids, &logprobs.unwrap_or_default());
    let of_prompt = of_tokens(prompt.get(first..).unwrap_or_default(), &step.prompt_logprobs);
    let reason = step.finish_reason.map(FinishReason::name);
    Answered(step.text, step.tokens, prompt.len(), reason, ids, logprobs, step.prompt, step.choice, of_prompt)
}
