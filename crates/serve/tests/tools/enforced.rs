//! `tool_choice` required and named: whatever the logits, the answer is calls of the allowed tools.
use crate::answers::Meaning;
use planish_engine::sampler::{History, choose};
use planish_engine::{Grammar, GrammarSpec, Guide, Sampling, Vocabulary};
use planish_serve::reply::Reply;
use planish_serve::tools::{Delta, FORMATS, Format, Tool, ToolChoice, ToolReader, call_grammar};
use planish_text::Tokenizer;
use serde_json::{Value, json};

/// SmolLM2's end token, and the number of its tokens.
const END: u32 = 2;
const WIDTH: usize = 49152;

/// SmolLM2's tokenizer; with `markers`, some of its unused special tokens are those of a format.
fn tokenizer(markers: &[&str]) -> Tokenizer {
    let mut json: Value =
        serde_json::from_slice(include_bytes!("../../../text/tests/data/smollm2/tokenizer.json")).unwrap();
    let spare = [
        "<repo_name>",
        "<reponame>",
        "<file_sep>",
        "<filename>",
        "<gh_stars>",
        "<issue_start>",
        "<issue_comment>",
        "<issue_closed>",
    ];
    assert!(markers.len() <= spare.len());
    for (old, new) in spare.iter().zip(markers) {
        let tokens = json["added_tokens"].as_array_mut().unwrap();
        let token = tokens.iter_mut().find(|token| token["content"] == *old).unwrap();
        token["content"] = json!(new);
        let vocabulary = json["model"]["vocab"].as_object_mut().unwrap();
        let id = vocabulary.remove(*old).unwrap();
        vocabulary.insert((*new).to_owned(), id);
    }
    Tokenizer::from_json(json.to_string().as_bytes()).unwrap()
}

fn tools() -> Vec<Tool> {
    let schema = json!({
        "type": "object",
        "description": "brackets that are not counted: ((((([[[[ ~99999 {99999}",
        "properties": {
            "city": {"$ref": "#/$defs/city"},
            "days": {"type": "integer", "minimum": 1, "maximum": 9, "description": "how many"},
            "description": {"type": "string", "maxLength": 5}
        },
        "required": ["city", "days", "description"],
        "additionalProperties": false,
        "$defs": {"city": {"enum": ["Paris", "Rome (Lazio)"]}}
    });
    let tool = |name: &str, parameters| Tool { name: name.to_owned(), description: None, parameters };
    vec![tool("get_weather", Some(schema)), tool("stop", None)]
}

/// An answer of random tokens under the grammar; ends and closing quotes are preferred, so that it ends.
fn random_answer(tokenizer: &Tokenizer, vocabulary: &Vocabulary, spec: &GrammarSpec, seed: u64) -> String {
    let grammar = Grammar::compile(vocabulary, spec).unwrap();
    let mut logits: Vec<f32> = (0..WIDTH as u64).map(|i| (mix(i ^ seed << 32) >> 44) as f32 / 1e5).collect();
    for close in ["\"", "}", "]", "\",", "\"}", "}}"] {
        logits[tokenizer.token_to_id(close).map_or(0, |id| id as usize)] = 20.0;
    }
    logits[END as usize] = 18.0;
    let sampling = Sampling { temperature: 1.0, seed, ..Sampling::default() };
    let (mut guide, mut history, mut ids) = (Guide::start(grammar), History::default(), Vec::new());
    loop {
        let mask = guide.mask().unwrap();
        let token = choose(&mut logits.clone(), &sampling, &history, &[], Some(&mask)).unwrap();
        if token == END || token == 0 {
            return tokenizer.decode(&ids, false).unwrap();
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

fn calls(format: &'static Format, answer: &str) -> Vec<(String, String)> {
    let names = tools().iter().map(|tool| tool.name.clone()).collect();
    let mut reply = Reply::new(None, Some(ToolReader::new(format, names, 1)));
    let deltas: Vec<Delta> = reply.push(answer.as_bytes()).into_iter().chain(reply.finish()).collect();
    let found = Meaning::of(deltas);
    assert_eq!(found.content, "", "{}: {answer}", format.name);
    found.calls
}

/// A model's words.
struct Words {
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
}

impl Words {
    fn new(markers: &[&str]) -> Words {
        let tokenizer = tokenizer(markers);
        let vocabulary = Vocabulary::new(tokenizer.clone(), vec![END, 0], WIDTH);
        Words { tokenizer, vocabulary }
    }

    /// Random answers of one format and choice.
    fn enforced(&self, format: &'static Format, choice: &ToolChoice, parallel: bool) -> Vec<Vec<(String, String)>> {
        let spec = call_grammar(format, &tools(), choice, parallel, &self.tokenizer).unwrap();
        let answer = |seed| random_answer(&self.tokenizer, &self.vocabulary, &spec, seed);
        (0..6).map(|seed| calls(format, &answer(seed))).collect()
    }
}

#[track_caller]
fn check(call: &(String, String)) {
    let arguments: Value = serde_json::from_str(&call.1).unwrap();
    if call.0 == "get_weather" {
        assert!(arguments["city"] == "Paris" || arguments["city"] == "Rome (Lazio)", "{arguments}");
        assert!((1..=9).contains(&arguments["days"].as_i64().unwrap()), "{arguments}");
        assert_eq!(arguments.as_object().unwrap().len(), 3, "{arguments}");
    } else {
        assert!(call.0 == "stop" && arguments.is_object(), "{call:?}");
    }
}

#[test]
fn every_format_gives_calls_that_its_reader_finds() {
    let mut markers: Vec<&str> = FORMATS.iter().flat_map(|format| format.markers()).collect();
    markers.sort_unstable();
    markers.dedup();
    let (plain, special) = (Words::new(&[]), Words::new(&markers));
    let named = ToolChoice::Named("get_weather".to_owned());
    for format in FORMATS {
        for words in [&plain, &special] {
            let answers = words.enforced(format, &ToolChoice::Required, true);
            assert!(answers.iter().all(|calls| !calls.is_empty()), "{}", format.name);
            answers.iter().flatten().for_each(check);
            let answers = words.enforced(format, &named, false);
            assert!(answers.iter().all(|calls| calls.len() == 1 && calls[0].0 == "get_weather"), "{answers:?}");
            answers.iter().flatten().for_each(check);
        }
    }
}

#[test]
fn a_free_choice_needs_no_grammar() {
    let tokenizer = tokenizer(&[]);
    for choice in [ToolChoice::None, ToolChoice::Auto] {
        assert_eq!(call_grammar(FORMATS[0], &tools(), &choice, true, &tokenizer), None);
    }
}

#[test]
fn wrong_tools_and_choices_are_named() {
    let named = |name: &str| Tool { name: name.to_owned(), description: None, parameters: None };
    let check = |tools: &[Tool], choice: ToolChoice| choice.check(tools).map_err(|error| error.to_string());
    assert_eq!(check(&tools(), ToolChoice::Named("stop".to_owned())), Ok(()));
    for (tools, choice, message) in [
        (vec![], ToolChoice::Required, "tool_choice: expected tools to choose from, found none"),
        (
            tools(),
            ToolChoice::Named("x".to_owned()),
            "tool_choice.function.name: expected the name of one of the tools, found \"x\"",
        ),
        (
            vec![named("a b")],
            ToolChoice::Auto,
            "tools[0].function.name: expected 1 to 64 letters, digits, _, - or ., found \"a b\"",
        ),
        (
            vec![named("a"), named("a")],
            ToolChoice::Auto,
            "tools[1].function.name: expected a name that no other tool has, found \"a\"",
        ),
        (
            vec![Tool { parameters: Some(json!(3)), ..named("a") }],
            ToolChoice::Auto,
            "tools[0].function.parameters: expected a JSON schema, found 3",
        ),
        (vec![named(&"x".repeat(65))], ToolChoice::Auto, "64"),
        (
            (0..129).map(|i| named(&format!("t{i}"))).collect(),
            ToolChoice::Auto,
            "tools: expected at most 128 tools, found 129",
        ),
    ] {
        let error = check(&tools, choice).unwrap_err();
        assert!(error.contains(message), "{error}");
    }
}
