//! Repository checks: `cargo xtask tidy | sizes | golden`.
//! Plain Rust over `git ls-files`, so that the house rules need no tool but cargo.
#![forbid(unsafe_code)]

mod golden;
mod sizes;
mod tidy;
mod tree;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask COMMAND
  tidy     check the house rules: floors, file sizes, names, unsafe, cfg, paths
  sizes    lines per crate, the largest files, the size of the binary
  golden   list fixture folders; fail where one does not say where it came from";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let (command, rest) = (words.next().unwrap_or_default(), words.next());
    let done = match (command.as_str(), rest) {
        ("tidy", None) => tidy::run(),
        ("sizes", None) => sizes::run(),
        ("golden", None) => golden::run(),
        ("help" | "--help" | "-h", None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}
