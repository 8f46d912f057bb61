//! Measures a model: perplexity, KL divergence, comparison.
