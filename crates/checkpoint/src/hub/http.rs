//! Requests: redirects followed by hand so that the token stays with its host, and retries with growing pauses.
use super::error::{HubError, Result};
use super::options::HubOptions;
use std::time::Duration;
use ureq::http::{Response, StatusCode, Uri, header};
use ureq::{Agent, Body};

const MAX_REDIRECTS: usize = 8;
/// Bounds a stalled connection, not a download: it applies to each read.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Sends requests to an endpoint and to where it redirects.
pub(super) struct Http {
    agent: Agent,
    home: Origin,
    token: Option<String>,
    attempts: u32,
    backoff: Duration,
}

/// What the token is bound to.
#[derive(Clone, PartialEq)]
struct Origin {
    https: bool,
    host: String,
    port: u16,
}

/// What a HEAD request tells about a file.
#[derive(Debug, PartialEq)]
pub(super) struct FileInfo {
    /// Name of the blob; the SHA-256 of large files.
    pub etag: String,
    /// Bytes.
    pub size: u64,
}

impl Http {
    pub(super) fn new(options: &HubOptions) -> Result<Http> {
        let bad = || HubError::BadName {
            what: "HF_ENDPOINT",
            found: options.endpoint.clone(),
            expected: "an http or https address",
        };
        let home = options.endpoint.parse().ok().as_ref().and_then(Origin::of).ok_or_else(bad)?;
        let visible = |t: &String| t.bytes().all(|b| b.is_ascii_graphic());
        if !options.token.as_ref().is_none_or(visible) {
            return Err(HubError::BadSetting { what: "HF_TOKEN", expected: "visible ASCII characters only" });
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(READ_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT))
            .accept_encoding("identity")
            .user_agent(concat!("planish/", env!("CARGO_PKG_VERSION")))
            .build();
        let (token, backoff) = (options.token.clone(), options.backoff);
        Ok(Http { agent: config.into(), home, token, attempts: options.attempts.max(1), backoff })
    }

    /// Runs `request` until it succeeds, fails for good, or has failed `attempts` times without progress. The closure
    /// sets its argument when it has made some.
    pub(super) fn retry<T>(&self, mut request: impl FnMut(&mut bool) -> Result<T>) -> Result<T> {
        let mut failures = 0;
        loop {
            let mut progress = false;
            match request(&mut progress) {
                Err(error) if error.is_transient() => {
                    failures = if progress { 1 } else { failures + 1 };
                    if failures >= self.attempts {
                        return Err(error);
                    }
                    std::thread::sleep(self.backoff * 2u32.pow((failures - 1).min(4)));
                }
                done => return done,
            }
        }
    }

    /// The body of a small document, at most `limit` bytes.
    pub(super) fn text(&self, url: &str, limit: u64) -> Result<Vec<u8>> {
        self.retry(|_| {
            let mut response = self.get(url, 0)?;
            if response.status() != StatusCode::OK {
                return Err(HubError::status(url, response.status().as_u16()));
            }
            response.body_mut().with_config().limit(limit).read_to_vec().map_err(|e| HubError::transport(url, e))
        })
    }

    /// Etag and size of a file.
    pub(super) fn head(&self, url: &str) -> Result<FileInfo> {
        self.retry(|_| {
            let (mut etag, mut size) = (None, None);
            let response = self.follow(url, |agent, at, token| {
                let response = send(agent.head(at), token, None).map_err(|e| HubError::transport(at, e))?;
                // The endpoint announces large files itself, before it redirects to their storage.
                etag = etag.take().or_else(|| field(&response, "x-linked-etag"));
                size = size.take().or_else(|| field(&response, "x-linked-size"));
                let announced = etag.is_some() && size.is_some();
                Ok((response, announced))
            })?;
            if !(response.status().is_success() || response.status().is_redirection()) {
                return Err(HubError::status(url, response.status().as_u16()));
            }
            let etag = etag.or_else(|| field(&response, "etag")).unwrap_or_default();
            let size = size.or_else(|| field(&response, "content-length")).unwrap_or_default();
            let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
            // The etag becomes a file name.
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            if etag.is_empty() || etag.len() > 128 || !etag.bytes().all(plain) {
                return Err(HubError::protocol(url, "an etag of letters, digits and '-'", format!("{etag:?}")));
            }
            let size = size.parse().map_err(|_| HubError::protocol(url, "the file's size", format!("{size:?}")))?;
            Ok(FileInfo { etag, size })
        })
    }

    /// One GET from byte `from` on, redirects followed, any status.
    pub(super) fn get(&self, url: &str, from: u64) -> Result<Response<Body>> {
        let range = (from > 0).then(|| format!("bytes={from}-"));
        self.follow(url, |agent, at, token| {
            let response = send(agent.get(at), token, range.as_deref()).map_err(|e| HubError::transport(at, e))?;
            Ok((response, false))
        })
    }

    /// Follows redirects until `request` says that its answer will do. The token goes to the endpoint's own origin
    /// only, and no more once the chain has left it.
    fn follow(
        &self,
        url: &str,
        mut request: impl FnMut(&Agent, &str, Option<&str>) -> Result<(Response<Body>, bool)>,
    ) -> Result<Response<Body>> {
        let mut at = url.to_owned();
        let mut token = self.token.as_deref();
        for _ in 0..=MAX_REDIRECTS {
            let uri: Uri = at.parse().map_err(|_| HubError::protocol(url, "a valid address", shorten(&at)))?;
            let origin = Origin::of(&uri).ok_or_else(|| HubError::protocol(url, "an http address", shorten(&at)))?;
            token = token.filter(|_| origin == self.home);
            let (response, enough) = request(&self.agent, &at, token)?;
            let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
            let redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            let Some(location) = location.filter(|_| redirect && !enough) else {
                return Ok(response);
            };
            let next = resolve(&uri, location);
            if origin.https && !next.starts_with("https://") {
                return Err(HubError::protocol(url, "a redirect to https", shorten(&next)));
            }
            at = next;
        }
        Err(HubError::protocol(url, "at most 8 redirects", "more"))
    }
}

impl Origin {
    fn of(uri: &Uri) -> Option<Origin> {
        let https = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        Some(Origin { https, host: uri.host()?.to_ascii_lowercase(), port })
    }
}

fn send(
    request: ureq::RequestBuilder<ureq::typestate::WithoutBody>,
    token: Option<&str>,
    range: Option<&str>,
) -> std::result::Result<Response<Body>, ureq::Error> {
    let request = match token {
        Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
        None => request,
    };
    match range {
        Some(range) => request.header(header::RANGE, range).call(),
        None => request.call(),
    }
}

/// The address that `location` means in an answer from `base`.
fn resolve(base: &Uri, location: &str) -> String {
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base.authority().map_or("", |a| a.as_str());
    if location.contains("://") && !location.starts_with('/') {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    }
}

fn field(response: &Response<Body>, name: &str) -> Option<String> {
    Some(response.headers().get(name)?.to_str().ok()?.trim().to_owned())
}

fn shorten(url: &str) -> String {
    url.split(['?', '#']).next().unwrap_or_default().chars().take(200).collect()
}
