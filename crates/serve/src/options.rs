//! What a server may do: decided once.
use crate::auth::Keys;
use std::time::Duration;

/// Settings of a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who may ask; without keys everyone.
    pub keys: Keys,
    /// Origins that browsers may ask from: exactly these, none unless told.
    pub origins: Vec<String>,
    /// Names in the `Host` header that are answered, besides addresses of this machine; `None` answers all.
    pub hosts: Option<Vec<String>>,
    /// Requests that run or wait; one more is answered with 429.
    pub max_requests: usize,
    /// Connections at once; more wait to be accepted.
    pub max_connections: usize,
    /// Bytes of a request's body.
    pub max_body: usize,
    /// Time for a request's head, between requests, and for its body.
    pub read_time: Duration,
    /// Time for an answer.
    pub request_time: Duration,
    /// Time in which a caller must read something of what was sent.
    pub stall_time: Duration,
    /// Bytes of events that may wait for a reader of an answer; then its request ends.
    pub backlog: usize,
    /// Silence after which a stream gets a comment.
    pub keep_alive: Duration,
    /// Time for requests in flight after a request to stop.
    pub drain_time: Duration,
    /// Refuse fields that nobody knows.
    pub strict_fields: bool,
    /// Answer `/metrics` without a key.
    pub public_metrics: bool,
    /// Use what `generation_config.json` suggests.
    pub model_defaults: bool,
    /// How requests are logged.
    pub log: LogStyle,
}

/// How requests are logged, on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStyle {
    /// Not at all.
    Off,
    /// A line of words.
    Text,
    /// A line of JSON.
    Json,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            keys: Keys::default(),
            origins: Vec::new(),
            hosts: None,
            max_requests: 256,
            max_connections: 4096,
            max_body: 16 << 20,
            read_time: Duration::from_secs(30),
            request_time: Duration::from_secs(600),
            stall_time: Duration::from_secs(30),
            backlog: 4 << 20,
            keep_alive: Duration::from_secs(15),
            drain_time: Duration::from_secs(30),
            strict_fields: false,
            public_metrics: false,
            model_defaults: true,
            log: LogStyle::Off,
        }
    }
}
