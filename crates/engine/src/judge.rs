//! How likely each of several continuations of one text is: what rows of logits say of their tokens, summed up as steps
//! bring it. Nothing is asked twice: continuations that begin alike are read by the first sequence that begins so, and one
//! whose tokens but the last begin another has no sequence of its own.
use crate::error::{Error, Result};
use crate::mailbox::Writer;
use crate::request::Likelihood;
use planish_tensor::{Judged, Target};
use std::cmp::Reverse;
use std::ops::Range;

/// A text whose continuations are being judged.
pub(crate) struct Judging {
    pub likelihoods: Writer<Result<Likelihood>>,
    /// Position of the context's last token: its row answers for the first token of every continuation.
    first: usize,
    /// Of each sequence the tokens, and the position of the first row that no sequence before it has.
    texts: Vec<(usize, usize)>,
    members: Vec<Member>,
    /// Sequences that are not read to their end.
    pub live: usize,
}

/// A continuation.
struct Member {
    tokens: Vec<u32>,
    /// The sequence whose rows answer for each token.
    sequences: Vec<usize>,
    so_far: Likelihood,
}

impl Judging {
    /// Sorts continuations, none of them empty, into sequences; these come back beside it.
    pub fn new(
        context: &[u32],
        continuations: Vec<Vec<u32>>,
        likelihoods: Writer<Result<Likelihood>>,
    ) -> (Judging, Vec<Vec<u32>>) {
        // The longest first, as others may begin them.
        let mut reads: Vec<&[u32]> = continuations.iter().map(|tokens| &tokens[..tokens.len() - 1]).collect();
        reads.sort_by_key(|read| Reverse(read.len()));
        let (mut ends, mut texts): (Vec<&[u32]>, Vec<(usize, usize)>) = (Vec::new(), Vec::new());
        let first = context.len() - 1;
        for read in reads {
            let alike = |end: &&[u32]| end.iter().zip(read).take_while(|(a, b)| a == b).count();
            let shared = ends.iter().map(alike).max();
            if shared != Some(read.len()) {
                texts.push((context.len() + read.len(), first + shared.map_or(0, |shared| shared + 1)));
                ends.push(read);
            }
        }
        let sequences = ends.iter().map(|end| [context, end].concat()).collect();
        let reader = |begin: &[u32]| ends.iter().position(|end| end.starts_with(begin)).unwrap_or(0);
        let readers: Vec<Vec<usize>> =
            continuations.iter().map(|tokens| (0..tokens.len()).map(|n| reader(&tokens[..n])).collect()).collect();
        let members = continuations.into_iter().zip(readers).enumerate();
        let members = members.map(|(index, (tokens, sequences))| Member {
            tokens,
            sequences,
            so_far: Likelihood { index, log_prob: 0.0, greedy: true },
        });
        let (members, live) = (members.collect(), texts.len());
        (Judging { likelihoods, first, texts, members, live }, sequences)
    }

    /// Its sequences.
    pub fn sequences(&self) -> usize {
        self.texts.len()
    }

    /// Position of a sequence's first wanted row.
    pub fn rows_from(&self, sequence: usize) -> usize {
        self.texts[sequence].1
    }

    /// Whether a sequence is read once so many of its tokens are.
    pub fn is_read(&self, sequence: usize, tokens: usize) -> bool {
        tokens >= self.texts[sequence].0
    }

    /// What is asked of the rows after these positions of a sequence, the first of which is row `row` of a step.
    pub fn targets(&self, sequence: usize, positions: Range<usize>, row: u32) -> impl Iterator<Item = Target> + '_ {
        (row..).zip(positions).flat_map(move |(row, position)| {
            self.asked(sequence, position).map(move |(_, token)| Target { row, token })
        })
    }

    /// Takes in what [`Judging::targets`] asked for.
    pub fn read(&mut self, sequence: usize, positions: Range<usize>, found: &[Judged]) -> Result<()> {
        let mut found = found.iter();
        for position in positions {
            let asked: Vec<usize> = self.asked(sequence, position).map(|(member, _)| member).collect();
            for (member, judged) in asked.into_iter().zip(found.by_ref()) {
                if judged.log_prob.is_nan() {
                    return Err(Error::NotANumber { position });
                }
                let so_far = &mut self.members[member].so_far;
                so_far.log_prob += judged.log_prob as f64;
                so_far.greedy &= judged.greedy;
            }
        }
        Ok(())
    }

    /// What became of the continuations, once all sequences are read.
    pub fn results(&self) -> impl Iterator<Item = Likelihood> + '_ {
        self.members.iter().map(|member| member.so_far)
    }

    /// The continuations that the row after a position of a sequence speaks of, and their tokens there.
    fn asked(&self, sequence: usize, position: usize) -> impl Iterator<Item = (usize, u32)> + '_ {
        let at = position - self.first;
        let members = self.members.iter().enumerate().filter(move |(_, m)| m.sequences.get(at) == Some(&sequence));
        members.map(move |(i, m)| (i, m.tokens[at]))
    }
}
