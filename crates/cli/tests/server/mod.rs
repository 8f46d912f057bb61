//! A server that answers as it was told, and remembers what it was asked.
#![allow(dead_code)] // each test file uses a part of this
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Method and path.
    pub line: String,
    /// In lower case.
    pub headers: Vec<String>,
    /// Null if there is none.
    pub body: Value,
}

/// What to do with a connection, one step after another; then it is closed.
pub enum Step {
    Send(Vec<u8>),
    /// Goes on when the test says so.
    Wait(Receiver<()>),
}

/// Answers one request on each connection.
pub struct Server {
    pub address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// Each request is answered by the next of these.
    pub fn start(answers: Vec<Vec<Step>>) -> Server {
        let answers = Mutex::new(answers.into_iter());
        Server::with(move |_| answers.lock().unwrap().next().unwrap_or_default())
    }

    /// Each request is answered as this says.
    pub fn with(answers: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (seen, answers) = (asked.clone(), Arc::new(answers));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, answers) = (seen.clone(), answers.clone());
                std::thread::spawn(move || answer(stream.unwrap(), &*answers, &seen));
            }
        });
        Server { address, asked }
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The messages of a request for an answer, as role and content.
    pub fn messages(&self, request: usize) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let body = &self.asked()[request].body;
        body["messages"].as_array().unwrap().iter().map(|m| (text(&m["role"]), text(&m["content"]))).collect()
    }
}

fn answer(mut stream: TcpStream, answers: &dyn Fn(&Asked) -> Vec<Step>, seen: &Mutex<Vec<Asked>>) {
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let headers: Vec<String> = lines[1..].iter().map(|line| line.to_lowercase()).collect();
    let length = headers.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let asked = Asked { line: lines[0].clone(), headers, body };
    seen.lock().unwrap().push(asked.clone());
    for step in answers(&asked) {
        match step {
            Step::Send(bytes) if stream.write_all(&bytes).is_err() => return,
            Step::Send(_) => {}
            Step::Wait(signal) => drop(signal.recv_timeout(Duration::from_secs(600))),
        }
    }
}

/// A step that waits, and what ends the waiting.
pub fn wait() -> (Step, Sender<()>) {
    let (sender, receiver) = channel();
    (Step::Wait(receiver), sender)
}

pub fn send(bytes: impl AsRef<[u8]>) -> Step {
    Step::Send(bytes.as_ref().to_vec())
}

/// An answer with a status, a type and a body.
pub fn reply(status: &str, kind: &str, more: &str, body: &str) -> Vec<Step> {
    let length = body.len();
    vec![send(format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n{more}connection: close\r\n\r\n{body}"
    ))]
}

/// The beginning of a stream that ends with its connection.
pub fn stream_head() -> Step {
    send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
}

/// One event.
pub fn event(data: &str) -> String {
    format!("data: {data}\n\n")
}

/// A part of an answer's text.
pub fn part(text: &str) -> String {
    event(&serde_json::json!({"choices": [{"index": 0, "delta": {"content": text}}]}).to_string())
}

/// How every good stream ends.
pub const END: &str = "data: {\"choices\": [{\"delta\": {}, \"finish_reason\": \"stop\"}]}\n\ndata: {\"choices\": [], \
                       \"usage\": {\"prompt_tokens\": 3, \"completion_tokens\": 4}}\n\ndata: [DONE]\n\n";

/// A good stream of one part.
pub fn good(text: &str) -> Vec<Step> {
    vec![stream_head(), send(part(text) + END)]
}
