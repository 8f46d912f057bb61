//! Choosing tokens: against the reference, and each rule by itself.
use super::*;

const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, -1.0, 3.0];

fn plain(logits: &[f32], sampling: &Sampling, history: &History) -> Result<u32, NoChoice> {
    choose(&mut logits.to_vec(), sampling, history, &[], None)
}

fn counts(sampling: &Sampling, draws: u64) -> Vec<usize> {
    let mut counts = vec![0; 5];
    for seed in 0..draws {
        let sampling = Sampling { seed, ..sampling.clone() };
        counts[plain(&LOGITS, &sampling, &History::new(&[0])).unwrap() as usize] += 1;
    }
    counts
}

/// A source of test cases.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f32 {
        self.0 += 1;
        uniform(42, self.0) as f32
    }

    fn below(&mut self, n: usize) -> usize {
        ((self.unit() as f64 * n as f64) as usize).min(n - 1)
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.unit()).sum::<f32>() - 6.0
    }

    fn sampling(&mut self, v: usize) -> Sampling {
        let biased = self.one_of(&[0, 0, 3]);
        Sampling {
            temperature: self.one_of(&[0.0, 1e-6, 0.2, 0.7, 1.0, 2.0, 50.0]),
            top_k: self.one_of(&[0, 0, 1, 2, 50, 700, 1_000_000]),
            top_p: self.one_of(&[1.0, 1.0, 0.9, 0.5, 0.999, 0.01]),
            min_p: self.one_of(&[0.0, 0.0, 0.05, 0.5, 1.0]),
            repetition_penalty: self.one_of(&[1.0, 1.0, 1.3, 0.8]),
            presence_penalty: self.one_of(&[0.0, 0.7, -0.4]),
            frequency_penalty: self.one_of(&[0.0, 0.3, -0.2]),
            logit_bias: (0..biased).map(|_| (self.below(v) as u32, self.normal() * 5.0)).collect(),
            seed: self.below(1 << 20) as u64,
        }
    }
}

#[test]
fn agrees_with_the_reference() {
    let (mut random, mut close) = (Random(0), 0);
    for case in 0..4000 {
        let most = random.one_of(&[1, 5, 63, 65, 300, 5000]);
        let v = 1 + random.below(most);
        let spread = random.one_of(&[0.01, 1.0, 3.0, 20.0]);
        let mut logits: Vec<f32> = (0..v).map(|_| random.normal() * spread).collect();
        (0..v / 7).for_each(|_| logits[random.below(v)] = random.one_of(&[f32::NEG_INFINITY, 1.5, 1.5, -3.0]));
        let safe = random.below(v);
        logits[safe] = 0.25;
        let mut history = History::new(&(0..random.below(40)).map(|_| random.below(v) as u32).collect::<Vec<_>>());
        (0..random.below(40)).for_each(|_| history.push(random.below(v) as u32));
        let banned: Vec<u32> =
            (0..random.below(3)).map(|_| random.below(v) as u32).filter(|&id| id as usize != safe).collect();
        let mut words: Vec<u32> = (0..v.div_ceil(32)).map(|_| (random.unit() * u32::MAX as f32) as u32).collect();
        words[safe / 32] |= 1 << (safe % 32);
        let mask = (random.below(2) == 0).then(|| Mask::from_words(words));
        let sampling = random.sampling(v);
        let expected = reference::choose(&logits, &sampling, &history, &banned, mask.as_ref());
        let fast = || choose(&mut logits.clone(), &sampling, &history, &banned, mask.as_ref()).unwrap();
        let found = fast();
        assert_eq!(found, fast(), "the same again");
        close += expected.close as usize;
        assert!(found == expected.token || expected.close, "case {case}: {found} {expected:?} {v} {sampling:?}");
    }
    assert!(close < 40, "{close} of 4000 cases hang on a rounding");
}

#[test]
fn greedy_takes_the_first_of_equals() {
    assert_eq!(plain(&LOGITS, &Sampling::default(), &History::default()), Ok(1));
    let mut long = vec![-2.0; 1000];
    (long[700], long[703]) = (5.0, 5.0);
    assert_eq!(plain(&long, &Sampling::default(), &History::default()), Ok(700));
}

#[test]
fn broken_logits_and_empty_choices_are_told_apart() {
    let broken = |x| plain(&[0.0, x], &Sampling::default(), &History::default());
    assert_eq!((broken(f32::NAN), broken(f32::INFINITY)), (Err(NoChoice::NotANumber), Err(NoChoice::NotANumber)));
    assert_eq!(broken(f32::NEG_INFINITY), Ok(0));
    let mask = Mask::from_words(vec![0b11]);
    for temperature in [0.0, 1.0] {
        let sampling = Sampling { temperature, ..Sampling::default() };
        let allowed = |banned: &[u32]| choose(&mut LOGITS.clone(), &sampling, &History::default(), banned, Some(&mask));
        assert_eq!(allowed(&[1]), Ok(0));
        assert_eq!(allowed(&[0, 1]), Err(NoChoice::NothingAllowed));
    }
}

#[test]
fn frequencies_follow_the_softmax() {
    let counts = counts(&Sampling { temperature: 1.0, ..Sampling::default() }, 20000);
    let sum: f32 = LOGITS.iter().map(|x| x.exp()).sum();
    for (count, x) in counts.iter().zip(LOGITS) {
        assert!((*count as f32 / 20000.0 - x.exp() / sum).abs() < 0.015, "{counts:?}");
    }
}

#[test]
fn cuts_keep_the_likeliest() {
    let t = Sampling { temperature: 1.0, ..Sampling::default() };
    let kept = |s: Sampling| counts(&s, 500).iter().map(|&c| c > 0).collect::<Vec<_>>();
    assert_eq!(kept(Sampling { top_k: 2, ..t.clone() }), [false, true, false, false, true]);
    assert_eq!(kept(Sampling { top_p: 0.5, ..t.clone() }), [false, true, false, false, true]);
    assert_eq!(kept(Sampling { top_p: 0.01, ..t.clone() }), [false, true, false, false, false]);
    assert_eq!(kept(Sampling { min_p: 0.2, ..t.clone() }), [false, true, true, false, true]);
    // Top-p counts what top-k left: 3 of equal weight would be 0.34 each of their own mass.
    assert_eq!(kept(Sampling { top_k: 2, top_p: 0.6, ..t }), [false, true, false, false, true]);
}

#[test]
fn repetition_counts_the_prompt_and_the_others_only_the_output() {
    let mut history = History::new(&[1, 4, 1]);
    let s = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
    assert_eq!(plain(&LOGITS, &s, &history), Ok(2));
    let s = Sampling { presence_penalty: 1.5, ..Sampling::default() };
    assert_eq!(plain(&LOGITS, &s, &history), Ok(1));
    history.push(1);
    assert_eq!(plain(&LOGITS, &s, &history), Ok(4));
    history.push(4);
    assert_eq!(plain(&LOGITS, &s, &history), Ok(2));
    let s = Sampling { frequency_penalty: 0.6, ..Sampling::default() };
    assert_eq!(plain(&LOGITS, &s, &history), Ok(1));
    history.push(1);
    assert_eq!(plain(&LOGITS, &s, &history), Ok(4));
}

#[test]
fn bias_comes_after_penalties_and_never_frees_what_is_banned() {
    let s = Sampling { logit_bias: vec![(3, 100.0), (99, 1.0)], repetition_penalty: 50.0, ..Sampling::default() };
    assert_eq!(plain(&LOGITS, &s, &History::new(&[3])), Ok(3));
    assert_eq!(choose(&mut LOGITS.clone(), &s, &History::default(), &[3], None), Ok(1));
    let infinite = Sampling { logit_bias: vec![(0, f32::INFINITY), (1, f32::NEG_INFINITY)], ..Sampling::default() };
    assert_eq!(plain(&LOGITS, &infinite, &History::default()), Ok(0));
}

#[test]
fn logprobs_are_normalized() {
    let l = logprobs(&LOGITS, 2, 3);
    assert_eq!(l.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 4, 2]);
    assert_eq!(l.chosen, l.top[2].1);
    let exact = 2.0 - LOGITS.iter().map(|&x| (x as f64).exp()).sum::<f64>().ln();
    assert!((l.chosen as f64 - exact).abs() < 1e-6);
    let all = logprobs(&LOGITS, 0, 9);
    let sum: f32 = all.top.iter().map(|t| t.1.exp()).sum();
    assert!((sum - 1.0).abs() < 1e-6 && all.top.len() == 5);
}

/// Frozen: a change of these is a change of every seeded answer.
#[test]
fn draws_do_not_change() {
    let s = Sampling { temperature: 1.0, top_p: 0.95, seed: 7, ..Sampling::default() };
    let logits: Vec<f32> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 20) as f32 / 400.0).collect();
    let mut history = History::new(&[5, 6]);
    let mut tokens = Vec::new();
    for _ in 0..6 {
        tokens.push(plain(&logits, &s, &history).unwrap());
        history.push(tokens[tokens.len() - 1]);
    }
    assert_eq!(tokens, [3689, 2393, 1859, 1024, 1927, 1351]);
}
