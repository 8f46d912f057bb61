//! Which files of a data set are a split of it, by their names.
use super::EXTENSIONS;
use std::path::Path;

/// Of the files with these paths, those of the first stem that has any: one of that name, or all its numbered parts.
/// Stems stand below whatever folders; files are those that [`super::read`] understands, or with one of the `more` ends.
pub fn split_files(listed: &[String], stems: &[String], more: &[&str]) -> Vec<String> {
    let readable = |path: &&String| {
        let end = Path::new(path.as_str()).extension().and_then(|e| e.to_str());
        end.is_some_and(|e| EXTENSIONS.contains(&e) || more.contains(&e))
    };
    for stem in stems {
        let files = || listed.iter().filter(readable);
        if let Some(whole) = files().find(|path| ends_with(without_end(path), stem)) {
            return vec![whole.clone()];
        }
        let parts: Vec<String> = files().filter(|path| is_part(without_end(path), stem)).cloned().collect();
        if !parts.is_empty() {
            return parts;
        }
    }
    Vec::new()
}

fn without_end(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(stem, _)| stem)
}

/// Whether a path is `stem`, below whatever folders.
fn ends_with(path: &str, stem: &str) -> bool {
    path.strip_suffix(stem).is_some_and(|folders| folders.is_empty() || folders.ends_with('/'))
}

/// Whether a path is a part of `stem`: `stem-00000-of-00002`, or `stem/0000`.
fn is_part(path: &str, stem: &str) -> bool {
    let numbers = |c: char| c.is_ascii_digit() || matches!(c, '-' | 'o' | 'f');
    let whole = path.trim_end_matches(numbers);
    let tail = &path[whole.len()..];
    let dashed = tail.strip_prefix('-').is_some_and(|t| t.starts_with(|c: char| c.is_ascii_digit()));
    match whole.strip_suffix('/') {
        Some(folder) => !tail.is_empty() && ends_with(folder, stem),
        None => dashed && ends_with(whole, stem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(listed: &[&str], stems: &[&str]) -> Vec<String> {
        let own = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        split_files(&own(listed), &own(stems), &["raw"])
    }

    #[test]
    fn files_are_found_by_their_names() {
        let shared = ["gsm8k/test.jsonl", "gsm8k/train.jsonl", "mmlu/dev/anatomy_dev.csv", "tasks/piqa.jsonl"];
        assert_eq!(chosen(&shared, &["gsm8k/train"]), ["gsm8k/train.jsonl"]);
        assert_eq!(chosen(&shared, &["anatomy/dev", "dev/anatomy_dev"]), ["mmlu/dev/anatomy_dev.csv"]);
        assert_eq!(chosen(&shared, &["piqa"]), ["tasks/piqa.jsonl"]);
        assert_eq!(chosen(&shared, &["iqa", "rain", "tasks"]), [] as [&str; 0]);
        let hub =
            ["main/test-00000-of-00002.parquet", "main/test-00001-of-00002.parquet", "main/test.md", "x/test-a.csv"];
        assert_eq!(chosen(&hub, &["main/test"]), hub[..2]);
        assert_eq!(chosen(&["anatomy/test/0000.parquet"], &["anatomy/test"]), ["anatomy/test/0000.parquet"]);
        assert_eq!(chosen(&["wiki.test.raw", "wiki.test.joined.txt"], &["wiki.test"]), ["wiki.test.raw"]);
    }
}
