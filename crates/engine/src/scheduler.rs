//! Which tokens run in the next step: a state machine on plain data, without device, clock or channel.
//!
//! Every sequence is a list of known tokens of which the first `computed` are in the KV cache. A step takes, in order of
//! rank (priority, then arrival), one token of each sequence that generates and then chunks of prompts, within a budget
//! of tokens and of rows of logits. When pages run out, the last in rank gives its pages back and is computed again
//! later. A sequence that was passed over for `patience` steps in its life goes before all priorities, so that every
//! sequence comes to its end.
//!
//! A step: `schedule`, run what it says, `complete`, then `push`, `settle`, `remove` or `poison` for what came out.
//! Between `schedule` and `complete` nothing else may be called that moves sequences.
mod fault;
mod plan;
mod sequence;

use crate::pages::Pages;
use crate::prefix::Root;
use sequence::Rank;
pub use sequence::{Arrival, Sequence};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Steps that a sequence may be passed over before it goes first, unless told otherwise.
pub const PATIENCE: u64 = 256;

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

/// A stretch of one sequence in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Index among the running sequences.
    pub index: usize,
    /// First position.
    pub start: usize,
    /// Tokens, drafts included.
    pub count: usize,
    /// The last so many of them give logits.
    pub rows: usize,
    /// The last so many of them are drafts, the first of those that were proposed.
    pub drafts: usize,
}

/// What there is, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences that wait for a place.
    pub waiting: usize,
    /// Sequences that have a place.
    pub running: usize,
    /// Sequences that were paused.
    pub paused: usize,
    /// All pages.
    pub pages_total: usize,
    /// Pages that nobody leases or knows.
    pub pages_free: usize,
    /// Pages that nobody leases, kept for their tokens until they are needed.
    pub pages_cached: usize,
    /// Tokens of admitted sequences that were looked for in the prefix cache, since the start.
    pub prefix_queries: u64,
    /// Those of them that were found.
    pub prefix_hits: u64,
    /// Times that a sequence had to give its pages to others.
    pub preemptions: u64,
}

/// All sequences: the running, the waiting and the paused.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    pages: Pages,
    prefix_cache: bool,
    patience: u64,
    /// By rank.
    running: Vec<Sequence>,
    waiting: BTreeMap<Rank, Sequence>,
    /// They keep their pages until others need them.
    paused: BTreeMap<Rank, Sequence>,
    /// Where each sequence is to be looked for.
    ranks: HashMap<u64, Rank>,
    /// When each waiting sequence that has not risen yet will rise.
    due: BTreeSet<(u64, Rank)>,
    /// Living members of each group; kept only where the prefix cache is off.
    groups: HashMap<u64, usize>,
    arrivals: u64,
    step: u64,
    prefix_queries: u64,
    prefix_hits: u64,
    preemptions: u64,
}

impl Scheduler {
    /// No sequences yet.
    pub fn new(limits: Limits, pages: Pages, prefix_cache: bool) -> Scheduler {
        Scheduler {
            limits,
            pages,
            prefix_cache,
            patience: PATIENCE,
            running: Vec::new(),
            waiting: BTreeMap::new(),
            paused: BTreeMap::new(),
            ranks: HashMap::new(),
            due: BTreeSet::new(),
            groups: HashMap::new(),
            arrivals: 0,
            step: 0,
            prefix_queries: 0,
            prefix_hits: 0,
            preemptions: 0,
        }
    }

    /// Another number of steps after which a sequence that is passed over goes first.
    pub fn with_patience(self, patience: u64) -> Scheduler {
        Scheduler { patience, ..self }
    }

    /// Adds a sequence. An id that is here already replaces the sequence that had it.
    pub fn arrive(&mut self, arrival: Arrival) {
        self.remove(arrival.id);
        let rank = Rank::new(arrival.priority, self.arrivals);
        self.arrivals += 1;
        let group = arrival.group.filter(|_| !self.prefix_cache);
        if let Some(group) = group {
            *self.groups.entry(group).or_default() += 1;
        }
        let root = match self.prefix_cache {
            true => Some(Root::Salt(arrival.salt.map(Into::into))),
            false => group.map(Root::Group),
        };
        self.ranks.insert(arrival.id, rank);
        self.enqueue(Sequence {
            id: arrival.id,
            computed: 0,
            drafts: Vec::new(),
            wanted_from: arrival.rows_from.min(arrival.tokens.len().saturating_sub(1)),
            tokens: arrival.tokens,
            rank,
            root,
            group,
            after: arrival.after,
            lease: self.pages.lease(),
            planned_at: 0,
            waited: 0,
            waits_since: 0,
        });
    }

    /// Forgets a sequence, wherever it is; its pages are free, or cached, at once.
    pub fn remove(&mut self, id: u64) {
        let Some(mut sequence) = self.take(id) else { return };
        sequence.release();
        self.forget(&sequence);
    }

    /// Sequences that have a place, best rank first.
    pub fn running(&self) -> &[Sequence] {
        &self.running
    }

    /// Index among the running sequences, of one that runs.
    pub fn place(&self, id: u64) -> Option<usize> {
        let rank = self.ranks.get(&id)?;
        self.running.binary_search_by_key(rank, |s| s.rank).ok()
    }

    /// Appends a generated token.
    pub fn push(&mut self, id: u64, token: u32) {
        self.settle(id, &[token]);
    }

    /// Gives a sequence that generates tokens to verify in its next slice, in the place of earlier ones. Without effect
    /// on one that does not run or has more than its last token to compute.
    pub fn propose(&mut self, id: u64, drafts: &[u32]) {
        if let Some(sequence) = self.find(id).filter(|s| s.decodes() && !s.lease.pages().is_empty()) {
            sequence.drafts.clear();
            sequence.drafts.extend_from_slice(drafts);
        }
    }

    /// Appends the tokens that were really chosen after the last one, at least one. Drafts that agree with them stay
    /// computed, the others are dropped.
    pub fn settle(&mut self, id: u64, chosen: &[u32]) {
        if let Some(sequence) = self.find(id) {
            sequence.settle(chosen);
        }
    }

    /// Puts the token that was really chosen in the place of the last one, which was pushed as a guess and is not
    /// computed yet.
    pub fn amend(&mut self, id: u64, token: u32) {
        if let Some(last) = self.find(id).and_then(|sequence| sequence.tokens.last_mut()) {
            *last = token;
        }
    }

    /// Takes a sequence out of the running. It keeps its pages until others need them.
    pub fn pause(&mut self, id: u64) {
        if let Some(mut sequence) = self.take(id) {
            sequence.publish();
            self.ranks.insert(id, sequence.rank);
            self.paused.insert(sequence.rank, sequence);
        }
    }

    /// Lets a paused sequence wait for its turn again.
    pub fn resume(&mut self, id: u64) {
        if let Some(sequence) = self.ranks.get(&id).and_then(|rank| self.paused.remove(rank)) {
            self.enqueue(sequence);
        }
    }

    /// Lets pages that `poison` returned be used again.
    pub fn cleared(&mut self, pages: &[u32]) {
        self.pages.cleared(pages);
    }

    /// True when there are no sequences, not even paused ones.
    pub fn is_idle(&self) -> bool {
        self.ranks.is_empty()
    }

    /// What there is, in numbers.
    pub fn stats(&self) -> Stats {
        Stats {
            waiting: self.waiting.len(),
            running: self.running.len(),
            paused: self.paused.len(),
            pages_total: self.pages.total(),
            pages_free: self.pages.free(),
            pages_cached: self.pages.cached(),
            prefix_queries: self.prefix_queries,
            prefix_hits: self.prefix_hits,
            preemptions: self.preemptions,
        }
    }

    fn find(&mut self, id: u64) -> Option<&mut Sequence> {
        if let Some(index) = self.place(id) {
            return Some(&mut self.running[index]);
        }
        let rank = *self.ranks.get(&id)?;
        self.waiting.get_mut(&rank).or_else(|| self.paused.get_mut(&rank))
    }

    fn get(&self, id: u64) -> Option<&Sequence> {
        let rank = self.ranks.get(&id)?;
        match self.place(id) {
            Some(index) => Some(&self.running[index]),
            None => self.waiting.get(rank).or_else(|| self.paused.get(rank)),
        }
    }

    /// Takes a sequence out, wherever it is.
    fn take(&mut self, id: u64) -> Option<Sequence> {
        let rank = self.ranks.remove(&id)?;
        match self.running.binary_search_by_key(&rank, |s| s.rank) {
            Ok(index) => Some(self.running.remove(index)),
            Err(_) => self.dequeue(rank).or_else(|| self.paused.remove(&rank)),
        }
    }

    /// The last member of a group takes what is cached for it along.
    fn forget(&mut self, gone: &Sequence) {
        let Some(group) = gone.group else { return };
        if let Some(members) = self.groups.get_mut(&group) {
            *members -= 1;
            if *members == 0 {
                self.groups.remove(&group);
                self.pages.forget(&Root::Group(group));
            }
        }
    }

    /// Begins a wait.
    fn enqueue(&mut self, mut sequence: Sequence) {
        sequence.waits_since = self.step;
        if !sequence.rank.is_risen() {
            self.due.insert((self.due_step(&sequence), sequence.rank));
        }
        self.waiting.insert(sequence.rank, sequence);
    }

    /// Ends a wait.
    fn dequeue(&mut self, rank: Rank) -> Option<Sequence> {
        let mut sequence = self.waiting.remove(&rank)?;
        self.due.remove(&(self.due_step(&sequence), rank));
        sequence.waited += self.step - sequence.waits_since;
        Some(sequence)
    }

    fn due_step(&self, sequence: &Sequence) -> u64 {
        sequence.waits_since + self.patience.saturating_sub(sequence.waited)
    }
}
