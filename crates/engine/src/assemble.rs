//! From a plan of slices to the flat arrays of a batch.
use crate::scheduler::{Sequence, Slice};
use planish_tensor::Batch;

/// The batch of a step. Rows of logits come in the order of the slices.
pub fn assemble(running: &[Sequence], plan: &[Slice], page_size: usize) -> Batch {
    let pages_per_seq = plan.iter().map(|s| (s.start + s.count).div_ceil(page_size)).max().unwrap_or(0);
    let mut batch = Batch { page_size, pages_per_seq, query_starts: vec![0], ..Batch::default() };
    for slice in plan {
        let sequence = &running[slice.index];
        let end = slice.start + slice.count;
        batch.tokens.extend(&sequence.tokens[slice.start..end]);
        batch.positions.extend(slice.start as u32..end as u32);
        batch.slots.extend((slice.start..end).map(|p| sequence.lease().slot(p)));
        let t = batch.positions.len() as u32;
        batch.query_starts.push(t);
        batch.kv_lens.push(end as u32);
        let pages = sequence.lease().pages();
        batch.page_tables.extend(&pages[..pages_per_seq.min(pages.len())]);
        batch.page_tables.resize(batch.kv_lens.len() * pages_per_seq, 0);
        batch.logit_rows.extend(t - slice.rows as u32..t);
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::Pages;
    use crate::scheduler::{Limits, Scheduler};

    #[test]
    fn mixes_a_chunk_with_decode() {
        let limits = Limits { tokens: 8, rows: 4, sequences: 4 };
        let mut s = Scheduler::new(limits, Pages::new(8, 4));
        s.arrive(0, vec![1, 2, 3], false);
        let plan = s.schedule();
        s.complete(&plan);
        s.push(0, 9);
        s.arrive(1, vec![5; 10], false);
        let plan = s.schedule();
        let b = assemble(s.running(), &plan, 4);
        b.validate(8).unwrap();
        assert_eq!(b.tokens, [9, 5, 5, 5, 5, 5, 5, 5]);
        assert_eq!((b.query_starts, b.kv_lens, b.logit_rows), (vec![0, 1, 8], vec![4, 7], vec![0]));
    }
}
