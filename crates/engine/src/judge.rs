//! How likely each of several continuations of one text is: rows of logits summed up as steps bring them. Continuations
//! that differ only in their last token are one sequence: the same row answers for all of them.
use crate::error::{Error, Result};
use crate::mailbox::Writer;
use crate::request::Likelihood;
use crate::sampler;

/// A text whose continuations are being judged.
pub(crate) struct Judging {
    pub likelihoods: Writer<Result<Likelihood>>,
    /// Position of the first row: that of the context's last token.
    first: usize,
    texts: Vec<Text>,
    /// Texts that are not read to their end.
    pub live: usize,
}

/// One sequence: the context and all but the last token of its continuations.
struct Text {
    tokens: usize,
    members: Vec<Member>,
}

struct Member {
    tokens: Vec<u32>,
    so_far: Likelihood,
}

impl Judging {
    /// Sorts continuations, none of them empty, into sequences; these come back beside it.
    pub fn new(
        context: &[u32],
        continuations: Vec<Vec<u32>>,
        likelihoods: Writer<Result<Likelihood>>,
    ) -> (Judging, Vec<Vec<u32>>) {
        let (mut texts, mut sequences): (Vec<Text>, Vec<Vec<u32>>) = (Vec::new(), Vec::new());
        for (index, tokens) in continuations.into_iter().enumerate() {
            let read = [context, &tokens[..tokens.len() - 1]].concat();
            let at = sequences.iter().position(|s| *s == read).unwrap_or_else(|| {
                texts.push(Text { tokens: read.len(), members: Vec::new() });
                sequences.push(read);
                texts.len() - 1
            });
            let so_far = Likelihood { index, log_prob: 0.0, greedy: true };
            texts[at].members.push(Member { tokens, so_far });
        }
        let live = texts.len();
        (Judging { likelihoods, first: context.len() - 1, texts, live }, sequences)
    }

    /// Its sequences.
    pub fn sequences(&self) -> usize {
        self.texts.len()
    }

    /// Position of the first wanted row.
    pub fn rows_from(&self) -> usize {
        self.first
    }

    /// Whether a sequence is read once so many of its tokens are.
    pub fn is_read(&self, sequence: usize, tokens: usize) -> bool {
        tokens >= self.texts[sequence].tokens
    }

    /// Takes the logits after one position of a sequence into account.
    pub fn read(&mut self, sequence: usize, position: usize, logits: &[f32]) -> Result<()> {
        for member in &mut self.texts[sequence].members {
            let Some(&next) = member.tokens.get(position - self.first) else { continue };
            let found = sampler::logprobs(logits, next, 1);
            if found.chosen.is_nan() {
                return Err(Error::NotANumber { position });
            }
            member.so_far.log_prob += found.chosen as f64;
            member.so_far.greedy &= found.top.first().is_some_and(|top| top.0 == next);
        }
        Ok(())
    }

    /// What became of the continuations of a sequence that is read.
    pub fn results(&self, sequence: usize) -> impl Iterator<Item = Likelihood> + '_ {
        self.texts[sequence].members.iter().map(|member| member.so_far)
    }
}
