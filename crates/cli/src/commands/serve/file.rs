//! `--config FILE`: flags from a file, put before those of the command line. What the command line names too is left out of the
//! file, so that it wins, lists included.
use super::scalar;
use crate::commands::lmdeploy::command_at;
use anyhow::{Context, Result, anyhow, bail};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use planish_checkpoint::nearest::nearest;
use serde_json::Value;
use std::ffi::OsString;

/// The positional argument, by its name in the program.
const MODELS: &str = "models";

/// The arguments of this program with those of the file, if `serve` is given one.
pub fn expand(args: Vec<OsString>, program: Command) -> Result<Vec<OsString>> {
    let Some(serve) = command_at(&args).filter(|&at| args[at] == "serve") else { return Ok(args) };
    let Some(path) = named(&args[serve..]) else { return Ok(args) };
    let place = || format!("--config {}", path.to_string_lossy());
    let text = std::fs::read_to_string(&path).with_context(place)?;
    let flags = read(&text, &Known::of(program, &args)).with_context(place)?;
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

/// The flags that there are, and those that the command line names.
struct Known {
    serve: Command,
    given: Option<ArgMatches>,
}

impl Known {
    fn of(program: Command, args: &[OsString]) -> Known {
        // The file may name the models.
        let relaxed = |serve: Command| serve.mut_arg(MODELS, |models| models.required(false));
        let mut program = program.mut_subcommand("serve", relaxed);
        program.build();
        let serve = program.find_subcommand("serve").cloned().unwrap_or_default();
        // What is wrong with the command line is said later, when all of it is there.
        let given = program.try_get_matches_from(args).ok();
        Known { serve, given: given.and_then(|given| given.subcommand_matches("serve").cloned()) }
    }

    /// The flag of an entry.
    fn flag(&self, name: &str) -> Result<&Arg> {
        let typed = name.replace('_', "-");
        let of = |arg: &Arg| match arg.get_id().as_str() {
            MODELS => vec!["model".to_owned(), MODELS.to_owned()],
            "config" | "help" | "version" => Vec::new(),
            _ => arg.get_long_and_visible_aliases().unwrap_or_default().into_iter().map(str::to_owned).collect(),
        };
        if let Some(arg) = self.serve.get_arguments().find(|arg| of(arg).contains(&typed)) {
            return Ok(arg);
        }
        let all: Vec<String> = self.serve.get_arguments().flat_map(of).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let near = nearest(&typed, &all).map(|near| format!(": did you mean {near}?")).unwrap_or_default();
        Err(anyhow!("{name}: expected a flag of `planish serve`, found none of this name{near}"))
    }

    /// Whether the command line has it.
    fn is_given(&self, arg: &Arg) -> bool {
        let source = self.given.as_ref().and_then(|given| given.value_source(arg.get_id().as_str()));
        source == Some(ValueSource::CommandLine)
    }
}

/// Each entry as a flag: `server-port: 8000`, `strict-fields: true`, `api-key: [a, b]`, `model: DIR`.
fn read(text: &str, known: &Known) -> Result<Vec<String>> {
    let value: Value = serde_saphyr::from_str(text).context("not YAML")?;
    let Value::Object(entries) = value else { bail!("expected a mapping of flags, found something else") };
    let mut flags = Vec::new();
    for (name, value) in entries {
        let arg = known.flag(&name)?;
        if !known.is_given(arg) {
            flags.extend(words(&name, arg, value)?);
        }
    }
    Ok(flags)
}

/// One entry as arguments.
fn words(name: &str, arg: &Arg, value: Value) -> Result<Vec<String>> {
    let flag = arg.get_long().map(|long| format!("--{long}"));
    let values = match (value, &flag) {
        (Value::Null | Value::Bool(false), _) => return Ok(Vec::new()),
        (Value::Bool(true), Some(flag)) => return Ok(vec![flag.clone()]),
        (Value::Array(values), _) => values,
        (one, _) => vec![one],
    };
    let word = |value: Value| match (scalar(&value), &flag) {
        (Some(text), Some(flag)) => Ok(format!("{flag}={text}")),
        (Some(text), None) => Ok(text),
        (None, _) => bail!("{name}: expected a text, a number, true, false or a list of them, found {value}"),
    };
    values.into_iter().map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    fn read_for(line: &str, text: &str) -> Result<Vec<String>> {
        read(text, &Known::of(crate::Cli::command(), &words(line)))
    }

    const ALL: &str =
        "model: [a, b]\nport: 8000\nstrict-fields: true\npublic-metrics: false\napi_key:\n- one\n- two\nthreads: 2\n";

    #[test]
    fn entries_become_flags() {
        let flags = read_for("planish serve --config f", ALL).unwrap();
        let expected =
            ["a", "b", "--server-port=8000", "--strict-fields", "--api-key=one", "--api-key=two", "--threads=2"];
        assert_eq!(flags, expected);
        assert_eq!(read_for("planish serve x", "{\"max-batch\": 2}").unwrap(), ["--max-batch=2"]);
    }

    #[test]
    fn the_command_line_wins_also_over_lists() {
        let flags = read_for("planish serve --config f c --port 1 --api-key three --threads 4", ALL).unwrap();
        assert_eq!(flags, ["--strict-fields"]);
        let flags = read_for("planish --threads 4 serve --strict-fields c", ALL).unwrap();
        assert_eq!(flags, ["--server-port=8000", "--api-key=one", "--api-key=two"]);
    }

    #[test]
    fn what_is_no_flag_is_named() {
        let refused = |text: &str| format!("{:#}", read_for("planish serve x", text).unwrap_err());
        assert!(refused("tls-cert: {a: b}").starts_with("tls-cert: expected a text"));
        let typed =
            "srever-port: expected a flag of `planish serve`, found none of this name: did you mean server-port?";
        assert_eq!(refused("srever-port: 1"), typed);
        assert!(refused("config: other.yaml").starts_with("config: expected a flag"));
        assert!(read_for("planish serve x", "just text").is_err());
    }

    #[test]
    fn only_serve_has_a_file() {
        let expand = |line: &str| expand(words(line), crate::Cli::command());
        assert_eq!(expand("planish chat x --config none").unwrap().len(), 5);
        assert!(expand("planish serve x --config /nonexistent").is_err());
    }
}
