//! Every family against f64, and against itself when a sequence is cut into steps.
use super::*;
use crate::gemm_float::tests::floats;

/// A layer's pages with the keys and values of some sequences at shuffled places, and all queries.
struct Case {
    shape: AttentionShape,
    page_size: usize,
    lengths: Vec<usize>,
    /// Of each sequence, `[length, (nq + 2 nkv) d]`.
    qkv: Vec<Vec<f32>>,
    tables: Vec<Vec<u32>>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Case {
    fn new(nq: usize, nkv: usize, d: usize, page_size: usize, lengths: &[usize]) -> Self {
        let shape = AttentionShape { nq, nkv, d, scale: 1.0 / (d as f32).sqrt(), window: None, softcap: None };
        let used: usize = lengths.iter().map(|n| n.div_ceil(page_size)).sum();
        // Steps of 7 pages visit each page once where 7 does not divide their number.
        let total = if (used + 1).is_multiple_of(7) { used + 2 } else { used + 1 };
        // What no sequence owns is NaN: it must never be seen.
        let mut kv = [vec![f32::NAN; total * nkv * page_size * d], vec![f32::NAN; total * nkv * page_size * d]];
        let (mut tables, mut all, mut next) = (Vec::new(), Vec::new(), 0);
        for (i, &n) in lengths.iter().enumerate() {
            let x = floats(i as u64 + 1, n * shape.qkv_width());
            let table: Vec<u32> = (0..n.div_ceil(page_size)).map(|p| ((next + p) * 7 % total) as u32).collect();
            next += table.len();
            for (which, pages) in kv.iter_mut().enumerate() {
                for (p, h) in (0..n).flat_map(|p| (0..nkv).map(move |h| (p, h))) {
                    let to = ((table[p / page_size] as usize * nkv + h) * page_size + p % page_size) * d;
                    let from = p * shape.qkv_width() + (nq + which * nkv + h) * d;
                    pages[to..to + d].copy_from_slice(&x[from..from + d]);
                }
            }
            tables.push(table);
            all.push(x);
        }
        let [k, v] = kv;
        Case { shape, page_size, lengths: lengths.to_vec(), qkv: all, tables, k, v }
    }

    /// Attends with tokens `ranges[i]` of sequence i, of which all keys are in the pages already.
    fn run(&self, pool: &Threads, isa: Isa, ranges: &[Range<usize>], bf: bool) -> Vec<f32> {
        let mut batch = Batch { page_size: self.page_size, query_starts: vec![0], ..Batch::default() };
        batch.pages_per_seq = self.tables.iter().map(Vec::len).max().unwrap();
        let mut qkv = Vec::new();
        for (i, range) in ranges.iter().enumerate() {
            let width = self.shape.qkv_width();
            qkv.extend_from_slice(&self.qkv[i][range.start * width..range.end * width]);
            batch.positions.extend(range.clone().map(|p| p as u32));
            batch.query_starts.push(batch.positions.len() as u32);
            batch.kv_lens.push(range.end as u32);
            let mut table = self.tables[i].clone();
            table.resize(batch.pages_per_seq, u32::MAX);
            batch.page_tables.extend(table);
        }
        batch.slots = vec![0; batch.t()];
        let mut out = vec![f32::NAN; batch.t() * self.shape.nq * self.shape.d];
        let round = |x: &[f32]| x.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>();
        let (kb, vb) = (round(&self.k), round(&self.v));
        let (k, v) =
            if bf { (KvSlice::Bf16(&kb), KvSlice::Bf16(&vb)) } else { (KvSlice::F32(&self.k), KvSlice::F32(&self.v)) };
        paged_attention(pool, isa, &qkv, &self.shape, &batch, k, v, &mut out);
        out
    }

    /// The plain softmax in f64 of token `p` of sequence `seq`, head `head`; and the size of its terms by channel.
    fn exact(&self, seq: usize, p: usize, head: usize, bf: bool) -> Vec<(f64, f64)> {
        let s = &self.shape;
        let round = |x: f32| if bf { bf16::from_f32(x).to_f64() } else { x as f64 };
        let at = |p: usize, h: usize| &self.qkv[seq][p * s.qkv_width() + h * s.d..][..s.d];
        let first = s.window.map_or(0, |w| (p + 1).saturating_sub(w as usize));
        let kv_head = head / (s.nq / s.nkv);
        let scores: Vec<f64> = (first..=p)
            .map(|j| {
                let dot: f64 = at(p, head).iter().zip(at(j, s.nq + kv_head)).map(|(&q, &k)| q as f64 * round(k)).sum();
                let x = dot * s.scale as f64;
                s.softcap.map_or(x, |cap| cap as f64 * (x / cap as f64).tanh())
            })
            .collect();
        let top = scores.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
        let weights: Vec<f64> = scores.iter().map(|x| (x - top).exp()).collect();
        let sum: f64 = weights.iter().sum();
        (0..s.d)
            .map(|c| {
                let value = |j: usize| round(at(first + j, s.nq + s.nkv + kv_head)[c]);
                let terms = weights.iter().enumerate().map(|(j, w)| w / sum * value(j));
                terms.fold((0.0, 0.0), |(y, size), x| (y + x, size + x.abs()))
            })
            .collect()
    }

    fn check(&self, bf: bool, tolerance: f64) {
        let pool = Threads::new(2);
        let whole: Vec<Range<usize>> = self.lengths.iter().map(|&n| 0..n).collect();
        for isa in Isa::available() {
            let out = self.run(&pool, isa, &whole, bf);
            let mut rows = out.chunks_exact(self.shape.d);
            for (seq, &n) in self.lengths.iter().enumerate() {
                for (p, head) in (0..n).flat_map(|p| (0..self.shape.nq).map(move |h| (p, h))) {
                    for (&y, (exact, size)) in rows.next().unwrap().iter().zip(self.exact(seq, p, head, bf)) {
                        let error = (y as f64 - exact).abs();
                        assert!(error <= tolerance * size, "{isa:?} seq {seq} token {p} head {head}: {y}, {exact}");
                    }
                }
            }
        }
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn near_the_plain_softmax() {
    for (nq, nkv, d) in [(1, 1, 16), (3, 1, 64), (4, 1, 80), (2, 2, 128), (6, 2, 20), (1, 1, 1), (2, 1, 256)] {
        for (page_size, length) in [(1, 66), (24, 130)] {
            Case::new(nq, nkv, d, page_size, &[1, length]).check(false, 2e-6);
        }
    }
}

#[test]
fn long_sequences_windows_caps_and_bf16() {
    Case::new(3, 1, 16, 16, &[600, 3]).check(false, 2e-6);
    Case::new(3, 1, 16, 16, &[600, 3]).check(true, 2e-6);
    for window in [1, 5, 64, 100] {
        let mut case = Case::new(6, 2, 16, 16, &[150, 40]);
        case.shape.window = Some(window);
        case.check(false, 2e-6);
        case.shape.softcap = Some(2.0);
        case.check(true, 2e-6);
    }
    let mut case = Case::new(1, 1, 16, 16, &[700]);
    case.shape.window = Some(130);
    case.check(false, 2e-6);
}

#[test]
fn steps_batches_and_threads_do_not_change_a_bit() {
    let pools = [1, 2, 3].map(Threads::new);
    for (nq, nkv, d, bf) in [(3, 1, 64, false), (4, 2, 80, true), (9, 3, 16, false)] {
        for (window, softcap) in [(None, None), (Some(70), None), (Some(530), Some(5.0))] {
            let mut case = Case::new(nq, nkv, d, 16, &[1100, 65]);
            (case.shape.window, case.shape.softcap) = (window, softcap);
            for isa in Isa::available() {
                // The plain loops are slow: one shape is enough for them.
                if isa == Isa::Scalar && d != 16 {
                    continue;
                }
                let whole = case.run(&pools[1], isa, &[0..1100, 0..65], bf);
                let row = nq * d;
                for (pool, &(from, to)) in
                    pools.iter().cycle().zip(&[(0, 1), (0, 77), (77, 512), (500, 1024), (1023, 1024), (1099, 1100)])
                {
                    let second = to.min(65) - 1..to.min(65);
                    let got = case.run(pool, isa, &[from..to, second.clone()], bf);
                    let expected =
                        [&whole[from * row..to * row], &whole[(1100 + second.start) * row..][..row]].concat();
                    assert_eq!(bits(&got), bits(&expected), "{isa:?} d={d} window {window:?} tokens {from}..{to}");
                    let last = [Range { start: to - 1, end: to }];
                    let alone = case.run(pool, isa, &last, bf);
                    assert_eq!(bits(&alone), bits(&whole[(to - 1) * row..to * row]), "{isa:?} token {to} alone");
                }
            }
        }
    }
}

#[test]
fn families_agree_to_the_bit() {
    let pool = Threads::new(2);
    let mut case = Case::new(3, 1, 20, 16, &[600]);
    let all = [Range { start: 0, end: 600 }];
    for softcap in [None, Some(3.0)] {
        case.shape.softcap = softcap;
        let expected = case.run(&pool, Isa::Scalar, &all, false);
        for isa in Isa::available() {
            assert_eq!(bits(&case.run(&pool, isa, &all, false)), bits(&expected), "{isa:?}");
        }
    }
}
