//! What is shared: cached prefixes, continuations of one prompt, and what happens when shared pages go bad.
use planish_engine::pages::Pages;
use planish_engine::scheduler::{Arrival, Limits, Scheduler};

const WIDE: Limits = Limits { tokens: 64, rows: 16, sequences: 8 };

fn arrival(id: u64, tokens: Vec<u32>) -> Arrival {
    Arrival { id, tokens, rows_from: usize::MAX, ..Arrival::default() }
}

fn scheduler(pages: usize, prefix_cache: bool) -> Scheduler {
    Scheduler::new(WIDE, Pages::new(pages, 4), prefix_cache)
}

/// Runs a step; ids, first positions and token counts.
fn step(s: &mut Scheduler) -> Vec<(u64, usize, usize)> {
    let plan = s.schedule();
    let planned: Vec<_> = plan.iter().map(|p| (s.running()[p.index].id, p.start, p.count)).collect();
    s.complete(&plan);
    for (slice, &(id, ..)) in plan.iter().zip(&planned).filter(|(slice, _)| slice.rows > 0) {
        assert_eq!(slice.rows, 1);
        s.push(id, 1);
    }
    s.check_integrity().unwrap();
    planned
}

/// Runs a prompt alone: how many of its tokens were found.
fn found(s: &mut Scheduler, arrival: Arrival) -> usize {
    let (id, length) = (arrival.id, arrival.tokens.len());
    s.arrive(arrival);
    let plan = step(s);
    assert_eq!((plan.len(), plan[0].0, plan[0].1 + plan[0].2), (1, id, length));
    s.remove(id);
    s.check_integrity().unwrap();
    plan[0].1
}

#[test]
fn a_known_prefix_is_not_computed_again() {
    let mut s = scheduler(16, true);
    let prompt: Vec<u32> = (0..10).collect();
    assert_eq!(found(&mut s, arrival(0, prompt.clone())), 0);
    assert_eq!(s.stats().pages_cached, 2);
    assert_eq!(found(&mut s, arrival(1, prompt.clone())), 8);
    assert_eq!(found(&mut s, arrival(2, prompt[..9].to_vec())), 8);
    assert_eq!(found(&mut s, arrival(3, prompt[..8].to_vec())), 4, "the last token is computed, for its logits");
    let other: Vec<u32> = (0..10).map(|i| if i == 5 { 99 } else { i }).collect();
    assert_eq!(found(&mut s, arrival(4, other)), 4);
    assert_eq!(found(&mut s, arrival(5, prompt[4..].to_vec())), 0, "a page follows its parent, not any page");
    assert_eq!((s.stats().prefix_queries, s.stats().prefix_hits), (10 + 10 + 9 + 8 + 10 + 6, 8 + 8 + 4 + 4));
}

#[test]
fn without_a_cache_nothing_is_known() {
    let mut s = scheduler(16, false);
    for id in 0..2 {
        assert_eq!(found(&mut s, Arrival { group: Some(id), ..arrival(id, vec![1; 10]) }), 0);
        assert_eq!((s.stats().pages_cached, s.stats().pages_free), (0, 16));
    }
}

#[test]
fn salts_keep_tenants_apart() {
    let mut s = scheduler(32, true);
    let salted = |id, salt: Option<&str>| Arrival { salt: salt.map(Into::into), ..arrival(id, vec![7; 10]) };
    assert_eq!(found(&mut s, salted(0, Some("a"))), 0);
    assert_eq!(found(&mut s, salted(1, Some("b"))), 0);
    assert_eq!(found(&mut s, salted(2, None)), 0);
    assert_eq!(found(&mut s, salted(3, Some(""))), 0);
    for (id, salt) in [(4, Some("a")), (5, Some("b")), (6, None), (7, Some(""))] {
        assert_eq!(found(&mut s, salted(id, salt)), 8);
    }
}

#[test]
fn wanted_logits_are_never_skipped() {
    let mut s = scheduler(16, true);
    let prompt: Vec<u32> = (0..12).collect();
    found(&mut s, arrival(0, prompt.clone()));
    for (rows_from, start) in [(0, 0), (3, 0), (4, 4), (7, 4), (8, 8)] {
        s.arrive(Arrival { rows_from, ..arrival(1, prompt.clone()) });
        let plan = s.schedule();
        assert_eq!((plan[0].start, plan[0].rows), (start, 12 - rows_from));
        s.remove(1);
        s.check_integrity().unwrap();
    }
}

#[test]
fn free_pages_go_first_then_the_least_recently_used_leaves() {
    let mut s = scheduler(7, true);
    let (a, b): (Vec<u32>, Vec<u32>) = ((0..9).collect(), (50..55).collect());
    found(&mut s, arrival(0, a.clone()));
    found(&mut s, arrival(1, b.clone()));
    assert_eq!((s.stats().pages_cached, s.stats().pages_free), (3, 4));
    // The first text becomes the more recent.
    assert_eq!(found(&mut s, arrival(2, a.clone())), 8);
    found(&mut s, arrival(3, vec![99; 3]));
    assert_eq!(s.stats().pages_cached, 3, "a free page is used before a cached one");
    // Five pages are needed: four free ones and the second text's.
    found(&mut s, arrival(4, vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]));
    // It left four known pages and one free. Three more pages: the free one and the first text's, the last page first.
    s.arrive(arrival(5, (200..208).collect()));
    assert_eq!(step(&mut s), [(5, 0, 8)]);
    s.remove(5);
    assert_eq!(found(&mut s, arrival(6, a)), 4, "a leaf goes before its parent");
    assert_eq!(found(&mut s, arrival(7, b)), 0);
}

#[test]
fn a_preempted_sequence_finds_its_pages_again() {
    let mut s = scheduler(4, true);
    s.arrive(arrival(0, (0..9).collect()));
    step(&mut s);
    s.pause(0);
    // Two pages are needed and one is free: the paused one gives way, and loses its newest page only.
    assert_eq!(s.stats().pages_free, 1);
    s.arrive(arrival(1, (50..55).collect()));
    assert_eq!(step(&mut s), [(1, 0, 5)]);
    assert_eq!(s.stats().preemptions, 1);
    s.remove(1);
    s.resume(0);
    assert_eq!(step(&mut s), [(0, 8, 2)]);
}

#[test]
fn continuations_share_the_prompt_without_a_cache_too() {
    for prefix_cache in [false, true] {
        let mut s = scheduler(16, prefix_cache);
        for id in 0..4 {
            s.arrive(Arrival { group: Some(0), ..arrival(id, (0..10).collect()) });
        }
        assert_eq!(step(&mut s), [(0, 0, 10)], "the others wait for the first");
        assert_eq!(step(&mut s), [(0, 10, 1), (1, 8, 2), (2, 8, 2), (3, 8, 2)]);
        assert_eq!(s.stats().pages_free, 16 - 2 - 4);
        for id in 0..4 {
            s.remove(id);
            s.check_integrity().unwrap();
        }
        assert_eq!(s.stats().pages_free, if prefix_cache { 14 } else { 16 });
    }
}

#[test]
fn the_same_prompt_at_once_is_computed_once() {
    let mut s = Scheduler::new(Limits { tokens: 24, rows: 70, sequences: 64 }, Pages::new(512, 4), true);
    for id in 0..64 {
        let mut tokens: Vec<u32> = (0..40).collect();
        tokens.extend([100 + id as u32, 1]);
        s.arrive(arrival(id, tokens));
    }
    s.arrive(arrival(64, vec![77; 4]));
    assert_eq!(step(&mut s), [(0, 0, 24)]);
    assert_eq!(step(&mut s), [(0, 24, 18), (64, 0, 4)], "who shares nothing goes past");
    let (mut computed, mut done) = (24 + 18 + 4, 0);
    while !s.is_idle() {
        let ended: Vec<u64> = s.running().iter().filter(|r| r.tokens.len() % 2 == 1).map(|r| r.id).collect();
        done += ended.len();
        ended.into_iter().for_each(|id| s.remove(id));
        computed += step(&mut s).iter().map(|(_, _, count)| count).sum::<usize>();
    }
    assert_eq!((done, computed), (65, 40 + 64 * 2 + 4), "each its own two tokens, the rest once");
}

#[test]
fn nobody_waits_for_a_prefix_that_does_not_come() {
    let mut s = Scheduler::new(Limits { tokens: 8, ..WIDE }, Pages::new(16, 4), true);
    s.arrive(arrival(0, (0..20).collect()));
    s.arrive(arrival(1, (0..20).collect()));
    assert_eq!(step(&mut s), [(0, 0, 8)]);
    s.pause(0);
    assert_eq!(step(&mut s), [(1, 8, 8)], "it takes what there is and goes on alone");
    s.resume(0);
    for _ in 0..3 {
        step(&mut s);
    }
    let pages: Vec<&[u32]> = s.running().iter().map(|r| &r.lease().pages()[..4]).collect();
    assert_eq!(pages[0], pages[1], "pages computed twice become one");
}

#[test]
fn poison_takes_everything_in_doubt_out_of_use() {
    let mut s = scheduler(16, true);
    let prompt: Vec<u32> = (0..8).collect();
    let with = |tail: u32| [&prompt[..], &[tail; 5]].concat();
    found(&mut s, arrival(0, with(60)));
    found(&mut s, arrival(1, vec![5; 9]));
    for id in 2..4 {
        s.arrive(arrival(id, with(id as u32)));
    }
    s.arrive(arrival(4, vec![6; 6]));
    assert_eq!(step(&mut s), [(2, 8, 5), (3, 8, 5), (4, 0, 6)]);
    let mut held: Vec<u32> = s.running()[..2].iter().flat_map(|r| r.lease().pages().to_vec()).collect();
    held.sort_unstable();
    held.dedup();
    let pages = s.poison(2);
    s.check_integrity().unwrap();
    // Two shared pages, two of each of the two, and the cached third page of the first text.
    assert!(held.iter().all(|page| pages.contains(page)) && held.len() == 6 && pages.len() == 7);
    assert_eq!((s.stats().running, s.stats().waiting), (1, 1), "who shares pages begins again");
    assert_eq!(step(&mut s), [(4, 6, 1), (3, 0, 14)]);
    assert!(s.running().iter().all(|r| r.lease().pages().iter().all(|page| !pages.contains(page))));
    s.remove(3);
    s.remove(4);
    assert_eq!(s.stats().pages_free + s.stats().pages_cached, 16 - 7);
    s.cleared(&pages);
    s.cleared(&pages);
    s.check_integrity().unwrap();
    assert_eq!(s.stats().pages_free + s.stats().pages_cached, 16);
    assert_eq!(found(&mut s, arrival(5, vec![5; 9])), 8, "what it did not touch is still known");
    assert!(s.poison(77).is_empty());
}
