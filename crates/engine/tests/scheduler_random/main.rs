//! A million random events: pages stay whole, nobody reads what is not theirs, limits hold, every sequence ends.
mod oracle;
mod world;

use oracle::Random;
use world::{Counts, World};

const WORLDS: u64 = 250;
const EVENTS: usize = 4000;

#[test]
fn a_million_random_events_keep_every_promise() {
    let mut all = Counts::default();
    for seed in 0..WORLDS {
        let mut random = Random(seed);
        let mut world = World::new(&mut random);
        for _ in 0..EVENTS {
            world.event(&mut random);
        }
        world.drain(&mut random);
        all.add(&world.counts());
    }
    assert_eq!(all.events, WORLDS as usize * EVENTS);
    // Each kind of event must really have happened, or the test proves nothing.
    assert!(all.finished > 20_000 && all.cancelled > 2_000 && all.pauses > 5_000, "{all:?}");
    assert!(all.hits > 100_000 && all.preemptions > 10_000 && all.poisoned > 1_000, "{all:?}");
    assert!(all.drafts_right > 20_000 && all.drafts_wrong > 5_000 && all.late > 10_000, "{all:?}");
}
