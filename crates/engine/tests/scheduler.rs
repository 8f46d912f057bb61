//! The scheduler's rules one by one.
use planish_engine::pages::Pages;
use planish_engine::scheduler::{Arrival, Limits, Scheduler, Slice};

const WIDE: Limits = Limits { tokens: 64, rows: 16, sequences: 8 };

fn arrival(id: u64, tokens: Vec<u32>) -> Arrival {
    Arrival { id, tokens, rows_from: usize::MAX, ..Arrival::default() }
}

/// A scheduler on `pages` pages of 4 tokens, with the prefix cache.
fn scheduler(limits: Limits, pages: usize) -> Scheduler {
    Scheduler::new(limits, Pages::new(pages, 4), true)
}

/// Ids and token counts of a step.
fn planned(s: &Scheduler, plan: &[Slice]) -> Vec<(u64, usize)> {
    plan.iter().map(|slice| (s.running()[slice.index].id, slice.count)).collect()
}

/// Runs a step in which everything that gives logits goes on with token 1.
fn step(s: &mut Scheduler) -> Vec<(u64, usize)> {
    let plan = s.schedule();
    let planned = planned(s, &plan);
    s.complete(&plan);
    let ended: Vec<u64> = plan
        .iter()
        .zip(&planned)
        .filter(|(slice, (id, _))| {
            let sequence = s.running().iter().find(|s| s.id == *id).expect("it runs");
            slice.rows > 0 && sequence.computed == sequence.tokens.len()
        })
        .map(|(_, (id, _))| *id)
        .collect();
    for id in ended {
        s.push(id, 1);
    }
    s.check_integrity().unwrap();
    planned
}

#[test]
fn decodes_go_before_chunks() {
    let mut s = scheduler(Limits { tokens: 6, ..WIDE }, 32);
    s.arrive(arrival(0, vec![1; 30]));
    s.arrive(arrival(1, vec![2; 2]));
    s.arrive(Arrival { priority: -1, ..arrival(2, vec![3; 3]) });
    assert_eq!(step(&mut s), [(2, 3), (0, 3)]);
    assert_eq!(step(&mut s), [(2, 1), (0, 5)]);
    s.arrive(Arrival { priority: -2, ..arrival(3, vec![4; 40]) });
    // A long prompt that goes first takes what the decode leaves. One without place in the budget is not admitted.
    assert_eq!(step(&mut s), [(2, 1), (0, 5)]);
    s.remove(0);
    assert_eq!(step(&mut s), [(2, 1), (3, 5)]);
    assert_eq!(step(&mut s), [(2, 1), (3, 5)]);
}

#[test]
fn smaller_priorities_first_equals_by_arrival() {
    let mut s = scheduler(Limits { sequences: 2, ..WIDE }, 32);
    for (id, priority) in [(0, 5), (1, 0), (2, 5), (3, -3)] {
        s.arrive(Arrival { priority, ..arrival(id, vec![id as u32; 3]) });
    }
    assert_eq!(step(&mut s), [(3, 3), (1, 3)]);
    s.remove(3);
    assert_eq!(step(&mut s), [(1, 1), (0, 3)]);
    s.remove(1);
    assert_eq!(step(&mut s), [(0, 1), (2, 3)]);
}

#[test]
fn a_sequence_passed_over_goes_first_in_the_end() {
    let mut s = scheduler(Limits { sequences: 1, ..WIDE }, 32).with_patience(10);
    s.arrive(Arrival { priority: 100, ..arrival(0, vec![9; 4]) });
    let mut waits = 0;
    for id in 1.. {
        s.arrive(Arrival { priority: 0, ..arrival(id, vec![1; 4]) });
        let first = step(&mut s)[0].0;
        if first == 0 {
            break;
        }
        s.remove(first);
        waits += 1;
        assert!(waits < 20);
    }
    assert_eq!(waits, 9);
}

#[test]
fn a_risen_prompt_moves_though_decodes_take_the_budget() {
    let mut s = scheduler(Limits { tokens: 2, rows: 2, sequences: 3 }, 32).with_patience(5);
    s.arrive(arrival(0, vec![1]));
    s.arrive(arrival(1, vec![2]));
    let plan = s.schedule();
    s.complete(&plan);
    // The owner of 0 is late, so that there is a token for a third.
    s.push(1, 1);
    s.arrive(arrival(2, vec![3; 6]));
    assert_eq!(step(&mut s), [(1, 1), (2, 1)]);
    s.push(0, 1);
    // The step that admitted it counts too.
    for _ in 0..4 {
        assert_eq!(step(&mut s), [(0, 1), (1, 1)]);
    }
    for _ in 0..4 {
        assert_eq!(step(&mut s), [(0, 1), (2, 1)]);
    }
}

#[test]
fn a_newcomer_that_needs_no_row_yet_does_not_wait_for_rows() {
    let mut s = scheduler(Limits { tokens: 64, rows: 4, sequences: 4 }, 32).with_patience(2);
    s.arrive(Arrival { rows_from: 0, ..arrival(0, vec![1; 40]) });
    assert_eq!(step(&mut s), [(0, 4)]);
    // A score of its own text would only hold a place and pages, until it is its turn.
    s.arrive(Arrival { rows_from: 0, ..arrival(1, vec![2; 8]) });
    s.arrive(Arrival { priority: -1, ..arrival(2, vec![3; 3]) });
    assert_eq!(step(&mut s), [(0, 4), (2, 2)]);
    assert_eq!(s.stats().waiting, 1);
    // Passed over too often it gets its place all the same, and rows with the next step.
    assert_eq!((step(&mut s), s.stats().waiting), (vec![(2, 1), (0, 3)], 0));
    assert_eq!(step(&mut s), [(2, 1), (1, 3)]);
}

#[test]
fn a_sequence_waits_until_the_one_it_follows_has_given_its_rows() {
    let mut s = scheduler(Limits { tokens: 64, rows: 4, sequences: 4 }, 32).with_patience(2);
    s.arrive(Arrival { rows_from: 0, ..arrival(0, vec![1; 14]) });
    s.arrive(Arrival { after: Some(0), ..arrival(1, vec![1; 14]) });
    for rows in [4, 4, 4, 2] {
        assert_eq!(step(&mut s), [(0, rows)]);
    }
    assert_eq!(step(&mut s), [(0, 1), (1, 2)]);
    // It waits for nobody who is gone.
    s.arrive(Arrival { after: Some(7), ..arrival(2, vec![5; 3]) });
    assert_eq!(step(&mut s), [(1, 1), (0, 1), (2, 3)]);
}

#[test]
fn the_last_in_rank_gives_way_and_paused_ones_before_it() {
    let mut s = Scheduler::new(WIDE, Pages::new(6, 4), false);
    for id in 0..3 {
        s.arrive(Arrival { priority: -(id as i32), ..arrival(id, vec![id as u32; 8]) });
    }
    assert_eq!(step(&mut s), [(2, 8), (1, 8), (0, 8)]);
    s.pause(2);
    assert_eq!(s.stats().paused, 1);
    // The paused one has the best rank, yet its pages go first.
    assert_eq!(step(&mut s), [(1, 1), (0, 1)]);
    assert_eq!((s.stats().preemptions, s.stats().pages_free), (1, 0));
    for _ in 0..3 {
        step(&mut s);
    }
    // Both need a fourth page: 0 is the last in rank.
    assert_eq!(step(&mut s), [(1, 1)]);
    assert_eq!((s.stats().preemptions, s.stats().waiting), (2, 1));
    s.resume(2);
    s.remove(1);
    assert_eq!(step(&mut s), [(2, 9)]);
}

#[test]
fn a_paused_sequence_keeps_its_pages_and_is_not_planned() {
    let mut s = scheduler(WIDE, 8);
    s.arrive(arrival(0, vec![1; 6]));
    step(&mut s);
    s.pause(0);
    assert!(step(&mut s).is_empty() && !s.is_idle());
    s.resume(0);
    assert_eq!(step(&mut s), [(0, 1)], "nothing is computed again");
}

#[test]
fn logits_come_from_the_wanted_position_on_and_once() {
    let mut s = Scheduler::new(Limits { tokens: 5, rows: 3, sequences: 4 }, Pages::new(3, 4), false);
    s.arrive(Arrival { rows_from: 4, ..arrival(0, (0..9).collect()) });
    let mut told = Vec::new();
    for _ in 0..3 {
        let plan = s.schedule();
        let end = plan[0].start + plan[0].count;
        told.extend(end - plan[0].rows..end);
        s.complete(&plan);
    }
    assert_eq!(told, [4, 5, 6, 7, 8]);
    s.push(0, 7);
    // It gives way to a better one and is computed again: only the new position is told.
    s.arrive(Arrival { priority: -1, ..arrival(1, vec![3; 2]) });
    s.pause(0);
    assert_eq!(step(&mut s), [(1, 2)]);
    s.resume(0);
    s.remove(1);
    let mut rows = 0;
    for _ in 0..2 {
        let plan = s.schedule();
        rows += plan[0].rows;
        s.complete(&plan);
    }
    assert_eq!((rows, s.running()[0].computed), (1, 10));
}

#[test]
fn a_sequence_waits_for_its_owner() {
    let mut s = scheduler(WIDE, 8);
    s.arrive(arrival(0, vec![1, 2, 3]));
    s.arrive(Arrival { rows_from: 0, ..arrival(1, vec![4, 5]) });
    s.arrive(arrival(2, Vec::new()));
    let plan = s.schedule();
    assert_eq!(plan.iter().map(|slice| slice.rows).collect::<Vec<_>>(), [1, 2]);
    s.complete(&plan);
    assert!(s.schedule().is_empty());
    s.push(0, 4);
    assert_eq!(step(&mut s), [(0, 1)]);
    for id in 0..3 {
        s.remove(id);
        s.remove(id);
    }
    assert!(s.is_idle());
}

#[test]
fn right_drafts_stay_computed() {
    let mut s = scheduler(WIDE, 8);
    s.arrive(arrival(0, vec![1, 2, 3]));
    s.propose(0, &[9]);
    step(&mut s);
    s.propose(0, &[5, 6, 7]);
    let plan = s.schedule();
    assert_eq!(plan, [Slice { index: 0, start: 3, count: 4, rows: 4, drafts: 3 }]);
    s.complete(&plan);
    assert!(s.schedule().is_empty(), "not before the owner has settled");
    s.settle(0, &[5, 6, 8]);
    let sequence = &s.running()[0];
    assert_eq!((&sequence.tokens[3..], sequence.computed), (&[1, 5, 6, 8][..], 6));
    assert_eq!(sequence.lease().pages().len(), 2);
    // All right, and no token after them: the last is computed again, for its logits.
    s.propose(0, &[4]);
    let plan = s.schedule();
    s.complete(&plan);
    s.settle(0, &[4]);
    assert_eq!(s.schedule(), [Slice { index: 0, start: 7, count: 1, rows: 1, drafts: 0 }]);
    s.check_integrity().unwrap();
}

#[test]
fn drafts_take_only_what_others_leave() {
    let mut s = scheduler(Limits { tokens: 4, rows: 4, sequences: 4 }, 8);
    for id in 0..3 {
        s.arrive(arrival(id, vec![id as u32]));
    }
    step(&mut s);
    s.propose(0, &[1, 1, 1]);
    s.propose(1, &[1, 1, 1]);
    let plan = s.schedule();
    assert_eq!(plan.iter().map(|slice| (slice.count, slice.drafts)).collect::<Vec<_>>(), [(2, 1), (1, 0), (1, 0)]);
}
