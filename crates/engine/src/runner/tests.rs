//! The bookkeeping without a device.
use super::*;
use crate::mailbox::{Cancel, mailbox};
use crate::request::Event;
use planish_tensor::{CHOSEN, DType, FloatMath};
use std::sync::mpsc::channel;

fn runner() -> Runner {
    let config = EngineConfig {
        max_model_len: 64,
        max_batch: 4,
        step_tokens: 16,
        step_rows: 16,
        pages: 8,
        page_size: 8,
        kv_dtype: DType::F32,
        math: FloatMath::F32,
        prefix_cache: true,
        overlap: false,
        run_ahead: false,
        sample: false,
        speculate: 0,
        int8_head: false,
    };
    Runner::new(config, 100, Arc::default(), Courtesy::default())
}

/// A request and what its caller hears.
fn ask(runner: &mut Runner, id: u64) -> crate::request::Stream {
    let (commands, _) = channel();
    let (writer, stream) = mailbox(1 << 20, Cancel { commands, id });
    let request = Box::new(Request { prompt: vec![1, 2, 3], max_new_tokens: 4, ..Request::default() });
    runner.accept(Command::Generate { id, request, outlet: Outlet::stream(writer) });
    stream
}

#[test]
fn damaged_page_tables_are_found_at_rest_and_nothing_new_is_taken_in() {
    let mut runner = runner();
    runner.rest();
    assert!(!runner.is_broken());
    // A page that nobody in the books has.
    let pages = Pages::new(8, 8);
    let mut stray = pages.lease();
    assert!(stray.grow(1));
    runner.scheduler = Scheduler::new(Limits { tokens: 16, rows: 16, sequences: 4 }, pages, true);
    runner.rest();
    assert!(!runner.is_broken(), "the books are checked once a second at most");
    runner.checked = None;
    runner.rest();
    let mut stream = ask(&mut runner, 0);
    assert!(matches!(stream.next(), Some(Event::Failed(Error::Integrity(_)))));
    assert!(matches!(runner.check(), Err(Error::Integrity(_))));
}

#[test]
fn requests_that_can_never_run_are_told_so() {
    let mut runner = runner();
    let mut stream = ask(&mut runner, 0);
    assert!(runner.prepare().is_some(), "it runs");
    runner.scheduler.remove(sequence_id(0, 0));
    assert!(runner.prepare().is_none());
    runner.rest();
    assert!(matches!(stream.next(), Some(Event::Failed(Error::Integrity(_)))));
    assert!(runner.metrics.now.is_conserved() && runner.metrics.now.failed == 1);
}

/// A guess is named by its row; what is read anew of a sequence, and does not reach its guess, stays as it is.
#[test]
fn a_step_that_follows_names_the_rows_of_its_guesses() {
    let mut runner = runner();
    let _streams = [ask(&mut runner, 0), ask(&mut runner, 1)];
    let mut step = runner.prepare().unwrap();
    assert!(runner.begin_guessing(&mut step) && step.want.is_of_choices());
    let mut next = runner.prepare().unwrap();
    assert!(runner.follow(&step, &mut next));
    assert_eq!((&next.batch.tokens[..], next.slices.len()), (&[CHOSEN, CHOSEN | 1][..], 2));
    // As if the first had been taken out and had to be read again from its beginning.
    next.slices[0] = Slice { start: 0, rows: 0, ..next.slices[0] };
    next.batch.tokens = vec![1, 0];
    next.batch.logit_rows = vec![1];
    assert!(runner.follow(&step, &mut next));
    assert_eq!(next.batch.tokens, [1, CHOSEN | 1]);
}
