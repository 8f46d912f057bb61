//! How long prompts and answers of a load are: fixed, even over a range, or from a list of pairs.
use super::Random;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::str::FromStr;

/// No prompt or answer is longer: longer ones are a slip of the keyboard.
pub const MOST: usize = 1 << 24;

/// One number, or any of a range with both ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Smallest.
    pub least: usize,
    /// Largest.
    pub most: usize,
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let number = |t: &str| t.trim().parse::<usize>().ok().filter(|n| (1..=MOST).contains(n));
        let span = match text.split_once("..") {
            None => number(text).map(|n| Span { least: n, most: n }),
            Some((least, most)) => number(least).zip(number(most)).map(|(least, most)| Span { least, most }),
        };
        let span = span.filter(|s| s.least <= s.most);
        span.ok_or_else(|| format!("expected a number of tokens from 1 to {MOST}, or a range such as 64..1024"))
    }
}

impl Span {
    /// One of its numbers, every one as likely.
    pub fn draw(&self, random: &mut Random) -> usize {
        self.least + random.below(self.most - self.least + 1)
    }
}

/// The pairs of `--lengths`: `128:32,512:64`, or a file with one pair in each line (`128:32`, `128 32` or `128,32`).
pub fn pairs(given: &str) -> Result<Vec<(usize, usize)>> {
    if !Path::new(given).is_file() {
        let each = given.split(',').map(|text| {
            pair(text).with_context(|| {
                format!("--lengths: expected a file, or pairs INPUT:OUTPUT such as 128:32,512:64; found {text:?}")
            })
        });
        return each.collect();
    }
    let text = std::fs::read_to_string(given).with_context(|| format!("--lengths {given}"))?;
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong =
            || format!("--lengths {given}: line {}: expected INPUT:OUTPUT, two lengths from 1, found {line:?}", at + 1);
        found.push(pair(line).with_context(wrong)?);
    }
    if found.is_empty() {
        bail!("--lengths {given}: expected a pair of lengths in each line, found none");
    }
    Ok(found)
}

/// `count` pairs of the list, each as often as the others or once more, in a shuffled order.
pub fn repeat(pairs: &[(usize, usize)], count: usize, random: &mut Random) -> Vec<(usize, usize)> {
    let mut all: Vec<_> = pairs.iter().copied().cycle().take(count).collect();
    random.shuffle(&mut all);
    all
}

fn pair(text: &str) -> Option<(usize, usize)> {
    let mut numbers = text.split([':', ' ', ',', '\t']).filter(|t| !t.is_empty());
    let mut next = || numbers.next()?.parse::<usize>().ok().filter(|n| (1..=MOST).contains(n));
    let pair = (next()?, next()?);
    numbers.next().is_none().then_some(pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_numbers_or_ranges() {
        assert_eq!("128".parse(), Ok(Span { least: 128, most: 128 }));
        assert_eq!("64..1024".parse(), Ok(Span { least: 64, most: 1024 }));
        for bad in ["0", "x", "5..4", "0..4", "1..", "..4", "-1", "1...4", "99999999999"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
        let (mut random, span) = (Random(1), Span { least: 3, most: 6 });
        let drawn: Vec<usize> = (0..200).map(|_| span.draw(&mut random)).collect();
        assert!((3..=6).all(|n| drawn.contains(&n)) && drawn.iter().all(|n| (3..=6).contains(n)));
    }

    #[test]
    fn pairs_come_from_the_line_or_a_file() {
        assert_eq!(pairs("128:32,512:64").unwrap(), [(128, 32), (512, 64)]);
        for bad in ["", "zipf", "1:0", "0:1", "1:2:3", "1"] {
            let error = pairs(bad).unwrap_err().to_string();
            assert!(error.starts_with("--lengths: expected"), "{error}");
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lengths.txt");
        let name = file.to_str().unwrap();
        std::fs::write(&file, "1:2\n\n3 4\n5,6\n").unwrap();
        assert_eq!(pairs(name).unwrap(), [(1, 2), (3, 4), (5, 6)]);
        std::fs::write(&file, "1:2\nfour\n").unwrap();
        let error = pairs(name).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("four"), "{error}");
        std::fs::write(&file, "\n").unwrap();
        assert!(pairs(name).unwrap_err().to_string().contains("found none"));
    }

    #[test]
    fn every_pair_is_repeated_as_often() {
        let mut all = repeat(&[(1, 1), (2, 2), (3, 3)], 7, &mut Random(1));
        assert_eq!(all, repeat(&[(1, 1), (2, 2), (3, 3)], 7, &mut Random(1)));
        all.sort_unstable();
        assert_eq!(all, [(1, 1), (1, 1), (1, 1), (2, 2), (2, 2), (3, 3), (3, 3)]);
    }
}
