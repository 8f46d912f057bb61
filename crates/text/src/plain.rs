//! Encoding with some ranges kept plain: the tokenizer's own steps, given where its added tokens are.

use std::ops::Range;

use tokenizers::normalizer::Range as TextRange;
use tokenizers::{
    Model, NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, Token,
};

use crate::{Result, TextError, Tokenizer};

/// An added token and where it is in a text, in bytes.
type Found = (Range<usize>, u32);

impl Tokenizer {
    /// Where `text` spells special tokens, in order, as byte ranges.
    pub(crate) fn special_spans(&self, text: &str) -> Vec<Range<usize>> {
        let spans = self.added_tokens(text).into_iter().filter(|(_, id)| self.is_special(*id));
        spans.map(|(range, _)| trim_range(text, range)).collect()
    }

    /// Encodes `text`, taking no special tokens from the ranges `plain`.
    pub(crate) fn encode_with_plain(&self, text: &str, plain: &[Range<usize>]) -> Result<Vec<u32>> {
        if plain.is_empty() {
            return self.encode_whole(text, false);
        }
        let failed = |reason: String| TextError::Encode { bytes: text.len(), reason };
        let taken = self.added_tokens_outside(text, plain);
        // A vocabulary may hold a special token's text as an ordinary piece; then cut it up.
        let cuts: Vec<usize> = plain
            .iter()
            .map(|range| range.start + text[range.start..].chars().next().map_or(0, char::len_utf8))
            .collect();
        for cuts in [&[][..], &cuts[..]] {
            let (ids, clean) = self.run(text, &taken, cuts).map_err(|error| failed(error.to_string()))?;
            if clean {
                return Ok(ids);
            }
        }
        Err(failed("the vocabulary offers only the special token for this text".to_owned()))
    }

    /// The added tokens of `text`, found as the tokenizer finds them.
    fn added_tokens(&self, text: &str) -> Vec<Found> {
        let added = self.inner().get_added_vocabulary();
        let pieces = added.extract_and_normalize(None::<&NormalizerWrapper>, text);
        let splits = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let token =
            |tokens: &Option<Vec<Token>>| tokens.as_ref().and_then(|tokens| tokens.first()).map(|token| token.id);
        splits.into_iter().filter_map(|(_, (from, to), tokens)| Some((from..to, token(tokens)?))).collect()
    }

    /// The same, seeing one neutral character in place of each of the ranges `plain`.
    fn added_tokens_outside(&self, text: &str, plain: &[Range<usize>]) -> Vec<Found> {
        const NEUTRAL: char = '\u{10FFFD}';
        let mut shadow = String::with_capacity(text.len());
        let mut steps = vec![(0, 0)];
        let mut done = 0;
        for range in plain {
            shadow.push_str(&text[done..range.start]);
            shadow.push(NEUTRAL);
            done = range.end;
            steps.push((shadow.len(), done));
        }
        shadow.push_str(&text[done..]);
        let back = |at: usize| {
            let (from, to) = steps[steps.partition_point(|&(from, _)| from <= at) - 1];
            to + (at - from)
        };
        self.added_tokens(&shadow).into_iter().map(|(range, id)| (back(range.start)..back(range.end), id)).collect()
    }

    /// The tokenizer's own steps, with the added tokens given. The flag is false where a special
    /// token came out of ordinary text.
    fn run(&self, text: &str, taken: &[Found], cuts: &[usize]) -> tokenizers::Result<(Vec<u32>, bool)> {
        let inner = self.inner();
        let mut pieces = PreTokenizedString::from(text);
        pieces.split(|_, whole| Ok(cut(&whole, taken, cuts)))?;
        if let Some(normalizer) = inner.get_normalizer() {
            pieces.normalize(|piece| normalizer.normalize(piece))?;
        }
        if let Some(pre_tokenizer) = inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        pieces.tokenize(|piece| inner.get_model().tokenize(piece.get()))?;
        let splits = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let mut ids = Vec::new();
        let mut specials = 0;
        for token in splits.iter().filter_map(|(_, _, tokens)| tokens.as_ref()).flatten() {
            ids.push(token.id);
            specials += usize::from(self.is_special(token.id));
        }
        let wanted = taken.iter().filter(|(_, id)| self.is_special(*id)).count();
        Ok((ids, specials == wanted))
    }
}

/// Cuts `whole` into the added tokens and the stretches between them, and those at `cuts`.
fn cut(whole: &NormalizedString, taken: &[Found], cuts: &[usize]) -> Vec<(NormalizedString, Option<Vec<Token>>)> {
    let mut pieces: Vec<(Range<usize>, Option<u32>)> = Vec::new();
    let plain = |from: usize, to: usize, pieces: &mut Vec<(Range<usize>, Option<u32>)>| {
        let inside = cuts.iter().copied().filter(|&at| at > from && at < to);
        let mut start = from;
        for end in inside.chain([to]) {
            if start < end {
                pieces.push((start..end, None));
            }
            start = end;
        }
    };
    let mut done = 0;
    for (range, id) in taken {
        plain(done, range.start, &mut pieces);
        pieces.push((range.clone(), Some(*id)));
        done = range.end;
    }
    plain(done, whole.get().len(), &mut pieces);
    let slices = pieces.into_iter().filter_map(|(range, id)| Some((whole.slice(TextRange::Normalized(range))?, id)));
    slices
        .map(|(slice, id)| {
            let tokens = id.map(|id| vec![Token::new(id, slice.get().to_owned(), (0, slice.get().len()))]);
            (slice, tokens)
        })
        .collect()
}

/// An added token may swallow the spaces around it; they are not part of its text.
fn trim_range(text: &str, range: Range<usize>) -> Range<usize> {
    let found = &text[range.clone()];
    let start = range.start + (found.len() - found.trim_start().len());
    let end = range.end - (found.len() - found.trim_end().len());
    if start < end { start..end } else { range }
}
