//! From a plan of slices to the flat arrays of a batch.
use crate::scheduler::{Sequence, Slice};
use planish_tensor::Batch;

/// The batch of a step. Rows of logits come in the order of the slices.
pub fn assemble(running: &[Sequence], plan: &[Slice], page_size: usize) -> Batch {
    let mut batch = Batch::default();
    assemble_into(&mut batch, running, plan, page_size);
    batch
}

/// The same in the arrays of an earlier batch.
pub fn assemble_into(batch: &mut Batch, running: &[Sequence], plan: &[Slice], page_size: usize) {
    let pages_per_seq = plan.iter().map(|s| (s.start + s.count).div_ceil(page_size)).max().unwrap_or(0);
    clear(batch);
    (batch.page_size, batch.pages_per_seq) = (page_size, pages_per_seq);
    batch.query_starts.push(0);
    for slice in plan {
        let sequence = &running[slice.index];
        let end = slice.start + slice.count;
        batch.tokens.extend_from_slice(&sequence.tokens[slice.start..end - slice.drafts]);
        batch.tokens.extend_from_slice(&sequence.drafts()[..slice.drafts]);
        batch.positions.extend(slice.start as u32..end as u32);
        batch.slots.extend((slice.start..end).map(|p| sequence.lease().slot(p)));
        let t = batch.positions.len() as u32;
        batch.query_starts.push(t);
        batch.kv_lens.push(end as u32);
        let pages = sequence.lease().pages();
        batch.page_tables.extend_from_slice(&pages[..pages_per_seq.min(pages.len())]);
        batch.page_tables.resize(batch.kv_lens.len() * pages_per_seq, 0);
        batch.logit_rows.extend(t - slice.rows as u32..t);
    }
}

fn clear(batch: &mut Batch) {
    batch.tokens.clear();
    batch.positions.clear();
    batch.slots.clear();
    batch.query_starts.clear();
    batch.kv_lens.clear();
    batch.page_tables.clear();
    batch.logit_rows.clear();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::Pages;
    use crate::scheduler::{Arrival, Limits, Scheduler};

    #[test]
    fn mixes_a_chunk_with_decode_and_drafts() {
        let limits = Limits { tokens: 8, rows: 4, sequences: 4 };
        let mut s = Scheduler::new(limits, Pages::new(8, 4), false);
        let arrival = |id, tokens| Arrival { id, tokens, rows_from: usize::MAX, ..Arrival::default() };
        s.arrive(arrival(0, vec![1, 2, 3]));
        let plan = s.schedule();
        let mut batch = assemble(s.running(), &plan, 4);
        assert_eq!((&batch.tokens[..], &batch.logit_rows[..]), (&[1, 2, 3][..], &[2][..]));
        s.complete(&plan);
        s.push(0, 9);
        s.propose(0, &[7, 6]);
        s.arrive(arrival(1, vec![5; 10]));
        let plan = s.schedule();
        assemble_into(&mut batch, s.running(), &plan, 4);
        batch.validate(8).unwrap();
        assert_eq!(batch, assemble(s.running(), &plan, 4));
        assert_eq!(batch.tokens, [9, 7, 6, 5, 5, 5, 5, 5]);
        assert_eq!(batch.slots, [3, 4, 5, 8, 9, 10, 11, 12]);
        assert_eq!((batch.query_starts, batch.kv_lens), (vec![0, 3, 8], vec![6, 5]));
        assert_eq!(batch.logit_rows, [0, 1, 2]);
    }
}
