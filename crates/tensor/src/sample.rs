//! What a device is told to choose a token: an engine's rules and a request's wishes, without the engine's types.

/// How the next token of one row is chosen. Rules, order and rounding are those of the engine's own sampler, to the bit.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleRow {
    /// Divisor of the logits; 0 takes the likeliest.
    pub temperature: f32,
    /// Keep this many of the likeliest; 0 keeps all.
    pub top_k: usize,
    /// Keep the likeliest up to this probability mass; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this probable relative to the likeliest.
    pub min_p: f32,
    /// The row's random number, in [0, 1).
    pub point: f64,
    /// Divisor of the logits of tokens that were seen; negative ones are multiplied.
    pub repetition_penalty: f32,
    /// Subtracted for each time that a token was generated.
    pub frequency_penalty: f32,
    /// Subtracted from the logits of tokens that were generated.
    pub presence_penalty: f32,
    /// Each token that was seen once, with how often it was generated.
    pub seen: Vec<(u32, u32)>,
    /// Added to single logits, after the penalties.
    pub bias: Vec<(u32, f32)>,
    /// Never chosen.
    pub banned: Vec<u32>,
    /// Bit `i % 32` of word `i / 32` allows token `i`; what lies beyond is not allowed. `None` allows all.
    pub mask: Option<Vec<u32>>,
}

impl SampleRow {
    /// In place of a token: a logit is NaN or infinite.
    pub const NOT_A_NUMBER: u32 = u32::MAX;
    /// In place of a token: none is allowed.
    pub const NOTHING_ALLOWED: u32 = u32::MAX - 1;
    /// The likeliest token.
    pub const GREEDY: SampleRow = SampleRow {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        point: 0.0,
        repetition_penalty: 1.0,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        seen: Vec::new(),
        bias: Vec::new(),
        banned: Vec::new(),
        mask: None,
    };
}
