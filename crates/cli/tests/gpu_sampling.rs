//! Tokens chosen on the device are those that the engine's sampler chooses, for every wish and every seed.
use planish_cuda::{Cuda, Options};
use planish_engine::sampler::{self, History, NoChoice};
use planish_engine::{Mask, Sampling};
use planish_tensor::{Asked, Backend, DType, SampleRow};

fn devices() -> Vec<Cuda> {
    let open = |kernels_of| Cuda::open(Options { kernels_of, ..Options::default() });
    match [None, Some(75)].into_iter().map(open).collect() {
        Ok(devices) => devices,
        Err(error) => {
            println!("skipped: no device ({error})");
            Vec::new()
        }
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn normal(&mut self) -> f32 {
        (0..12).map(|_| (self.next() >> 40) as f32 / (1u64 << 24) as f32).sum::<f32>() - 6.0
    }
}

/// A row of logits and what is wanted of it.
struct Case {
    logits: Vec<f32>,
    sampling: Sampling,
    history: History,
    banned: Vec<u32>,
    mask: Option<Mask>,
}

impl Case {
    fn random(random: &mut Random, v: usize) -> Case {
        let spread = random.one_of(&[0.0, 0.01, 1.0, 3.0, 3.0, 3.0, 20.0]);
        let mut logits: Vec<f32> = (0..v).map(|_| random.normal() * spread).collect();
        (0..v / 7).for_each(|_| logits[random.below(v)] = random.one_of(&[f32::NEG_INFINITY, 1.5, 1.5, -3.0, -0.0]));
        match random.below(40) {
            0 => logits[random.below(v)] = f32::NAN,
            1 => logits[random.below(v)] = f32::INFINITY,
            2 => logits.fill(f32::NEG_INFINITY),
            3 => logits.fill(-2.5),
            _ => {}
        }
        let prompt: Vec<u32> = (0..random.below(300)).map(|_| random.below(v) as u32).collect();
        let mut history = History::new(&prompt);
        (0..random.below(40)).for_each(|_| history.push(random.below(v) as u32));
        let banned = (0..random.below(3)).map(|_| random.below(v + 5) as u32).collect();
        let width = random.one_of(&[v.div_ceil(32), v / 64]);
        let words = (0..width).map(|_| random.next() as u32).collect();
        let mask = (random.below(3) == 0).then(|| Mask::from_words(words));
        Case { logits, sampling: Case::wishes(random, v), history, banned, mask }
    }

    fn wishes(random: &mut Random, v: usize) -> Sampling {
        let biased = random.one_of(&[0, 0, 3]);
        let mut logit_bias: Vec<(u32, f32)> =
            (0..biased).map(|_| (random.below(v + 5) as u32, random.normal() * 5.0)).collect();
        logit_bias.sort_by_key(|(id, _)| *id);
        logit_bias.dedup_by_key(|(id, _)| *id);
        Sampling {
            temperature: random.one_of(&[0.0, 1e-6, 0.2, 0.7, 1.0, 1.0, 2.0, 50.0]),
            top_k: random.one_of(&[0, 0, 0, 1, 2, 50, 700, 2048, 1_000_000]),
            top_p: random.one_of(&[1.0, 1.0, 0.9, 0.5, 0.999, 0.01]),
            min_p: random.one_of(&[0.0, 0.0, 0.05, 0.5, 1.0]),
            repetition_penalty: random.one_of(&[1.0, 1.0, 1.3, 0.8]),
            presence_penalty: random.one_of(&[0.0, 0.7, -0.4]),
            frequency_penalty: random.one_of(&[0.0, 0.3, -0.2]),
            logit_bias,
            seed: random.next(),
        }
    }

    fn expected(&self) -> u32 {
        let mut logits = self.logits.clone();
        match sampler::choose(&mut logits, &self.sampling, &self.history, &self.banned, self.mask.as_ref()) {
            Ok(id) => id,
            Err(NoChoice::NotANumber) => SampleRow::NOT_A_NUMBER,
            Err(NoChoice::NothingAllowed) => SampleRow::NOTHING_ALLOWED,
        }
    }
}

/// What the device chooses in one step.
fn sampled(cuda: &Cuda, cases: &[Case]) -> Vec<u32> {
    let v = cases[0].logits.len();
    let mut logits = cuda.alloc(DType::F32, cases.len(), v).unwrap();
    let values: Vec<f32> = cases.iter().flat_map(|case| case.logits.iter().copied()).collect();
    cuda.upload(bytemuck::cast_slice(&values), &mut logits).unwrap();
    let rows: Vec<SampleRow> = cases
        .iter()
        .map(|case| {
            sampler::row(&case.sampling, &case.history, case.history.position(), &case.banned, case.mask.as_ref())
        })
        .collect();
    // Some of the rows, in any order: each has its own number. All stay as they are.
    let numbered: Vec<(u32, &SampleRow)> = (0..rows.len() as u32).zip(&rows).rev().collect();
    let mut found = cuda.sample(&logits, &numbered).unwrap();
    found.reverse();
    assert_eq!(cuda.sample(&logits, &numbered[1..2]).unwrap(), found[found.len() - 2..][..1], "one row alone");
    let mut after = vec![0f32; values.len()];
    cuda.download(&logits, bytemuck::cast_slice_mut(&mut after)).unwrap();
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
    assert!(bits(&after) == bits(&values), "the logits have changed");
    found.into_iter().map(|token| token.expect("the device can do all of these")).collect()
}

/// Log-probabilities of every case's token and of the likeliest, beside those of the engine's sampler.
fn compare_likely(cuda: &Cuda, random: &mut Random, cases: &[Case]) -> f32 {
    let v = cases[0].logits.len();
    let mut logits = cuda.alloc(DType::F32, cases.len(), v).unwrap();
    let values: Vec<f32> = cases.iter().flat_map(|case| case.logits.iter().copied()).collect();
    cuda.upload(bytemuck::cast_slice(&values), &mut logits).unwrap();
    let ask = |row| Asked { row, token: random.below(v) as u32, top: random.one_of(&[0, 1, 2, 5, 20, 64]) };
    let asked: Vec<Asked> = (0..cases.len() as u32).rev().map(ask).collect();
    let mut worst = 0f32;
    for (asked, found) in asked.iter().zip(cuda.likely(&logits, &asked).unwrap()) {
        let found = found.expect("the device can do all of these");
        let expected = sampler::logprobs(&cases[asked.row as usize].logits, asked.token, asked.top);
        let ids = |top: &[(u32, f32)]| top.iter().map(|(id, _)| *id).collect::<Vec<u32>>();
        assert_eq!(ids(&found.top), ids(&expected.top), "width {v}, {asked:?}");
        let pairs = found.top.iter().zip(&expected.top).map(|(a, b)| (a.1, b.1));
        for (found, expected) in pairs.chain([(found.log_prob, expected.chosen)]) {
            assert_eq!((found.is_nan(), found.is_finite()), (expected.is_nan(), expected.is_finite()), "{asked:?}");
            if expected.is_finite() {
                worst = worst.max((found - expected).abs() / expected.abs().max(1.0));
            }
        }
    }
    worst
}

#[test]
fn log_probabilities_are_those_of_the_engine() {
    let mut random = Random(2);
    for cuda in devices() {
        let mut worst = 0f32;
        for v in [1, 2, 63, 300, 4095, 4097, 5000, 32_003, 49_152, 128_256, 151_936, 262_144] {
            let cases: Vec<Case> = (0..40).map(|_| Case::random(&mut random, v)).collect();
            worst = worst.max(compare_likely(&cuda, &mut random, &cases));
        }
        println!("{}: worst {worst:.1e}", cuda.describe());
        assert!(worst < 1e-6);
    }
}

fn check(widths: &[usize], rounds: usize, rows: usize) {
    let devices = devices();
    if devices.is_empty() {
        return;
    }
    let mut random = Random(1);
    for round in 0..rounds {
        let v = random.one_of(widths);
        let cases: Vec<Case> = (0..rows).map(|_| Case::random(&mut random, v)).collect();
        let expected: Vec<u32> = cases.iter().map(Case::expected).collect();
        for cuda in &devices {
            for (row, (found, expected)) in sampled(cuda, &cases).iter().zip(&expected).enumerate() {
                let (case, name) = (&cases[row], cuda.describe());
                let Case { sampling, mask, .. } = case;
                assert_eq!(
                    found,
                    expected,
                    "{name}: round {round} row {row} of width {v}, mask {}, {sampling:?}",
                    mask.is_some()
                );
            }
        }
    }
}

#[test]
fn small_vocabularies() {
    check(&[1, 5, 63, 64, 65, 300, 511, 512, 513, 2047, 2500, 5000], 150, 16);
}

#[test]
fn large_vocabularies() {
    check(&[32_000, 49_152, 128_256, 151_936, 262_144, 32_003], 12, 24);
}

#[test]
fn what_the_device_leaves_to_the_host() {
    for cuda in devices() {
        let logits = cuda.alloc(DType::F32, 3, 5000).unwrap();
        let long = SampleRow { temperature: 1.0, top_k: 3000, top_p: 0.9, ..SampleRow::GREEDY };
        let twice = SampleRow { bias: vec![(1, 2.0), (1, 3.0)], ..SampleRow::GREEDY };
        let rows = [(2, &long), (0, &SampleRow::GREEDY), (1, &twice)];
        assert_eq!(cuda.sample(&logits, &rows).unwrap(), [None, Some(0), None]);
        assert!(cuda.sample(&logits, &[(3, &SampleRow::GREEDY)]).is_err());
        let ask = |row, top| Asked { row, token: 7, top };
        let found = cuda.likely(&logits, &[ask(2, 65), ask(0, 64), ask(1, 1000)]).unwrap();
        assert!(found[0].is_none() && found[2].is_none());
        assert_eq!(found[1].as_ref().unwrap().top.len(), 64);
        assert!(cuda.likely(&logits, &[ask(3, 0)]).is_err());
        assert!(cuda.likely(&logits, &[Asked { token: 5000, ..ask(0, 0) }]).is_err());
    }
}
