//! `planish serve` as a running program: started, asked over HTTP, and stopped as a supervisor stops it.
use serde_json::Value;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

/// A server that has told where it is.
pub struct Serving {
    child: Child,
    /// What it printed when it was ready.
    pub ready: Value,
}

/// Status, head and body of an answer.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// `planish serve --json` on one thread of the CPU, silent unless the flags say otherwise.
pub fn command<S: AsRef<OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_planish"));
    command.args(["serve", "--json", "--device", "cpu", "--threads", "1"]).args(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Serving {
    /// Starts it and waits until it is ready.
    pub fn start<S: AsRef<OsStr>>(args: &[S]) -> Serving {
        Serving::of(&mut command(args))
    }

    /// The same for a command of the caller's own.
    pub fn of(command: &mut Command) -> Serving {
        let mut child = command.spawn().unwrap();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        let mut text = String::new();
        while reader.read_line(&mut text).unwrap() > 0 && !text.ends_with("}\n") {}
        let ready = serde_json::from_str(&text).unwrap_or_else(|e| {
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("{e}: {text} {said}")
        });
        Serving { child, ready }
    }

    /// As it was printed.
    pub fn url(&self) -> &str {
        self.ready["url"].as_str().unwrap()
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        self.url().split_once("://").unwrap().1
    }

    /// Asks on a connection of its own.
    pub fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        ask(TcpStream::connect(self.address()).unwrap(), method, path, headers, body)
    }

    /// Asks it to stop as a supervisor does; its exit code and what it wrote to stderr.
    pub fn terminate(mut self) -> (Option<i32>, String) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One request and its whole answer on a connection of any kind.
pub fn ask(mut line: impl Read + Write, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    write!(
        line,
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         {headers}content-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut text = String::new();
    line.read_to_string(&mut text).unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}
