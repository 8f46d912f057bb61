//! Settings of the hub client, by the environment variables that other tools of the hub use.
use super::error::{HubError, Result};
use std::path::PathBuf;
use std::time::Duration;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Where to fetch from, where to keep it, and as whom.
#[derive(Clone)]
pub struct HubOptions {
    /// Root of the hub, `http` or `https`, without a trailing slash.
    pub endpoint: String,
    /// The folder that holds `models--*` and `datasets--*`.
    pub cache_dir: PathBuf,
    /// Sent to the endpoint's own host only.
    pub token: Option<String>,
    /// Never use the network.
    pub offline: bool,
    /// Tries of a request that makes no progress, at least 1.
    pub attempts: u32,
    /// Pause after the first failure; doubles with each further one, up to 16 times.
    pub backoff: Duration,
}

impl std::fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubOptions")
            .field("endpoint", &self.endpoint)
            .field("cache_dir", &self.cache_dir)
            .field("token", &self.token.as_ref().map(|_| "..."))
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

impl HubOptions {
    /// Reads `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME` (else `XDG_CACHE_HOME/huggingface`, else
    /// `~/.cache/huggingface`), `HF_TOKEN` (else the file `HF_TOKEN_PATH`, else `HF_HOME/token`) and `HF_HUB_OFFLINE`
    /// through `var`, which gives the value of a variable.
    ///
    /// # Errors
    /// [`HubError::BadSetting`] when no cache folder can be derived.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<HubOptions> {
        let var = |name: &str| var(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let home = var("HOME").or_else(|| var("USERPROFILE")).map(PathBuf::from);
        let path = |name: &str| var(name).map(|v| expand(&v, home.as_ref()));
        let hf_home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|p| p.join("huggingface")))
            .or_else(|| home.as_ref().map(|h| h.join(".cache").join("huggingface")));
        let cache_dir = path("HF_HUB_CACHE").or_else(|| hf_home.as_ref().map(|h| h.join("hub")));
        let cache_dir =
            cache_dir.ok_or(HubError::BadSetting { what: "HF_HOME", expected: "a folder, or HOME to be set" })?;
        let token_file = path("HF_TOKEN_PATH").or_else(|| hf_home.map(|h| h.join("token")));
        let token = var("HF_TOKEN").or_else(|| {
            let text = std::fs::read_to_string(token_file?).ok()?;
            Some(text.trim().to_owned()).filter(|t| !t.is_empty())
        });
        let offline = var("HF_HUB_OFFLINE")
            .is_some_and(|v| matches!(v.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"));
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        Ok(HubOptions {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache_dir,
            token,
            offline,
            attempts: 5,
            backoff: Duration::from_millis(500),
        })
    }
}

fn expand(value: &str, home: Option<&PathBuf>) -> PathBuf {
    match (value.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(vars: &[(&str, &str)]) -> Result<HubOptions> {
        HubOptions::from_vars(|name| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn the_cache_folder_follows_the_usual_order() {
        let cache = |vars: &[(&str, &str)]| options(vars).unwrap().cache_dir;
        assert_eq!(cache(&[("HOME", "/h")]), PathBuf::from("/h/.cache/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), PathBuf::from("/x/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "~/hf")]), PathBuf::from("/h/hf/hub"));
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")]), PathBuf::from("/c"));
        assert!(options(&[]).unwrap_err().to_string().contains("HF_HOME"));
    }

    #[test]
    fn endpoint_token_and_offline() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        let plain = options(&[("HF_HOME", home)]).unwrap();
        assert_eq!((plain.endpoint.as_str(), plain.token, plain.offline), (DEFAULT_ENDPOINT, None, false));
        std::fs::write(dir.path().join("token"), "from-file\n").unwrap();
        assert_eq!(options(&[("HF_HOME", home)]).unwrap().token.as_deref(), Some("from-file"));
        let set = [("HF_HOME", home), ("HF_TOKEN", "mine"), ("HF_ENDPOINT", "http://a/"), ("HF_HUB_OFFLINE", "true")];
        let set = options(&set).unwrap();
        assert_eq!((set.endpoint.as_str(), set.token.as_deref(), set.offline), ("http://a", Some("mine"), true));
        assert!(!format!("{set:?}").contains("mine"));
        assert!(!options(&[("HF_HOME", home), ("HF_HUB_OFFLINE", "0")]).unwrap().offline);
    }
}
