//! How likely given tokens are: what a device is asked of its logits where texts are judged, or where callers want
//! log-probabilities beside tokens, and what it answers.

/// A token that is looked for in a row of logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The row.
    pub row: u32,
    /// The token, below the vocabulary's size.
    pub token: u32,
}

/// What a row says of a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    /// Its natural-log probability; NaN in a row with NaN.
    pub log_prob: f32,
    /// Whether it is the likeliest one, the first of equals.
    pub greedy: bool,
}

/// A token of a row of logits whose log-probability is wanted, and beside it those of the likeliest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The row.
    pub row: u32,
    /// The token, below the vocabulary's size.
    pub token: u32,
    /// How many of the likeliest.
    pub top: usize,
}

/// Natural-log probabilities. A logit that is NaN is left out: of the sum and of the likeliest; it is NaN itself. All are
/// NaN if the largest of the others is infinite.
#[derive(Clone, Debug, PartialEq)]
pub struct Likely {
    /// Of the token.
    pub log_prob: f32,
    /// Of the likeliest, falling, equals by id: as many as asked for, if there are.
    pub top: Vec<(u32, f32)>,
}
