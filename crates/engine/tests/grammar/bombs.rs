//! Grammars that are wrong, or made to hurt: each is refused with a reason, or does no harm.
use crate::{compile, schema, vocabulary};
use planish_engine::{Error, Grammar, GrammarSpec, Guide};
use serde_json::json;

fn refusal(spec: GrammarSpec) -> String {
    match compile(spec) {
        Err(Error::Grammar(message)) => message,
        other => panic!("expected a refusal, found {other:?}"),
    }
}

fn schema_refusal(text: impl ToString) -> String {
    refusal(GrammarSpec::JsonSchema(text.to_string()))
}

#[test]
fn malformed_grammars_are_named() {
    for (message, words) in [
        (schema_refusal("{\"type\": "), ["JSON schema", "line 1"]),
        (schema_refusal("[1]"), ["JSON schema", "expected an object, found [1]"]),
        (schema_refusal(json!({"type": "strnig"})), ["JSON schema", "strnig"]),
        (schema_refusal(json!({"type": "string", "pattern": "a(b"})), ["JSON schema", "a(b"]),
        (schema_refusal(json!({"type": "string", "format": "no-such"})), ["JSON schema", "no-such"]),
        (schema_refusal(json!({"$ref": "#/$defs/none"})), ["JSON schema", "none"]),
        (
            schema_refusal(json!({"type": "object", "dependentRequired": {"a": ["b"]}})),
            ["JSON schema", "dependentRequired"],
        ),
        (schema_refusal(json!({"type": "integer", "minimum": 5, "maximum": 4})), ["JSON schema", "minimum"]),
        (refusal(GrammarSpec::Regex("a(b".into())), ["regular expression", "unclosed group"]),
        (refusal(GrammarSpec::Regex("(?=a)b".into())), ["regular expression", "look-around"]),
        (refusal(GrammarSpec::Lark("start: \"a\" nothing".into())), ["Lark grammar", "nothing"]),
        (refusal(GrammarSpec::Lark("begin: \"a\"".into())), ["Lark grammar", "start"]),
    ] {
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
        assert!(!message.contains("panic") && message.len() < 700, "{message}");
    }
}

#[test]
fn size_depth_and_counts_are_bounded() {
    let long = GrammarSpec::Regex("a".repeat((64 << 10) + 1));
    assert!(refusal(long).contains("expected at most 65536 bytes, found 65537"));
    let nested = (0..40).fold(json!({"type": "null"}), |inner, _| json!({"type": "array", "items": inner}));
    let _allowed = schema(nested);
    let nested = (0..65).fold(json!({"type": "null"}), |inner, _| json!({"type": "array", "items": inner}));
    assert!(schema_refusal(nested).contains("nested deeper than 64 at #/items/items/"));
    assert!(schema_refusal(format!("{}1{}", "[".repeat(30000), "]".repeat(30000))).contains("recursion limit"));
    let brackets = format!("{}a{}", "(".repeat(65), ")".repeat(65));
    assert!(refusal(GrammarSpec::Regex(brackets.clone())).contains("nested deeper than 64"));
    assert!(refusal(GrammarSpec::Lark(format!("start: {}", brackets.replace('a', "\"a\"")))).contains("nested deeper"));
    assert!(refusal(GrammarSpec::Regex("(ab){1,100000}".into())).contains("at most 10000 repetitions, found 100000"));
    assert!(refusal(GrammarSpec::Regex("a{99999999999999999999}".into())).contains("at most 10000 repetitions"));
    assert!(schema_refusal(json!({"type": "string", "maxLength": 1e9})).contains("at most 10000 at #/maxLength"));
    let pattern = json!({"properties": {"x": {"type": "string", "pattern": "^a{20000}$"}}});
    assert!(schema_refusal(pattern).contains("repetitions at #/properties/x/pattern, found 20000"));
}

/// Follows a grammar for some tokens, whatever they are; an error is fine, an endless wait is not.
fn follow(grammar: Grammar) {
    let mut guide = Guide::start(grammar);
    for i in 0..30u32 {
        let Ok(mask) = guide.mask() else { return };
        let start = i.wrapping_mul(7919) % 49152;
        let Some(token) = (start..49152).chain(0..start).find(|&id| mask.allows(id)) else { return };
        guide.advance(token);
    }
}

#[test]
fn explosions_are_bounded() {
    let any = |regex: &str| compile(GrammarSpec::Regex(regex.into()));
    // States that a determinized automaton needs: 2^n; a counter of counters; an alternation of everything.
    let many = (0..4000).map(|i| format!("w{i}")).collect::<Vec<_>>().join("|");
    let regexes = [
        "(a|b)*a(a|b){200}".to_owned(),
        "((a{1,100}){1,100}){1,100}".to_owned(),
        format!("({many})*x({many})*"),
        "(.*a){50}.*b".to_owned(),
        "(a?){5000}a{5000}".to_owned(),
    ];
    regexes.iter().filter_map(|regex| any(regex).ok()).for_each(follow);
    let ambiguous = "start: a\na: a a | \"x\" | a a a | \"xx\"";
    compile(GrammarSpec::Lark(ambiguous.into())).into_iter().for_each(follow);
    let choices: Vec<_> =
        (0..300).map(|i| json!({"type": "object", "properties": {format!("k{i}"): {"type": "string"}}})).collect();
    compile(GrammarSpec::JsonSchema(json!({"anyOf": choices}).to_string())).into_iter().for_each(follow);
    let mut doubling = json!({"$defs": {"d0": {"type": "string"}}, "$ref": "#/$defs/d30"});
    for i in 1..=30 {
        let below = format!("#/$defs/d{}", i - 1);
        doubling["$defs"][format!("d{i}")] = json!({"allOf": [{"$ref": below}, {"$ref": below}]});
    }
    compile(GrammarSpec::JsonSchema(doubling.to_string())).into_iter().for_each(follow);
    // The worker lives.
    let guide = Guide::start(any("[0-9]").unwrap());
    assert!(guide.mask().unwrap().count() >= 10);
}

#[test]
fn the_cache_is_bounded_and_gives_the_same_grammar() {
    let vocabulary = vocabulary();
    for i in 0..300 {
        let spec = GrammarSpec::JsonSchema(json!({"type": "object", "properties": {format!("p{i}"): {}}}).to_string());
        Grammar::compile(&vocabulary, &spec).unwrap();
        assert!(vocabulary.cached().0 <= 64 && vocabulary.cached().1 <= 256 << 20);
    }
    assert!(vocabulary.cached().0 >= 32);
}
