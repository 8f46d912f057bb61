//! A request's way through the engine: taken in, told, paused, resumed, and let go, each counted once.
use super::*;
use crate::choose::Chosen;
use crate::request::{Event, FinishReason, TokenLogprobs};

impl Runner {
    /// Takes a request in; one that cannot run is answered at once.
    pub(super) fn generate(&mut self, id: u64, request: Request, outlet: Outlet) {
        let request = match admit(request, &self.config, self.vocab) {
            Ok(request) => request,
            Err(error) => {
                self.metrics.now.refused += 1;
                return outlet.fail(error);
            }
        };
        let idle = request.max_new_tokens == 0 && request.prompt_logprobs.is_none();
        let mut generation = Box::new(Generation::new(request, outlet));
        if idle {
            let _ = generation.end(0, FinishReason::Length);
            self.count_arrival(&generation.request.prompt);
            self.take_in(id, Caller::new(Work::Generate(generation)));
            return self.finish(id, |now| now.finish(FinishReason::Length));
        }
        let group = (generation.choices.len() > 1).then_some(id);
        for choice in 0..generation.choices.len() {
            self.scheduler.arrive(Arrival {
                id: sequence_id(id, choice),
                tokens: generation.request.prompt.clone(),
                priority: generation.request.priority,
                rows_from: generation.rows_from(choice),
                salt: generation.request.cache_salt.clone(),
                group,
                // The prompt's log-probabilities are told before any token.
                after: (choice > 0 && generation.request.prompt_logprobs.is_some()).then(|| sequence_id(id, 0)),
            });
        }
        self.count_arrival(&generation.request.prompt);
        self.take_in(id, Caller::new(Work::Generate(generation)));
    }

    /// Takes in a text to be scored.
    pub(super) fn score(&mut self, id: u64, tokens: Vec<u32>, first: usize, chunks: Writer<Result<ScoreChunk>>) {
        if let Err(error) = admit_score(&tokens, first, &self.config, self.vocab) {
            self.metrics.now.refused += 1;
            chunks.push(Err(error), 0);
            return;
        }
        self.count_arrival(&tokens);
        let scoring = Scoring { chunks, total: tokens.len() };
        let id_of_sequence = sequence_id(id, 0);
        self.scheduler.arrive(Arrival { id: id_of_sequence, tokens, rows_from: first, ..Arrival::default() });
        self.take_in(id, Caller::new(Work::Score(scoring)));
    }

    /// Takes in a text whose continuations are to be judged.
    pub(super) fn judge(
        &mut self,
        id: u64,
        context: &[u32],
        continuations: Vec<Vec<u32>>,
        likelihoods: Writer<Result<Likelihood>>,
    ) {
        if let Err(error) = admit_judging(context, &continuations, &self.config, self.vocab) {
            self.metrics.now.refused += 1;
            likelihoods.push(Err(error), 0);
            return;
        }
        let (judging, sequences) = Judging::new(context, continuations, likelihoods);
        self.count_arrival(context);
        let group = (sequences.len() > 1).then_some(id);
        for (i, tokens) in sequences.into_iter().enumerate() {
            let (id, rows_from) = (sequence_id(id, i), judging.rows_from(i));
            self.scheduler.arrive(Arrival { id, tokens, rows_from, group, ..Arrival::default() });
        }
        self.take_in(id, Caller::new(Work::Judge(judging)));
    }

    fn count_arrival(&mut self, prompt: &[u32]) {
        let now = &mut self.metrics.now;
        now.accepted += 1;
        now.queued += 1;
        now.prompt_tokens += prompt.len() as u64;
    }

    fn take_in(&mut self, id: u64, caller: Caller) {
        self.callers.insert(id, caller);
    }

    /// Counts the first step of a request.
    pub(super) fn start(&mut self, id: u64) {
        if let Some(caller) = self.callers.get_mut(&id).filter(|caller| caller.started.is_none()) {
            caller.started = Some(Instant::now());
            let now = &mut self.metrics.now;
            now.queued -= 1;
            now.running += 1;
            now.queue_time.record(caller.arrived.elapsed().as_secs_f64());
        }
    }

    /// Tells one continuation's news.
    pub(super) fn tell(
        &mut self,
        sequence: u64,
        prompt: Vec<TokenLogprobs>,
        tokens: impl Iterator<Item = Chosen>,
        end: Option<FinishReason>,
        at: Instant,
    ) {
        let (id, choice) = owner(sequence);
        let Some(Caller { work: Work::Generate(generation), arrived, .. }) = self.callers.get_mut(&id) else {
            return tokens.for_each(drop);
        };
        self.told |= generation.outlet.is_sink();
        let now = &mut self.metrics.now;
        let mut flow = Flow::Open;
        if !prompt.is_empty() {
            flow = generation.outlet.send(Event::Prompt(prompt));
        }
        for Chosen { id, logprobs } in tokens {
            now.generated_tokens += 1;
            if generation.begun.replace(generation.begun.unwrap_or(at)).is_none() {
                now.time_to_first_token.record((at - *arrived).as_secs_f64());
            }
            if let Some(last) = generation.choices[choice].last.replace(at) {
                now.inter_token.record((at - last).as_secs_f64());
            }
            flow = generation.outlet.send(Event::Token { choice, id, logprobs });
        }
        if let Some(reason) = end {
            flow = generation.end(choice, reason);
        }
        match (flow, end) {
            (_, Some(reason)) if generation.live == 0 => self.finish(id, |now| now.finish(reason)),
            // Who has found the end of its text has said so before it went: that is heard first.
            (Flow::Gone, _) => self.gone.push(id),
            (Flow::Full, _) => self.pause(id),
            (Flow::Open, _) => {}
        }
    }

    /// Lets those go whose callers no longer listen, and have not said why.
    pub fn cancel_gone(&mut self) {
        for id in std::mem::take(&mut self.gone) {
            self.cancel(id);
        }
    }

    /// Hands on rows of a scored text.
    pub(super) fn tell_scores(&mut self, id: u64, chunk: ScoreChunk, last: bool) {
        let Some(Caller { work: Work::Score(scoring), .. }) = self.callers.get(&id) else { return };
        match scoring.chunks.push(Ok(chunk), 1) {
            _ if last => self.finish(id, |now| now.finished_scored += 1),
            Flow::Gone => self.cancel(id),
            Flow::Full => self.pause(id),
            Flow::Open => {}
        }
    }

    /// One sequence of a judged text is read; with the last of them all its continuations are judged.
    pub(super) fn tell_likelihoods(&mut self, id: u64) {
        let Some(Caller { work: Work::Judge(judging), .. }) = self.callers.get_mut(&id) else { return };
        judging.live -= 1;
        if judging.live == 0 {
            let _ = judging.results().any(|found| judging.likelihoods.push(Ok(found), 0) == Flow::Gone);
            self.finish(id, |now| now.finished_scored += 1);
        }
    }

    /// A caller has fallen behind: its sequences wait, all others go on.
    fn pause(&mut self, id: u64) {
        if let Some(caller) = self.callers.get_mut(&id) {
            caller.paused = true;
            caller.sequences(id).for_each(|s| self.scheduler.pause(s));
        }
    }

    /// It has caught up.
    pub(super) fn resume(&mut self, id: u64) {
        if let Some(caller) = self.callers.get_mut(&id).filter(|caller| caller.paused) {
            caller.paused = false;
            caller.sequences(id).for_each(|s| self.scheduler.resume(s));
        }
    }

    /// A caller has gone: its pages are free at once.
    pub(super) fn cancel(&mut self, id: u64) {
        if let Some(caller) = self.let_go(id) {
            caller.sequences(id).for_each(|s| self.scheduler.remove(s));
            caller.end();
            self.metrics.now.cancelled += 1;
        }
    }

    /// A caller has found the end of its text before the engine did.
    pub(super) fn complete(&mut self, id: u64) {
        if let Some(caller) = self.callers.get(&id) {
            caller.sequences(id).for_each(|s| self.scheduler.remove(s));
            self.finish(id, |now| now.finish(FinishReason::Stop));
        }
    }

    /// A request has come to a good end.
    fn finish(&mut self, id: u64, count: impl FnOnce(&mut crate::metrics::Snapshot)) {
        if let Some(caller) = self.let_go(id) {
            self.count_times(&caller);
            count(&mut self.metrics.now);
            caller.end();
        }
    }

    /// Counts how long the parts of a finished request took.
    fn count_times(&mut self, caller: &Caller) {
        let (end, now) = (Instant::now(), &mut self.metrics.now);
        now.request_latency.record((end - caller.arrived).as_secs_f64());
        let Work::Generate(generation) = &caller.work else { return };
        if let (Some(started), Some(begun)) = (caller.started, generation.begun) {
            now.inference_time.record((end - started).as_secs_f64());
            now.prefill_time.record((begun - started).as_secs_f64());
            now.decode_time.record((end - begun).as_secs_f64());
        }
    }

    /// A request has come to a bad end.
    pub(super) fn fail(&mut self, id: u64, error: Error) {
        if let Some(caller) = self.let_go(id) {
            self.metrics.now.failed += 1;
            caller.fail(error);
        }
    }

    /// Takes a failed request's sequences out. What it has computed is not to be used by anyone if its numbers are in
    /// doubt: then its pages leave the prefix cache.
    pub(super) fn stop(&mut self, id: u64, error: &Error) {
        let Some(caller) = self.callers.get(&id) else { return };
        for sequence in caller.sequences(id) {
            match error.spoils() {
                true => self.spoiled.extend(self.scheduler.poison(sequence)),
                false => self.scheduler.remove(sequence),
            }
        }
    }

    /// The end of everything in flight. The scheduler may be in any state: it is not asked.
    pub fn fail_all(&mut self, error: &Error) {
        let ids: Vec<u64> = self.callers.keys().copied().collect();
        for id in ids {
            self.fail(id, error.clone());
        }
        self.metrics.publish();
    }

    /// The engine is not to be trusted any more: everyone is told, and nothing new is taken in.
    pub fn break_down(&mut self, error: Error) {
        let _ = self.broken.set(error.clone());
        self.fail_all(&error);
    }

    fn let_go(&mut self, id: u64) -> Option<Caller> {
        let caller = self.callers.remove(&id)?;
        match caller.started.is_some() {
            true => self.metrics.now.running -= 1,
            false => self.metrics.now.queued -= 1,
        }
        Some(caller)
    }
}
