//! Which tokens run in the next step: a state machine on plain data, without device, clock or channel.
//!
//! Every sequence is a list of known tokens of which the first `computed` are in the KV cache. A step takes, in order
//! of arrival, a stretch of each sequence within the token budget: one token of a sequence that generates, a chunk of a
//! prompt. When pages run out, the newest sequence gives its pages back and is computed again later.
use crate::pages::{Lease, Pages};
use std::collections::VecDeque;

/// Bounds of a step.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tokens in one step.
    pub tokens: usize,
    /// Rows of logits in one step.
    pub rows: usize,
    /// Sequences running at once.
    pub sequences: usize,
}

/// One sequence. `id` is the owner's key.
#[derive(Debug)]
pub struct Sequence {
    /// The owner's key.
    pub id: u64,
    /// Prompt and generated tokens.
    pub tokens: Vec<u32>,
    /// Tokens whose keys and values are in the cache.
    pub computed: usize,
    /// Every position's logits are wanted, not only the last.
    pub scored: bool,
    /// Positions of a scored sequence whose logits were given: once is enough, though they may be computed again.
    told: usize,
    lease: Lease,
}

impl Sequence {
    /// Where its keys and values are.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }
}

/// A stretch of one sequence in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Index among the running sequences.
    pub index: usize,
    /// First token.
    pub start: usize,
    /// Tokens.
    pub count: usize,
    /// Logits wanted: of all tokens of the slice, of the last, or none.
    pub rows: usize,
}

/// The waiting and the running.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    pages: Pages,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    preemptions: u64,
}

impl Scheduler {
    /// No sequences yet.
    pub fn new(limits: Limits, pages: Pages) -> Scheduler {
        Scheduler { limits, pages, waiting: VecDeque::new(), running: Vec::new(), preemptions: 0 }
    }

    /// Adds a sequence at the end of the queue.
    pub fn arrive(&mut self, id: u64, tokens: Vec<u32>, scored: bool) {
        let lease = self.pages.lease();
        self.waiting.push_back(Sequence { id, tokens, computed: 0, scored, told: 0, lease });
    }

    /// Forgets a sequence, wherever it is; its pages are free at once.
    pub fn remove(&mut self, id: u64) {
        self.waiting.retain(|s| s.id != id);
        self.running.retain(|s| s.id != id);
    }

    /// Sequences that hold pages, oldest first.
    pub fn running(&self) -> &[Sequence] {
        &self.running
    }

    /// Appends a generated token.
    pub fn push(&mut self, id: u64, token: u32) {
        if let Some(s) = self.running.iter_mut().find(|s| s.id == id) {
            s.tokens.push(token);
        }
    }

    /// True when there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Sequences that waited again because pages ran out.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// Chooses the next step and makes room for it. Empty only when idle, or when a lone sequence outgrows the pool.
    pub fn schedule(&mut self) -> Vec<Slice> {
        let mut plan: Vec<Slice> = Vec::new();
        let (mut tokens, mut rows) = (self.limits.tokens, self.limits.rows);
        let preempted_before = self.preemptions;
        let mut index = 0;
        while index < self.running.len() && tokens > 0 && rows > 0 {
            let slice = self.stretch(index, tokens, rows);
            if !self.make_room(index, slice.start + slice.count) {
                // It was itself the newest and has given way.
                break;
            }
            tokens -= slice.count;
            rows -= slice.rows;
            plan.push(slice);
            index += 1;
        }
        if self.preemptions == preempted_before {
            self.admit(tokens, rows, &mut plan);
        }
        plan
    }

    /// Marks a step's tokens as computed.
    pub fn complete(&mut self, plan: &[Slice]) {
        for slice in plan {
            let s = &mut self.running[slice.index];
            s.computed = slice.start + slice.count;
            s.told = s.told.max(s.computed);
        }
    }

    /// Checks that every page is free or in exactly one lease.
    pub fn check_integrity(&self) -> Result<(), String> {
        let mut seen = vec![false; self.pages.total()];
        let leased = self.running.iter().chain(&self.waiting).flat_map(|s| s.lease.pages());
        let mut count = 0;
        for &page in leased {
            if std::mem::replace(&mut seen[page as usize], true) {
                return Err(format!("page {page} has two owners"));
            }
            count += 1;
        }
        match count + self.pages.free() == self.pages.total() {
            true => Ok(()),
            false => Err(format!("{count} leased + {} free of {} pages", self.pages.free(), self.pages.total())),
        }
    }

    /// As much of a running sequence as the budget allows.
    fn stretch(&self, index: usize, tokens: usize, rows: usize) -> Slice {
        let s = &self.running[index];
        if s.scored && s.computed < s.told {
            return Slice { index, start: s.computed, count: tokens.min(s.told - s.computed), rows: 0 };
        }
        let left = s.tokens.len() - s.computed;
        let count = if s.scored { left.min(tokens).min(rows) } else { left.min(tokens) };
        let rows = match (s.scored, count == left) {
            (true, _) => count,
            (false, last) => last as usize,
        };
        Slice { index, start: s.computed, count, rows }
    }

    /// Grows a sequence's lease, taking pages from the newest if it must. False if `index` itself had to give way.
    fn make_room(&mut self, index: usize, tokens: usize) -> bool {
        while !self.running[index].lease.grow(tokens) {
            let mut newest = self.running.pop().expect("index is in range");
            let itself = self.running.len() == index;
            newest.lease.release();
            newest.computed = 0;
            self.preemptions += 1;
            self.waiting.push_front(newest);
            if itself {
                return false;
            }
        }
        true
    }

    /// Starts waiting sequences while budget, places and pages last.
    fn admit(&mut self, mut tokens: usize, mut rows: usize, plan: &mut Vec<Slice>) {
        while tokens > 0 && rows > 0 && self.running.len() < self.limits.sequences {
            let Some(next) = self.waiting.pop_front() else { return };
            let index = self.running.len();
            self.running.push(next);
            let slice = self.stretch(index, tokens, rows);
            if !self.running[index].lease.grow(slice.start + slice.count) {
                self.waiting.extend(self.running.pop());
                self.waiting.rotate_right(1);
                return;
            }
            tokens -= slice.count;
            rows -= slice.rows;
            plan.push(slice);
        }
    }
}
