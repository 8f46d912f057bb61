//! Every format, and what is wrong with a file named by row and field.
use super::*;
use serde_json::json;

fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

fn fields(rows: &Rows) -> Vec<Value> {
    rows.rows.iter().map(|row| Value::Object(row.fields.clone())).collect()
}

fn refused(name: &str, text: &str) -> String {
    let (_dir, path) = file(name, text);
    let message = read(&path).unwrap_err().to_string();
    message.split_once(": ").unwrap().1.to_owned()
}

#[test]
fn formats_give_the_same_rows() {
    let expected = [json!({"q": "a, \"b\"\nc", "n": "1"}), json!({"q": "ü", "n": "2"})];
    for (name, text) in [
        ("x.jsonl", "\u{feff}{\"q\": \"a, \\\"b\\\"\\nc\", \"n\": \"1\"}\n\n{\"q\": \"ü\", \"n\": \"2\"}\n"),
        ("x.JSON", "[{\"q\": \"a, \\\"b\\\"\\nc\", \"n\": \"1\"}, {\"q\": \"ü\", \"n\": \"2\"}]"),
        ("x.csv", "q,n\r\n\"a, \"\"b\"\"\nc\",1\r\nü,2\r\n"),
    ] {
        let (_dir, path) = file(name, text);
        assert_eq!(fields(&read(&path).unwrap()), expected, "{name}");
    }
}

#[test]
fn parquet_of_the_hub() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/rows/small.parquet");
    let rows = read(&path).unwrap();
    let first = json!({"question": "Which?", "choices": {"text": ["x", "ü, \"y\""], "label": ["A", "B"]},
        "endings": ["e", "f"], "label": "1", "answer": 3, "weight": 0.5, "passage": null});
    let second = json!({"question": "b", "choices": {"text": [], "label": []}, "endings": [], "label": "0",
        "answer": 4, "weight": 1.5, "passage": "z"});
    assert_eq!(fields(&rows), [first, second]);
    assert_eq!(rows.rows[1].number, 2);
}

#[test]
fn damaged_parquet_is_an_error() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/rows/small.parquet");
    let bytes = std::fs::read(path).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    for length in [0, 4, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("x.parquet"), "{length}");
    }
    // Whatever a flipped bit does, it does not end the program.
    for at in (0..bytes.len()).step_by(97) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x55;
        std::fs::write(&path, &damaged).unwrap();
        let _ = read(&path);
    }
}

#[test]
fn bad_rows_are_named() {
    assert!(refused("x.jsonl", "{\"a\": 1}\n{\"a\": \n").starts_with("row 2: expected a JSON object, found EOF"));
    assert_eq!(refused("x.jsonl", "\n[1]\n"), "row 2: expected a JSON object, found a list of 1");
    assert_eq!(refused("x.json", "[{}, 7]"), "row 2: expected a JSON object, found 7");
    assert_eq!(refused("x.json", "{}"), "expected a JSON list of objects, found another JSON value");
    assert_eq!(refused("x.csv", "a,b\n1,2\n3\n"), "row 2: expected 2 fields, found 1");
    assert_eq!(refused("x.csv", "a,b\n1,\"2\n"), "row 1: expected a closing quote, found the end of the file");
    assert!(refused("x.txt", "").starts_with("expected a file named .jsonl, "));
    let (_dir, path) = file("x.jsonl", "{\"a\": \"b\", \"c\": [1]}\n");
    let rows = read(&path).unwrap();
    let message = |field| rows.error(&rows.rows[0], field, "a number").to_string();
    assert!(message("a").ends_with("x.jsonl: row 1: field a: expected a number, found the text \"b\""));
    assert!(message("c").ends_with("found a list of 1") && message("d").ends_with("found no such field"));
}
