//! Words: tokenizer, chat template, detokenizer, stop strings.
