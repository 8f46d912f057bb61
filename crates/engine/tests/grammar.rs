//! Structured output: whatever the logits, the text satisfies its grammar; and no grammar harms the machine.

#[path = "grammar/bombs.rs"]
mod bombs;
#[path = "grammar/validate.rs"]
mod validate;

use planish_engine::sampler::{History, choose};
use planish_engine::{Error, Grammar, GrammarSpec, Guide, Sampling, Vocabulary};
use planish_text::Tokenizer;
use serde_json::{Value, json};
use validate::valid;

/// SmolLM2's end token.
const END: u32 = 2;
const WIDTH: usize = 49152;

fn vocabulary() -> Vocabulary {
    static JSON: &[u8] = include_bytes!("../../text/tests/data/smollm2/tokenizer.json");
    static SHARED: std::sync::OnceLock<Vocabulary> = std::sync::OnceLock::new();
    SHARED.get_or_init(|| Vocabulary::new(Tokenizer::from_json(JSON).unwrap(), vec![END, 0], WIDTH)).clone()
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_json(include_bytes!("../../text/tests/data/smollm2/tokenizer.json")).unwrap()
}

fn compile(spec: GrammarSpec) -> Result<Grammar, Error> {
    Grammar::compile(&vocabulary(), &spec)
}

fn schema(schema: Value) -> Grammar {
    compile(GrammarSpec::JsonSchema(schema.to_string())).unwrap()
}

/// Text made of random tokens under the grammar. Quotes, closing brackets and ends are preferred, so that it ends.
fn random_text(grammar: &Grammar, seed: u64) -> String {
    let tokenizer = tokenizer();
    let mut logits: Vec<f32> = (0..WIDTH as u64).map(|i| (mix(i ^ seed << 32) >> 44) as f32 / 1e5).collect();
    for close in ["\"", "}", "]", "\",", "},", "],", "\"}", "\"]"] {
        logits[tokenizer.token_to_id(close).map_or(0, |id| id as usize)] = 20.0;
    }
    logits[tokenizer.token_to_id(",").unwrap() as usize] = 17.0;
    logits[END as usize] = 21.0;
    let sampling = Sampling { temperature: 1.0, seed, ..Sampling::default() };
    let (mut guide, mut history, mut ids) = (Guide::start(grammar.clone()), History::default(), Vec::new());
    loop {
        let mask = guide.mask().unwrap();
        let token = choose(&mut logits.clone(), &sampling, &history, &[], Some(&mask)).unwrap();
        if token == END || token == 0 {
            return tokenizer.decode(&ids, false).unwrap();
        }
        if guide.is_complete().unwrap() {
            panic!("{token} is allowed after the end");
        }
        ids.push(token);
        history.push(token);
        guide.advance(token);
        assert!(ids.len() < 3000, "no end: {:?}", tokenizer.decode(&ids[2900..], false));
    }
}

fn mix(x: u64) -> u64 {
    let x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let x = (x ^ x >> 29).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ x >> 32
}

fn check_schema(of: Value, texts: u64) {
    let grammar = schema(of.clone());
    for seed in 0..texts {
        let text = random_text(&grammar, seed);
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        valid(&value, &of, &of).unwrap_or_else(|why| panic!("{why}: {text}"));
    }
}

#[test]
fn objects_with_all_common_keywords() {
    check_schema(
        json!({
            "type": "object",
            "properties": {
                "name": {"type": "string", "minLength": 1, "maxLength": 12},
                "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
                "day": {"type": "string", "format": "date"},
                "age": {"type": "integer", "minimum": 0, "maximum": 130},
                "share": {"type": "number", "exclusiveMinimum": -1, "exclusiveMaximum": 1},
                "kind": {"enum": ["a", "b", 3, null]},
                "version": {"const": "1.0"},
                "tags": {"type": "array", "items": {"type": "string", "maxLength": 5}, "minItems": 1, "maxItems": 3},
                "pair": {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "integer", "minimum": 5, "maximum": 9}],
                         "items": false, "minItems": 2},
                "either": {"anyOf": [{"type": "boolean"}, {"type": "null"}, {"type": "integer", "minimum": 7, "maximum": 7}]}
            },
            "required": ["name", "code", "day", "age", "share", "kind", "version", "tags", "pair", "either"],
            "additionalProperties": false
        }),
        12,
    );
}

#[test]
fn references_may_recur() {
    check_schema(
        json!({
            "$defs": {"node": {
                "type": "object",
                "properties": {"value": {"type": "integer", "minimum": 0, "maximum": 99},
                               "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2}},
                "required": ["value"],
                "additionalProperties": false
            }},
            "$ref": "#/$defs/node"
        }),
        12,
    );
}

#[test]
fn any_object_and_any_array_are_json() {
    let grammar = compile(GrammarSpec::JsonObject).unwrap();
    for seed in 0..6 {
        let text = random_text(&grammar, seed);
        assert!(serde_json::from_str::<Value>(&text).unwrap_or_else(|e| panic!("{e}: {text}")).is_object());
    }
    check_schema(json!({"type": "array", "items": {"type": "boolean"}, "maxItems": 4}), 6);
}

#[test]
fn regular_expressions_and_lark_hold() {
    let grammar = compile(GrammarSpec::Regex(r"(yes|no), [0-9]{2,4} times[.!]".into())).unwrap();
    let lark = compile(GrammarSpec::Lark(
        "start: greeting \" \" name\ngreeting: \"hello\" | \"bye\"\nname: /[a-z]{1,6}/".into(),
    ));
    let lark = lark.unwrap();
    for seed in 0..20 {
        let text = random_text(&grammar, seed);
        let (word, rest) = text.split_once(", ").unwrap();
        let (number, end) = rest.split_once(" times").unwrap();
        assert!(["yes", "no"].contains(&word) && [".", "!"].contains(&end), "{text}");
        assert!((2..=4).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit()), "{text}");
        let text = random_text(&lark, seed);
        let (word, name) = text.split_once(' ').unwrap();
        assert!(["hello", "bye"].contains(&word), "{text}");
        assert!((1..=6).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase()), "{text}");
    }
}

#[test]
fn only_ends_are_allowed_at_the_end_and_none_before() {
    let mut guide = Guide::start(compile(GrammarSpec::Regex("ab".into())).unwrap());
    let tokenizer = tokenizer();
    let id = |text: &str| tokenizer.token_to_id(text).unwrap();
    assert!(guide.mask().unwrap().allows(id("a")) && guide.mask().unwrap().allows(id("ab")));
    assert!(!guide.mask().unwrap().allows(END) && !guide.is_complete().unwrap());
    guide.advance(id("a"));
    assert_eq!((guide.mask().unwrap().count(), guide.is_complete().unwrap()), (1, false));
    guide.advance(id("b"));
    let mask = guide.mask().unwrap();
    assert_eq!((mask.count(), mask.allows(END), mask.allows(0)), (2, true, true));
    assert!(guide.is_complete().unwrap());
    guide.advance(END);
    assert!(guide.is_complete().unwrap() && guide.mask().unwrap().allows(END));
    guide.advance(id("b"));
    assert!(guide.mask().unwrap_err().to_string().contains("after the end"));
}

#[test]
fn special_tokens_are_no_text() {
    let tokenizer = tokenizer();
    let guide = Guide::start(compile(GrammarSpec::Regex(r"[ -~]+".into())).unwrap());
    let mask = guide.mask().unwrap();
    let special = (0..WIDTH as u32).filter(|&id| tokenizer.is_special(id));
    assert_eq!(special.filter(|&id| mask.allows(id)).count(), 0);
    assert!(mask.count() > 20000);
}

#[test]
fn a_token_that_was_not_allowed_ends_the_text_with_an_error() {
    let grammar = compile(GrammarSpec::Regex("[0-9]+".into())).unwrap();
    let mut guide = Guide::start(grammar.clone());
    guide.advance(tokenizer().token_to_id("hello").unwrap());
    let error = guide.mask().unwrap_err().to_string();
    assert!(error.starts_with("regular expression: "), "{error}");
    guide.advance(tokenizer().token_to_id("1").unwrap());
    assert!(guide.mask().is_err() && guide.is_complete().is_err(), "an error stays");
    let other = Guide::start(grammar);
    assert!(other.mask().unwrap().allows(tokenizer().token_to_id("1").unwrap()), "others go on");
}

#[test]
fn guides_of_one_grammar_do_not_disturb_each_other() {
    let grammar =
        schema(json!({"type": "array", "items": {"type": "string", "maxLength": 9}, "minItems": 2, "maxItems": 5}));
    let alone: Vec<String> = (0..6).map(|seed| random_text(&grammar, seed)).collect();
    let together: Vec<_> = (0..6).map(|seed| (seed, grammar.clone())).collect();
    let threads = together.into_iter().map(|(seed, grammar)| std::thread::spawn(move || random_text(&grammar, seed)));
    let together: Vec<String> = threads.collect::<Vec<_>>().into_iter().map(|t| t.join().unwrap()).collect();
    assert_eq!(alone, together);
}

#[test]
fn a_mask_covers_padded_logits() {
    let json = include_bytes!("../../text/tests/data/smollm2/tokenizer.json");
    let wide = Vocabulary::new(Tokenizer::from_json(json).unwrap(), vec![END], WIDTH + 100);
    let guide = Guide::start(Grammar::compile(&wide, &GrammarSpec::Regex("a+".into())).unwrap());
    let mask = guide.mask().unwrap();
    assert!(mask.words().len() == (WIDTH + 100).div_ceil(32));
    assert!((WIDTH as u32..WIDTH as u32 + 100).all(|id| !mask.allows(id)));
    let none = Vocabulary::new(Tokenizer::from_json(json).unwrap(), vec![], WIDTH);
    let error = Grammar::compile(&none, &GrammarSpec::JsonObject).unwrap_err().to_string();
    assert!(error.contains("expected a token that ends a text"), "{error}");
}
