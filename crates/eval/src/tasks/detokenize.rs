//! Texts of data sets made readable, by the harness' rules.
use super::python::strip;
use regex::Regex;
use std::sync::LazyLock;

/// Artefacts of hellaswag's WikiHow part.
pub fn hellaswag(text: &str) -> String {
    static BRACKETS: LazyLock<Regex> = LazyLock::new(|| pattern(r"\[.*?\]"));
    let text = strip(text).replace(" [title]", ". ");
    BRACKETS.replace_all(&text, "").replace("  ", " ")
}

/// Pairs around a text, without the blanks inside them.
static PAIRS: LazyLock<[(Regex, &str); 5]> = LazyLock::new(|| {
    [
        (pattern(r"\(\s*([^)]*?)\s*\)"), "(${1})"),
        (pattern(r"\[\s*([^\]]*?)\s*\]"), "[${1}]"),
        (pattern(r"\{\s*([^}]*?)\s*\}"), "{${1}}"),
        (pattern(r#""\s*([^"]*?)\s*""#), "\"${1}\""),
        (pattern(r"'\s*([^']*?)\s*'"), "'${1}'"),
    ]
});

const BEFORE: [(&str, &str); 9] = [
    (" @-@ ", "-"),
    (" @,@ ", ","),
    (" @.@ ", "."),
    (" : ", ": "),
    (" ; ", "; "),
    (" . ", ". "),
    (" ! ", "! "),
    (" ? ", "? "),
    (" , ", ", "),
];
const AFTER: [(&str, &str); 8] = [
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" ° ", "°"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
];

/// WikiText's separated punctuation put together again.
pub fn wikitext(page: &str) -> String {
    static YEARS: LazyLock<Regex> = LazyLock::new(|| pattern("/' [0-9]/"));
    let text = page.replace("s '", "s'");
    let mut text = YEARS.replace_all(&text, "/'[0-9]/").into_owned();
    for (from, to) in BEFORE {
        text = text.replace(from, to);
    }
    for (regex, to) in PAIRS.iter() {
        text = regex.replace_all(&text, *to).into_owned();
    }
    for (from, to) in AFTER {
        text = text.replace(from, to);
    }
    text
}

/// WikiText's files cut into pages, each before its ` = Title = `, as EleutherAI/wikitext_document_level has them.
pub fn pages(text: &str) -> Vec<String> {
    let (mut pages, mut page): (Vec<String>, Vec<&str>) = (Vec::new(), Vec::new());
    for line in text.split('\n') {
        let bare = line.replace("= = =", "===").replace("= =", "==");
        let bare = strip(&bare);
        if bare.starts_with("= ") && bare.ends_with(" =") {
            pages.push(page.join("\n"));
            page.clear();
        }
        page.push(line);
    }
    pages.retain(|page| !strip(page).is_empty());
    pages.push(page.join("\n"));
    pages
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("patterns of the program are right")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wikitext_reads_as_text() {
        let page = " = = Robert = = \n It was a 2 @-@ 3 ( about 5 @,@ 000 ) \" fine \" day , he said ; \" 20 ° C \" . The boys ' \n";
        let found = wikitext(page);
        assert_eq!(found, " == Robert ==\nIt was a 2-3 (about 5,000) \"fine\" day, he said; \"20°C\". The boys'\n");
    }

    #[test]
    fn pages_begin_with_their_titles() {
        let text = " \n = A = \n \n x \n = = B = = \n y \n = C = \n z";
        let found = pages(text);
        assert_eq!(found, [" = A = \n \n x \n = = B = = \n y ", " = C = \n z"]);
    }

    #[test]
    fn hellaswag_loses_its_brackets() {
        assert_eq!(hellaswag(" a [title] b [step] c  d "), "a. b c d");
    }
}
