//! Structured output with a JSON schema of 30 fields: compilation, the first mask, and microseconds a token.
//! `cargo bench -p planish-engine --bench grammar -- tokenizer.json`
use planish_engine::sampler::{History, choose};
use planish_engine::{Grammar, GrammarSpec, Guide, Sampling, Vocabulary};
use planish_text::Tokenizer;
use serde_json::{Value, json};
use std::time::Instant;

fn main() {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../text/tests/data/smollm2/tokenizer.json");
    let given = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let bytes = std::fs::read(given.as_deref().unwrap_or(fixture)).expect("tokenizer.json");
    let tokenizer = Tokenizer::from_json(&bytes).expect("a tokenizer");
    let end = ["<|im_end|>", "<|endoftext|>", "</s>"].iter().find_map(|token| tokenizer.token_to_id(token));
    let width = tokenizer.vocab_size();
    let vocabulary = Vocabulary::new(tokenizer.clone(), vec![end.expect("an end token")], width);
    let time = |name: &str, start: Instant| println!("{name:<44} {:9.3} ms", start.elapsed().as_secs_f64() * 1e3);
    for _ in 0..3 {
        let fresh = Vocabulary::new(tokenizer.clone(), vec![end.expect("an end token")], width);
        let start = Instant::now();
        Grammar::compile(&fresh, &GrammarSpec::Regex("a".into())).unwrap();
        time(&format!("vocabulary of {width} tokens, first grammar"), start);
    }
    let spec = GrammarSpec::JsonSchema(schema().to_string());
    let start = Instant::now();
    let grammar = Grammar::compile(&vocabulary, &spec).unwrap();
    time("schema of 30 fields compiled", start);
    let start = Instant::now();
    Grammar::compile(&vocabulary, &spec).unwrap();
    time("the same from the cache", start);
    for seed in 0..5 {
        let mut best = follow(&grammar, &tokenizer, end.unwrap(), seed);
        for _ in 0..9 {
            let again = follow(&grammar, &tokenizer, end.unwrap(), seed);
            best.iter_mut().zip(again).for_each(|(best, again)| *best = best.min(again));
        }
        report(seed, best);
    }
}

/// Follows one random text, always the same for a seed. Microseconds of each token, from `advance` until its mask is
/// there: the work and two wake-ups.
fn follow(grammar: &Grammar, tokenizer: &Tokenizer, end: u32, seed: u64) -> Vec<f64> {
    let mut guide = Guide::start(grammar.clone());
    let mut logits: Vec<f32> = (0..tokenizer.vocab_size() as u64).map(|i| noise(i ^ seed << 32)).collect();
    ["\"", "\",", "}", "\"}"].iter().filter_map(|t| tokenizer.token_to_id(t)).for_each(|t| logits[t as usize] = 9.0);
    let sampling = Sampling { temperature: 1.0, seed, ..Sampling::default() };
    let (mut history, mut micros) = (History::default(), Vec::new());
    while micros.len() < 3000 && !guide.is_complete().unwrap() {
        let mask = guide.mask().unwrap();
        let token = choose(&mut logits.clone(), &sampling, &history, &[], Some(&mask)).unwrap();
        if token == end {
            break;
        }
        history.push(token);
        let start = Instant::now();
        guide.advance(token);
        guide.mask().unwrap();
        micros.push(start.elapsed().as_secs_f64() * 1e6);
    }
    micros
}

fn report(seed: u64, mut micros: Vec<f64>) {
    micros.sort_by(f64::total_cmp);
    let (n, mean) = (micros.len(), micros.iter().sum::<f64>() / micros.len() as f64);
    let at = |percent: usize| micros[(n * percent / 100).min(n - 1)];
    let (median, p99, max) = (at(50), at(99), at(100));
    println!(
        "text {seed}, best of 10: {n} tokens, mean {mean:6.1} us, median {median:6.1}, p99 {p99:7.1}, max {max:7.1}"
    );
}

fn noise(x: u64) -> f32 {
    let x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (x >> 40) as f32 / (1u64 << 22) as f32
}

fn schema() -> Value {
    let kinds = [
        json!({"type": "string", "maxLength": 40}),
        json!({"type": "integer", "minimum": 0, "maximum": 100_000}),
        json!({"type": "number"}),
        json!({"type": "boolean"}),
        json!({"enum": ["red", "green", "blue"]}),
        json!({"type": "array", "items": {"type": "string"}, "maxItems": 4}),
    ];
    let names: Vec<String> = (0..30).map(|i| format!("field_{i}")).collect();
    let fields = names.iter().enumerate().map(|(i, name)| (name.clone(), kinds[i % kinds.len()].clone()));
    json!({
        "type": "object",
        "properties": fields.collect::<serde_json::Map<_, _>>(),
        "required": names,
        "additionalProperties": false
    })
}
