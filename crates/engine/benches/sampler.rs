//! Microseconds a row of choosing a token: best and median of many runs, for several vocabularies and parameters.
//! `cargo bench -p planish-engine --bench sampler`
use planish_engine::Sampling;
use planish_engine::sampler::{History, choose, logprobs};
use std::hint::black_box;
use std::time::Instant;

fn main() {
    for (v, spread) in [(49_152, 3.0), (49_152, 0.2), (151_936, 3.0)] {
        println!("v = {v}, logits of standard deviation {spread}");
        let logits = logits(v, spread);
        let mut history = History::new(&(0..500).map(|i| i * 97 % v as u32).collect::<Vec<_>>());
        (0..100).for_each(|i| history.push(i * 31 % v as u32));
        for (name, sampling) in cases() {
            time(name, || choose(&mut logits.clone(), &sampling, &history, &[], None));
        }
        time("logprobs, 20 likeliest", || logprobs(&logits, 7, 20));
        time("(copy of the row alone)", || logits.clone());
    }
}

fn cases() -> Vec<(&'static str, Sampling)> {
    let greedy = Sampling::default();
    let warm = Sampling { temperature: 1.0, ..Sampling::default() };
    let penalized =
        Sampling { repetition_penalty: 1.1, presence_penalty: 0.5, frequency_penalty: 0.2, ..greedy.clone() };
    vec![
        ("greedy", greedy),
        ("greedy, all penalties", penalized),
        ("temperature", warm.clone()),
        ("temperature, top_k 50", Sampling { top_k: 50, ..warm.clone() }),
        ("temperature, top_p 0.9", Sampling { top_p: 0.9, ..warm.clone() }),
        ("temperature, min_p 0.05", Sampling { min_p: 0.05, ..warm.clone() }),
        ("temperature, top_k 50, top_p 0.9", Sampling { top_k: 50, top_p: 0.9, ..warm }),
    ]
}

fn logits(v: usize, spread: f32) -> Vec<f32> {
    let mut state = 1u64;
    let mut unit = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..v).map(|_| ((0..12).map(|_| unit()).sum::<f32>() - 6.0) * spread).collect()
}

fn time<T>(name: &str, mut f: impl FnMut() -> T) {
    let mut micros: Vec<f64> = (0..400)
        .map(|_| {
            let start = Instant::now();
            black_box(f());
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    micros.sort_by(f64::total_cmp);
    println!("  {name:<36} best {:7.1} us, median {:7.1} us", micros[0], micros[micros.len() / 2]);
}
