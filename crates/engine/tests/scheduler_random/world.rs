//! A scheduler, all that should hold about it, and the events that happen to it.
use crate::oracle::{Owned, Random, Slots, VOCAB};
use planish_engine::pages::Pages;
use planish_engine::scheduler::{Arrival, Limits, Scheduler, Slice};

/// Sequences known at once.
const MOST: usize = 12;

/// Steps, its patience over, until a sequence has had its turn: those before it end first, a token a step, and their
/// owners may be late. The worlds here need some 220; where nobody rises it takes far more.
const LONGEST_TURN: usize = 300;

/// What has happened.
#[derive(Debug, Default)]
pub struct Counts {
    pub events: usize,
    pub finished: usize,
    pub cancelled: usize,
    pub pauses: usize,
    pub poisoned: usize,
    pub late: usize,
    pub drafts_right: usize,
    pub drafts_wrong: usize,
    pub hits: u64,
    pub preemptions: u64,
    pub longest_wait: usize,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.events += other.events;
        self.finished += other.finished;
        self.cancelled += other.cancelled;
        self.pauses += other.pauses;
        self.poisoned += other.poisoned;
        self.late += other.late;
        self.drafts_right += other.drafts_right;
        self.drafts_wrong += other.drafts_wrong;
        self.hits += other.hits;
        self.preemptions += other.preemptions;
        self.longest_wait = self.longest_wait.max(other.longest_wait);
    }
}

pub struct World {
    scheduler: Scheduler,
    limits: Limits,
    slots: Slots,
    prefix_cache: bool,
    patience: usize,
    /// Tokens that the pool holds: no sequence may be longer.
    longest: usize,
    /// Beginnings that prompts share.
    texts: Vec<Vec<u32>>,
    owned: Vec<Owned>,
    /// Pages that wait to be cleared.
    spoilt: Vec<u32>,
    next_id: u64,
    counts: Counts,
}

impl World {
    pub fn new(random: &mut Random) -> World {
        let limits =
            Limits { tokens: random.between(1, 30), rows: random.between(1, 12), sequences: random.between(1, 8) };
        let (total, page_size) = (random.between(1, 16), random.between(1, 5));
        let pages = Pages::new(total, page_size);
        let (prefix_cache, patience) = (!random.once_in(4), random.between(1, 60));
        let longest = (total * page_size).min(40);
        let texts = (0..3).map(|_| (0..longest).map(|_| random.between(0, VOCAB - 1) as u32).collect()).collect();
        World {
            scheduler: Scheduler::new(limits, pages.clone(), prefix_cache).with_patience(patience as u64),
            limits,
            slots: Slots::new(pages),
            prefix_cache,
            patience,
            longest,
            texts,
            owned: Vec::new(),
            spoilt: Vec::new(),
            next_id: 0,
            counts: Counts::default(),
        }
    }

    pub fn counts(self) -> Counts {
        let stats = self.scheduler.stats();
        Counts { hits: stats.prefix_hits, preemptions: stats.preemptions, ..self.counts }
    }

    pub fn event(&mut self, random: &mut Random) {
        match random.between(0, 99) {
            0..15 if self.owned.len() < MOST => self.arrive(random),
            15..17 => self.cancel(random),
            17..20 => self.pause(random),
            20..25 => self.resume(random),
            25..35 => self.tell(random),
            35 if random.once_in(2) => self.poison(random),
            36..40 => self.clear(),
            _ => self.step(random),
        }
        self.counts.events += 1;
        self.scheduler.check_integrity().unwrap();
    }

    /// Lets all end, then looks for what is left.
    pub fn drain(&mut self, random: &mut Random) {
        let mut steps = 0;
        while !self.owned.is_empty() {
            self.clear();
            self.resume(random);
            self.tell(random);
            self.step(random);
            self.scheduler.check_integrity().unwrap();
            steps += 1;
            assert!(steps < 100_000, "sequences never end");
        }
        self.clear();
        assert!(self.scheduler.is_idle() && self.scheduler.schedule().is_empty());
        self.scheduler.check_integrity().unwrap();
        let stats = self.scheduler.stats();
        assert_eq!(stats.pages_free + stats.pages_cached, stats.pages_total);
        assert!(self.prefix_cache || stats.pages_cached == 0, "without a cache nothing is kept");
        assert_eq!((stats.waiting, stats.running, stats.paused), (0, 0, 0));
    }

    fn prompt(&self, random: &mut Random) -> Vec<u32> {
        let length = random.between(1, self.longest);
        let shared = random.between(0, length);
        let mut tokens = self.texts[random.between(0, 2)][..shared].to_vec();
        tokens.extend((shared..length).map(|_| random.between(0, VOCAB - 1) as u32));
        tokens
    }

    /// One sequence, or several continuations of one prompt.
    fn arrive(&mut self, random: &mut Random) {
        let tokens = self.prompt(random);
        let length = tokens.len();
        let priority = random.between(0, 3) as i32 - 1;
        let salt = [None, None, Some("a".into()), Some("b".into())][random.between(0, 3)].clone();
        let group = (!random.once_in(3)).then_some(self.next_id);
        let n = if group.is_some() { random.between(1, 3) } else { 1 };
        let (first, follows) = (self.next_id, self.next_id.is_multiple_of(2));
        for _ in 0..n {
            let scored = random.once_in(5);
            let rows_from = match (scored, random.once_in(4)) {
                (true, _) => 0,
                (false, true) => random.between(0, length),
                (false, false) => usize::MAX,
            };
            let end = if scored { length } else { random.between(length, self.longest) };
            let id = self.next_id;
            self.next_id += 1;
            // Who may share a page: one salt, or one group.
            let seed = match self.prefix_cache {
                true => salt.as_ref().map_or(0, |s: &String| u64::from(s.as_bytes()[0])),
                false => 1000 + group.unwrap_or(id),
            };
            let after = (follows && id > first).then_some(first);
            let owned = Owned::new(id, tokens.clone(), seed, end, scored, rows_from);
            self.owned.push(Owned { after: after.map(|first| (first, length)), ..owned });
            let (tokens, salt) = (tokens.clone(), salt.clone());
            self.scheduler.arrive(Arrival { id, tokens, priority, rows_from, salt, group, after });
        }
    }

    /// Whether a sequence must wait for the rows of another.
    fn follows(&self, owned: &Owned) -> bool {
        let first = |(id, length)| self.owned.iter().any(|first| first.id == id && first.told + 1 < length);
        owned.after.is_some_and(first)
    }

    fn pick(&self, random: &mut Random) -> Option<usize> {
        (!self.owned.is_empty()).then(|| random.between(0, self.owned.len() - 1))
    }

    fn cancel(&mut self, random: &mut Random) {
        let Some(i) = self.pick(random) else { return };
        self.scheduler.remove(self.owned.swap_remove(i).id);
        self.counts.cancelled += 1;
    }

    fn pause(&mut self, random: &mut Random) {
        let Some(i) = self.pick(random) else { return };
        self.owned[i].paused = true;
        self.scheduler.pause(self.owned[i].id);
        self.counts.pauses += 1;
    }

    fn resume(&mut self, random: &mut Random) {
        let Some(i) = self.pick(random) else { return };
        self.owned[i].paused = false;
        self.scheduler.resume(self.owned[i].id);
    }

    /// Tells the scheduler what was chosen some steps ago.
    fn tell(&mut self, random: &mut Random) {
        for i in 0..self.owned.len() {
            if let Some(chosen) = self.owned[i].pending.take() {
                self.settle(i, &chosen, random);
            }
        }
    }

    fn poison(&mut self, random: &mut Random) {
        let Some(i) = self.pick(random) else { return };
        let id = self.owned.swap_remove(i).id;
        let running = self.scheduler.running().iter().find(|s| s.id == id);
        let held = running.map(|s| s.lease().pages().to_vec()).unwrap_or_default();
        let pages = self.scheduler.poison(id);
        assert!(held.iter().all(|page| pages.contains(page)), "all pages of a poisoned sequence are cleared");
        self.slots.spoil(&pages);
        self.spoilt.extend(pages);
        self.forget_drafts();
        self.counts.poisoned += 1;
    }

    fn clear(&mut self) {
        self.scheduler.cleared(&std::mem::take(&mut self.spoilt));
    }

    /// Who gave way has lost its drafts; the owner sees it in the next slice.
    fn forget_drafts(&mut self) {
        for sequence in self.scheduler.running() {
            if let Some(owned) = self.owned.iter_mut().find(|o| o.id == sequence.id)
                && sequence.drafts().is_empty()
            {
                owned.drafts.clear();
            }
        }
    }

    fn step(&mut self, random: &mut Random) {
        let plan = self.scheduler.schedule();
        self.forget_drafts();
        let ready = self.owned.iter().any(Owned::is_ready);
        let blocked = self.owned.iter().any(|o| !o.is_ready()) || !self.spoilt.is_empty();
        assert!(!plan.is_empty() || !ready || blocked, "a step is empty only when there is nothing to do");
        self.check_plan(&plan);
        let ids: Vec<u64> = plan.iter().map(|s| self.scheduler.running()[s.index].id).collect();
        self.scheduler.complete(&plan);
        for (slice, id) in plan.iter().zip(ids) {
            self.commit(slice, id, random);
        }
        let bound = self.patience + LONGEST_TURN;
        let free: Vec<bool> = self.owned.iter().map(|o| o.is_ready() && !self.follows(o)).collect();
        for (owned, _) in self.owned.iter_mut().zip(free).filter(|(_, free)| *free) {
            owned.waits += 1;
            self.counts.longest_wait = self.counts.longest_wait.max(owned.waits);
            assert!(owned.waits <= bound, "sequence {} starves", owned.id);
        }
    }

    fn check_plan(&mut self, plan: &[Slice]) {
        let running = self.scheduler.running();
        assert!(running.len() <= self.limits.sequences);
        assert!(plan.iter().map(|s| s.count).sum::<usize>() <= self.limits.tokens);
        assert!(plan.iter().map(|s| s.rows).sum::<usize>() <= self.limits.rows);
        let mut seen = vec![false; running.len()];
        for slice in plan {
            let sequence = &running[slice.index];
            assert!(!std::mem::replace(&mut seen[slice.index], true), "a sequence appears once");
            assert!(sequence.lease().pages().iter().all(|page| !self.spoilt.contains(page)));
            assert!(!self.owned.iter().any(|o| o.id == sequence.id && self.follows(o)), "rows come first");
            let owned = self.owned.iter().find(|o| o.id == sequence.id).expect("it has an owner");
            owned.check(slice, sequence);
            self.slots.read(slice, sequence, owned);
        }
        for slice in plan {
            let sequence = &running[slice.index];
            let owned = self.owned.iter().find(|o| o.id == sequence.id).expect("it has an owner");
            self.slots.write(slice, sequence, owned);
        }
    }

    /// Does what the engine does with a slice's results.
    fn commit(&mut self, slice: &Slice, id: u64, random: &mut Random) {
        let i = self.owned.iter().position(|o| o.id == id).expect("it has an owner");
        let owned = &mut self.owned[i];
        let reached = slice.start + slice.count;
        if reached > owned.furthest {
            (owned.furthest, owned.waits) = (reached, 0);
        }
        owned.told = owned.told.max(reached);
        if reached < owned.tokens.len() {
            return;
        }
        let mut chosen = owned.choose(slice.drafts);
        self.counts.drafts_right += chosen.len() - 1;
        self.counts.drafts_wrong += slice.drafts + 1 - chosen.len();
        if owned.scored || owned.tokens.len() + chosen.len() > owned.end {
            self.scheduler.remove(id);
            self.owned.swap_remove(i);
            self.counts.finished += 1;
            return;
        }
        // Tokens that leave no choice need no logits: a grammar may force some more.
        let room = owned.end - owned.tokens.len() - chosen.len();
        if random.once_in(8) {
            chosen.extend((0..room.min(2)).map(|_| random.between(0, VOCAB - 1) as u32));
        }
        if random.once_in(10) {
            owned.pending = Some(chosen);
            self.counts.late += 1;
        } else {
            self.settle(i, &chosen, random);
        }
    }

    fn settle(&mut self, i: usize, chosen: &[u32], random: &mut Random) {
        let owned = &mut self.owned[i];
        owned.append(chosen);
        owned.told = owned.tokens.len() - 1;
        owned.drafts.clear();
        match chosen {
            &[token] if random.once_in(2) => self.scheduler.push(owned.id, token),
            _ => self.scheduler.settle(owned.id, chosen),
        }
        if random.once_in(3) {
            let mut drafts = owned.foresee(random.between(1, 6));
            if random.once_in(2) {
                let wrong = random.between(0, drafts.len() - 1);
                drafts[wrong] = (drafts[wrong] + 1) % VOCAB as u32;
            }
            self.scheduler.propose(owned.id, &drafts);
            owned.drafts = drafts;
        }
    }
}
