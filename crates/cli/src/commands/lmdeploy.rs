//! LMDeploy's spellings of the serving commands: `serve api_server MODEL` is `serve MODEL`, and `serve api_client URL` is
//! `client URL`. They are put right before the arguments are read, so that flags and help are those of our own commands.
use std::ffi::OsString;

/// Global flags that take a value: what follows them is no command.
const WITH_VALUE: [&str; 3] = ["--device", "--threads", "--log-level"];

/// The arguments in our own words.
pub fn translate(mut args: Vec<OsString>) -> Vec<OsString> {
    let Some(at) = command_at(&args).filter(|&at| args[at] == "serve") else { return args };
    match args.get(at + 1).and_then(|word| word.to_str()) {
        Some("api_server") => drop(args.remove(at + 1)),
        Some("api_client") => {
            args.remove(at + 1);
            args[at] = "client".into();
        }
        _ => {}
    }
    args
}

/// Where the command's name is.
pub fn command_at(args: &[OsString]) -> Option<usize> {
    let mut at = 1;
    while let Some(arg) = args.get(at) {
        match arg.to_str() {
            Some(flag) if WITH_VALUE.contains(&flag) => at += 2,
            Some(flag) if flag.starts_with('-') => at += 1,
            _ => return Some(at),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_lines_are_ours() {
        for (theirs, ours) in [
            ("planish serve api_server DIR --backend pytorch", "planish serve DIR --backend pytorch"),
            ("planish serve api_client http://h:1 --api-key k", "planish client http://h:1 --api-key k"),
            ("planish --json --device cpu serve api_server D", "planish --json --device cpu serve D"),
            ("planish serve D", "planish serve D"),
            ("planish generate serve api_client", "planish generate serve api_client"),
            ("planish --device serve api_client", "planish --device serve api_client"),
            ("planish", "planish"),
        ] {
            let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
            assert_eq!(translate(words(theirs)), words(ours), "{theirs}");
        }
    }
}
