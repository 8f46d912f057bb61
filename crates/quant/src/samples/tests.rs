//! Every kind of file, packing, the seed, and errors that name the line.
use super::*;
use std::path::PathBuf;

/// A token is a byte; a conversation is `role:content;` of every message.
struct Bytes;

impl SampleTokenizer for Bytes {
    fn text(&self, text: &str) -> std::result::Result<Vec<u32>, String> {
        if text.contains('\0') { Err("a zero".into()) } else { Ok(text.bytes().map(u32::from).collect()) }
    }
    fn chat(&self, messages: &Value) -> std::result::Result<Vec<u32>, String> {
        let field = |m: &Value, name: &str| m[name].as_str().unwrap().to_string();
        let list = messages.as_array().unwrap();
        self.text(&list.iter().map(|m| format!("{}:{};", field(m, "role"), field(m, "content"))).collect::<String>())
    }
    fn vocab_size(&self) -> usize {
        256
    }
}

fn in_order(samples: usize, seqlen: usize) -> SampleOptions {
    SampleOptions { samples, seqlen, shuffle: false, ..SampleOptions::default() }
}

fn load_file(name: &str, text: impl AsRef<[u8]>, options: &SampleOptions) -> Result<Samples> {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    load(&Source::File(path), options, &Bytes)
}

fn texts(samples: &Samples) -> Vec<String> {
    samples.ids.iter().map(|s| s.iter().map(|&b| char::from(b as u8)).collect()).collect()
}

#[test]
fn text_and_conversations_are_packed() {
    let file = r#"{"text": "abcdefghij"}

{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}
{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "id": 7}
"#;
    let got = load_file("a.jsonl", file, &in_order(9, 16)).unwrap();
    assert_eq!(texts(&got), ["abcdefghijuser:h", "i;assistant:yo;u", "ser:q;assistant:",]);
    assert_eq!(got.tokens(), 48);
    assert!(got.description.contains("3 sequences of at most 16 tokens (9 were asked for"), "{}", got.description);
    assert!(got.description.ends_with("48 tokens in all, from 3 of 3 records, in order"), "{}", got.description);
    let two = load_file("a.jsonl", file, &in_order(2, 16)).unwrap();
    assert_eq!(two.ids, got.ids[..2]);
    let single = SampleOptions { pack: false, ..in_order(9, 16) };
    let got = load_file("a.jsonl", file, &single).unwrap();
    assert_eq!(texts(&got), ["abcdefghij", "user:hi;assistan", "user:q;assistant"]);
}

#[test]
fn parquet_and_csv_are_rows() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/conversations.parquet");
    let got = load(&Source::Named("owner/name/train".into(), path.clone()), &in_order(9, 64), &Bytes).unwrap();
    assert_eq!(texts(&got), ["user:hi;assistant:yo;abcdefghijuser:q;assistant:a;"]);
    assert!(got.description.starts_with("owner/name/train: 1 sequences"), "{}", got.description);
    assert!(got.description.ends_with("from 3 of 3 records, in order"), "{}", got.description);
    // Shuffled as every other file: numpy's permutation.
    let shuffled = SampleOptions { samples: 9, seqlen: 64, seed: 1, ..SampleOptions::default() };
    let order = permutation(3, 1);
    let parts = ["user:hi;assistant:yo;", "abcdefghij", "user:q;assistant:a;"];
    let expected: String = order.iter().map(|&i| parts[i]).collect();
    assert_eq!(texts(&load(&Source::File(path), &shuffled, &Bytes).unwrap()), [expected]);
    let got = load_file("a.csv", "text,n\n\"a long, quoted text\",1\nb,2\n", &in_order(9, 64)).unwrap();
    assert_eq!(texts(&got), ["a long, quoted textb"]);
    // Cells of columns of lists are lists; a row has one of them.
    let lists = "messages,conversations,input_ids,text\n\
        \"[{\"\"role\"\": \"\"user\"\", \"\"content\"\": \"\"hi\"\"}]\",,,\n\
        ,\"[{\"\"from\"\": \"\"gpt\"\", \"\"value\"\": \"\"a\"\"}]\",,\n,,,[not a list]\n";
    assert_eq!(texts(&load_file("a.csv", lists, &in_order(9, 64)).unwrap()), ["user:hi;assistant:a;[not a list]"]);
    let ids = "input_ids\n\"[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]\"\n";
    assert_eq!(load_file("a.csv", ids, &in_order(9, 64)).unwrap().ids, [(1..17).collect::<Vec<u32>>()]);
    let said = load_file("a.csv", "input_ids\n\"[1, 2\"\n", &in_order(9, 64)).unwrap_err().to_string();
    assert!(said.contains("row 1: field input_ids: expected a list, found \"[1, 2\""), "{said}");
    let said = load_file("a.csv", "name,n\nx,1\n", &in_order(9, 64)).unwrap_err().to_string();
    assert!(said.contains("a.csv") && said.contains("row 1") && said.contains("found name, n"), "{said}");
}

#[test]
fn ids_stay_sequences() {
    let long: Vec<u32> = (0..30).collect();
    let lists = serde_json::json!([long, [5, 6]]).to_string();
    let expected = vec![(0..20).collect::<Vec<u32>>(), vec![5, 6]];
    assert_eq!(load_file("a.json", &lists, &in_order(4, 20)).unwrap().ids, expected);
    let object = format!("{{\"seed\": 3, \"ids\": {lists}}}");
    assert_eq!(load_file("a.json", object, &in_order(4, 20)).unwrap().ids, expected);
    let lines = serde_json::json!({"input_ids": long, "text": "unused"}).to_string() + "\n{\"input_ids\": [5, 6]}";
    let got = load_file("a.jsonl", lines, &in_order(4, 20)).unwrap();
    assert_eq!(got.ids, expected);
    // sha256 of the lengths and ids, by hand with another program.
    assert_eq!(got.sha256, "fd1700389862a56fb922ed45a7ebc6f1ff8eafd66b4c10e7f323b86100b2d4a7");
}

#[test]
fn plain_text_comes_from_all_over_the_file() {
    let text: String = (0..400).map(|i| format!("line {i:03}\n")).collect();
    let all = load_file("a.txt", &text, &in_order(1000, 20)).unwrap();
    assert_eq!(texts(&all).concat(), text);
    let some = SampleOptions { samples: 10, seqlen: 20, ..SampleOptions::default() };
    let some = load_file("a.txt", &text, &some).unwrap();
    assert_eq!(some.ids.len(), 10);
    assert!(some.ids.iter().all(|s| s.len() == 20));
    assert_ne!(some.ids, all.ids[..10]);
}

#[test]
fn the_seed_decides() {
    let with = |seed| {
        load(&Source::BuiltIn, &SampleOptions { samples: 8, seqlen: 256, seed, ..Default::default() }, &Bytes).unwrap()
    };
    let (a, b) = (with(42), with(43));
    assert_eq!(a, with(42));
    assert_ne!(a.sha256, b.sha256);
    assert!(a.ids.iter().all(|s| s.len() == 256) && a.ids.len() == 8);
    assert!(a.description.starts_with("built-in sample: 8 sequences"), "{}", a.description);
}

#[test]
fn the_whole_built_in_sample_is_sound() {
    let got = load(&Source::BuiltIn, &SampleOptions::default(), &Bytes).unwrap();
    assert!(got.tokens() > 60_000 && got.description.contains("175 of 175 records"), "{}", got.description);
}

#[test]
fn errors_name_the_file_and_the_line() {
    let good = "{\"text\": \"0123456789012345678901234567890\"}\n";
    for (line, words) in [
        ("{\"text\": ", "not JSON"),
        ("[]", "token ids: expected token ids, found an empty list"),
        ("7", "expected an object, found 7"),
        ("{\"text\": 7}", "field text: expected a string, found 7"),
        (
            "{\"prompt\": \"x\", \"n\": 1}",
            "expected one of the fields text, messages, conversations and input_ids, found prompt, n",
        ),
        ("{\"input_ids\": [1, -1]}", "field input_ids: expected token ids, found -1"),
        ("{\"input_ids\": [1, 256]}", "expected token ids below the vocabulary's 256, found 256"),
        ("{\"messages\": []}", "field messages: expected a list of messages, found []"),
        ("{\"messages\": [{\"role\": \"user\"}]}", "expected messages with the string content"),
        ("{\"text\": \"\\u0000\"}", "a zero"),
    ] {
        let said = load_file("bad.jsonl", format!("{good}\n{line}\n"), &in_order(99, 16)).unwrap_err().to_string();
        assert!(said.contains("bad.jsonl, line 3: ") && said.contains(words), "{line}: {said}");
    }
    let said = |name: &str, text: &[u8]| load_file(name, text, &in_order(9, 16)).unwrap_err().to_string();
    assert!(said("a.jsonl", b"").contains("expected at least 16 tokens of calibration data, found 0"));
    assert!(said("a.txt", b"short").contains("found 5"));
    assert!(said("a.json", b"{\"a\": 1}").contains("expected a list of records"));
    assert!(said("a.json", b"[[1, 2], [999]]").contains("record 1 (from 0): expected token ids below"));
    assert!(said("a.txt", b"abc\xff").contains("offset 3"));
    assert!(said("a.arrow", b"").contains("named .jsonl, .ndjson, .json, .parquet, .csv, .txt, found .arrow"));
    assert!(said("a.parquet", b"PAR1").contains("a.parquet"));
    let missing = load(&Source::File("no/such.jsonl".into()), &in_order(9, 16), &Bytes).unwrap_err().to_string();
    assert!(missing.starts_with("no/such.jsonl: cannot be read"), "{missing}");
    assert!(load(&Source::BuiltIn, &in_order(0, 16), &Bytes).unwrap_err().to_string().contains("--calib-samples"));
}
