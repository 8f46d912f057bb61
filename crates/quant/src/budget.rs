//! `--budget KL=x`: which groups of linears stay in float so that the divergence of the rest is expected to be small
//! enough. Plain numbers in, a choice out; the caller measures it and asks again.

/// Linears that stand or fall together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Divergence that quantizing them causes, as expected.
    pub kl: f64,
    /// Bytes that keeping them in float costs.
    pub bytes: u64,
}

/// Adds to `kept` (indices, ascending) until what is left is expected to cost at most `most`: always the one with the
/// largest divergence for its bytes. At least one more, unless none is left.
pub fn keep_more(groups: &[Candidate], kept: &[usize], most: f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..groups.len()).filter(|i| !kept.contains(i)).collect();
    let worth = |i: usize| groups[i].kl / groups[i].bytes.max(1) as f64;
    order.sort_by(|&a, &b| worth(b).total_cmp(&worth(a)).then(a.cmp(&b)));
    let mut left: f64 = order.iter().map(|&i| groups[i].kl).sum();
    let mut out = kept.to_vec();
    for (taken, i) in order.into_iter().enumerate() {
        if taken > 0 && left <= most {
            break;
        }
        left -= groups[i].kl;
        out.push(i);
    }
    out.sort_unstable();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dearest_for_their_bytes_are_kept() {
        let groups = [(4.0, 100), (3.0, 10), (2.0, 10), (1.0, 1000)].map(|(kl, bytes)| Candidate { kl, bytes });
        assert_eq!(keep_more(&groups, &[], 6.9), [1, 2]);
        assert_eq!(keep_more(&groups, &[], 7.0), [1]);
        assert_eq!(keep_more(&groups, &[1], 5.0), [1, 2]);
        // One more each time, whatever was expected; in the end all.
        assert_eq!(keep_more(&groups, &[1], 100.0), [1, 2]);
        assert_eq!(keep_more(&groups, &[0, 1, 2], 0.0), [0, 1, 2, 3]);
        assert_eq!(keep_more(&groups, &[0, 1, 2, 3], 0.0), [0, 1, 2, 3]);
        assert_eq!(keep_more(&[], &[], 0.0), [0usize; 0]);
    }
}
