//! One sequence as the scheduler knows it: its tokens, how far it is computed, and its place in the order.
use crate::pages::Lease;
use crate::prefix::Root;

/// A sequence to be run.
#[derive(Clone, Debug, Default)]
pub struct Arrival {
    /// The owner's key; of a sequence that is not here already.
    pub id: u64,
    /// The prompt. A sequence without tokens is never planned.
    pub tokens: Vec<u32>,
    /// Smaller goes first; equals by arrival.
    pub priority: i32,
    /// Logits are wanted of every position of the prompt from here on, and always of its last: `usize::MAX` for only that.
    pub rows_from: usize,
    /// Cached prefixes are shared only among sequences with the same salt.
    pub salt: Option<String>,
    /// The request whose continuations share the prompt's pages even where the prefix cache is off.
    pub group: Option<u64>,
    /// The sequence of the same prompt that is to give its rows before this one starts, as long as it is here.
    pub after: Option<u64>,
}

/// Place in the order of all sequences: the smaller goes first, and the greatest gives way first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    class: i64,
    arrival: u64,
}

impl Rank {
    /// Above all priorities; among its like, the first come.
    const RISEN: i64 = i64::MIN;

    pub(crate) fn new(priority: i32, arrival: u64) -> Rank {
        Rank { class: priority.into(), arrival }
    }

    pub(crate) fn is_risen(self) -> bool {
        self.class == Rank::RISEN
    }

    pub(crate) fn risen(self) -> Rank {
        Rank { class: Rank::RISEN, ..self }
    }
}

/// One sequence. `id` is the owner's key.
#[derive(Debug)]
pub struct Sequence {
    /// The owner's key.
    pub id: u64,
    /// Prompt and generated tokens; no drafts.
    pub tokens: Vec<u32>,
    /// Positions whose keys and values are in the cache; those of drafts count until the owner has settled them.
    pub computed: usize,
    /// Proposed tokens after the last one.
    pub(crate) drafts: Vec<u32>,
    /// First position whose logits are wanted and were not given yet. Told once is enough, though it may be computed
    /// again.
    pub(crate) wanted_from: usize,
    pub(crate) rank: Rank,
    /// Where its pages are shared, if anywhere.
    pub(crate) root: Option<Root>,
    pub(crate) group: Option<u64>,
    /// Whose rows come before it starts; none once it has.
    pub(crate) after: Option<u64>,
    pub(crate) lease: Lease,
    /// The last step that it was part of.
    pub(crate) planned_at: u64,
    /// Steps that it was passed over in all its life, but for those of the present wait.
    pub(crate) waited: u64,
    /// The step when the present wait began.
    pub(crate) waits_since: u64,
}

impl Sequence {
    /// Where its keys and values are.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Tokens proposed to follow the last one.
    pub fn drafts(&self) -> &[u32] {
        &self.drafts
    }

    /// There is something to compute. False while the owner has logits but has not told the token they led to.
    pub(crate) fn is_ready(&self) -> bool {
        self.wanted_from < self.tokens.len()
    }

    /// Only its last token is to be computed.
    pub(crate) fn decodes(&self) -> bool {
        self.is_ready() && self.computed + 1 == self.tokens.len()
    }

    /// The next stretch, at most so many tokens and rows, within its pages: tokens and rows.
    pub(crate) fn stretch(&self, tokens: usize, rows: usize) -> (usize, usize) {
        let first_row = self.wanted_from.max(self.computed);
        let end = (self.computed + tokens)
            .min(self.tokens.len() + self.drafts.len())
            .min(first_row + rows)
            .min(self.lease.capacity());
        (end.saturating_sub(self.computed), end.saturating_sub(first_row))
    }

    /// Its tokens that a cached page may stand for: not the last, and none whose logits are wanted.
    pub(crate) fn adoptable(&self) -> &[u32] {
        &self.tokens[..self.wanted_from.min(self.tokens.len().saturating_sub(1))]
    }

    /// Makes its full pages known to the prefix cache.
    pub(crate) fn publish(&mut self) {
        if let Some(root) = &self.root {
            self.lease.publish(root, &self.tokens[..self.computed.min(self.tokens.len())]);
        }
    }

    /// Fills its empty lease with what is known of its tokens already.
    pub(crate) fn adopt(&mut self) {
        let adoptable = self.wanted_from.min(self.tokens.len().saturating_sub(1));
        if let Some(root) = &self.root {
            self.computed = self.lease.adopt(root, &self.tokens[..adoptable]);
        }
    }

    /// Gives its pages back; what was computed will be computed again.
    pub(crate) fn release(&mut self) {
        self.publish();
        self.lease.release();
        self.restart();
    }

    /// Nothing of it is computed any more.
    pub(crate) fn restart(&mut self) {
        self.computed = 0;
        self.drafts.clear();
    }

    /// Appends the tokens chosen after the last one. Drafts that were right stay computed.
    pub(crate) fn settle(&mut self, chosen: &[u32]) {
        let known = self.tokens.len();
        let verified = self.computed.saturating_sub(known).min(self.drafts.len());
        let right = self.drafts[..verified].iter().zip(chosen).take_while(|(a, b)| a == b).count();
        self.tokens.extend_from_slice(chosen);
        self.drafts.clear();
        let last = self.tokens.len().saturating_sub(1);
        // The last token is computed (again) to give logits.
        self.computed = self.computed.min(known + right).min(last);
        self.wanted_from = last;
    }
}
