//! Answers as models write them, made from a seed, and what they mean.
use planish_serve::reasoning::Splitter;
use planish_serve::reply::Reply;
use planish_serve::tools::{Delta, Format, ToolReader};
use serde_json::{Value, json};

/// The tools on offer.
pub const TOOLS: [&str; 4] = ["get_weather", "search-web", "a", "sum.up"];

/// What an answer means: all of its parts joined.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Meaning {
    pub content: String,
    pub reasoning: String,
    /// Names and arguments.
    pub calls: Vec<(String, String)>,
    /// Calls that were told to have ended.
    pub ended: usize,
}

impl Meaning {
    /// Joins deltas, checking that they come in a possible order.
    pub fn of(deltas: impl IntoIterator<Item = Delta>) -> Meaning {
        let mut all = Meaning::default();
        for delta in deltas {
            match delta {
                Delta::Content(text) => all.content += &text,
                Delta::Reasoning(text) => all.reasoning += &text,
                Delta::Call { index, id, name } => {
                    assert_eq!((index, index), (all.calls.len(), all.ended), "calls come one after another");
                    assert!(id.len() == 9 || (id.len() == 29 && id.starts_with("call_")), "{id}");
                    all.calls.push((name, String::new()));
                }
                Delta::Arguments { index, text } => {
                    assert_eq!(index, all.ended);
                    all.calls[index].1 += &text;
                }
                Delta::CallEnd { index } => {
                    assert_eq!(index, all.ended);
                    all.ended += 1;
                }
            }
        }
        assert_eq!(all.ended, all.calls.len());
        all
    }
}

/// A reader of the offered tools.
pub fn reader(format: &'static Format) -> ToolReader {
    ToolReader::new(format, TOOLS.map(str::to_owned).to_vec(), 7)
}

/// Reads pieces of an answer.
pub fn read<'a>(tools: ToolReader, reasoning: bool, pieces: impl IntoIterator<Item = &'a [u8]>) -> Meaning {
    let mut reply = Reply::new(reasoning.then(|| Splitter::new(false)), Some(tools));
    let mut deltas: Vec<Delta> = pieces.into_iter().flat_map(|piece| reply.push(piece)).collect();
    deltas.extend(reply.finish());
    Meaning::of(deltas)
}

/// What a whole answer means.
pub fn meaning(format: &'static Format, answer: &str) -> Meaning {
    read(reader(format), false, [answer.as_bytes()])
}

/// Numbers that look random and are always the same (xorshift).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    pub fn of<'a, T: ?Sized>(&mut self, items: &[&'a T]) -> &'a T {
        items[self.below(items.len())]
    }
}

/// An answer and what it means. White space beside calls is not compared.
pub struct Answer {
    pub text: String,
    pub content: String,
    pub calls: Vec<(String, Value)>,
}

const WORDS: [&str; 22] = [
    "Let me look.",
    "日本語",
    "é",
    "🦀",
    "<",
    "{",
    "}",
    "\n",
    "<tool",
    "[TOOL_CALLS",
    "<|python_ta",
    "<|action_start|>x",
    "\"quoted\"",
    "\\",
    "`{\"name\": 1}`",
    "a ; b",
    "</tool_call",
    "[1, 2]",
    " {\"x\": 2}",
    "<|action_",
    "[ARGS]",
    "fin.",
];
const TEXTS: [&str; 14] = [
    "Paris",
    "",
    "}}]}",
    "</tool_call>",
    "\"x\": {",
    "日本",
    "🦀é",
    "line\nbreak\ttab",
    "back\\slash",
    "[TOOL_CALLS]",
    "<|action_end|>",
    "{\"name\": \"a\", \"parameters\": {}}",
    "; ",
    "<tool_call>{",
];
/// What is no call: the name is no tool's, or it is no JSON before the arguments begin.
const NO_CALLS: [&str; 6] = [
    r#"{"name": "unknown", "arguments": {"a": 1}}"#,
    r#"{"name": "unknown", "parameters": {}}"#,
    "{name: a}",
    r#"{"arguments": {"a": 1}}"#,
    r#"{"name": ["a"], "arguments": {}}"#,
    "not JSON",
];

/// One answer in a format.
pub fn answer(format: &Format, random: &mut Random) -> Answer {
    let mut made = Answer { text: String::new(), content: String::new(), calls: Vec::new() };
    for _ in 0..random.below(4) + 1 {
        match random.below(5) {
            0 | 1 => {
                let words: Vec<&str> = (0..random.below(4)).map(|_| random.of(&WORDS)).collect();
                // A mark of a line's own, so that no piece joins with the next to a marker or a call.
                let text = words.join(" ") + ".\n";
                made.text += &text;
                made.content += &text;
            }
            2 | 3 => {
                let calls: Vec<(String, Value)> = (0..random.below(2) + 1).map(|_| call(random)).collect();
                made.text += &written(format, &calls, random);
                made.calls.extend(calls);
            }
            _ => {
                let text = marked(format, random.of(&NO_CALLS));
                made.text += &text;
                made.content += &text;
            }
        }
    }
    made
}

fn call(random: &mut Random) -> (String, Value) {
    (random.of(&TOOLS).to_owned(), object(random, 2))
}

fn object(random: &mut Random, depth: usize) -> Value {
    let keys = ["city", "q", "name", "arguments", "k\"e{y", "ключ"];
    let mut object = json!({});
    for _ in 0..random.below(3) {
        object[random.of(&keys)] = value(random, depth);
    }
    object
}

fn value(random: &mut Random, depth: usize) -> Value {
    match random.below(if depth == 0 { 4 } else { 6 }) {
        0 | 1 => json!(random.of(&TEXTS)),
        2 => json!(random.below(1000) as i64 - 500),
        3 => random.of(&[&json!(true), &json!(null), &json!(-2.5e-7)]).clone(),
        4 => (0..random.below(3)).map(|_| value(random, depth - 1)).collect(),
        _ => object(random, depth - 1),
    }
}

/// Calls as JSON objects in a random layout.
fn objects(format: &Format, calls: &[(String, Value)], random: &mut Random) -> Vec<String> {
    let key = if matches!(format.name, "llama3" | "internlm2") { "parameters" } else { "arguments" };
    let one = |(name, arguments): &(String, Value)| {
        let name = json!(name);
        let pretty = serde_json::to_string_pretty(arguments).unwrap();
        match random.below(4) {
            0 => format!("{{\"name\":{name},\"{key}\":{arguments}}}"),
            1 => format!("{{\n  \"name\": {name},\n  \"{key}\": {pretty}\n}}"),
            2 => format!("{{\"{key}\": {arguments}, \"name\": {name}}}"),
            _ => format!("{{\"type\": \"function\", \"name\": {name}, \"{key}\": {arguments}}}"),
        }
    };
    calls.iter().map(one).collect()
}

fn written(format: &Format, calls: &[(String, Value)], random: &mut Random) -> String {
    let objects = objects(format, calls, random);
    let each = |before: &str, after: &str, between: &str| {
        let all: Vec<String> = objects.iter().map(|object| format!("{before}{object}{after}")).collect();
        all.join(between)
    };
    let space = random.of(&["", "\n", " "]);
    match format.name {
        "hermes" => each(&format!("<tool_call>{space}"), &format!("{space}</tool_call>"), "\n"),
        "internlm2" => each(&format!("<|action_start|><|plugin|>{space}"), "<|action_end|>", space),
        "llama3" => {
            let start = random.of(&["", "<|python_tag|>"]);
            format!("\n{start}{}\n", each("", "", random.of(&["; ", ";", "\n"])))
        }
        _ if random.below(2) == 0 => format!("[TOOL_CALLS]{space}[{}]", each("", "", &format!(",{space}"))),
        _ => calls.iter().map(|(name, arguments)| format!("[TOOL_CALLS]{name}[ARGS]{arguments}")).collect(),
    }
}

fn marked(format: &Format, object: &str) -> String {
    match format.name {
        "hermes" => format!("<tool_call>{object}</tool_call>"),
        "internlm2" => format!("<|action_start|><|plugin|>{object}<|action_end|>"),
        "llama3" => format!("\n<|python_tag|>{object}\n"),
        _ => format!("[TOOL_CALLS][{object}]."),
    }
}
