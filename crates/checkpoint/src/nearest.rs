//! The known name that somebody who typed another one probably meant.

/// `name is unknown; did you mean known?`, or the list where nothing is near.
pub fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(near) => format!("{what} {name} is not known; did you mean {near}?"),
        None => format!("{what} {name} is not known; known are {}", known.join(", ")),
    }
}

/// The nearest of the known names, unless all are far: up to a third of the letters may differ, and case does not count.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    // A part of one name alone is meant as that.
    let mut whole = known.iter().filter(|k| name.len() > 2 && k.split('_').any(|part| part.eq_ignore_ascii_case(name)));
    if let (Some(one), None) = (whole.next(), whole.next()) {
        return Some(one);
    }
    let ranked = known.iter().map(|k| (distance(&name.to_ascii_lowercase(), &k.to_ascii_lowercase()), *k));
    let (distance, near) = ranked.min_by_key(|(distance, _)| *distance)?;
    let longest = name.len().max(near.len());
    // Single letters have nothing in common, though only one differs.
    (distance <= (longest / 3).max(1) && distance < longest).then_some(near)
}

/// Letters to insert, delete, replace or swap with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_was_meant() {
        let known = ["SmoothQuantModifier", "GPTQModifier", "QuantizationModifier"];
        assert_eq!(nearest("SmoothQuantModifer", &known), Some("SmoothQuantModifier"));
        assert_eq!(nearest("gptqmodifier", &known), Some("GPTQModifier"));
        assert_eq!(nearest("QGTPModifier", &known), Some("GPTQModifier"));
        assert_eq!((nearest("Bread", &known), nearest("d", &["a", "c"]), nearest("", &[])), (None, None, None));
        assert_eq!(nearest("bits", &["num_bits", "type"]), Some("num_bits"));
        assert_eq!((distance("", "abc"), distance("ab", "ba"), distance("kitten", "sitting")), (3, 1, 3));
        assert!(unknown("scheme", "FP8DYNAMIC", &["W8A8", "FP8_DYNAMIC"]).ends_with("did you mean FP8_DYNAMIC?"));
        assert!(unknown("scheme", "x", &["W8A8"]).ends_with("known are W8A8"));
    }
}
