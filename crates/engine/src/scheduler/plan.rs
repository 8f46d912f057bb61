//! The choice of a step: decodes, then chunks of prompts, then newcomers.
use super::sequence::{Rank, Sequence};
use super::{Scheduler, Slice};
use std::ops::Bound::{Excluded, Unbounded};

/// A step that grows, and what is left of its budget.
struct Plan {
    slices: Vec<Slice>,
    tokens: usize,
    rows: usize,
}

impl Scheduler {
    /// Chooses the next step and makes room for it. Empty only when no sequence is ready (all wait for their owner, or
    /// are paused), or when a lone sequence outgrows the pool.
    pub fn schedule(&mut self) -> Vec<Slice> {
        self.step += 1;
        for sequence in &mut self.running {
            sequence.publish();
        }
        self.raise();
        let slices = Vec::with_capacity(self.limits.sequences.min(self.running.len() + self.waiting.len()));
        let mut plan = Plan { slices, tokens: self.limits.tokens, rows: self.limits.rows };
        let before = self.preemptions;
        self.plan_decodes(&mut plan);
        self.plan_chunks(&mut plan);
        // Who has just given way must not come back into the pages that it left.
        if self.preemptions == before {
            self.admit(&mut plan);
        }
        for s in self.running.iter_mut().filter(|s| s.planned_at != self.step && s.is_ready()) {
            s.waited += 1;
        }
        plan.slices
    }

    /// Marks a step's tokens as computed.
    pub fn complete(&mut self, plan: &[Slice]) {
        for slice in plan {
            let s = &mut self.running[slice.index];
            s.computed = slice.start + slice.count;
            s.wanted_from = s.wanted_from.max(s.computed);
        }
    }

    /// Puts those who were passed over too often above all others.
    fn raise(&mut self) {
        while let Some(&(due, rank)) = self.due.first()
            && due <= self.step
        {
            let Some(mut sequence) = self.dequeue(rank) else {
                self.due.pop_first();
                continue;
            };
            sequence.rank = rank.risen();
            self.ranks.insert(sequence.id, sequence.rank);
            self.enqueue(sequence);
        }
        let patience = self.patience;
        let tired = |s: &Sequence| s.waited >= patience && !s.rank.is_risen();
        if self.running.iter().any(tired) {
            for s in self.running.iter_mut().filter(|s| tired(s)) {
                s.rank = s.rank.risen();
                self.ranks.insert(s.id, s.rank);
            }
            self.running.sort_unstable_by_key(|s| s.rank);
        }
    }

    /// One token, and drafts, of each sequence that generates; a page for the next token of each that runs.
    fn plan_decodes(&mut self, plan: &mut Plan) {
        // A risen sequence that still reads its prompt moves by at least one token.
        let first = self.running.iter().find(|s| s.is_ready());
        let kept = first.is_some_and(|s| s.rank.is_risen() && !s.decodes()) as usize;
        let mut behind = self.running.iter().filter(|s| s.decodes()).count();
        let mut index = 0;
        while index < self.running.len() && plan.tokens > 0 {
            let s = &self.running[index];
            let (decodes, drafts, end) = (s.decodes(), s.drafts.len(), s.computed + 1);
            let left = plan.tokens.min(plan.rows).saturating_sub(kept);
            if s.is_ready() && (left > 0 || !decodes) {
                self.make_room(index, end);
                if decodes {
                    behind -= 1;
                    // Drafts take only what no other decode needs, and no other's pages.
                    let spare = (left - 1).saturating_sub(behind).min(drafts);
                    self.running[index].lease.grow(end + spare);
                    self.take_stretch(index, 1 + spare, 1 + spare, plan);
                }
            }
            index += 1;
        }
    }

    /// Stretches of prompts with the rest of the budget.
    fn plan_chunks(&mut self, plan: &mut Plan) {
        for index in 0..self.running.len() {
            let s = &mut self.running[index];
            if plan.tokens > 0 && s.is_ready() && s.planned_at != self.step {
                s.lease.grow(s.tokens.len());
                self.take_stretch(index, plan.tokens, plan.rows, plan);
            }
        }
    }

    /// Starts waiting sequences, best rank first, while tokens, places and pages last. Nobody goes past one that only
    /// lacks pages. Rows need not last: a prompt is read without, up to its last token.
    fn admit(&mut self, plan: &mut Plan) {
        let mut passed = None;
        while plan.tokens > 0 && self.running.len() < self.limits.sequences {
            let mut behind = match passed {
                None => self.waiting.range(..),
                Some(rank) => self.waiting.range((Excluded(rank), Unbounded)),
            };
            let Some((&rank, next)) = behind.find(|(_, s)| s.is_ready()) else { return };
            if self.rows_are_coming(next) || self.lacks_rows(next, plan) || self.prefix_is_coming(next, plan) {
                passed = Some(rank);
            } else if !self.seat(rank, plan) {
                return;
            }
        }
    }

    /// True if the sequence that the newcomer follows has rows of their prompt to give.
    fn rows_are_coming(&self, newcomer: &Sequence) -> bool {
        let first = newcomer.after.and_then(|id| self.get(id));
        first.is_some_and(|first| first.wanted_from + 1 < newcomer.tokens.len())
    }

    /// True if a place would be of no use to the newcomer in this step, which has no rows left for it.
    ///
    /// A risen sequence takes its place all the same: the wait is bounded.
    fn lacks_rows(&self, newcomer: &Sequence, plan: &Plan) -> bool {
        if plan.rows > 0 || newcomer.rank.is_risen() {
            return false;
        }
        let known = || newcomer.root.as_ref().map_or(0, |root| self.pages.known(root, newcomer.adoptable()));
        let computed = if newcomer.lease.pages().is_empty() { known() } else { newcomer.computed };
        computed >= newcomer.wanted_from
    }

    /// True if a sequence of this step computes pages now that the newcomer could share if it waited.
    ///
    /// Nobody waits for one that does not move, and a risen sequence waits for nobody: the wait is bounded.
    fn prefix_is_coming(&self, newcomer: &Sequence, plan: &Plan) -> bool {
        if newcomer.rank.is_risen() || !newcomer.lease.pages().is_empty() {
            return false;
        }
        let (Some(root), size) = (&newcomer.root, self.pages.page_size()) else { return false };
        let wanted = newcomer.adoptable();
        let coming = plan.slices.iter().map(|slice| &self.running[slice.index]).filter_map(|other| {
            if other.decodes() || other.root.as_ref() != Some(root) {
                return None;
            }
            let pages = wanted.chunks_exact(size).zip(other.tokens.chunks_exact(size));
            let shared = pages.take_while(|(a, b)| a == b).count() * size;
            (shared > other.computed).then_some(shared)
        });
        coming.max().is_some_and(|coming| coming > self.pages.known(root, wanted))
    }

    /// Gives a waiting sequence a place and pages for all its tokens; false, and it goes on waiting, if there are too few.
    fn seat(&mut self, rank: Rank, plan: &mut Plan) -> bool {
        let Some(mut s) = self.dequeue(rank) else { return false };
        let fresh = s.lease.pages().is_empty();
        if fresh {
            s.adopt();
        }
        let adopted = s.computed;
        while !s.lease.grow(s.tokens.len()) {
            if !self.strip_one() {
                if fresh {
                    s.lease.release();
                    s.restart();
                }
                self.enqueue(s);
                return false;
            }
        }
        if fresh && s.root.is_some() {
            self.prefix_queries += s.tokens.len() as u64;
            self.prefix_hits += adopted as u64;
        }
        s.after = None;
        let index = self.running.partition_point(|other| other.rank < rank);
        self.running.insert(index, s);
        for slice in plan.slices.iter_mut().filter(|slice| slice.index >= index) {
            slice.index += 1;
        }
        self.take_stretch(index, plan.tokens, plan.rows, plan);
        true
    }

    /// Adds a stretch of a running sequence to the plan, if there is one.
    fn take_stretch(&mut self, index: usize, tokens: usize, rows: usize, plan: &mut Plan) {
        let s = &mut self.running[index];
        let (count, rows) = s.stretch(tokens, rows);
        if count == 0 {
            return;
        }
        s.planned_at = self.step;
        let (start, drafts) = (s.computed, (s.computed + count).saturating_sub(s.tokens.len()));
        plan.tokens -= count;
        plan.rows -= rows;
        plan.slices.push(Slice { index, start, count, rows, drafts });
    }

    /// Grows a running sequence's lease, taking pages from those without a place, then from those behind it. The last
    /// of all keeps what it has and waits for those before it.
    fn make_room(&mut self, index: usize, tokens: usize) {
        while !self.running[index].lease.grow(tokens) {
            if self.strip_one() {
                continue;
            }
            if index + 1 == self.running.len() {
                return;
            }
            let Some(mut last) = self.running.pop() else { return };
            last.release();
            self.preemptions += 1;
            self.enqueue(last);
        }
    }

    /// Takes the pages of one sequence that has no place: of the last of the paused, else of the waiting.
    fn strip_one(&mut self) -> bool {
        let holds = |s: &&mut Sequence| !s.lease.pages().is_empty();
        let mut without_place = self.paused.values_mut().rev().chain(self.waiting.values_mut().rev());
        let Some(sequence) = without_place.find(holds) else { return false };
        sequence.release();
        self.preemptions += 1;
        true
    }
}
