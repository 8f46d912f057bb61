//! Where a task's rows are: in files of a folder, or on the hub.
use super::read::{Doc, Reader};
use super::{Task, detokenize};
use crate::error::{Error, Result};
use planish_checkpoint::hub::HubClient;
use planish_checkpoint::rows::{self, EXTENSIONS, Row, Rows, split_files};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A data set of the hub, and the names that its files may have in a folder.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// `organisation/name`.
    pub repo: &'static str,
    /// Which part of it.
    pub config: Option<&'static str>,
    /// The split whose documents are to be answered.
    pub split: &'static str,
    /// What local files or folders of it may be called.
    pub names: Vec<&'static str>,
}

/// Where rows come from.
pub enum Source<'a> {
    /// A folder with files of them.
    Folder(&'a Path),
    /// The hub, with who is told of downloads.
    Hub(Box<HubClient>, Progress<'a>),
}

/// Is told of downloads: the file, bytes that are there, its size.
pub type Progress<'a> = Box<dyn FnMut(&str, u64, u64) + 'a>;

/// Documents with the fields that they were made of.
#[derive(Clone, Debug, Default)]
pub struct Docs {
    /// What is asked.
    pub docs: Vec<Doc>,
    /// The rows themselves: two documents are one if these are equal.
    pub fields: Vec<Map<String, Value>>,
}

/// End of the names of WikiText's own files.
const RAW: &str = "raw";
/// Deepest folder that is looked into.
const MAX_DEPTH: usize = 4;
/// Where the hub keeps a copy of every data set as parquet.
const CONVERTED: &str = "refs/convert/parquet";

impl Dataset {
    pub(super) fn new(
        repo: &'static str,
        config: Option<&'static str>,
        split: &'static str,
        names: &[&'static str],
    ) -> Dataset {
        Dataset { repo, config, split, names: names.to_vec() }
    }

    /// What files of a split may be called in a folder, without their ends, best first.
    fn stems(&self, split: &str) -> Vec<String> {
        let mut stems = Vec::new();
        for name in &self.names {
            stems.extend([format!("{name}/{split}"), format!("{split}/{name}_{split}")]);
            stems.extend(self.config.map(|config| format!("{name}/{config}/{split}")));
            stems.extend([format!("{name}_{split}"), format!("{name}-{split}"), format!("{name}.{split}")]);
            if split == self.split {
                stems.push(name.to_string());
            }
        }
        if self.names == ["wikitext"] {
            stems.push(format!("wiki.{split}"));
        }
        stems
    }

    /// What files of a split may be called in the data set's repository.
    fn hub_stems(&self, split: &str) -> Vec<String> {
        let config = self.config.unwrap_or("data");
        let mut stems = vec![format!("{config}/{split}"), format!("default/{split}"), format!("data/{split}")];
        stems.extend(self.names.iter().map(|name| format!("data/{name}_{split}")));
        stems.push(split.to_owned());
        stems
    }
}

impl Source<'_> {
    /// All documents of a task's split.
    ///
    /// # Errors
    /// There are no such files, they cannot be read or fetched, or a row lacks what the task needs.
    pub fn docs(&mut self, task: &Task, split: &str) -> Result<Docs> {
        let files = match self {
            Source::Folder(folder) => in_folder(folder, task, split)?,
            Source::Hub(client, progress) => on_hub(client, progress, task, split)?,
        };
        let mut found = Docs::default();
        for file in files {
            let rows = read(&file)?;
            let (mut first, mut others) = (None, Vec::new());
            for row in &rows.rows {
                match (task.read)(&Reader { rows: &rows, row }) {
                    Ok(doc) => found.docs.push(doc),
                    Err(error) if first.is_none() => first = Some(Box::new(error)),
                    Err(_) => others.push(row.number),
                }
            }
            if let Some(first) = first {
                return Err(Error::BadRows { first, others });
            }
            found.fields.extend(rows.rows.into_iter().map(|row| row.fields));
        }
        match found.docs.is_empty() {
            true => Err(Error::NoRows { task: task.name.clone(), split: split.into(), place: "its files".into() }),
            false => Ok(found),
        }
    }
}

/// Rows of a file; WikiText's own files are cut into pages.
fn read(file: &Path) -> Result<Rows> {
    if !is_raw(file) {
        return Ok(rows::read(file)?);
    }
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|e| planish_checkpoint::Error::file(file, "a text in UTF-8", e.to_string()))?;
    let page = |(i, page): (usize, String)| Row {
        number: i + 1,
        fields: Map::from_iter([("page".to_owned(), Value::String(page))]),
    };
    let rows = detokenize::pages(&text).into_iter().enumerate().map(page).collect();
    Ok(Rows { path: file.into(), rows })
}

fn is_raw(file: &Path) -> bool {
    file.extension().is_some_and(|e| e == RAW)
}

fn in_folder(folder: &Path, task: &Task, split: &str) -> Result<Vec<PathBuf>> {
    let mut listed = Vec::new();
    list(folder, "", 0, &mut listed).map_err(planish_checkpoint::Error::io(folder, "list"))?;
    listed.sort();
    let stems = task.dataset.stems(split);
    let chosen = split_files(&listed, &stems, &[RAW]);
    if chosen.is_empty() {
        let place =
            format!("{} (looked for {}, ending in .{})", folder.display(), stems.join(", "), EXTENSIONS.join(" ."));
        return Err(Error::NoRows { task: task.name.clone(), split: split.into(), place });
    }
    Ok(chosen.into_iter().map(|name| folder.join(name)).collect())
}

/// Paths of all files below a folder, from there.
fn list(folder: &Path, before: &str, depth: usize, found: &mut Vec<String>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder.join(before))? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = if before.is_empty() { name } else { format!("{before}/{name}") };
        match folder.join(&path).is_dir() {
            true if depth < MAX_DEPTH => list(folder, &path, depth + 1, found)?,
            true => {}
            false => found.push(path),
        }
    }
    Ok(())
}

fn on_hub(
    client: &HubClient,
    progress: &mut dyn FnMut(&str, u64, u64),
    task: &Task,
    split: &str,
) -> Result<Vec<PathBuf>> {
    let (repo, stems) = (task.dataset.repo, task.dataset.hub_stems(split));
    let mut first = None;
    for revision in ["main", CONVERTED] {
        match client.fetch_dataset(repo, revision, &|listed| split_files(listed, &stems, &[RAW]), progress) {
            Ok(files) if !files.is_empty() => return Ok(files),
            Ok(_) => {}
            Err(error) => first = first.or(Some(error)),
        }
    }
    let place = format!("the hub's data set {repo}");
    match first {
        Some(source) => Err(Error::Hub { task: task.name.clone(), repo: repo.into(), source: Box::new(source) }),
        None => Err(Error::NoRows { task: task.name.clone(), split: split.into(), place }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("hellaswag.jsonl"), "{\"ctx\": \"a\", \"endings\": [], \"label\": 1}\n")
            .unwrap();
        let tasks = super::super::list::tasks();
        let task = |name: &str| tasks.iter().find(|t| t.name == name).unwrap();
        let mut source = Source::Folder(folder.path());
        let error = source.docs(task("piqa"), "validation").unwrap_err().to_string();
        assert!(
            error.starts_with("task piqa: expected rows of its validation split in ")
                && error.contains("piqa_validation"),
            "{error}"
        );
        let error = source.docs(task("hellaswag"), "validation").unwrap_err().to_string();
        assert!(
            error.ends_with("hellaswag.jsonl: row 1: field endings: expected a list of texts, found a list of 0"),
            "{error}"
        );
    }
}
