//! The hub client against a local server: resume, verification, redirects, offline, hostile listings.
mod server;

use planish_checkpoint::hub::{HubClient, HubError, HubOptions};
use server::{Reply, Server};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::Duration;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const CONFIG: &[u8] = b"{\"model_type\": \"llama\"}";
const LISTING: &str = "/api/models/org/m/revision/main";

struct Hub {
    server: Server,
    cache: tempfile::TempDir,
}

impl Hub {
    /// A repository with a config (plain etag) and weights (SHA-256 announced by the endpoint).
    fn new() -> Hub {
        let hub = Hub { server: Server::start(), cache: tempfile::tempdir().unwrap() };
        hub.list(&["config.json", "model.safetensors", "README.md", "pytorch_model.bin"]);
        let etag = ("ETag", "\"c0ffee\"".to_owned());
        hub.server.on(&file("config.json"), Reply { body: CONFIG.into(), headers: vec![etag], ..Reply::default() });
        hub.server.on(&file("model.safetensors"), weights_reply());
        hub
    }

    fn list(&self, files: &[&str]) {
        let siblings: Vec<_> = files.iter().map(|f| serde_json::json!({"rfilename": f})).collect();
        let body = serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string().into_bytes();
        self.server.on(LISTING, Reply { body, ..Reply::default() });
    }

    fn client(&self, change: impl FnOnce(&mut HubOptions)) -> HubClient {
        let mut options = HubOptions {
            endpoint: self.server.url.clone(),
            cache_dir: self.cache.path().to_owned(),
            token: Some("secret-token".to_owned()),
            offline: false,
            attempts: 3,
            backoff: Duration::from_millis(1),
        };
        change(&mut options);
        HubClient::new(options).unwrap()
    }

    fn fetch(&self) -> Result<PathBuf, HubError> {
        self.client(|_| ()).fetch_model("org/m", "main", &mut |_, _, _| ())
    }

    fn repo(&self) -> PathBuf {
        self.cache.path().join("models--org--m")
    }
}

fn file(name: &str) -> String {
    format!("/org/m/resolve/{COMMIT}/{name}")
}

/// 600,000 bytes that do not repeat early.
fn weights() -> Vec<u8> {
    (0..150_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn weights_reply() -> Reply {
    let body = weights();
    let headers = vec![
        ("ETag", "\"something-else\"".to_owned()),
        ("X-Linked-Etag", format!("\"{}\"", sha256(&body))),
        ("X-Linked-Size", body.len().to_string()),
    ];
    Reply { body, headers, ..Reply::default() }
}

fn read(dir: &Path, name: &str) -> Vec<u8> {
    std::fs::read(dir.join(name)).unwrap()
}

/// Python files come with a model whose configuration names them, and with no other.
#[test]
fn code_is_fetched_where_the_configuration_names_it() {
    for (config, code) in [("{\"auto_map\": {\"AutoConfig\": \"configuration_m.M\"}}", true), ("{}", false)] {
        let hub = Hub::new();
        hub.list(&["config.json", "configuration_m.py", "model.safetensors", "examples/run.py", ".x.py"]);
        for (name, body) in [("config.json", config), ("configuration_m.py", "x = 1")] {
            let headers = vec![("ETag", format!("\"{}\"", name.len()))];
            hub.server.on(&file(name), Reply { body: body.into(), headers, ..Reply::default() });
        }
        let dir = hub.fetch().unwrap();
        assert_eq!(dir.join("configuration_m.py").exists(), code, "{config}");
        assert!(!hub.server.seen().iter().any(|s| s.path.contains("run.py") || s.path.contains(".x.py")));
    }
}

#[test]
fn a_model_is_fetched_into_the_standard_layout() {
    let hub = Hub::new();
    let mut last = std::collections::BTreeMap::new();
    let dir = hub.client(|_| ()).fetch_model("org/m", "main", &mut |file, done, total| {
        assert!(done <= total);
        last.insert(file.to_owned(), (done, total));
    });
    let dir = dir.unwrap();
    assert_eq!(dir, hub.repo().join("snapshots").join(COMMIT));
    assert_eq!((read(&dir, "config.json"), read(&dir, "model.safetensors")), (CONFIG.to_vec(), weights()));
    let link = std::fs::read_link(dir.join("model.safetensors")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(sha256(&weights())));
    assert_eq!(std::fs::read_to_string(hub.repo().join("refs/main")).unwrap(), COMMIT);
    let mut blobs: Vec<_> = std::fs::read_dir(hub.repo().join("blobs"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    blobs.sort();
    let mut expected = vec!["c0ffee".to_owned(), sha256(&weights())];
    expected.sort();
    assert_eq!(blobs, expected);
    assert_eq!(last["model.safetensors"], (600_000, 600_000));
    assert_eq!(last.len(), 2);
    assert!(hub.server.seen().iter().all(|s| s.headers["authorization"] == "Bearer secret-token"));

    // Again: the listing only, since a commit's files do not change.
    let before = hub.server.seen().len();
    assert_eq!(hub.fetch().unwrap(), dir);
    assert_eq!(hub.server.seen().len(), before + 1);
}

#[test]
fn a_cut_download_is_continued_with_a_range() {
    let hub = Hub::new();
    hub.server.on(&file("model.safetensors"), Reply { cut: Some((100_000, 3)), ..weights_reply() });
    let dir = hub.fetch().unwrap();
    assert_eq!(read(&dir, "model.safetensors"), weights());
    let gets = hub.server.gets(&file("model.safetensors"));
    let ranges: Vec<_> = gets.iter().map(|s| s.headers.get("range").map(String::as_str)).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-"), Some("bytes=200000-"), Some("bytes=300000-")]);
}

#[test]
fn a_later_call_continues_what_an_earlier_one_left() {
    let hub = Hub::new();
    let dead = Reply { cut: Some((50_000, 1)), ..weights_reply() };
    hub.server.on(&file("model.safetensors"), dead);
    let failed = hub.client(|o| o.attempts = 1).fetch_model("org/m", "main", &mut |_, _, _| ());
    assert!(matches!(failed, Err(HubError::Transport { .. })), "{failed:?}");
    let partial = hub.repo().join("blobs").join(format!("{}.incomplete", sha256(&weights())));
    assert_eq!(std::fs::read(&partial).unwrap(), weights()[..50_000]);
    assert!(!hub.repo().join("refs/main").exists());

    let dir = hub.fetch().unwrap();
    assert_eq!(read(&dir, "model.safetensors"), weights());
    let gets = hub.server.gets(&file("model.safetensors"));
    assert_eq!(gets.last().unwrap().headers["range"], "bytes=50000-");
    assert!(!partial.exists());
}

#[test]
fn a_server_without_ranges_is_read_from_the_start() {
    let hub = Hub::new();
    hub.server.on(&file("model.safetensors"), Reply { cut: Some((70_000, 1)), no_ranges: true, ..weights_reply() });
    assert_eq!(read(&hub.fetch().unwrap(), "model.safetensors"), weights());
}

#[test]
fn a_server_that_always_cuts_is_given_up() {
    for no_ranges in [true, false] {
        let hub = Hub::new();
        let cut = Some((if no_ranges { 70_000 } else { 0 }, usize::MAX));
        hub.server.on(&file("model.safetensors"), Reply { cut, no_ranges, ..weights_reply() });
        assert!(matches!(hub.fetch(), Err(HubError::Transport { .. })));
        let gets = hub.server.gets(&file("model.safetensors")).len();
        assert!((3..=4).contains(&gets), "{gets} requests");
    }
}

#[test]
fn wrong_contents_are_deleted_and_reported() {
    let hub = Hub::new();
    let mut reply = weights_reply();
    reply.body[1234] ^= 1;
    hub.server.on(&file("model.safetensors"), reply);
    let error = hub.fetch().unwrap_err();
    assert!(matches!(&error, HubError::Digest { file, expected, .. }
        if file == "model.safetensors" && *expected == sha256(&weights())));
    assert!(!hub.repo().join("snapshots").join(COMMIT).join("model.safetensors").exists());
    let left = std::fs::read_dir(hub.repo().join("blobs")).unwrap().count();
    assert_eq!(left, 1, "only the config");
    hub.server.on(&file("model.safetensors"), weights_reply());
    assert_eq!(read(&hub.fetch().unwrap(), "model.safetensors"), weights());
}

#[test]
fn wrong_sizes_are_refused() {
    for delta in [-1i64, 1] {
        let hub = Hub::new();
        let mut reply = weights_reply();
        reply.headers[2].1 = (600_000 + delta).to_string();
        hub.server.on(&file("model.safetensors"), reply);
        let error = hub.fetch().unwrap_err().to_string();
        assert!(error.contains("model.safetensors"), "{error}");
        assert!(!hub.repo().join("refs/main").exists());
    }
}

#[test]
fn overload_is_retried_and_other_errors_are_not() {
    let hub = Hub::new();
    hub.server.on(&file("model.safetensors"), Reply { failures: vec![503, 429], ..weights_reply() });
    assert!(hub.fetch().is_ok());

    for (status, part) in [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "not found"), (418, "HTTP 418")] {
        let hub = Hub::new();
        hub.server.on(LISTING, Reply { failures: vec![status; 9], ..Reply::default() });
        let error = hub.fetch().unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("/api/models/org/m"), "{error}");
        assert!(!error.contains("secret-token"));
        assert_eq!(hub.server.seen().len(), 1);
    }
    let hub = Hub::new();
    hub.server.on(LISTING, Reply { failures: vec![500; 9], ..Reply::default() });
    assert!(hub.fetch().unwrap_err().to_string().contains("HTTP 500"));
    assert_eq!(hub.server.seen().len(), 3);
}

#[test]
fn the_token_does_not_follow_a_redirect_to_another_host() {
    let (hub, storage) = (Hub::new(), Server::start());
    storage.on("/blob?signature=s3cret", Reply { body: weights(), cut: Some((1000, 1)), ..Reply::default() });
    let mut reply = Reply { status: 302, body: vec![], ..weights_reply() };
    reply.headers.push(("Location", format!("{}/blob?signature=s3cret", storage.url)));
    hub.server.on(&file("model.safetensors"), reply);
    assert_eq!(read(&hub.fetch().unwrap(), "model.safetensors"), weights());
    let seen = storage.seen();
    assert_eq!(
        seen.iter().map(|s| s.method.as_str()).collect::<Vec<_>>(),
        ["GET", "GET"],
        "HEAD stays at the endpoint"
    );
    assert!(seen.iter().all(|s| !s.headers.contains_key("authorization")));
    assert_eq!(seen[1].headers["range"], "bytes=1000-");
    assert!(hub.server.seen().iter().all(|s| s.headers.contains_key("authorization")));
}

#[test]
fn a_redirect_on_the_same_host_keeps_the_token_and_errors_hide_signatures() {
    let hub = Hub::new();
    let moved = Reply { status: 307, headers: vec![("Location", "/elsewhere/config.json".into())], ..Reply::default() };
    hub.server.on(&file("config.json"), moved);
    let etag = vec![("ETag", "W/\"abc123\"".to_owned())];
    hub.server.on("/elsewhere/config.json", Reply { body: CONFIG.into(), headers: etag, ..Reply::default() });
    assert_eq!(read(&hub.fetch().unwrap(), "config.json"), CONFIG);
    let seen = hub.server.gets("/elsewhere/config.json");
    assert_eq!(seen[0].headers["authorization"], "Bearer secret-token");

    let (hub, storage) = (Hub::new(), Server::start());
    let mut reply = weights_reply();
    (reply.status, reply.body) = (302, vec![]);
    reply.headers.push(("Location", format!("{}/gone?signature=s3cret", storage.url)));
    hub.server.on(&file("model.safetensors"), reply);
    assert!(!hub.fetch().unwrap_err().to_string().contains("s3cret"));

    let hub = Hub::new();
    hub.server.on(LISTING, Reply { status: 302, headers: vec![("Location", LISTING.into())], ..Reply::default() });
    assert!(hub.fetch().unwrap_err().to_string().contains("at most 8 redirects"));
}

#[test]
fn offline_uses_what_is_complete_and_says_what_is_not() {
    let hub = Hub::new();
    let offline = || hub.client(|o| o.offline = true).fetch_model("org/m", "main", &mut |_, _, _| ());
    let error = offline().unwrap_err().to_string();
    assert!(error.contains("org/m at 'main'") && error.contains("HF_HUB_OFFLINE"), "{error}");
    let dir = hub.fetch().unwrap();
    let before = hub.server.seen().len();
    assert_eq!(offline().unwrap(), dir);
    let by_commit = hub.client(|o| o.offline = true).fetch_model("org/m", COMMIT, &mut |_, _, _| ());
    assert_eq!(by_commit.unwrap(), dir);
    let one = hub.client(|o| o.offline = true).fetch_file("org/m", "main", "config.json", &mut |_, _, _| ());
    assert_eq!(one.unwrap(), dir.join("config.json"));
    let other = hub.client(|o| o.offline = true).fetch_file("org/m", "main", "x.json", &mut |_, _, _| ());
    assert!(other.unwrap_err().to_string().contains("no x.json"));

    std::fs::write(dir.join("model.safetensors.index.json"), r#"{"weight_map": {"a": "model-1-of-2.safetensors"}}"#)
        .unwrap();
    assert!(offline().unwrap_err().to_string().contains("no model-1-of-2.safetensors"));
    std::fs::remove_file(dir.join("model.safetensors.index.json")).unwrap();
    std::fs::remove_file(hub.repo().join("blobs").join(sha256(&weights()))).unwrap();
    assert!(offline().unwrap_err().to_string().contains("no weights"));
    assert_eq!(hub.server.seen().len(), before, "nothing went over the network");
}

#[test]
fn names_that_leave_the_cache_are_refused() {
    for bad in ["../../x.json", "/etc/x.json", "a/../../x.json", "a\\..\\x.json", "x\0.json", "C:x.json"] {
        let hub = Hub::new();
        hub.list(&["config.json", "model.safetensors", bad]);
        let error = hub.fetch().unwrap_err();
        assert!(matches!(error, HubError::BadName { what: "file name", .. }), "{bad:?}: {error}");
        assert_eq!(hub.server.seen().len(), 1);
    }
    let hub = Hub::new();
    let mut nothing = |_: &str, _, _| ();
    for bad in ["../m", "org", "org/../m", "https://a/b", "/org/m"] {
        assert!(hub.client(|_| ()).fetch_model(bad, "main", &mut nothing).is_err(), "{bad}");
    }
    assert!(hub.client(|_| ()).fetch_model("org/m", "../main", &mut nothing).is_err());
    assert!(hub.client(|_| ()).fetch_file("org/m", "main", "../x", &mut nothing).is_err());
    assert!(hub.server.seen().is_empty());
}

#[test]
fn etags_and_commits_that_are_no_plain_names_are_refused() {
    for bad in ["\"../../x\"", "\"a/b\"", "\"\"", "\"a.incomplete\""] {
        let hub = Hub::new();
        let headers = vec![("ETag", bad.to_owned())];
        hub.server.on(&file("config.json"), Reply { body: CONFIG.into(), headers, ..Reply::default() });
        assert!(hub.fetch().unwrap_err().to_string().contains("an etag of letters"), "{bad}");
    }
    let hub = Hub::new();
    let body = br#"{"sha": "../../../x", "siblings": []}"#.to_vec();
    hub.server.on(LISTING, Reply { body, ..Reply::default() });
    assert!(hub.fetch().unwrap_err().to_string().contains("a commit in 'sha'"));
}

#[test]
fn a_link_out_of_the_cache_is_replaced_not_followed() {
    let hub = Hub::new();
    let outside = hub.cache.path().join("outside.json");
    std::fs::write(&outside, "private").unwrap();
    let snapshot = hub.repo().join("snapshots").join(COMMIT);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::os::unix::fs::symlink(&outside, snapshot.join("config.json")).unwrap();
    assert_eq!(read(&hub.fetch().unwrap(), "config.json"), CONFIG);
    assert_eq!(std::fs::read_to_string(outside).unwrap(), "private");
}

#[test]
fn one_gguf_of_several_can_be_fetched_by_name() {
    let hub = Hub::new();
    hub.list(&["a b.gguf", "c.gguf"]);
    assert!(hub.fetch().unwrap_err().to_string().contains("several GGUF files"));
    let headers = vec![("ETag", "\"feed\"".to_owned())];
    hub.server.on(&file("a%20b.gguf"), Reply { body: b"GGUF".to_vec(), headers, ..Reply::default() });
    let path = hub.client(|_| ()).fetch_file("org/m", "main", "a b.gguf", &mut |_, _, _| ()).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"GGUF");
}

#[test]
fn unusable_settings_are_refused_without_showing_the_token() {
    let hub = Hub::new();
    for endpoint in ["ftp://x", "x", "", "http://"] {
        let options = HubOptions { endpoint: endpoint.to_owned(), ..options(&hub) };
        assert!(matches!(HubClient::new(options), Err(HubError::BadName { .. })), "{endpoint}");
    }
    let bad = HubOptions { token: Some("hf_a\r\nX: y".to_owned()), ..options(&hub) };
    assert_eq!(HubClient::new(bad).unwrap_err().to_string(), "HF_TOKEN: expected visible ASCII characters only");
}

fn options(hub: &Hub) -> HubOptions {
    HubOptions {
        endpoint: hub.server.url.clone(),
        cache_dir: hub.cache.path().to_owned(),
        token: None,
        offline: false,
        attempts: 1,
        backoff: Duration::ZERO,
    }
}

#[test]
fn files_of_a_data_set_are_chosen_by_name() {
    let hub = Hub::new();
    let names = ["README.md", "main/test-0.parquet", "main/train-0.parquet"];
    let siblings: Vec<_> = names.iter().map(|f| serde_json::json!({"rfilename": f})).collect();
    let body = serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string().into_bytes();
    let reply = Reply { body, ..Reply::default() };
    hub.server.on("/api/datasets/org/d/revision/refs%2Fconvert%2Fparquet", reply);
    let etag = ("ETag", "\"d00d\"".to_owned());
    let reply = Reply { body: b"rows".into(), headers: vec![etag], ..Reply::default() };
    hub.server.on(&format!("/datasets/org/d/resolve/{COMMIT}/main/test-0.parquet"), reply);
    let test = |listed: &[String]| -> Vec<String> { listed.iter().filter(|n| n.contains("test")).cloned().collect() };
    let fetch = |offline| {
        let client = hub.client(|o| o.offline = offline);
        client.fetch_dataset("org/d", "refs/convert/parquet", &test, &mut |_, _, _| ())
    };
    assert!(matches!(fetch(true), Err(HubError::Offline { .. })));
    let found = fetch(false).unwrap();
    let snapshot = hub.cache.path().join("datasets--org--d/snapshots").join(COMMIT);
    assert_eq!(found, [snapshot.join("main/test-0.parquet")]);
    assert_eq!(read(&snapshot, "main/test-0.parquet"), b"rows");
    assert_eq!(fetch(true).unwrap(), found);
    let other = hub.client(|_| ()).fetch_dataset("org/d", "refs/convert/parquet", &|_| Vec::new(), &mut |_, _, _| ());
    assert_eq!(other.unwrap(), [] as [PathBuf; 0]);
}
