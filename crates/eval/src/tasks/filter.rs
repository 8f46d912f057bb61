//! From generated text to what counts as the answer, and when it is right.
use super::Filter;
use super::python::strip;
use crate::error::{Error, Result};
use regex::Regex;

/// What stands for an answer that was not found.
const INVALID: &str = "[invalid]";

/// Filters, ready to be used.
pub(super) struct Filters(Vec<(Filter, Regex)>);

impl Filters {
    pub fn new(filters: &[Filter]) -> Result<Filters> {
        let compile = |filter: &Filter| {
            let regex = Regex::new(filter.pattern).map_err(|e| Error::Pattern { reason: e.to_string() })?;
            Ok((*filter, regex))
        };
        Ok(Filters(filters.iter().map(compile).collect::<Result<_>>()?))
    }

    /// Each filter's answer.
    pub fn answers(&self, text: &str) -> Vec<String> {
        self.0.iter().map(|(filter, regex)| answer(filter, regex, text)).collect()
    }
}

fn answer(filter: &Filter, regex: &Regex, text: &str) -> String {
    let mut matches = regex.captures_iter(text);
    let chosen = if filter.last { matches.last() } else { matches.next() };
    let Some(groups) = chosen else { return INVALID.into() };
    // As Python's findall: the groups, or the whole match where there are none.
    let mut parts: Vec<&str> = groups.iter().skip(1).map(|g| g.map_or("", |g| g.as_str())).collect();
    if parts.is_empty() {
        parts.push(groups.get(0).map_or("", |g| g.as_str()));
    }
    match parts.iter().find(|part| !part.is_empty()) {
        Some(part) => strip(part).into(),
        None if parts.len() == 1 => String::new(),
        None => INVALID.into(),
    }
}

/// Whether two answers are equal but for commas, dollars, what stands before `#### `, a last point, and case.
pub(super) fn equal(answer: &str, right: &str) -> bool {
    normal(answer) == normal(right)
}

fn normal(answer: &str) -> String {
    let text = answer.replace([',', '$'], "");
    let text = text.rsplit_once("#### ").map_or(text.as_str(), |(_, after)| after);
    let text = match (text.strip_suffix('.'), text.strip_suffix(".\n")) {
        (Some(before), _) => before.to_owned(),
        (None, Some(before)) => format!("{before}\n"),
        (None, None) => text.to_owned(),
    };
    text.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::super::{Output, list};
    use super::*;

    fn gsm8k(text: &str) -> Vec<String> {
        let Output::Generate { filters, .. } = list::tasks()[0].output else { panic!() };
        Filters::new(filters).unwrap().answers(text)
    }

    #[test]
    fn answers_are_found_as_the_harness_finds_them() {
        assert_eq!(gsm8k(" 16 - 3 = <<16-3=13>>13 eggs.\n#### 1,300.\n"), ["1,300.", "1,300."]);
        assert_eq!(gsm8k("It is $18 or -4"), ["[invalid]", "-4"]);
        assert_eq!(gsm8k("she has 7"), ["[invalid]", "7"]);
        assert_eq!(gsm8k("$... nothing"), ["[invalid]", "$..."]);
        assert_eq!(gsm8k("nothing"), ["[invalid]", "[invalid]"]);
    }

    #[test]
    fn answers_are_compared_without_ornaments() {
        assert!(equal("1,300.", "so 1300\n#### 1300") && equal("$5", "#### 5") && equal("A", "a"));
        assert!(!equal("5.0", "5") && !equal("[invalid]", "#### 5"));
    }
}
