//! Runs the real program the way a user does, and reads back what it printed and wrote.
#![allow(dead_code)] // each test file uses a part of this

pub mod serving;
pub mod tensors;

use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A command line in the making.
pub struct Program {
    args: Vec<OsString>,
    vars: Vec<(&'static str, PathBuf)>,
    input: Vec<u8>,
}

/// What came back.
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Program {
    /// `planish …`, words separated by blanks.
    pub fn new(words: &str) -> Program {
        Program { args: Vec::new(), vars: Vec::new(), input: Vec::new() }.words(words)
    }

    /// Adds arguments separated by blanks.
    pub fn words(mut self, words: &str) -> Program {
        self.args.extend(words.split_whitespace().map(OsString::from));
        self
    }

    /// Adds one argument as it is.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Program {
        self.args.push(arg.as_ref().into());
        self
    }

    /// Sets a variable of its environment.
    pub fn var(mut self, name: &'static str, value: &Path) -> Program {
        self.vars.push((name, value.to_owned()));
        self
    }

    /// What is typed into it.
    pub fn input(mut self, text: &str) -> Program {
        self.input = text.as_bytes().to_vec();
        self
    }

    /// Runs to the end.
    pub fn run(self) -> Output {
        let mut child = self.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A program that fails early reads nothing.
        let _ = child.stdin.take().unwrap().write_all(&self.input);
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        // A death by a signal (a crash) is no exit code of the contract.
        let code = output.status.code().unwrap_or(-1);
        Output { code, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Starts and comes back at once.
    pub fn spawn(self) -> Child {
        self.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_planish"));
        command.args(&self.args).args(["--log-level", "error"]).env("HF_HUB_OFFLINE", "1").stdin(Stdio::piped());
        command.envs(self.vars.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Output {
    /// Must have succeeded.
    #[track_caller]
    pub fn ok(self) -> Output {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Must have succeeded and printed one JSON document and nothing else.
    #[track_caller]
    pub fn json(self) -> Value {
        let output = self.ok();
        serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", output.stdout))
    }

    /// Must have failed with exit code 1 and one line `error: …` in which all the pieces occur.
    #[track_caller]
    pub fn fails(self, pieces: &[&str]) -> String {
        assert_eq!(self.code, 1, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        let lines: Vec<&str> = self.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "one line expected: {}", self.stderr);
        assert!(lines[0].starts_with("error: "), "{}", lines[0]);
        for piece in pieces {
            assert!(lines[0].contains(piece), "no {piece:?} in: {}", lines[0]);
        }
        lines[0].to_owned()
    }
}

/// A folder of this crate's fixtures, or of another crate's.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// A golden model of the model crate.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/data").join(name)
}

/// The tiny float model that the quantized golden models were made of.
pub fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../eval/tests/data/base")
}

/// A new empty folder, removed at the end.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// A copy of a model's folder that a test may spoil.
pub fn copy_of(model: &Path, to: &Path) -> PathBuf {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(model).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            // Written anew rather than copied: the original may be read-only.
            std::fs::write(to.join(path.file_name().unwrap()), std::fs::read(&path).unwrap()).unwrap();
        }
    }
    to.to_owned()
}

/// The two golden prompts, as `--input-ids` takes them.
pub fn prompts() -> Vec<String> {
    let json = read_json(&golden("prompts.json"));
    json["prompts"].as_array().unwrap().iter().map(joined).collect()
}

/// A JSON list of ids, separated by blanks.
pub fn joined(ids: &Value) -> String {
    ids.as_array().unwrap().iter().map(|id| id.to_string()).collect::<Vec<_>>().join(" ")
}

/// A JSON file.
pub fn read_json(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// `planish quantize MODEL --work-dir DIR` with the golden calibration data.
pub fn quantize(model: &Path, dir: &Path) -> Program {
    Program::new("quantize").arg(model).arg("--work-dir").arg(dir).arg("--calib-dataset").arg(data("calibration.json"))
}

/// `planish inspect MODEL`.
pub fn inspect(model: &Path) -> Program {
    Program::new("inspect").arg(model)
}

/// Every file of a folder with its bytes.
pub fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

/// Fails where two folders differ, naming the first file that does.
#[track_caller]
pub fn assert_same_bytes(a: &Path, b: &Path) {
    let (a, b) = (contents(a), contents(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, bytes) in &a {
        assert!(*bytes == b[name], "{name} differs");
    }
}

/// Greedy ids of the two golden prompts, which must not fail.
#[track_caller]
pub fn answers(model: &Path) -> Vec<Value> {
    let program = Program::new("generate --json --max-new-tokens 8 --ignore-eos").arg(model);
    let program = prompts().iter().fold(program, |p, ids| p.arg("--input-ids").arg(ids));
    let document = program.run().json();
    let results = document["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    for result in results {
        assert_eq!(result["token_ids"].as_array().unwrap().len(), 8, "{result}");
    }
    results.iter().map(|r| r["token_ids"].clone()).collect()
}

/// A copy of a tiny model with a tokenizer whose tokens are the bytes, and a chat template.
pub fn with_words(model: &Path, to: &Path) -> PathBuf {
    copy_of(model, to);
    copy_of(&data("tokenizer"), to)
}
