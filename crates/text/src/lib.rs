//! Words: tokenizer, chat template, detokenizer, stop strings.
#![forbid(unsafe_code)]
