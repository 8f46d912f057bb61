//! Requests to a server: its address, its errors, and patience while it cannot be reached.
use super::events::Events;
use anyhow::{Context, Result, anyhow, bail};
use planish::notice::say;
use serde_json::Value;
use std::io::Read;
use std::path::Path;
use std::time::Duration;
use ureq::http::{Response, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Connections kept for further requests: a load has many at once.
const MOST_IDLE: usize = 4096;
/// Longest JSON document.
const LONGEST: u64 = 16 << 20;

/// A server.
pub struct Connection {
    agent: Agent,
    base: String,
    key: Option<String>,
    /// Attempts after the first.
    pub retries: u32,
    /// Before the first of them.
    pub pause: Duration,
    /// Whether waiting is told.
    pub talks: bool,
}

/// What the server said was wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// HTTP status.
    pub status: u16,
    /// Its own words.
    pub message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status {
            200 => write!(f, "the server failed: {}", self.message),
            status => write!(f, "the server answered {status}: {}", self.message),
        }
    }
}

impl std::error::Error for Failure {}

/// The connection ended too early.
#[derive(Debug)]
struct Gone(String);

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Gone {}

/// How far an answer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// Nothing of it was seen: it can be asked for again.
    Nothing,
    /// Some of it was.
    Begun,
    /// All that counts is there.
    Complete,
}

/// Takes the data of an event.
type Take<'a> = &'a mut dyn FnMut(&str) -> Result<Progress>;

/// A failed attempt.
struct Missed {
    error: anyhow::Error,
    /// Another attempt may succeed, after this pause if the server named one.
    again: Option<Option<Duration>>,
}

impl Connection {
    /// A server at an address, its certificate by one of these authorities if a file is given. Nothing is sent yet.
    pub fn new(url: &str, key: Option<String>, authorities: Option<&Path>, timeout: Duration) -> Result<Connection> {
        if key.as_ref().is_some_and(|key| !key.bytes().all(|b| b.is_ascii_graphic())) {
            bail!("--api-key: expected visible ASCII characters, found others");
        }
        let roots = authorities.map(read_authorities).transpose()?.unwrap_or(RootCerts::WebPki);
        let config = Agent::config_builder()
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(timeout))
            .timeout_per_read(Some(timeout))
            .accept_encoding("identity")
            .max_idle_connections(MOST_IDLE)
            .max_idle_connections_per_host(MOST_IDLE)
            .user_agent(concat!("planish/", env!("CARGO_PKG_VERSION")))
            .build();
        let (agent, base) = (config.into(), base(url)?);
        Ok(Connection { agent, base, key, retries: 0, pause: Duration::ZERO, talks: false })
    }

    /// The address before the endpoints' names, such as `http://127.0.0.1:23333/v1`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The JSON of an endpoint.
    pub fn get(&self, endpoint: &str) -> Result<Value> {
        let url = format!("{}/{endpoint}", self.base);
        let mut response = self.patiently(|| {
            let request = self.agent.get(&url);
            let request = self.key.iter().fold(request, |r, key| r.header("authorization", format!("Bearer {key}")));
            self.checked(request.call())
        })?;
        let text = read_text(&mut response)?;
        serde_json::from_str(&text).map_err(|_| anyhow!("{url}: expected JSON, found {}", start_of(&response, &text)))
    }

    /// The JSON that an endpoint beside `/v1` answers to a request.
    pub fn ask_root(&self, endpoint: &str, body: &Value) -> Result<Value> {
        let (root, _) = self.base.rsplit_once('/').unwrap_or((&self.base, ""));
        let url = format!("{root}/{endpoint}");
        let mut response = self.patiently(|| {
            let request = self.agent.post(&url);
            let request = self.key.iter().fold(request, |r, key| r.header("authorization", format!("Bearer {key}")));
            self.checked(request.send_json(body))
        })?;
        let text = read_text(&mut response)?;
        serde_json::from_str(&text).map_err(|_| anyhow!("{url}: expected JSON, found {}", start_of(&response, &text)))
    }

    /// Sends a request; `take` gets the data of each event of the answer, or the whole answer if it is no stream. As
    /// long as it has seen nothing of the answer, a failure may be followed by another attempt.
    pub fn post(&self, endpoint: &str, body: &Value, take: Take<'_>) -> Result<()> {
        let url = format!("{}/{endpoint}", self.base);
        self.patiently(|| {
            let request = self.agent.post(&url).header("accept", "text/event-stream, application/json");
            let request = self.key.iter().fold(request, |r, key| r.header("authorization", format!("Bearer {key}")));
            let response = self.checked(request.send_json(body))?;
            let mut progress = Progress::Nothing;
            match self.receive(response, &mut progress, take) {
                Ok(()) => Ok(()),
                Err(error) => {
                    let again = progress == Progress::Nothing && error.is::<Gone>();
                    Err(Missed { error, again: again.then_some(None) })
                }
            }
        })
    }

    fn receive(&self, response: Response<Body>, progress: &mut Progress, take: Take<'_>) -> Result<()> {
        let kind = kind_of(&response).unwrap_or_default().to_owned();
        let mut reader = response.into_body().into_reader();
        if !kind.starts_with("text/event-stream") {
            let data = whole(&kind, &mut reader)?;
            *progress = take(&data)?;
        }
        let (mut events, mut buffer) = (Events::default(), [0; 8192]);
        loop {
            let count = reader.read(&mut buffer).map_err(|error| Gone(format!("the answer broke off: {error}")))?;
            if count == 0 {
                return ended(*progress, events.is_between());
            }
            let found = events.push(&buffer[..count]);
            let found = found.map_err(|size| anyhow!("an event: expected 16 MiB at most, found {size} bytes"))?;
            for data in &found {
                *progress = take(data)?.max(*progress);
            }
        }
    }

    /// Tries until it succeeds, fails for good, or has failed often enough.
    fn patiently<T>(&self, mut attempt: impl FnMut() -> Result<T, Missed>) -> Result<T> {
        let mut pause = self.pause;
        for number in 1.. {
            let missed = match attempt() {
                Ok(done) => return Ok(done),
                Err(missed) => missed,
            };
            let Some(asked) = missed.again.filter(|_| number <= self.retries) else { return Err(missed.error) };
            let wait = asked.unwrap_or(pause).min(LONGEST_PAUSE);
            if self.talks {
                let why = crate::one_line(&missed.error);
                say(format_args!(
                    "{why}; attempt {} of {} in {:.1} s",
                    number + 1,
                    self.retries + 1,
                    wait.as_secs_f64()
                ));
            }
            std::thread::sleep(wait);
            pause = pause.saturating_mul(2);
        }
        unreachable!("numbers do not end")
    }

    fn unreached(&self, error: anyhow::Error) -> Missed {
        Missed { error: error.context(format!("{}: the server was not reached", self.base)), again: Some(None) }
    }

    /// A response that is none of an error.
    fn checked(&self, sent: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>, Missed> {
        let mut response = match sent {
            Ok(response) => response,
            Err(error @ (ureq::Error::BadUri(_) | ureq::Error::Tls(_) | ureq::Error::Json(_))) => {
                return Err(Missed { error: error.into(), again: None });
            }
            Err(error) => return Err(self.unreached(error.into())),
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let busy = matches!(status.as_u16(), 408 | 429 | 502 | 503 | 504);
        let asked = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let text = read_text(&mut response).unwrap_or_default();
        let said = serde_json::from_str(&text).ok().and_then(|value| error_message(&value));
        let message = said.unwrap_or_else(|| start_of(&response, &text));
        let error = Failure { status: status.as_u16(), message }.into();
        Err(Missed { error, again: busy.then(|| asked.map(Duration::from_secs)) })
    }
}

/// The certificates of a PEM file.
fn read_authorities(path: &Path) -> Result<RootCerts> {
    let place = || format!("--ca-cert {}", path.display());
    let text = std::fs::read(path).with_context(place)?;
    let items = parse_pem(&text).collect::<Result<Vec<_>, _>>().with_context(place)?;
    let certificate = |item| if let PemItem::Certificate(certificate) = item { Some(certificate) } else { None };
    let found: Vec<_> = items.into_iter().filter_map(certificate).collect();
    match found.is_empty() {
        true => bail!("{}: expected certificates in PEM, found none", place()),
        false => Ok(RootCerts::from(found)),
    }
}

/// The stream ended. If not all is there, it broke off, however politely.
fn ended(progress: Progress, between: bool) -> Result<()> {
    let wanted = match progress {
        Progress::Complete => return Ok(()),
        Progress::Begun if between => "the rest of the answer",
        Progress::Begun => "the rest of an event",
        Progress::Nothing => "an answer",
    };
    Err(Gone(format!("the answer broke off: expected {wanted}, found the end of the connection")).into())
}

/// An answer that is no stream.
fn whole(kind: &str, reader: &mut dyn Read) -> Result<String> {
    let mut bytes = Vec::new();
    let read = reader.take(LONGEST).read_to_end(&mut bytes);
    read.map_err(|error| Gone(format!("the answer broke off: {error}")))?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    if serde_json::from_str::<Value>(&text).is_err() {
        let start: String = text.trim().chars().take(100).collect();
        bail!("the answer: expected a stream of events or JSON, found {kind:?}: {start:?}");
    }
    Ok(text)
}

fn kind_of(response: &Response<Body>) -> Option<&str> {
    response.headers().get("content-type")?.to_str().ok()
}

/// What an error says in OpenAI's shape, or in those of others.
pub fn error_message(value: &Value) -> Option<String> {
    let error = value.get("error").filter(|error| !error.is_null());
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match error {
        Some(error) => Some(text(&error["message"]).or_else(|| text(error)).unwrap_or_else(|| error.to_string())),
        None if value.get("choices").is_none() && value["object"] == "error" => text(&value["message"]),
        None => value.get("detail").map(|detail| text(detail).unwrap_or_else(|| detail.to_string())),
    }
}

fn read_text(response: &mut Response<Body>) -> Result<String> {
    let bytes = response.body_mut().with_config().limit(LONGEST).read_to_vec().context("the answer broke off")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Something of an answer that is not what it should be.
fn start_of(response: &Response<Body>, text: &str) -> String {
    let kind = kind_of(response).unwrap_or("no content type");
    let start: String = text.trim().chars().take(100).collect();
    format!("{kind:?}: {start:?}")
}

/// The address that the endpoints' names follow: `/v1` is added unless a version is there.
fn base(url: &str) -> Result<String> {
    let whole = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let whole = whole.trim_end_matches('/');
    let whole = whole.strip_suffix("/chat/completions").unwrap_or(whole);
    let parsed: Option<Uri> = whole.parse().ok();
    let known = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.query().is_none();
    // A colon without a port is that of another scheme, such as `unix:/run/planish.sock`.
    let ports = |uri: &Uri| uri.authority().is_some_and(|a| !a.as_str().ends_with(':'));
    let Some(uri) = parsed.filter(|uri| known(uri) && ports(uri) && uri.host().is_some_and(|host| !host.is_empty()))
    else {
        bail!("URL: expected an http or https address, found {url:?}");
    };
    let is_version = |part: &str| {
        let rest = part.strip_prefix('v');
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let versioned = uri.path().rsplit('/').next().is_some_and(is_version);
    Ok(if versioned { whole.to_owned() } else { format!("{whole}/v1") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_with_and_without_a_version() {
        for (url, expected) in [
            ("http://127.0.0.1:23333", "http://127.0.0.1:23333/v1"),
            ("localhost:8000/", "http://localhost:8000/v1"),
            ("https://host/v1/", "https://host/v1"),
            ("https://host/api/v3", "https://host/api/v3"),
            ("https://host/openai/v1beta", "https://host/openai/v1beta"),
            ("http://host/proxy", "http://host/proxy/v1"),
            ("http://host/v1/chat/completions", "http://host/v1"),
        ] {
            assert_eq!(base(url).unwrap(), expected);
        }
        for url in ["", "ftp://host", "http://", "http://host/v1?x=1", "http://a b", "unix:/run/planish.sock"] {
            assert!(base(url).unwrap_err().to_string().starts_with("URL: expected"), "{url}");
        }
    }

    #[test]
    fn errors_of_many_servers() {
        for (value, message) in [
            (json!({"error": {"message": "m", "type": "t", "param": null, "code": null}}), Some("m")),
            (json!({"error": "flat", "error_type": "x"}), Some("flat")),
            (json!({"object": "error", "message": "old"}), Some("old")),
            (json!({"detail": "fast"}), Some("fast")),
            (json!({"error": null, "choices": []}), None),
            (json!({"choices": [{"message": {"content": "x"}}]}), None),
        ] {
            assert_eq!(error_message(&value).as_deref(), message);
        }
    }
}
