//! Sends a load of requests and notes when each of its tokens came.
use super::statistics::Distribution;
use anyhow::{Context, Result, anyhow};
use planish::feed::Feed;
use planish_engine::{Event, Handle, Request};
use std::time::{Duration, Instant};

/// One request of a load: its answer has exactly `output` tokens.
pub fn job(prompt: Vec<u32>, output: usize) -> Request {
    Request { prompt, max_new_tokens: output, ..Request::default() }
}

/// What became of one request.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// Tokens of its prompt.
    pub prompt: usize,
    /// When it was sent.
    pub sent: Instant,
    /// When each token came.
    pub tokens: Vec<Instant>,
    /// When it ended.
    pub ended: Instant,
}

impl Timeline {
    /// Milliseconds to the first token.
    pub fn first(&self) -> f64 {
        milliseconds(self.tokens.first().unwrap_or(&self.ended).duration_since(self.sent))
    }

    /// Milliseconds for each token after the first; none if there is none.
    pub fn each(&self) -> Option<f64> {
        let (first, last) = (self.tokens.first()?, self.tokens.last()?);
        (self.tokens.len() > 1).then(|| milliseconds(last.duration_since(*first)) / (self.tokens.len() - 1) as f64)
    }

    /// Milliseconds between neighbouring tokens.
    pub fn gaps(&self) -> impl Iterator<Item = f64> + '_ {
        self.tokens.windows(2).map(|w| milliseconds(w[1].duration_since(w[0])))
    }

    /// Milliseconds to the end.
    pub fn whole(&self) -> f64 {
        milliseconds(self.ended.duration_since(self.sent))
    }
}

/// A load that ran.
#[derive(Clone, Debug)]
pub struct Run {
    /// When the first request was sent.
    pub start: Instant,
    /// When the last one ended.
    pub end: Instant,
    /// In order of sending.
    pub requests: Vec<Timeline>,
}

impl Run {
    /// Seconds from start to end.
    pub fn seconds(&self) -> f64 {
        self.end.duration_since(self.start).as_secs_f64()
    }

    /// Tokens of all answers.
    pub fn generated(&self) -> usize {
        self.requests.iter().map(|r| r.tokens.len()).sum()
    }

    /// Tokens of all prompts.
    pub fn prompts(&self) -> usize {
        self.requests.iter().map(|r| r.prompt).sum()
    }

    /// A time of each request that has it.
    pub fn of(&self, time: impl Fn(&Timeline) -> Option<f64>) -> Distribution {
        self.requests.iter().filter_map(time).collect()
    }
}

/// Milliseconds of a duration.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Sends all jobs, at most `together` of them at once, and waits for the last; `ended` hears how many are over.
pub fn drive(handle: &Handle, jobs: &[Request], together: usize, mut ended: impl FnMut(usize)) -> Result<Run> {
    let mut feed = Feed::default();
    let start = Instant::now();
    let mut requests: Vec<Timeline> = Vec::with_capacity(jobs.len());
    let (mut waiting, mut over) = (jobs.iter(), 0);
    let mut send = |requests: &mut Vec<Timeline>, feed: &mut Feed| -> Result<()> {
        let Some(job) = waiting.next() else { return Ok(()) };
        let (sent, tokens) = (Instant::now(), Vec::with_capacity(job.max_new_tokens));
        requests.push(Timeline { prompt: job.prompt.len(), sent, tokens, ended: sent });
        feed.submit(handle, job.clone())
    };
    for _ in 0..together.min(jobs.len()) {
        send(&mut requests, &mut feed)?;
    }
    while over < jobs.len() {
        let arrival = feed.next()?;
        let timeline = &mut requests[arrival.request];
        match arrival.event {
            Event::Token { .. } => timeline.tokens.push(arrival.at),
            Event::Done { .. } => {
                timeline.ended = arrival.at;
                over += 1;
                ended(over);
                send(&mut requests, &mut feed)?;
            }
            Event::Failed(error) => {
                return Err(anyhow!(error)).with_context(|| format!("request {}", arrival.request + 1));
            }
            Event::Prompt(_) => {}
        }
    }
    let end = requests.iter().map(|r| r.ended).max().unwrap_or(start);
    Ok(Run { start, end, requests })
}
