//! The scheduler on random events: pages stay whole, limits hold, and every sequence gets to its end.
use planish_engine::pages::Pages;
use planish_engine::scheduler::{Limits, Scheduler, Slice};
use std::collections::HashMap;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `low..=high`.
    fn between(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }
}

/// Sequences known at once.
const MOST: usize = 20;

/// What the owner of a sequence knows.
struct Owned {
    /// Tokens at which it ends.
    end: usize,
    scored: bool,
    /// Steps since it last came further than ever before.
    waits: usize,
    furthest: usize,
}

/// A scheduler and all that should hold about it.
struct World {
    scheduler: Scheduler,
    limits: Limits,
    page_size: usize,
    /// Tokens that the pool holds: no sequence may be longer.
    longest: usize,
    owned: HashMap<u64, Owned>,
    next_id: u64,
    finished: usize,
}

impl World {
    fn new(random: &mut Random) -> World {
        let limits =
            Limits { tokens: random.between(1, 40), rows: random.between(1, 12), sequences: random.between(1, 9) };
        let (pages, page_size) = (random.between(1, 14), random.between(1, 6));
        let scheduler = Scheduler::new(limits, Pages::new(pages, page_size));
        let longest = pages * page_size;
        World { scheduler, limits, page_size, longest, owned: HashMap::new(), next_id: 0, finished: 0 }
    }

    fn arrive(&mut self, random: &mut Random) {
        let prompt = random.between(1, self.longest);
        let scored = random.between(0, 3) == 0;
        let end = if scored { prompt } else { random.between(prompt, self.longest) };
        self.scheduler.arrive(self.next_id, vec![0; prompt], scored);
        self.owned.insert(self.next_id, Owned { end, scored, waits: 0, furthest: 0 });
        self.next_id += 1;
    }

    fn remove(&mut self, random: &mut Random) {
        let mut ids: Vec<u64> = self.owned.keys().copied().collect();
        ids.sort_unstable();
        if !ids.is_empty() {
            let id = ids[random.between(0, ids.len() - 1)];
            self.scheduler.remove(id);
            self.owned.remove(&id);
        }
    }

    fn step(&mut self) {
        let plan = self.scheduler.schedule();
        assert_eq!(plan.is_empty(), self.owned.is_empty(), "a step is empty only when there is nothing to do");
        self.check_plan(&plan);
        let ids: Vec<u64> = plan.iter().map(|s| self.scheduler.running()[s.index].id).collect();
        self.scheduler.complete(&plan);
        for (slice, id) in plan.iter().zip(ids) {
            self.commit(slice, id);
        }
        // The oldest moves in every step, so a sequence waits at most for all those before it, one after the other.
        let patience = MOST * self.longest;
        for owned in self.owned.values_mut() {
            owned.waits += 1;
            assert!(owned.waits <= patience, "a sequence starves");
        }
    }

    fn check_plan(&self, plan: &[Slice]) {
        let running = self.scheduler.running();
        assert!(running.len() <= self.limits.sequences);
        assert!(plan.iter().map(|s| s.count).sum::<usize>() <= self.limits.tokens);
        assert!(plan.iter().map(|s| s.rows).sum::<usize>() <= self.limits.rows);
        assert!(plan.windows(2).all(|w| w[0].index < w[1].index), "a sequence appears once, in order");
        for slice in plan {
            let s = &running[slice.index];
            assert!(slice.count > 0);
            assert!(slice.start == s.computed);
            assert!(slice.start + slice.count <= s.tokens.len());
            assert!(s.lease().pages().len() * self.page_size >= slice.start + slice.count);
            let last = slice.start + slice.count == s.tokens.len();
            let known = self.owned[&s.id].furthest;
            let rows = match s.scored {
                // What was computed again after giving way is not told again.
                true if slice.start < known => 0,
                true => slice.count,
                false => usize::from(last),
            };
            assert_eq!(slice.rows, rows, "logits of each scored position come once, in order");
            assert!(!s.scored || slice.start >= known || slice.start + slice.count <= known);
        }
    }

    /// Does what the engine does with a slice's results.
    fn commit(&mut self, slice: &Slice, id: u64) {
        let owned = self.owned.get_mut(&id).expect("a running sequence has an owner");
        let reached = slice.start + slice.count;
        if reached > owned.furthest {
            (owned.furthest, owned.waits) = (reached, 0);
        }
        let ended = match owned.scored {
            true => reached == owned.end,
            false => slice.rows > 0 && reached == owned.end,
        };
        if ended {
            self.scheduler.remove(id);
            self.owned.remove(&id);
            self.finished += 1;
        } else if slice.rows > 0 && !owned.scored {
            self.scheduler.push(id, 1);
        }
    }
}

#[test]
fn random_events_keep_every_promise() {
    let (mut events, mut finished, mut preemptions) = (0, 0, 0);
    for seed in 0..200 {
        let mut random = Random(seed);
        let mut world = World::new(&mut random);
        for _ in 0..500 {
            match random.between(0, 9) {
                0 | 1 if world.owned.len() < MOST => world.arrive(&mut random),
                2 if random.between(0, 3) == 0 => world.remove(&mut random),
                _ => world.step(),
            }
            events += 1;
            world.scheduler.check_integrity().unwrap();
        }
        let mut steps = 0;
        while !world.owned.is_empty() {
            world.step();
            world.scheduler.check_integrity().unwrap();
            steps += 1;
            assert!(steps < 1_000_000, "seed {seed}: sequences never end");
        }
        assert!(world.scheduler.is_idle() && world.scheduler.schedule().is_empty());
        (finished, preemptions) = (finished + world.finished, preemptions + world.scheduler.preemptions());
    }
    assert!(events == 100_000 && finished > 1000 && preemptions > 1000, "{finished} ended, {preemptions} gave way");
}
