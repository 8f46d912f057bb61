//! Who may ask. One layer over the whole router: what is not on the public list needs a key, whether it exists or not.
use crate::error::{ApiError, Result};
use crate::state::State;
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Bytes of a caller's own salt.
const SALT: usize = 256;

/// API keys, as digests.
#[derive(Clone, Default)]
pub struct Keys(Vec<[u8; 32]>);

/// The caller's own part of the prefix cache: derived from its key.
#[derive(Clone, Debug, Default)]
pub struct Tenant(pub Option<String>);

impl Keys {
    /// Keys as people write them; empty ones are left out.
    pub fn new<S: AsRef<str>>(keys: impl IntoIterator<Item = S>) -> Keys {
        let digest = |key: S| <[u8; 32]>::from(Sha256::digest(key.as_ref().trim().as_bytes()));
        Keys(keys.into_iter().filter(|key| !key.as_ref().trim().is_empty()).map(digest).collect())
    }

    /// Whether everyone may ask.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Which tenant a key belongs to. Every key is compared, each in constant time.
    fn tenant(&self, key: &[u8]) -> Option<Tenant> {
        let digest = <[u8; 32]>::from(Sha256::digest(key));
        let found = self.0.iter().fold(false, |found, known| found | bool::from(known.ct_eq(&digest)));
        // Hashed once more: what is kept beside requests does not tell the digest that opens the door.
        let name = Sha256::digest(digest).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        found.then_some(Tenant(Some(name)))
    }
}

impl Tenant {
    /// What tells this tenant's cached prefixes from those of others, whatever salt a request brings. It is a digest: the
    /// engine keeps it beside every answer, so it is short whatever was given.
    ///
    /// # Errors
    /// A salt that is too long.
    pub fn salt(&self, given: Option<&str>) -> Result<Option<String>> {
        if let Some(found) = given.map(str::len).filter(|&len| len > SALT) {
            let message = format!("cache_salt: expected at most {SALT} bytes, found {found}");
            return Err(ApiError::invalid("cache_salt", message));
        }
        if self.0.is_none() && given.is_none() {
            return Ok(None);
        }
        // Names have one length, so that no name and salt look like another pair.
        let mut digest = Sha256::new();
        digest.update(self.0.as_deref().unwrap_or_default());
        digest.update([u8::from(self.0.is_some()), u8::from(given.is_some())]);
        digest.update(given.unwrap_or_default());
        Ok(Some(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

/// Lets a request pass, or answers it.
pub async fn guard(Shared(state): Shared<Arc<State>>, mut request: Request, next: Next) -> Response {
    let options = &state.options;
    if let Err(error) = check_host(request.headers(), options.hosts.as_deref()) {
        return error.into_response();
    }
    let tenant = match &options.keys {
        keys if keys.is_empty() => Some(Tenant::default()),
        keys => given_key(request.headers()).and_then(|key| keys.tenant(key)),
    };
    let public = is_public(request.method(), request.uri().path(), options.public_metrics);
    match tenant {
        Some(tenant) => request.extensions_mut().insert(tenant),
        None if public => None,
        None => {
            let given = given_key(request.headers()).is_some();
            crate::intake::drain(request.into_body()).await;
            let expected = "give an API key as `Authorization: Bearer KEY`";
            let message = if given { format!("the API key is not known: {expected}") } else { expected.to_owned() };
            return ApiError::unauthorized(&message).into_response();
        }
    };
    next.run(request).await
}

/// Pages that tell nothing of anybody's requests.
fn is_public(method: &Method, path: &str, metrics: bool) -> bool {
    let reads = method == Method::GET || method == Method::HEAD;
    let page = matches!(path, "/health" | "/ready" | "/openapi.json") || crate::ui::is_page(path);
    reads && (page || (metrics && path == "/metrics"))
}

/// The key of `Authorization: Bearer`, or of `x-api-key` as Anthropic's clients send it.
fn given_key(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key.trim_ascii())
    });
    bearer.or_else(|| headers.get("x-api-key").map(|value| value.as_bytes().trim_ascii()))
}

/// A page of another site that has its own name point to this machine must not reach a server without keys.
fn check_host(headers: &HeaderMap, allowed: Option<&[String]>) -> Result<()> {
    let Some(allowed) = allowed else { return Ok(()) };
    let Some(host) = headers.get(header::HOST) else { return Ok(()) };
    let host = host.to_str().unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let local = name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok();
    match local || allowed.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        true => Ok(()),
        false => {
            let message = "this name is not served here: use an address, set API keys, or allow it (--allowed-host)";
            Err(ApiError::status(StatusCode::FORBIDDEN, message).code("host_not_allowed"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_keys_open() {
        let keys = Keys::new(["secret-a", " secret-b\n", ""]);
        let a = keys.tenant(b"secret-a").unwrap().0;
        let b = keys.tenant(b"secret-b").unwrap().0;
        assert!(a.is_some() && a != b);
        for wrong in ["", "secret", "secret-a ", "SECRET-A", "secret-c"] {
            assert!(keys.tenant(wrong.as_bytes()).is_none(), "{wrong:?}");
        }
        assert_eq!(format!("{keys:?}"), "2 keys");
    }

    #[test]
    fn salts_are_digests_of_one_length() {
        let [nobody, a, b] = [None, Some("a"), Some("b")].map(|name| Tenant(name.map(str::to_owned)));
        assert_eq!(nobody.salt(None).unwrap(), None);
        let long = "x".repeat(SALT);
        let salts = [
            (&nobody, Some("")),
            (&nobody, Some("a")),
            (&a, None),
            (&a, Some("")),
            (&a, Some("a")),
            (&b, Some("a")),
            (&b, Some(long.as_str())),
        ]
        .map(|(tenant, given)| tenant.salt(given).unwrap().unwrap());
        for (at, salt) in salts.iter().enumerate() {
            assert_eq!((salt.len(), salt.contains('x')), (64, false));
            assert!(!salts[..at].contains(salt), "{at}");
        }
        assert_eq!(a.salt(Some("a")).unwrap().as_ref(), Some(&salts[4]));
        assert_eq!(a.salt(Some(&(long + "x"))).unwrap_err().param.as_deref(), Some("cache_salt"));
    }

    #[test]
    fn keys_come_in_two_headers() {
        let headers = |name: &'static str, value: &'static str| {
            let mut map = HeaderMap::new();
            map.insert(name, value.parse().unwrap());
            map
        };
        assert_eq!(given_key(&headers("authorization", "Bearer k")), Some(&b"k"[..]));
        assert_eq!(given_key(&headers("authorization", "bearer  k ")), Some(&b"k"[..]));
        assert_eq!(given_key(&headers("authorization", "Basic k")), None);
        assert_eq!(given_key(&headers("x-api-key", "k")), Some(&b"k"[..]));
    }

    #[test]
    fn names_that_look_local_are_not() {
        let host = |name: &str| {
            let mut map = HeaderMap::new();
            map.insert("host", name.parse().unwrap());
            check_host(&map, Some(&["box.example".to_owned()])).is_ok()
        };
        for good in ["localhost", "LOCALHOST:23333", "127.0.0.1:1", "[::1]:80", "10.1.2.3", "box.example:9"] {
            assert!(host(good), "{good}");
        }
        for bad in ["localhost.evil.com", "notlocalhost", "evil.com:80", "127.0.0.1.evil.com", ""] {
            assert!(!host(bad), "{bad}");
        }
    }
}
