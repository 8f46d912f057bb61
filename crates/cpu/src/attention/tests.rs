//! Every family against f64, and against itself when a sequence is cut into steps.
use super::*;
use crate::gemm_float::tests::floats;

/// How a cache holds its keys and values.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kept {
    F32,
    Bf16,
    Codes(Q8),
}

impl Kept {
    const ALL: [Kept; 4] = [Kept::F32, Kept::Bf16, Kept::Codes(Q8::Int8), Kept::Codes(Q8::E4M3)];

    /// What is kept of a vector: codes, bf16 and values; and the scale.
    fn keep(self, x: &[f32], codes: &mut [u8], halves: &mut [bf16], values: &mut [f32]) -> f32 {
        halves.iter_mut().zip(x).for_each(|(h, &x)| *h = bf16::from_f32(x));
        values.copy_from_slice(x);
        match self {
            Kept::F32 => 1.0,
            Kept::Bf16 => {
                values.iter_mut().zip(halves).for_each(|(v, h)| *v = h.to_f32());
                1.0
            }
            Kept::Codes(kind) => {
                let scale = planish_tensor::q8::quantize_activation_row(kind, x, codes);
                values.iter_mut().zip(codes).for_each(|(v, &mut c)| *v = kind.decode(c) * scale);
                scale
            }
        }
    }
}

/// Keys or values in every form.
struct Layer {
    codes: Vec<u8>,
    halves: Vec<bf16>,
    values: Vec<f32>,
    scales: Vec<f32>,
}

impl Layer {
    fn new(kept: Kept, x: &[f32], d: usize) -> Self {
        let n = x.len();
        let mut layer =
            Layer { codes: vec![0; n], halves: vec![bf16::ZERO; n], values: vec![0.0; n], scales: vec![0.0; n / d] };
        for (i, x) in x.chunks_exact(d).enumerate() {
            let at = i * d..(i + 1) * d;
            let Layer { codes, halves, values, scales } = &mut layer;
            scales[i] = kept.keep(x, &mut codes[at.clone()], &mut halves[at.clone()], &mut values[at]);
        }
        layer
    }

    fn slice(&self, kept: Kept) -> KvSlice<'_> {
        match kept {
            Kept::F32 => KvSlice::F32(&self.values),
            Kept::Bf16 => KvSlice::Bf16(&self.halves),
            Kept::Codes(kind) => KvSlice::Q8 { kind, codes: &self.codes, scales: &self.scales },
        }
    }
}

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
    fn run(&self, pool: &Threads, isa: Isa, ranges: &[Range<usize>], kept: Kept) -> Vec<f32> {
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
        let (k, v) = (Layer::new(kept, &self.k, self.shape.d), Layer::new(kept, &self.v, self.shape.d));
        let operands = Operands { qkv: &qkv, shape: &self.shape, batch: &batch, k: k.slice(kept), v: v.slice(kept) };
        let attention = Attention::default();
        attention.attend(pool, isa, operands, &mut out);
        self.check_quantized(pool, isa, &attention, operands, &out);
        out
    }

    /// The fused quantization is what quantizing the rows gives.
    fn check_quantized(&self, pool: &Threads, isa: Isa, attention: &Attention, o: Operands<'_>, expected: &[f32]) {
        let (width, t) = (self.shape.nq * self.shape.d, o.batch.t());
        let mut out = vec![f32::NAN; expected.len()];
        let (mut codes, mut xs, kind) = (vec![9; out.len()], vec![9.0; t], Q8::ALL[t % 3]);
        let to = Q8SliceMut { codes: &mut codes, xs: &mut xs };
        attention.attend_quantize(pool, isa, o, &mut out, kind, to);
        assert_eq!(bits(&out), bits(expected), "{isa:?}");
        let mut row = vec![0; width];
        for (i, x) in expected.chunks_exact(width).enumerate() {
            let scale = planish_tensor::q8::quantize_activation_row(kind, x, &mut row);
            assert_eq!((scale.to_bits(), &row[..]), (xs[i].to_bits(), &codes[i * width..][..width]), "{isa:?} row {i}");
        }
    }

    /// The plain softmax in f64 of token `p` of sequence `seq`, head `head`; and by channel what it may be off by if
    /// f32 arithmetic is off by `tight`, and queries and weights by the share `loose`.
    fn exact(&self, (seq, p, head): (usize, usize, usize), kept: Kept, tight: f64, loose: f64) -> Vec<(f64, f64)> {
        let s = &self.shape;
        let at = |p: usize, h: usize| &self.qkv[seq][p * s.qkv_width() + h * s.d..][..s.d];
        let kept_at = |p: usize, h: usize| Layer::new(kept, at(p, h), s.d).values;
        let first = s.window.map_or(0, |w| (p + 1).saturating_sub(w as usize));
        let kv_head = head / (s.nq / s.nkv);
        let mut slack = 0.0f64;
        let scores: Vec<f64> = (first..=p)
            .map(|j| {
                let key = kept_at(j, s.nq + kv_head);
                let terms = at(p, head).iter().zip(&key).map(|(&q, &k)| q as f64 * k as f64 * s.scale as f64);
                let (x, size) = terms.fold((0.0, 0.0), |(x, size), term| (x + term, size + term.abs()));
                slack = slack.max(2.0 * loose * size);
                s.softcap.map_or(x, |cap| cap as f64 * (x / cap as f64).tanh())
            })
            .collect();
        let top = scores.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
        let weights: Vec<f64> = scores.iter().map(|x| (x - top).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let values: Vec<Vec<f32>> = (first..=p).map(|j| kept_at(j, s.nq + s.nkv + kv_head)).collect();
        (0..s.d)
            .map(|c| {
                let terms = weights.iter().zip(&values).map(|(w, v)| w / sum * v[c] as f64);
                let (y, size) = terms.fold((0.0, 0.0), |(y, size), x| (y + x, size + x.abs()));
                (y, size * (tight + loose + slack.exp_m1()))
            })
            .collect()
    }

    fn check(&self, kept: Kept) {
        let pool = Threads::new(2);
        let whole: Vec<Range<usize>> = self.lengths.iter().map(|&n| 0..n).collect();
        for isa in Isa::available() {
            let rounds = kept != Kept::F32 && isa.has_fast_bf16_dots();
            let loose = if rounds { 1.01 / 256.0 } else { 0.0 };
            let out = self.run(&pool, isa, &whole, kept);
            let mut rows = out.chunks_exact(self.shape.d);
            for (seq, &n) in self.lengths.iter().enumerate() {
                for (p, head) in (0..n).flat_map(|p| (0..self.shape.nq).map(move |h| (p, h))) {
                    let expected = self.exact((seq, p, head), kept, 2e-6, loose);
                    for (&y, (exact, slack)) in rows.next().unwrap().iter().zip(expected) {
                        let error = (y as f64 - exact).abs();
                        assert!(error <= slack, "{isa:?} {kept:?} seq {seq} token {p} head {head}: {y}, {exact}");
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
            let case = Case::new(nq, nkv, d, page_size, &[1, length]);
            Kept::ALL.iter().for_each(|&kept| case.check(kept));
        }
    }
}

#[test]
fn long_sequences_windows_caps_and_bf16() {
    Case::new(3, 1, 16, 16, &[600, 3]).check(Kept::F32);
    Case::new(3, 1, 16, 16, &[600, 3]).check(Kept::Bf16);
    for window in [1, 5, 64, 100] {
        let mut case = Case::new(6, 2, 16, 16, &[150, 40]);
        case.shape.window = Some(window);
        case.check(Kept::F32);
        case.shape.softcap = Some(2.0);
        Kept::ALL.iter().for_each(|&kept| case.check(kept));
    }
    let mut case = Case::new(1, 1, 16, 16, &[700]);
    case.shape.window = Some(130);
    case.check(Kept::F32);
}

#[test]
fn steps_batches_and_threads_do_not_change_a_bit() {
    let pools = [1, 2, 3].map(Threads::new);
    for (nq, nkv, d, kept) in [(3, 1, 64, 0), (4, 2, 80, 1), (9, 3, 16, 0), (9, 3, 64, 1), (6, 2, 80, 2), (4, 1, 20, 3)]
    {
        let kept = Kept::ALL[kept];
        for (window, softcap) in [(None, None), (Some(70), None), (Some(530), Some(5.0))] {
            let mut case = Case::new(nq, nkv, d, 16, &[1100, 65]);
            (case.shape.window, case.shape.softcap) = (window, softcap);
            for isa in Isa::available() {
                // The plain loops are slow: one shape is enough for them.
                if isa == Isa::Scalar && d != 16 {
                    continue;
                }
                let whole = case.run(&pools[1], isa, &[0..1100, 0..65], kept);
                let row = nq * d;
                for (pool, &(from, to)) in
                    pools.iter().cycle().zip(&[(0, 1), (0, 77), (77, 512), (500, 1024), (1023, 1024), (1099, 1100)])
                {
                    let second = to.min(65) - 1..to.min(65);
                    let got = case.run(pool, isa, &[from..to, second.clone()], kept);
                    let expected =
                        [&whole[from * row..to * row], &whole[(1100 + second.start) * row..][..row]].concat();
                    assert_eq!(
                        bits(&got),
                        bits(&expected),
                        "{isa:?} {kept:?} d={d} window {window:?} tokens {from}..{to}"
                    );
                    let last = [Range { start: to - 1, end: to }];
                    let alone = case.run(pool, isa, &last, kept);
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
    for (softcap, kept) in [None, Some(3.0)].into_iter().flat_map(|cap| Kept::ALL.map(|kept| (cap, kept))) {
        case.shape.softcap = softcap;
        let expected = case.run(&pool, Isa::Scalar, &all, kept);
        for isa in Isa::available() {
            if kept != Kept::F32 && isa.has_fast_bf16_dots() {
                continue;
            }
            assert_eq!(bits(&case.run(&pool, isa, &all, kept)), bits(&expected), "{isa:?}");
        }
    }
}

#[test]
fn what_a_row_does_not_see_may_be_anything() {
    let pool = Threads::new(2);
    let all = [Range { start: 0, end: 100 }];
    for (kept, odd) in Kept::ALL.into_iter().flat_map(|kept| [(kept, 64), (kept, 65)]) {
        let mut case = Case::new(2, 1, 24, 16, &[100]);
        case.shape.window = Some(5);
        let row = 2 * 24;
        for isa in Isa::available() {
            let clean = case.run(&pool, isa, &all, kept);
            let slot = case.tables[0][odd / 16] as usize * 16 + odd % 16;
            let (k, v) = (case.k.clone(), case.v.clone());
            case.k[slot * 24 + 3] = f32::NAN;
            case.v[slot * 24 + 5] = f32::NAN;
            let found = case.run(&pool, isa, &all, kept);
            (case.k, case.v) = (k, v);
            let unseen = |x: &[f32]| [&x[..odd * row], &x[(odd + 5) * row..]].concat();
            assert_eq!(bits(&unseen(&found)), bits(&unseen(&clean)), "{isa:?} {kept:?} NaN at {odd}");
            assert!(found[odd * row..(odd + 5) * row].chunks(24).all(|x| x[5].is_nan()), "{isa:?} {kept:?}");
        }
    }
}

/// Attends with two tokens of two sequences, of which each has a page of two keys.
fn attend_two(query_starts: &[u32], k: KvSlice<'_>, v: KvSlice<'_>) {
    let shape = AttentionShape { nq: 1, nkv: 1, d: 16, scale: 1.0, window: None, softcap: None };
    let mut batch = Batch::fresh(&[1, 1], 2);
    batch.query_starts = query_starts.to_vec();
    let operands = Operands { qkv: &[0.0; 2 * 48], shape: &shape, batch: &batch, k, v };
    Attention::default().attend(&Threads::new(1), Isa::best(), operands, &mut [0.0; 2 * 16]);
}

const KEYS_OF_TWO: KvSlice<'_> = KvSlice::F32(&[0.0; 64]);

#[test]
fn two_tokens_attend() {
    attend_two(&[0, 1, 2], KEYS_OF_TWO, KEYS_OF_TWO);
}

#[test]
#[should_panic(expected = "values are stored as the keys are")]
fn keys_and_values_are_of_one_kind() {
    let codes = KvSlice::Q8 { kind: Q8::Int8, codes: &[0; 64], scales: &[0.0; 4] };
    attend_two(&[0, 1, 2], KvSlice::Bf16(&[bf16::ZERO; 64]), codes);
}

#[test]
#[should_panic(expected = "values are stored as the keys are")]
fn codes_of_keys_and_values_are_of_one_kind() {
    let codes = |kind| KvSlice::Q8 { kind, codes: &[0; 64], scales: &[0.0; 4] };
    attend_two(&[0, 1, 2], codes(Q8::Int8), codes(Q8::E4M3));
}

#[test]
#[should_panic(expected = "query_starts ascend")]
fn sequences_share_no_rows() {
    attend_two(&[1, 0, 2], KEYS_OF_TWO, KEYS_OF_TWO);
}

#[test]
#[should_panic(expected = "query_starts ascend")]
fn sequences_have_rows_of_the_batch_alone() {
    attend_two(&[0, 1, 3], KEYS_OF_TWO, KEYS_OF_TWO);
}
