//! `--calib-dataset`: a file, or a data set of the hub.
use crate::notice::fetching;
use anyhow::{Context, Result, bail};
use planish_checkpoint::hub::HubClient;
use planish_checkpoint::rows::split_files;
use planish_quant::samples::{KINDS, Source};
use std::path::{Path, PathBuf};

/// Splits that are looked for where none is named, best first. None that a model may be judged by later.
const SPLITS: [&str; 2] = ["train", "train_sft"];
/// Where the hub keeps a copy of every data set as parquet.
const CONVERTED: &str = "refs/convert/parquet";

/// The file that is meant, fetched if need be.
///
/// # Errors
/// Neither a file nor a data set is there, the data set cannot be fetched, or has no such split or several.
pub fn find(path: PathBuf, quiet: bool) -> Result<Source> {
    if path.is_dir() {
        bail!("--calib-dataset {}: expected a file (.{}), found a folder", path.display(), KINDS.join(", ."));
    }
    match path.to_str().and_then(Wanted::new) {
        Some(wanted) if !path.exists() => wanted.fetch(quiet),
        _ => Ok(Source::File(path)),
    }
}

/// `owner/name`, `owner/name:split` or `owner/name:config/split`.
#[derive(Debug, PartialEq)]
struct Wanted<'a> {
    repo: &'a str,
    split: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    /// Unless the text is the path of a file of calibration data.
    fn new(text: &'a str) -> Option<Wanted<'a>> {
        let (repo, split) = match text.split_once(':') {
            Some((repo, split)) => (repo, Some(split)),
            None => (text, None),
        };
        let (owner, name) = repo.split_once('/')?;
        let plain = |part: &str| {
            let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            !part.is_empty() && !part.starts_with('.') && part.chars().all(legal)
        };
        let is_file = Path::new(repo).extension().and_then(|e| e.to_str()).is_some_and(|end| KINDS.contains(&end));
        (plain(owner) && plain(name) && !is_file).then_some(Wanted { repo, split })
    }

    /// What the files of a split may be called.
    fn stems(&self) -> Vec<String> {
        match self.split {
            Some(split) => vec![split.to_owned()],
            None => SPLITS.map(str::to_owned).to_vec(),
        }
    }

    fn fetch(&self, quiet: bool) -> Result<Source> {
        let (client, stems) = (HubClient::from_env()?, self.stems());
        let mut progress = fetching(!quiet);
        let (mut failed, mut answered) = (None, false);
        for revision in ["main", CONVERTED] {
            let found = std::cell::RefCell::new(Vec::new());
            // The first part of a split is plenty for a calibration.
            let choose = |listed: &[String]| {
                *found.borrow_mut() = split_files(listed, &stems, &[]);
                let several = folders(&found.borrow()).len() > 1;
                if several { Vec::new() } else { found.borrow().iter().take(1).cloned().collect() }
            };
            let fetched = client.fetch_dataset(self.repo, revision, &choose, &mut progress);
            let found = found.take();
            if folders(&found).len() > 1 {
                let names = folders(&found).join(", ");
                bail!(
                    "--calib-dataset {0}: expected one of its parts, found several ({names}); say {0}:PART/SPLIT",
                    self.repo
                );
            }
            match (fetched, found.first()) {
                (Ok(files), Some(first)) if !files.is_empty() => {
                    let parts = if found.len() > 1 { format!(" (first of {})", found.len()) } else { String::new() };
                    return Ok(Source::Named(format!("{}/{first}{parts}", self.repo), files[0].clone()));
                }
                (Err(error), _) => failed = failed.or(Some(error)),
                _ => answered = true,
            }
        }
        let place = format!("--calib-dataset {}: no such file; asked the hub", self.repo);
        match failed {
            Some(error) if !answered => Err(error).context(place),
            _ => bail!("{place}: expected files of a split {}, found none", stems.join(" or ")),
        }
    }
}

/// The folders of files, each once.
fn folders(files: &[String]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for file in files {
        let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        if !out.contains(&folder) {
            out.push(folder);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub_are_told_from_paths() {
        let wanted = |text| Wanted::new(text).map(|w| (w.repo, w.split));
        assert_eq!(wanted("HuggingFaceH4/ultrachat_200k"), Some(("HuggingFaceH4/ultrachat_200k", None)));
        assert_eq!(wanted("a/b:train_sft"), Some(("a/b", Some("train_sft"))));
        assert_eq!(wanted("a/b:c/train"), Some(("a/b", Some("c/train"))));
        for path in ["data.jsonl", "data/x.jsonl", "./x/y", "/a/b", "a/b/c", "a/.b", "x.parquet"] {
            assert_eq!(wanted(path), None, "{path}");
        }
    }
}
