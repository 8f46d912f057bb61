//! Guesses of the next tokens without a second model: n-gram prompt lookup (Saxena 2023). Where the last few tokens
//! have occurred before, what followed them then is guessed to follow again; the model checks every guess.

/// Longest and shortest ending that is looked up.
const LONGEST: usize = 3;

/// Up to `most` tokens that followed the newest earlier occurrence of the text's last three, two or one tokens.
pub fn lookup(text: &[u32], most: usize) -> &[u32] {
    for n in (1..=LONGEST.min(text.len().saturating_sub(1))).rev() {
        let (before, ending) = text.split_at(text.len() - n);
        // The match may overlap the ending, but must end before the text does: something has to follow it.
        let found = (0..before.len()).rev().find(|&i| &text[i..i + n] == ending);
        if let Some(i) = found {
            let start = i + n;
            return &text[start..text.len().min(start + most)];
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_ending_and_its_newest_occurrence_win() {
        assert_eq!(lookup(&[1, 2, 3, 4, 9, 3, 5, 1, 2, 3], 2), [4, 9]);
        assert_eq!(lookup(&[2, 7, 2, 8, 2], 4), [8, 2]);
        assert_eq!(lookup(&[5, 5, 5, 5], 4), [5]);
        assert_eq!(lookup(&[1, 2, 1, 2, 1], 3), [2, 1]);
    }

    #[test]
    fn nothing_known_is_nothing_guessed() {
        assert!(lookup(&[1, 2, 3], 4).is_empty());
        assert!(lookup(&[7], 4).is_empty() && lookup(&[], 4).is_empty() && lookup(&[1, 1], 0).is_empty());
    }
}
