//! One step's work as flat arrays: packed tokens, no padding, the same on every device.
use crate::{Error, Result};

/// In a token's place, with a row's number in the lower bits: the token that was chosen there ahead, see
/// [`crate::Backend::choose_ahead`].
pub const CHOSEN: u32 = 1 << 31;

/// A step over `s` sequences with `t` new tokens in all. Tokens of one sequence are adjacent and in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// `[t]` token ids (unused when hidden states are given instead).
    pub tokens: Vec<u32>,
    /// `[t]` position of each token in its sequence.
    pub positions: Vec<u32>,
    /// `[t]` where the token's k and v go: `page * page_size + offset`.
    pub slots: Vec<u32>,
    /// `[s + 1]` first row of each sequence; the last entry is `t`.
    pub query_starts: Vec<u32>,
    /// `[s]` tokens each sequence can see after this step (past and new).
    pub kv_lens: Vec<u32>,
    /// `[s, pages_per_seq]` pages of each sequence in order; entries past its length are unused.
    pub page_tables: Vec<u32>,
    /// Row length of `page_tables`.
    pub pages_per_seq: usize,
    /// Tokens in a page.
    pub page_size: usize,
    /// Rows whose logits are wanted, ascending.
    pub logit_rows: Vec<u32>,
}

impl Batch {
    /// Number of new tokens.
    pub fn t(&self) -> usize {
        self.positions.len()
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.kv_lens.len()
    }

    /// Fresh sequences of the given lengths laid out one after the other in pages 0, 1, 2, …
    /// (each sequence starts on a new page), as calibration and tests use them.
    pub fn fresh(lengths: &[usize], page_size: usize) -> Batch {
        let pages_per_seq = lengths.iter().map(|n| n.div_ceil(page_size)).max().unwrap_or(0);
        let mut batch = Batch { pages_per_seq, page_size, query_starts: vec![0], ..Batch::default() };
        let mut page = 0;
        for &n in lengths {
            let first_slot = page * page_size;
            batch.positions.extend(0..n as u32);
            batch.slots.extend((first_slot..first_slot + n).map(|s| s as u32));
            batch.query_starts.push(batch.positions.len() as u32);
            batch.kv_lens.push(n as u32);
            batch.page_tables.extend((page..page + pages_per_seq).map(|p| p as u32));
            page += n.div_ceil(page_size);
        }
        batch
    }

    /// Checks that the arrays fit together; every back end may rely on this.
    pub fn validate(&self, pages: usize) -> Result<()> {
        let (t, s) = (self.t(), self.sequences());
        let fail = |what: &str| Err(Error::shape(format!("batch: {what}")));
        if self.page_size == 0 || self.slots.len() != t || self.query_starts.len() != s + 1 {
            return fail("array lengths differ");
        }
        if self.page_tables.len() != s * self.pages_per_seq {
            return fail("page table size");
        }
        if self.query_starts[0] != 0 || self.query_starts[s] as usize != t {
            return fail("query_starts must run from 0 to t");
        }
        if self.query_starts.windows(2).any(|w| w[0] > w[1]) {
            return fail("query_starts must ascend");
        }
        if self.slots.iter().any(|&slot| slot as usize >= pages * self.page_size) {
            return fail("slot outside the pool");
        }
        if self.logit_rows.iter().any(|&r| r as usize >= t) {
            return fail("logit row outside the batch");
        }
        for i in 0..s {
            let used = (self.kv_lens[i] as usize).div_ceil(self.page_size);
            let new = self.query_starts[i + 1] - self.query_starts[i];
            let row = &self.page_tables[i * self.pages_per_seq..][..self.pages_per_seq];
            if used > row.len() || new > self.kv_lens[i] || row[..used].iter().any(|&p| p as usize >= pages) {
                return fail("a sequence outgrows its pages");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_batches_are_valid() {
        let b = Batch::fresh(&[5, 16, 17], 16);
        assert_eq!((b.t(), b.sequences(), b.pages_per_seq), (38, 3, 2));
        b.validate(5).unwrap();
        assert_eq!(b.slots[5], 16);
        assert!(b.validate(3).is_err());
        assert!(Batch { slots: vec![], ..b }.validate(5).is_err());
    }
}
