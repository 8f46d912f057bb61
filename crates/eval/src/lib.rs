//! Measures a model: perplexity, KL divergence, comparison.
#![forbid(unsafe_code)]
