//! A small hub on the loopback interface: one thread, one request per connection, faults on demand.
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What a server answers for one path.
#[derive(Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Bodies are cut after this many bytes, as often as counted.
    pub cut: Option<(usize, usize)>,
    /// Statuses that come first, one per request.
    pub failures: Vec<u16>,
    /// Answer 200 with everything even when a range is asked for.
    pub no_ranges: bool,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
}

/// The server; it stops with the process.
#[derive(Clone)]
pub struct Server {
    pub url: String,
    replies: Arc<Mutex<HashMap<String, Reply>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let server = Server { url, replies: Arc::default(), seen: Arc::default() };
        let copy = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = copy.answer(stream);
            }
        });
        server
    }

    pub fn on(&self, path: &str, reply: Reply) {
        self.replies.lock().unwrap().insert(path.to_owned(), reply);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// GET requests for `path`.
    pub fn gets(&self, path: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|s| s.method == "GET" && s.path == path).collect()
    }

    fn answer(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let (method, path) = (words.next().unwrap_or("").to_owned(), words.next().unwrap_or("").to_owned());
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line == "\r\n" {
                break;
            }
            if let Some((name, value)) = line.split_once(':') {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
        }
        let range = headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        self.seen.lock().unwrap().push(Seen { method: method.clone(), path: path.clone(), headers });
        let (head, body) = self.reply(&method, &path, range);
        let mut stream = stream;
        stream.write_all(head.as_bytes())?;
        stream.write_all(&body)
    }

    fn reply(&self, method: &str, path: &str, range: Option<usize>) -> (String, Vec<u8>) {
        let mut replies = self.replies.lock().unwrap();
        let Some(reply) = replies.get_mut(path) else {
            return ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned(), vec![]);
        };
        let mut status = if reply.status == 0 { 200 } else { reply.status };
        let mut extra = String::new();
        let mut body = reply.body.clone();
        if !reply.failures.is_empty() {
            (status, body) = (reply.failures.remove(0), vec![]);
        } else if let Some(from) = range.filter(|_| method == "GET" && status == 200 && !reply.no_ranges) {
            if from >= body.len() {
                (status, body) = (416, vec![]);
            } else {
                extra = format!("Content-Range: bytes {from}-{}/{}\r\n", body.len() - 1, body.len());
                (status, body) = (206, body[from..].to_vec());
            }
        }
        for (name, value) in &reply.headers {
            extra += &format!("{name}: {value}\r\n");
        }
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n{extra}\r\n", body.len());
        if method == "HEAD" {
            return (head, vec![]);
        }
        if let Some((at, times)) = reply.cut.filter(|c| c.1 > 0) {
            body.truncate(at);
            reply.cut = Some((at, times - 1));
        }
        (head, body)
    }
}
