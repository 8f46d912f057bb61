//! The calibration sequences of a run, in the model's own words.
use super::calibration;
use crate::source::Model;
use crate::words::Words;
use anyhow::Result;
use planish_quant::recipe::Recipe;
use planish_quant::samples::{SampleOptions, SampleTokenizer, Samples, Source};
use planish_text::{ChatInput, SpecialText};
use serde_json::Value;
use std::path::PathBuf;

/// Calibration sequences, and at most `tokens` tokens of further ones for the self-checks, which no statistic has seen
/// (if there are two sequences).
pub fn load(model: &Model, recipe: &Recipe, tokens: usize, quiet: bool) -> Result<(Samples, Vec<u32>)> {
    let path = recipe.calib_dataset.as_ref().map(PathBuf::from);
    // A list of token ids is taken as it is given.
    let as_given = path.as_ref().is_some_and(|p| p.extension().is_some_and(|e| e == "json"));
    let source = match path {
        None => Source::BuiltIn,
        Some(path) => calibration::find(path, quiet)?,
    };
    let seqlen = recipe.calib_seqlen.min(model.plan.max_positions);
    let more = if tokens > HELD_BACK { tokens.div_ceil(seqlen) } else { 1 };
    let options = SampleOptions {
        samples: recipe.calib_samples.saturating_add(more),
        seqlen,
        seed: recipe.seed,
        shuffle: !as_given,
        pack: true,
    };
    let tokenizer = Tokens { words: model.find_words()?, vocab: model.plan.vocab };
    let mut samples = planish_quant::samples::load(&source, &options, &tokenizer)?;
    let held_back: Vec<u32> = match samples.ids.len() {
        0 | 1 => samples.ids.first().cloned().unwrap_or_default(),
        // Of little data only a part is held back.
        count => samples.ids.split_off(count - more.min((count / 4).max(1))).concat(),
    };
    if !recipe.needs_calibration() {
        samples.ids.truncate(1);
    }
    let most = tokens.min(model.plan.max_positions).min(held_back.len());
    Ok((samples, held_back[..most].to_vec()))
}

/// Tokens that the self-checks of a plain run hold back.
pub const HELD_BACK: usize = 512;

struct Tokens<'a> {
    words: Option<&'a Words>,
    vocab: usize,
}

impl Tokens<'_> {
    fn words(&self) -> Result<&Words, String> {
        self.words.ok_or_else(|| "the model has no tokenizer.json; give token ids".to_owned())
    }
}

impl SampleTokenizer for Tokens<'_> {
    fn text(&self, text: &str) -> Result<Vec<u32>, String> {
        let tokenizer = &self.words()?.tokenizer;
        let encode = |text| tokenizer.encode_with_special(text).map_err(|e| e.to_string());
        let mut ids = encode(text)?;
        if doubled(encode("")?.first(), &ids) {
            ids.remove(0);
        }
        Ok(ids)
    }

    fn chat(&self, messages: &Value) -> Result<Vec<u32>, String> {
        let words = self.words()?;
        let chat = words.chat.as_ref().ok_or("the model has no chat template; give plain text")?;
        let input = ChatInput { messages: messages.clone(), ..ChatInput::default() };
        let text = chat.render(&input).map_err(|e| e.to_string())?;
        words.tokenizer.encode(&text, SpecialText::Recognised).map_err(|e| e.to_string())
    }

    fn vocab_size(&self) -> usize {
        self.vocab
    }
}

/// Whether ids begin twice with the token that the tokenizer puts before everything: text that a template has rendered
/// has it already.
fn doubled(first: Option<&u32>, ids: &[u32]) -> bool {
    matches!((first, ids), (Some(first), [a, b, ..]) if a == first && b == first)
}

#[cfg(test)]
mod tests {
    use super::doubled;

    #[test]
    fn only_the_tokenizers_own_token_counts_as_doubled() {
        assert!(doubled(Some(&1), &[1, 1, 7]));
        assert!(!doubled(Some(&1), &[1, 7, 1]) && !doubled(Some(&1), &[7, 7]) && !doubled(Some(&1), &[1]));
        assert!(!doubled(None, &[1, 1]));
    }
}
