//! Names from users and servers: what is accepted, and which of a repository's files are fetched.
use super::error::{HubError, Result};

const MAX_PART: usize = 96;

/// What a repository holds; each kind has addresses and cache folders of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Model,
    Dataset,
}

impl Kind {
    /// The word in the addresses of its interface and in its cache folders.
    pub(super) const fn plural(self) -> &'static str {
        match self {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        }
    }

    /// What stands before a repository's id in the addresses of its files.
    pub(super) const fn prefix(self) -> &'static str {
        match self {
            Kind::Model => "",
            Kind::Dataset => "datasets/",
        }
    }
}

/// Checks `org/name`.
pub(super) fn check_repo_id(id: &str) -> Result<()> {
    let part = |p: &str| {
        p.len() <= MAX_PART
            && p.starts_with(|c: char| c.is_ascii_alphanumeric())
            && p.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
    };
    let two = id.split_once('/').is_some_and(|(org, name)| part(org) && part(name));
    if two && !id.contains("..") && !id.contains("--") {
        return Ok(());
    }
    let expected = "organisation/name of letters, digits, '_', '.' and '-', without '..' or '--'";
    Err(HubError::BadName { what: "repository id", found: shown(id), expected })
}

/// Checks a commit, branch, tag or `refs/pr/N`.
pub(super) fn check_revision(revision: &str) -> Result<()> {
    let part = |p: &str| {
        p.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && p.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '+'))
            && !p.contains("..")
            && !p.ends_with(".lock")
    };
    if revision.len() <= 255 && revision.split('/').all(part) {
        return Ok(());
    }
    Err(HubError::BadName { what: "revision", found: shown(revision), expected: "a commit, branch or tag name" })
}

/// Checks that a listed path stays inside its folder on every system.
pub(super) fn check_path(path: &str) -> Result<()> {
    let part = |p: &str| !p.is_empty() && p != "." && p != "..";
    let plain = |c: char| !c.is_control() && !matches!(c, '\\' | ':');
    if path.len() <= 1024 && path.split('/').all(part) && path.chars().all(plain) {
        return Ok(());
    }
    Err(HubError::BadName { what: "file name", found: shown(path), expected: "a relative path without '..'" })
}

/// True for a 40-digit commit.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Which of the listed files an engine needs: settings, tokenizer, and one set of weights (safetensors, or else the
/// only GGUF). Names must have passed [`check_path`].
pub(super) fn choose<'a>(repo: &str, listed: &'a [String]) -> Result<Vec<&'a str>> {
    let top: Vec<&str> = listed.iter().map(String::as_str).filter(|n| is_top(n)).collect();
    let tensors: Vec<&str> =
        top.iter().copied().filter(|n| n.ends_with(".safetensors") && !n.starts_with("consolidated")).collect();
    let mut chosen: Vec<&str> = top.iter().copied().filter(|n| is_setting(n)).collect();
    if top.contains(&"model.safetensors.index.json") {
        chosen.extend(tensors.iter().filter(|n| n.starts_with("model") && n.contains("-of-")));
    } else if tensors.contains(&"model.safetensors") {
        chosen.push("model.safetensors");
    } else if !tensors.is_empty() {
        chosen.extend(&tensors);
    } else {
        chosen.push(only_gguf(repo, &top)?);
    }
    Ok(chosen)
}

fn only_gguf<'a>(repo: &str, top: &[&'a str]) -> Result<&'a str> {
    let found: Vec<&str> = top.iter().copied().filter(|n| n.ends_with(".gguf")).collect();
    let reason = match found[..] {
        [one] => return Ok(one),
        [] if top.iter().any(|n| n.ends_with(".bin") || n.ends_with(".pt") || n.ends_with(".pth")) => {
            "only pickled weights (.bin, .pt), which can run code; convert them to safetensors".to_owned()
        }
        [] => "neither .safetensors nor .gguf files".to_owned(),
        _ => format!("several GGUF files; fetch one of them: {}", found.join(", ")),
    };
    Err(HubError::NoWeights { repo: repo.to_owned(), reason })
}

fn is_setting(name: &str) -> bool {
    let json = name.ends_with(".json") && !name.ends_with(".bin.index.json");
    json || name.ends_with(".jinja")
        || name.ends_with(".tiktoken")
        || matches!(name, "tokenizer.model" | "merges.txt" | "vocab.txt")
}

/// A visible file of the repository's top folder.
fn is_top(name: &str) -> bool {
    !name.starts_with('.') && !name.contains('/')
}

/// Refused text as an error may show it.
fn shown(text: &str) -> String {
    text.chars().take(120).flat_map(char::escape_debug).collect()
}

/// Percent-encodes everything but unreserved characters, `/` too.
pub(super) fn encode(part: &str) -> String {
    let mut out = String::new();
    for b in part.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(b as char),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_ids() {
        for good in
            ["Qwen/Qwen2.5-0.5B", "a/b", "HuggingFaceTB/SmolLM2-135M-Instruct", "0x/_".replace('_', "a_").as_str()]
        {
            assert!(check_repo_id(good).is_ok(), "{good}");
        }
        let long = format!("a/{}", "b".repeat(97));
        for bad in [
            "",
            "a",
            "/",
            "a/",
            "/b",
            "a/b/c",
            "../b",
            "a/..",
            "a/../../b",
            "a..b/c",
            "a--b/c",
            "/etc/passwd",
            "a/.b",
            "-a/b",
            "https://x/y",
            "a b/c",
            "a/b\n",
            "a/b\0",
            "a\\b/c",
            "ä/b",
            "a/%2e%2e",
            &long,
        ] {
            assert!(matches!(check_repo_id(bad), Err(HubError::BadName { .. })), "{bad:?}");
        }
    }

    #[test]
    fn revisions_and_paths() {
        for good in ["main", "v1.0", "refs/pr/12", "0123456789abcdef0123456789abcdef01234567", "feature/x_y"] {
            assert!(check_revision(good).is_ok(), "{good}");
        }
        for bad in ["", "..", "a/../b", "/a", "a/", "a//b", "-x", ".x", "a b", "a\n", "a?b", "x.lock"] {
            assert!(check_revision(bad).is_err(), "{bad:?}");
        }
        for good in ["config.json", "onnx/model.onnx", "a b.txt", ".gitattributes", "..a"] {
            assert!(check_path(good).is_ok(), "{good}");
        }
        for bad in ["", "..", "../x", "a/../b", "/x", "a/", "a//b", "./a", "a\\b", "C:x", "a\0b", "a\nb"] {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
    }

    fn chosen(listed: &[&str]) -> Result<Vec<String>> {
        let listed: Vec<String> = listed.iter().map(|s| (*s).to_owned()).collect();
        choose("a/b", &listed).map(|c| c.into_iter().map(str::to_owned).collect())
    }

    #[test]
    fn weights_are_chosen_once() {
        let all = [
            "config.json",
            "tokenizer.json",
            "tokenizer.model",
            "chat_template.jinja",
            "README.md",
            ".gitattributes",
            "model.py",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "onnx/model.json",
            "consolidated.safetensors",
            "model.Q4_0.gguf",
            "model.safetensors",
            "model.fp16.safetensors",
        ];
        let single = ["config.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja", "model.safetensors"];
        assert_eq!(chosen(&all).unwrap(), single);
        let sharded =
            ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        assert_eq!(
            chosen(&[&sharded[..], &["consolidated.safetensors", "adapter.safetensors"]].concat()).unwrap(),
            sharded
        );
        assert_eq!(chosen(&["w.gguf", "config.json"]).unwrap(), ["config.json", "w.gguf"]);
    }

    #[test]
    fn repositories_without_readable_weights_say_why() {
        let reason = |listed: &[&str]| chosen(listed).unwrap_err().to_string();
        assert!(reason(&["config.json", "pytorch_model.bin"]).contains("pickled"));
        assert!(reason(&["config.json"]).contains("neither .safetensors nor .gguf"));
        assert!(reason(&["a.gguf", "b.gguf"]).contains("several GGUF files; fetch one of them: a.gguf, b.gguf"));
    }

    #[test]
    fn encoding_leaves_no_separator() {
        assert_eq!(encode("refs/pr/1"), "refs%2Fpr%2F1");
        assert_eq!(encode("a b%ü?.json"), "a%20b%25%C3%BC%3F.json");
    }
}
