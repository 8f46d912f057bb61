//! `--config FILE`: flags from a file, put before those of the command line, so that the latter win.
use super::scalar;
use crate::commands::lmdeploy::command_at;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::ffi::OsString;

/// The arguments with those of the file, if `serve` is given one.
pub fn expand(args: Vec<OsString>) -> Result<Vec<OsString>> {
    let Some(serve) = command_at(&args).filter(|&at| args[at] == "serve") else { return Ok(args) };
    let Some(path) = named(&args[serve..]) else { return Ok(args) };
    let text = std::fs::read_to_string(&path).with_context(|| format!("--config {}", path.to_string_lossy()))?;
    let flags = read(&text).with_context(|| format!("--config {}", path.to_string_lossy()))?;
    let mut all = args[..=serve].to_vec();
    all.extend(flags.into_iter().map(OsString::from));
    all.extend_from_slice(&args[serve + 1..]);
    Ok(all)
}

fn named(args: &[OsString]) -> Option<OsString> {
    let at = args.iter().position(|arg| arg == "--config");
    let joined = args.iter().find_map(|arg| arg.to_str()?.strip_prefix("--config=").map(OsString::from));
    joined.or_else(|| args.get(at? + 1).cloned())
}

/// Each entry as a flag: `server-port: 8000`, `strict-fields: true`, `api-key: [a, b]`, `model: DIR`.
fn read(text: &str) -> Result<Vec<String>> {
    let value: Value = serde_saphyr::from_str(text).context("not YAML")?;
    let Value::Object(entries) = value else { bail!("expected a mapping of flags, found something else") };
    let mut flags = Vec::new();
    for (name, value) in entries {
        let flag = format!("--{}", name.replace('_', "-"));
        let is_model = matches!(name.as_str(), "model" | "models");
        let values = match value {
            Value::Null | Value::Bool(false) => continue,
            Value::Bool(true) if !is_model => {
                flags.push(flag);
                continue;
            }
            Value::Array(values) => values,
            one => vec![one],
        };
        for value in values {
            let Some(text) = scalar(&value) else {
                bail!("{name}: expected a text, a number, true, false or a list of them, found {value}")
            };
            match is_model {
                true => flags.push(text),
                false => flags.push(format!("{flag}={text}")),
            }
        }
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_become_flags() {
        let text =
            "model: [a, b]\nserver_port: 8000\nstrict-fields: true\npublic-metrics: false\napi-key:\n- one\n- two\n";
        let flags = read(text).unwrap();
        assert_eq!(flags, ["a", "b", "--server-port=8000", "--strict-fields", "--api-key=one", "--api-key=two"]);
        assert_eq!(read("{\"max-batch\": 2}").unwrap(), ["--max-batch=2"]);
    }

    #[test]
    fn what_is_no_flag_is_named() {
        assert!(format!("{:#}", read("tls-cert: {a: b}").unwrap_err()).contains("tls-cert"));
        assert!(read("just text").is_err());
    }

    #[test]
    fn only_serve_has_a_file() {
        let args = |words: &str| words.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(expand(args("planish chat x --config none")).unwrap().len(), 5);
        assert!(expand(args("planish serve x --config /nonexistent")).is_err());
    }
}
