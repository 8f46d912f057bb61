//! The files beside a model's tensors that a changed copy keeps: tokenizer, template, generation, and the code that a
//! configuration names, which is copied and never run.
use crate::{
    Result,
    entry::{Root, check_plain_name},
};
use serde_json::Value;
use std::{fs, path::Path};

/// Tokenizer, template and generation files.
pub const COMPANIONS: [&str; 11] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
];

/// The files whose `auto_map` names code.
const NAMING: [&str; 2] = ["config.json", "tokenizer_config.json"];
const MAX_BYTES: u64 = 256 << 20;
const MAX_CODE: u64 = 4 << 20;

/// The companions that a directory has: names and bytes.
///
/// # Errors
/// One of [`COMPANIONS`] that is no regular file in the directory, or too large.
pub fn read(dir: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let root = Root::open(dir)?;
    let there = COMPANIONS.into_iter().filter(|name| root.exists(name));
    let mut out: Vec<_> =
        there.map(|name| Ok((name.to_owned(), root.read(name, MAX_BYTES)?.0))).collect::<Result<_>>()?;
    if names_code(dir) {
        out.extend(code(dir, &root));
    }
    Ok(out)
}

/// Whether a directory's configuration says that code beside it makes the model or its tokenizer.
pub(crate) fn names_code(dir: &Path) -> bool {
    let Ok(root) = Root::open(dir) else { return false };
    NAMING.iter().any(|name| {
        let text = root.read(name, MAX_BYTES).ok();
        let value = text.and_then(|(bytes, _)| serde_json::from_slice::<Value>(&bytes).ok());
        value.is_some_and(|value| value.get("auto_map").is_some_and(|map| !map.is_null()))
    })
}

/// Every Python file of the folder, as those that are named may import those that are not. One that is a link out of the
/// folder, no regular file, or larger than code is, is left out: nothing here needs it.
fn code(dir: &Path, root: &Root) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| is_code(name));
    names.sort();
    names.into_iter().filter_map(|name| Some((root.read(&name, MAX_CODE).ok()?.0, name))).map(|(b, n)| (n, b)).collect()
}

/// A plain name of a Python file.
pub(crate) fn is_code(name: &str) -> bool {
    name.ends_with(".py") && check_plain_name(name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        read(dir).unwrap().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn code_is_kept_where_a_configuration_names_it() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("model");
        fs::create_dir_all(dir.join("folder.py")).unwrap();
        let write = |name: &str, text: &[u8]| fs::write(dir.join(name), text).unwrap();
        for name in ["modeling_x.py", "helper_x.py", "tokenizer.model", "added_tokens.json", "vocab.txt", "README.md"] {
            write(name, name.as_bytes());
        }
        write(".hidden.py", b"");
        write("large.py", &vec![b'#'; MAX_CODE as usize + 1]);
        fs::write(top.path().join("secret.py"), "theirs").unwrap();
        std::os::unix::fs::symlink("../secret.py", dir.join("link.py")).unwrap();
        write("config.json", b"{\"auto_map\": null}");
        let plain = ["tokenizer.model", "added_tokens.json", "vocab.txt"];
        assert_eq!(names(&dir), plain);
        for (name, other) in [("config.json", "tokenizer_config.json"), ("tokenizer_config.json", "config.json")] {
            write(other, b"{}");
            write(name, b"{\"auto_map\": {\"AutoConfig\": \"configuration_x.XConfig\"}}");
            let found = names(&dir);
            assert!(found.ends_with(&["helper_x.py".into(), "modeling_x.py".into()]), "{found:?}");
            assert!(!found.iter().any(|n| ["large.py", "link.py", "folder.py", ".hidden.py"].contains(&n.as_str())));
        }
    }
}
