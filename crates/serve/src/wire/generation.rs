//! Fields that every kind of generation shares.
use crate::wire::chat::ResponseFormat;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Defines a request with its own fields, those of [`SamplingFields`], and what is left over.
macro_rules! generation_request {
    ($(#[$meta:meta])* pub struct $name:ident { $($own:tt)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, serde::Deserialize, utoipa::ToSchema)]
        pub struct $name {
            /// Which model; the first that is served if left out.
            pub model: Option<String>,
            $($own)*
            /// Divisor of the logits; 0 takes the likeliest token always.
            #[schema(minimum = 0.0, maximum = 2.0)]
            pub temperature: Option<f64>,
            /// Keep the likeliest tokens up to this probability mass.
            #[schema(minimum = 0.0, maximum = 1.0)]
            pub top_p: Option<f64>,
            /// Keep this many of the likeliest tokens; 0 or -1 keeps all.
            #[schema(minimum = -1)]
            #[serde(default, deserialize_with = "crate::wire::whole::optional")]
            pub top_k: Option<i64>,
            /// Keep tokens at least this probable relative to the likeliest.
            #[schema(minimum = 0.0, maximum = 1.0)]
            pub min_p: Option<f64>,
            /// Logits of tokens seen before are divided (or, if negative, multiplied) by this.
            #[schema(exclusive_minimum = 0.0, maximum = 1000.0)]
            pub repetition_penalty: Option<f64>,
            /// Subtracted from the logit of each token that was generated.
            #[schema(minimum = -2.0, maximum = 2.0)]
            pub presence_penalty: Option<f64>,
            /// Subtracted from the logit of each token for every time that it was generated.
            #[schema(minimum = -2.0, maximum = 2.0)]
            pub frequency_penalty: Option<f64>,
            /// Added to the logits of single tokens, by id.
            pub logit_bias: Option<std::collections::BTreeMap<String, f64>>,
            /// Seed of the request's own random numbers.
            #[serde(default, deserialize_with = "crate::wire::whole::optional")]
            pub seed: Option<i64>,
            /// Answers to each prompt.
            #[schema(minimum = 1, maximum = 128)]
            #[serde(default, deserialize_with = "crate::wire::whole::optional")]
            pub n: Option<u64>,
            /// Texts that end an answer and are no part of it; up to 16.
            pub stop: Option<$crate::wire::OneOrMany>,
            /// Tokens that end an answer besides the model's own.
            #[schema(max_items = 1024)]
            #[serde(default, deserialize_with = "crate::wire::whole::optional_list")]
            pub stop_token_ids: Option<Vec<u32>>,
            /// Go on after the model's own end-of-text token.
            pub ignore_eos: Option<bool>,
            /// Tokens to generate before a stop token may be chosen.
            #[schema(minimum = 0)]
            #[serde(default, alias = "min_new_tokens", deserialize_with = "crate::wire::whole::optional")]
            pub min_tokens: Option<u64>,
            /// Leave the stop string in the answer.
            pub include_stop_str_in_output: Option<bool>,
            /// Leave control tokens out of the text; on unless told otherwise.
            pub skip_special_tokens: Option<bool>,
            /// Send the answer piece by piece as server-sent events.
            pub stream: Option<bool>,
            /// How to stream.
            pub stream_options: Option<$crate::wire::StreamOptions>,
            /// What the text must be.
            pub response_format: Option<$crate::wire::chat::ResponseFormat>,
            /// Requests with a smaller number go first.
            #[serde(default, deserialize_with = "crate::wire::whole::optional")]
            pub priority: Option<i32>,
            /// Only requests of the same salt (and the same API key) share cached prefixes.
            pub cache_salt: Option<String>,
            /// Fields of other servers: those that are known and not offered are refused by name.
            #[serde(skip)]
            #[schema(ignore)]
            pub rest: $crate::wire::Rest,
        }

        impl $crate::wire::Asked for $name {
            fn rest_mut(&mut self) -> &mut $crate::wire::Rest {
                &mut self.rest
            }
        }

        impl $name {
            /// The fields that all kinds share.
            pub fn sampling(&mut self) -> $crate::wire::SamplingFields {
                $crate::wire::SamplingFields {
                    temperature: self.temperature,
                    top_p: self.top_p,
                    top_k: self.top_k,
                    min_p: self.min_p,
                    repetition_penalty: self.repetition_penalty,
                    presence_penalty: self.presence_penalty,
                    frequency_penalty: self.frequency_penalty,
                    logit_bias: self.logit_bias.take().unwrap_or_default(),
                    seed: self.seed,
                    n: self.n,
                    stop: self.stop.take().map($crate::wire::OneOrMany::into_vec).unwrap_or_default(),
                    stop_token_ids: self.stop_token_ids.take().unwrap_or_default(),
                    ignore_eos: self.ignore_eos.unwrap_or(false),
                    min_tokens: self.min_tokens.unwrap_or(0),
                    include_stop: self.include_stop_str_in_output.unwrap_or(false),
                    skip_special: self.skip_special_tokens.unwrap_or(true),
                    response_format: self.response_format.take(),
                    priority: self.priority.unwrap_or(0),
                    cache_salt: self.cache_salt.take(),
                    max_tokens: None,
                    logprobs: None,
                    prompt_logprobs: None,
                }
            }
        }
    };
}
pub(crate) use generation_request;

/// What every kind of generation asks for; see the requests for what each field means.
#[derive(Clone, Debug, Default)]
pub struct SamplingFields {
    /// `temperature`
    pub temperature: Option<f64>,
    /// `top_p`
    pub top_p: Option<f64>,
    /// `top_k`
    pub top_k: Option<i64>,
    /// `min_p`
    pub min_p: Option<f64>,
    /// `repetition_penalty`
    pub repetition_penalty: Option<f64>,
    /// `presence_penalty`
    pub presence_penalty: Option<f64>,
    /// `frequency_penalty`
    pub frequency_penalty: Option<f64>,
    /// `logit_bias`, by the decimal spelling of ids
    pub logit_bias: BTreeMap<String, f64>,
    /// `seed`
    pub seed: Option<i64>,
    /// `n`
    pub n: Option<u64>,
    /// `stop`
    pub stop: Vec<String>,
    /// `stop_token_ids`
    pub stop_token_ids: Vec<u32>,
    /// `ignore_eos`
    pub ignore_eos: bool,
    /// `min_tokens`
    pub min_tokens: u64,
    /// `include_stop_str_in_output`
    pub include_stop: bool,
    /// `skip_special_tokens`
    pub skip_special: bool,
    /// `response_format`
    pub response_format: Option<ResponseFormat>,
    /// `priority`
    pub priority: i32,
    /// `cache_salt`
    pub cache_salt: Option<String>,
    /// Most tokens to generate, with the field's name.
    pub max_tokens: Option<(&'static str, u64)>,
    /// Likeliest tokens to report beside each generated one, with the field's name.
    pub logprobs: Option<(&'static str, u64)>,
    /// The same for tokens of the prompt.
    pub prompt_logprobs: Option<u64>,
}

/// One text or several.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    /// All of them.
    pub fn into_vec(self) -> Vec<String> {
        match self {
            OneOrMany::One(text) => vec![text],
            OneOrMany::Many(texts) => texts,
        }
    }
}

/// How to stream.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
pub struct StreamOptions {
    /// A last chunk without choices tells the usage.
    #[serde(default)]
    pub include_usage: Option<bool>,
    /// Every chunk tells the usage so far.
    #[serde(default)]
    pub continuous_usage_stats: Option<bool>,
}

/// Tokens read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Usage {
    /// Of the prompts; each counts once, whatever `n` is.
    pub prompt_tokens: usize,
    /// Of all answers.
    pub completion_tokens: usize,
    /// Together.
    pub total_tokens: usize,
}

/// A log-probability for JSON, which has no infinity: below -9999 is -9999, as OpenAI writes it.
pub struct Floats;

impl Floats {
    /// The same number everywhere that it is told: widened, so that every reader sees the engine's own float.
    pub fn logprob(x: f32) -> f64 {
        if x.is_nan() { -9999.0 } else { f64::from(x).max(-9999.0) }
    }
}
