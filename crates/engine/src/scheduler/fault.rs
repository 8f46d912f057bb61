//! What is done when numbers go wrong, and the proof that nothing else has.
use super::Scheduler;
use super::sequence::Sequence;

impl Scheduler {
    /// Forgets a sequence whose logits were NaN, and takes all that it may have spoilt out of use: its pages, and what
    /// the prefix cache holds below them. Returns pages that must be overwritten, with zeros say, and then given to
    /// `cleared`: a kernel that reads a page whole would carry a NaN into sequences that have nothing to do with it.
    ///
    /// Others that share its first page give way and are computed again, on other pages. They need not fail: where the
    /// shared tokens themselves lead to NaN it shows in their own logits, since every position attends to all before it.
    pub fn poison(&mut self, id: u64) -> Vec<u32> {
        let Some(mut sequence) = self.take(id) else { return Vec::new() };
        let mut pages = Vec::new();
        if let Some(&first) = sequence.lease.pages().first() {
            pages = self.pages.condemn(first);
            pages.extend(sequence.lease.release_soiled());
            self.give_way_from(first, &mut pages);
        }
        self.forget(&sequence);
        pages
    }

    /// Makes all who lease a page that left the prefix cache begin again. A shared page is shared with all pages before
    /// it, so that sharing anything means sharing the first.
    fn give_way_from(&mut self, first: u32, pages: &mut Vec<u32>) {
        let shares = |s: &Sequence| s.lease.pages().first() == Some(&first);
        let mut restart = |s: &mut Sequence| {
            pages.extend(s.lease.release_soiled());
            s.restart();
            self.preemptions += 1;
        };
        self.waiting.values_mut().chain(self.paused.values_mut()).filter(|s| shares(s)).for_each(&mut restart);
        let mut unseated = Vec::new();
        for index in (0..self.running.len()).rev() {
            if shares(&self.running[index]) {
                restart(&mut self.running[index]);
                unseated.push(self.running.remove(index));
            }
        }
        for sequence in unseated {
            self.enqueue(sequence);
        }
    }

    /// Checks all that must hold between two steps: each page is free, cached, to be cleared, or in as many leases as
    /// are counted; chains hang together; every sequence is in its place, its shared pages hold its own tokens, and what
    /// it has computed has room. Takes time in proportion to the pages and to the tokens in them.
    pub fn check_integrity(&self) -> Result<(), String> {
        let parted = self.waiting.iter().chain(&self.paused);
        let all = || self.running.iter().chain(self.waiting.values()).chain(self.paused.values());
        self.pages.check(all().map(|s| &s.lease))?;
        if !self.running.is_sorted_by(|a, b| a.rank < b.rank) || parted.into_iter().any(|(&rank, s)| s.rank != rank) {
            return Err("sequences are out of order".into());
        }
        let count = all().count();
        if count != self.ranks.len() || all().any(|s| self.ranks.get(&s.id) != Some(&s.rank)) {
            return Err(format!("{count} sequences, {} known by id", self.ranks.len()));
        }
        let due = self.waiting.values().filter(|s| !s.rank.is_risen());
        if due.clone().count() != self.due.len()
            || due.into_iter().any(|s| !self.due.contains(&(self.due_step(s), s.rank)))
        {
            return Err("a waiting sequence does not know when it rises".into());
        }
        let members = all().filter(|s| s.group.is_some()).count();
        if members != self.groups.values().sum::<usize>() || self.groups.values().any(|&n| n == 0) {
            return Err("groups and their members differ".into());
        }
        all().try_for_each(check_sequence)
    }
}

fn check_sequence(s: &Sequence) -> Result<(), String> {
    let (id, computed, drafted) = (s.id, s.computed, s.tokens.len() + s.drafts.len());
    if computed > drafted || computed > s.lease.capacity() {
        let room = s.lease.capacity();
        return Err(format!("sequence {id}: {computed} of {drafted} tokens computed, room for {room}"));
    }
    let shared = s.lease.shared();
    let own = match &s.root {
        Some(root) => shared <= computed && s.lease.follows(root, s.tokens.get(..shared).unwrap_or_default()),
        None => shared == 0,
    };
    if own { Ok(()) } else { Err(format!("sequence {id}: the {shared} tokens of its shared pages are not its own")) }
}
