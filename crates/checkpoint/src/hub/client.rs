//! Fetching a model or files of a data set: listing, choosing, downloading, linking.
use super::cache::RepoCache;
use super::download::ensure_blob;
use super::error::{HubError, Result};
use super::http::Http;
use super::names::{Kind, check_path, check_repo_id, check_revision, choose, encode, is_commit};
use super::options::HubOptions;
use crate::companions::{is_code, names_code};
use std::path::PathBuf;

const MAX_LISTING_BYTES: u64 = 32 << 20;
const MAX_FILES: usize = 100_000;

/// Called with a file's name, the bytes of it that are in the cache, and its size.
type Progress<'a> = dyn FnMut(&str, u64, u64) + 'a;

/// A client of one hub.
pub struct HubClient {
    options: HubOptions,
    http: Http,
}

impl std::fmt::Debug for HubClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HubClient({:?})", self.options)
    }
}

impl HubClient {
    /// A client with the environment's settings, see [`HubOptions::from_vars`].
    ///
    /// # Errors
    /// [`HubError::BadSetting`] or [`HubError::BadName`] for settings that cannot be used.
    pub fn from_env() -> Result<HubClient> {
        HubClient::new(HubOptions::from_vars(|name| std::env::var(name).ok())?)
    }

    /// A client with these settings.
    ///
    /// # Errors
    /// As [`HubClient::from_env`].
    pub fn new(options: HubOptions) -> Result<HubClient> {
        let http = Http::new(&options)?;
        Ok(HubClient { options, http })
    }

    /// Makes sure that a model's settings, tokenizer and weights are in the cache, and returns the folder that has
    /// them (`snapshots/<commit>`). Weights are its safetensors, or its only GGUF if it has none. `revision` is a
    /// branch (`main`), a tag or a commit. `progress(file, done, total)` counts bytes.
    ///
    /// # Errors
    /// Any [`HubError`]; what has been downloaded stays, and is resumed by the next call.
    pub fn fetch_model(&self, repo_id: &str, revision: &str, progress: &mut Progress<'_>) -> Result<PathBuf> {
        let cache = self.open_cache(Kind::Model, repo_id, revision)?;
        if self.options.offline {
            return self.cached_model(&cache, repo_id, revision);
        }
        let (commit, listed) = self.list(Kind::Model, repo_id, revision)?;
        for file in choose(repo_id, &listed)? {
            self.fetch(&cache, Kind::Model, repo_id, &commit, file, progress)?;
        }
        // Code is fetched where the configuration names it, for those who load a copy of the model; it is never run.
        if names_code(&cache.snapshot(&commit)) {
            for file in listed.iter().filter(|name| is_code(name)) {
                self.fetch(&cache, Kind::Model, repo_id, &commit, file, progress)?;
            }
        }
        cache.set_commit(revision, &commit)?;
        Ok(cache.snapshot(&commit))
    }

    /// Makes sure that one file is in the cache (a GGUF of several, say), and returns its path.
    ///
    /// # Errors
    /// Any [`HubError`].
    pub fn fetch_file(
        &self,
        repo_id: &str,
        revision: &str,
        file: &str,
        progress: &mut Progress<'_>,
    ) -> Result<PathBuf> {
        let cache = self.open_cache(Kind::Model, repo_id, revision)?;
        check_path(file)?;
        let commit = if self.options.offline {
            let commit = cache.commit_of(revision).filter(|commit| cache.has(commit, file));
            commit.ok_or_else(|| self.offline(repo_id, revision, format!("no {file}")))?
        } else {
            let (commit, _) = self.list(Kind::Model, repo_id, revision)?;
            self.fetch(&cache, Kind::Model, repo_id, &commit, file, progress)?;
            cache.set_commit(revision, &commit)?;
            commit
        };
        Ok(cache.snapshot(&commit).join(file))
    }

    /// Makes sure that the files of a data set which `choose` picks from the names of all are in the cache, and returns
    /// their paths in that order. None picked is no error.
    ///
    /// # Errors
    /// Any [`HubError`].
    pub fn fetch_dataset(
        &self,
        repo_id: &str,
        revision: &str,
        choose: &dyn Fn(&[String]) -> Vec<String>,
        progress: &mut Progress<'_>,
    ) -> Result<Vec<PathBuf>> {
        let cache = self.open_cache(Kind::Dataset, repo_id, revision)?;
        let (commit, chosen) = if self.options.offline {
            let nothing = || format!("nothing in {}", self.options.cache_dir.display());
            let commit = cache.commit_of(revision).ok_or_else(|| self.offline(repo_id, revision, nothing()))?;
            let chosen = choose(&cache.files(&commit));
            (commit, chosen)
        } else {
            let (commit, listed) = self.list(Kind::Dataset, repo_id, revision)?;
            let chosen = choose(&listed);
            for file in &chosen {
                self.fetch(&cache, Kind::Dataset, repo_id, &commit, file, progress)?;
            }
            cache.set_commit(revision, &commit)?;
            (commit, chosen)
        };
        Ok(chosen.into_iter().map(|file| cache.snapshot(&commit).join(file)).collect())
    }

    fn open_cache(&self, kind: Kind, repo_id: &str, revision: &str) -> Result<RepoCache> {
        check_repo_id(repo_id)?;
        check_revision(revision)?;
        Ok(RepoCache::new(&self.options.cache_dir, kind, repo_id))
    }

    fn cached_model(&self, cache: &RepoCache, repo_id: &str, revision: &str) -> Result<PathBuf> {
        let commit = cache.commit_of(revision);
        let commit = commit.ok_or_else(|| {
            self.offline(repo_id, revision, format!("nothing in {}", self.options.cache_dir.display()))
        })?;
        match cache.lacks(&commit) {
            None => Ok(cache.snapshot(&commit)),
            Some(missing) => Err(self.offline(repo_id, revision, missing)),
        }
    }

    fn offline(&self, repo_id: &str, revision: &str, missing: String) -> HubError {
        HubError::Offline { repo: repo_id.to_owned(), revision: revision.to_owned(), missing }
    }

    /// The commit that `revision` means, and the names of its files, all checked.
    fn list(&self, kind: Kind, repo_id: &str, revision: &str) -> Result<(String, Vec<String>)> {
        let (endpoint, plural) = (&self.options.endpoint, kind.plural());
        let url = format!("{endpoint}/api/{plural}/{repo_id}/revision/{}", encode(revision));
        let body = self.http.text(&url, MAX_LISTING_BYTES)?;
        let listing: serde_json::Value =
            serde_json::from_slice(&body).map_err(|e| HubError::protocol(&url, "a JSON listing", e.to_string()))?;
        let commit = listing["sha"].as_str().filter(|sha| is_commit(sha));
        let commit = commit.ok_or_else(|| HubError::protocol(&url, "a commit in 'sha'", listing["sha"].to_string()))?;
        let files = listing["siblings"].as_array().filter(|s| s.len() <= MAX_FILES);
        let files = files.ok_or_else(|| HubError::protocol(&url, "a list of at most 100000 'siblings'", "another"))?;
        let mut names = Vec::new();
        for file in files {
            let name = file["rfilename"].as_str();
            let name =
                name.ok_or_else(|| HubError::protocol(&url, "a text in 'rfilename'", file["rfilename"].to_string()))?;
            check_path(name)?;
            names.push(name.to_owned());
        }
        Ok((commit.to_owned(), names))
    }

    /// One file of a commit into the cache. A commit never changes, so a file that is there is the right one.
    fn fetch(
        &self,
        cache: &RepoCache,
        kind: Kind,
        repo_id: &str,
        commit: &str,
        file: &str,
        progress: &mut Progress<'_>,
    ) -> Result<()> {
        if cache.has(commit, file) {
            let path = cache.snapshot(commit).join(file);
            let size = std::fs::metadata(&path).map_err(HubError::io(&path))?.len();
            progress(file, size, size);
            return Ok(());
        }
        let path = file.split('/').map(encode).collect::<Vec<_>>().join("/");
        let url = format!("{}/{}{repo_id}/resolve/{commit}/{path}", self.options.endpoint, kind.prefix());
        let info = self.http.head(&url)?;
        ensure_blob(&self.http, cache, &url, file, &info, &mut |done| progress(file, done, info.size))?;
        cache.link(commit, file, &info.etag)
    }
}
