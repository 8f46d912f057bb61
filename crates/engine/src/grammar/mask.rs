//! A set of allowed tokens.

/// One bit per token of the vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// `[v / 32]`; bit `i % 32` of word `i / 32` is token `i`.
    words: Vec<u32>,
}

impl Mask {
    /// From its words: bit `i % 32` of word `i / 32` allows token `i`.
    pub fn from_words(words: Vec<u32>) -> Mask {
        Mask { words }
    }

    /// Whether a token is allowed; no for what lies beyond the mask.
    pub fn allows(&self, token: u32) -> bool {
        self.words.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
    }

    /// How many tokens are allowed.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The words.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Sets the logits of tokens that are not allowed to -inf.
    pub fn apply(&self, logits: &mut [f32]) {
        apply(&self.words, logits);
    }
}

/// As [`Mask::apply`], with the mask of these words.
pub(crate) fn apply(words: &[u32], logits: &mut [f32]) {
    let covered = logits.len().min(words.len() * 32);
    let (inside, beyond) = logits.split_at_mut(covered);
    beyond.fill(f32::NEG_INFINITY);
    for (chunk, &word) in inside.chunks_mut(32).zip(words) {
        match word {
            u32::MAX => {}
            0 => chunk.fill(f32::NEG_INFINITY),
            _ => apply_word(chunk, word),
        }
    }
}

fn apply_word(chunk: &mut [f32], word: u32) {
    for (i, x) in chunk.iter_mut().enumerate() {
        *x = if word >> i & 1 == 1 { *x } else { f32::NEG_INFINITY };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_allowed_is_minus_infinity() {
        let mask = Mask::from_words(vec![0b101, 0, u32::MAX, 1 << 31]);
        let mut logits: Vec<f32> = (0..140).map(|i| i as f32).collect();
        mask.apply(&mut logits);
        for (i, x) in logits.iter().enumerate() {
            let allowed = matches!(i, 0 | 2 | 64..=95 | 127);
            assert_eq!(*x, if allowed { i as f32 } else { f32::NEG_INFINITY }, "{i}");
            assert_eq!(mask.allows(i as u32), allowed);
        }
        assert_eq!(mask.count(), 35);
        let mut narrow = [1.0, 2.0];
        mask.apply(&mut narrow);
        assert_eq!(narrow, [1.0, f32::NEG_INFINITY]);
    }
}
