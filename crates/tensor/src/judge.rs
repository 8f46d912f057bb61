//! How likely given tokens are: what a device is asked of its logits where texts are judged, and what it answers.

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
