//! What a step asks of its device: of each row what its request needs, whoever else is in the step.
use crate::setting::*;
use planish_cpu::Scalar;
use planish_engine::device::{Machine, Produced, Want, Wish};
use planish_engine::{
    EngineOptions, Event, Grammar, GrammarSpec, Handle, Request, Result, Sampling, Stream, Vocabulary,
};
use planish_tensor::Batch;
use planish_text::Tokenizer;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

/// What was wanted of a step, and how many numbers came.
type Seen = Arc<Mutex<Vec<(Want, usize, usize)>>>;

/// Waits for a word before each step, and remembers what it was asked.
struct Watched {
    inner: Box<dyn Machine>,
    gate: Receiver<()>,
    seen: Seen,
}

impl Machine for Watched {
    fn run(&mut self, batch: &Batch, want: &Want, out: &mut Produced) -> Result<()> {
        let _ = self.gate.recv();
        self.inner.run(batch, want, out)?;
        self.seen.lock().unwrap().push((want.clone(), out.logits.len(), out.log_probs.len()));
        Ok(())
    }

    fn clear(&mut self, pages: &[u32]) -> Result<()> {
        self.inner.clear(pages)
    }
}

fn watched(options: &EngineOptions) -> (Handle, Sender<()>, Seen) {
    let source = planish_checkpoint::shards::ModelFiles::open(&data("llama")).unwrap();
    let (inner, info) = planish_engine::service::load(Scalar, plan("llama"), &source, options).unwrap();
    let ((open, gate), seen) = (channel(), Seen::default());
    let machine = Watched { inner, gate, seen: Arc::clone(&seen) };
    (Handle::over(Box::new(machine), info).unwrap(), open, seen)
}

fn letters() -> Grammar {
    let tokenizer = include_bytes!("../../../text/tests/data/smollm2/tokenizer.json");
    let vocabulary = Vocabulary::new(Tokenizer::from_json(tokenizer).unwrap(), vec![2], 256);
    Grammar::compile(&vocabulary, &GrammarSpec::Regex("[a-z]+".into())).unwrap()
}

/// Every event with all its numbers, to the bit.
fn heard(stream: Stream) -> Vec<String> {
    stream.map(|event| if let Event::Failed(e) = event { panic!("{e}") } else { format!("{event:?}") }).collect()
}

/// The likeliest; drawn; with log-probabilities; with those of the prompt; by a grammar, also with log-probabilities.
fn mixed() -> Vec<Request> {
    let asked = |i: usize| Request { max_new_tokens: 6, ..request(&prompts()[i % 2][..5 + i]) };
    let drawn = Sampling { temperature: 1.0, seed: 5, top_p: 0.9, ..Sampling::default() };
    vec![
        asked(0),
        Request { sampling: drawn.clone(), ..asked(1) },
        Request { logprobs: Some(3), ..asked(2) },
        Request { sampling: drawn.clone(), prompt_logprobs: Some(2), ..asked(3) },
        Request { grammar: Some(letters()), ..asked(4) },
        Request { grammar: Some(letters()), logprobs: Some(0), sampling: drawn, ..asked(5) },
    ]
}

fn count(want: &Want, which: impl Fn(&Wish) -> bool) -> usize {
    want.rows.iter().filter(|wish| which(wish)).count()
}

#[test]
fn a_mixed_step_asks_for_no_more_than_it_must() {
    for overlap in [false, true] {
        let (handle, gate, seen) = watched(&EngineOptions { overlap: Some(overlap), ..options(100) });
        // The first step waits; the next has everybody.
        let requests = mixed();
        let streams: Vec<Stream> = requests.iter().map(|r| handle.generate(r.clone()).unwrap()).collect();
        let scores = handle.score((0..7).collect()).unwrap();
        let judged = handle.judge(vec![1, 2, 3], vec![vec![4, 5], vec![6]]).unwrap();
        drop(gate);
        streams.into_iter().for_each(|stream| drop(heard(stream)));
        assert_eq!((scores.count(), judged.count()), (1, 2));
        at_rest(&handle);
        let seen = seen.lock().unwrap();
        for (want, logits, log_probs) in seen.iter() {
            assert_eq!(*logits, 256 * count(want, |wish| *wish == Wish::Logits), "rows of logits");
            assert_eq!(*log_probs, 256 * count(want, |wish| *wish == Wish::LogProbs), "rows of scores");
        }
        let all = |which: fn(&Wish) -> bool| seen.iter().map(|(want, ..)| count(want, which)).sum::<usize>();
        assert_eq!(all(|wish| *wish == Wish::Likeliest), 6, "the greedy one");
        assert_eq!(all(|wish| matches!(wish, Wish::Token(_, Some(3)))), 6, "its log-probabilities");
        assert_eq!(all(|wish| matches!(wish, Wish::Token(_, Some(0)))), 0, "under a grammar the host tells them");
        let prompt: Vec<Wish> = requests[3].prompt[1..].iter().map(|&token| Wish::Logprobs(token, 2)).collect();
        let found = seen.iter().flat_map(|(want, ..)| &want.rows).filter(|wish| matches!(wish, Wish::Logprobs(..)));
        assert!(found.eq(&prompt), "the prompt's");
        assert_eq!(all(|wish| *wish == Wish::LogProbs), 7, "a text's scores");
        // Of the grammars' tokens the first one's may be chosen by the device, where the mask is known early.
        let masked = all(|wish| matches!(wish, Wish::Token(how, None) if how.mask.is_some()));
        let free = all(|wish| matches!(wish, Wish::Token(how, None) if how.mask.is_none()));
        let brought = all(|wish| *wish == Wish::Logits);
        assert_eq!(free, 12, "drawn");
        assert!((6..=12).contains(&brought) && brought + masked <= 12, "{brought} rows of logits, {masked} masks");
        assert_eq!(seen.iter().map(|(want, ..)| want.judged.len()).sum::<usize>(), 3, "judged tokens");
        // They were in steps together, or nothing was shown.
        let company =
            |want: &Want| count(want, |w| *w == Wish::Likeliest) * count(want, |w| matches!(w, Wish::Token(..)));
        assert!(seen.iter().any(|(want, ..)| company(want) * count(want, |w| *w == Wish::Logits) > 0), "{seen:?}");
    }
}

#[test]
fn neighbours_change_no_answer() {
    for overlap in [false, true] {
        let options = EngineOptions { overlap: Some(overlap), ..options(100) };
        let (handle, gate, _) = watched(&options);
        drop(gate);
        let alone: Vec<_> = mixed().into_iter().map(|r| heard(handle.generate(r).unwrap())).collect();
        let (handle, gate, _) = watched(&options);
        let streams: Vec<Stream> = mixed().into_iter().map(|r| handle.generate(r).unwrap()).collect();
        drop(gate);
        let together: Vec<_> = streams.into_iter().map(heard).collect();
        assert_eq!(together, alone);
        assert!(alone[3][0].starts_with("Prompt([") && alone[5].iter().any(|event| event.contains("logprobs: Some")));
    }
}
