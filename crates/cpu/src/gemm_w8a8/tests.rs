//! Every kernel family against the definition in `planish_tensor::q8`, bit for bit.
use super::*;
use crate::rowwise::Q8SliceMut;
use planish_tensor::q8;

/// A small generator of well spread numbers.
struct Random(u64);
impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }
    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }
    fn float(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 30) as f32 - 1.0
    }
    /// A code; an extreme one now and then.
    fn code(&mut self, kind: Q8) -> u8 {
        match (kind, self.below(8)) {
            (Q8::Int8, 0) => 0x80,
            (Q8::Int8, 1) => 0x7F,
            (Q8::Int8, _) => self.next() as u8,
            // Numbers: neither NaN nor infinity.
            (Q8::E4M3, _) => (self.next() as u8 & 0x80) | self.below(0x7F) as u8,
            (Q8::E5M2, _) => (self.next() as u8 & 0x80) | self.below(0x7C) as u8,
        }
    }
}

struct Case {
    kind: Q8,
    t: usize,
    n: usize,
    k: usize,
    x: Vec<u8>,
    xs: Vec<f32>,
    w: Vec<u8>,
    ws: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Case {
    fn new(random: &mut Random, kind: Q8, t: usize, n: usize, k: usize) -> Case {
        let mut codes = |len: usize| (0..len).map(|_| random.code(kind)).collect::<Vec<u8>>();
        let (x, w) = (codes(t * k), codes(n * k));
        let mut floats = |len: usize| (0..len).map(|_| random.float()).collect::<Vec<f32>>();
        let (xs, ws, bias) = (floats(t), floats(n), floats(n));
        Case { kind, t, n, k, x, xs, w, ws, bias: (random.below(2) == 0).then_some(bias) }
    }

    fn expected(&self) -> Vec<f32> {
        let mut y = Vec::with_capacity(self.t * self.n);
        for r in 0..self.t {
            for c in 0..self.n {
                let acc = q8::dot(self.kind, &self.x[r * self.k..][..self.k], &self.w[c * self.k..][..self.k]);
                y.push(q8::rescale(acc, self.xs[r], self.ws[c], self.bias.as_ref().map_or(0.0, |b| b[c])));
            }
        }
        y
    }

    fn run(&self, isa: Isa, threads: &Threads) -> Vec<f32> {
        // Two parts, as fused linears have.
        let cut = self.n / 3;
        let parts = [(&self.w[..cut * self.k], &self.ws[..cut]), (&self.w[cut * self.k..], &self.ws[cut..])];
        let w = PackedQ8::pack(self.kind, self.k, &parts, self.bias.clone(), isa, threads);
        assert_eq!((w.n(), w.k(), w.kind()), (self.n, self.k, self.kind));
        let mut out = vec![f32::MAX; self.t * self.n];
        gemm_w8a8(threads, Q8Slice { codes: &self.x, xs: &self.xs }, &w, &mut out);
        out
    }

    fn check(&self, isa: Isa, threads: &Threads) {
        let (got, want) = (self.run(isa, threads), self.expected());
        for (i, (g, w)) in got.iter().zip(&want).enumerate() {
            let at = (i / self.n, i % self.n);
            assert!(
                g.to_bits() == w.to_bits() || (g.is_nan() && w.is_nan()),
                "{isa:?} {:?} t={} n={} k={} threads={} at {at:?}: {g} for {w}",
                self.kind,
                self.t,
                self.n,
                self.k,
                threads.count()
            );
        }
    }
}

fn pools() -> [Threads; 3] {
    [1, 2, 3].map(Threads::new)
}

#[test]
fn every_family_equals_the_definition() {
    let (pools, mut random) = (pools(), Random(1));
    for i in 0..240 {
        let kind = if i % 2 == 0 { Q8::Int8 } else { Q8::ALL[1 + i / 2 % 2] };
        let (t, n, k) = (1 + random.below(129), 1 + random.below(129), 1 + random.below(129));
        let case = Case::new(&mut random, kind, if i % 3 == 0 { 1 + t % 9 } else { t }, n, k);
        for isa in Isa::available() {
            case.check(isa, &pools[i % 3]);
        }
    }
}

#[test]
fn long_sums_and_many_tasks() {
    let (pools, mut random) = (pools(), Random(2));
    for (kind, t, n, k) in [
        (Q8::Int8, 1, 200, 4100),
        (Q8::Int8, 10, 100, 9000),
        (Q8::Int8, 300, 150, 516),
        (Q8::Int8, 520, 65, 64),
        (Q8::Int8, 70, 100, 1500),
        (Q8::Int8, 33, 53, 3001),
        (Q8::E4M3, 1, 100, 700),
        (Q8::E4M3, 70, 100, 300),
        (Q8::E5M2, 20, 100, 129),
    ] {
        let case = Case::new(&mut random, kind, t, n, k);
        for isa in Isa::available() {
            for pool in &pools {
                case.check(isa, pool);
            }
        }
    }
}

#[test]
fn gate_and_up_by_blocks_equal_the_whole() {
    use crate::rowwise::gated_quantize;
    use planish_tensor::Activation;
    let mut random = Random(6);
    // Blocks of 256 rows, of 136, and of 40.
    for (kind, t, f, k) in
        [(Q8::Int8, 1031, 20, 40), (Q8::Int8, 420, 600, 12), (Q8::Int8, 300, 2048, 8), (Q8::E4M3, 800, 20, 24)]
    {
        let case = Case::new(&mut random, kind, t, 2 * f, k);
        let x = Q8Slice { codes: &case.x, xs: &case.xs };
        for (isa, pool) in Isa::available().into_iter().flat_map(|isa| pools().map(|pool| (isa, pool))) {
            let w = PackedQ8::pack(kind, k, &[(&case.w, &case.ws)], case.bias.clone(), isa, &pool);
            let (act, to) = (Activation::Silu, Q8::ALL[t % 3].into());
            let [mut whole, mut between] = [(); 2].map(|()| vec![f32::NAN; t * 2 * f]);
            let [mut want, mut got] = [(); 2].map(|()| (vec![9; t * f], vec![9.0; t]));
            gemm_w8a8(&pool, x, &w, &mut whole);
            gated_quantize(&pool, isa, to, &whole, f, act, Q8SliceMut { codes: &mut want.0, xs: &mut want.1 });
            let mut out = Q8SliceMut { codes: &mut got.0, xs: &mut got.1 };
            let taken = gemm_gated_quantize(&pool, x, &w, act, to, &mut between, &mut out);
            // Channels that are padded are the only reason to decline here.
            assert!(taken || w.layout.kp != k, "{isa:?} {t} {f} {k}");
            assert!(!taken || got == want, "{isa:?} {kind:?} {t} {f} {k} on {} threads", pool.count());
        }
    }
    let w = PackedQ8::pack(Q8::Int8, 8, &[(&[0; 64 * 8], &[1.0; 64])], None, Isa::best(), &Threads::new(1));
    let (x, mut xs) = ([0; 40 * 8], [0.0; 40]);
    let mut out = Q8SliceMut { codes: &mut [0; 40 * 32], xs: &mut xs };
    let x = Q8Slice { codes: &x, xs: &[0.0; 40] };
    let few = &mut [0.0; 40 * 64];
    assert!(!gemm_gated_quantize(&pools()[1], x, &w, Activation::Silu, Q8::Int8.into(), few, &mut out));
}

#[test]
fn groups_equal_the_definition() {
    use planish_tensor::grid::product;
    let (pools, mut random) = (pools(), Random(7));
    // A last group that is narrower, one group, groups that are padded; rows and channels for several tasks and pieces.
    for (i, (kind, t, n, k, size)) in [
        (Q8::Int8, 1, 200, 640, 128),
        (Q8::Int8, 1, 50, 100, 7),
        (Q8::Int8, 300, 150, 133, 32),
        (Q8::Int8, 70, 49, 128, 128),
        (Q8::E4M3, 1, 300, 1000, 128),
        (Q8::E4M3, 530, 400, 130, 64),
        (Q8::E4M3, 3, 17, 5, 1),
        (Q8::E5M2, 40, 65, 96, 32),
    ]
    .into_iter()
    .enumerate()
    {
        let (case, groups) = (Case::new(&mut random, kind, t, n, k), k.div_ceil(size));
        let mut floats = |len: usize| (0..len).map(|_| random.float()).collect::<Vec<f32>>();
        let (xs, ws, bias) = (floats(t * groups), floats(n * groups), (i % 2 == 0).then(|| floats(n)));
        let value = |r: usize, c: usize| {
            let x = (&case.x[r * k..][..k], &xs[r * groups..][..groups], 0);
            let y = product(kind, size, x, (&case.w[c * k..][..k], &ws[c * groups..][..groups]));
            bias.as_ref().map_or(y, |bias| y + bias[c]).to_bits()
        };
        let want: Vec<u32> = (0..t * n).map(|i| value(i / n, i % n)).collect();
        for (isa, pool) in Isa::available().into_iter().flat_map(|isa| pools.iter().map(move |pool| (isa, pool))) {
            let w = GroupedQ8::pack(kind, k, size, &[(&case.w, &ws)], bias.clone(), isa, pool);
            let mut out = vec![f32::NAN; t * n];
            gemm_grouped(pool, Q8Slice { codes: &case.x, xs: &xs }, &w, &mut out);
            let same = out.iter().zip(&want).all(|(y, &want)| y.to_bits() == want);
            assert!(same, "{isa:?} {kind:?} t={t} n={n} k={k} of {size} on {} threads", pool.count());
        }
    }
}

#[test]
#[should_panic(expected = "zero points of 1 tokens, and sums for them")]
fn weights_without_sums_take_no_zero_points() {
    let pool = Threads::new(1);
    let w = PackedQ8::pack(Q8::Int8, 8, &[(&[0; 3 * 8], &[1.0; 3])], None, Isa::best(), &pool);
    let (x, mut out) = (Q8Slice { codes: &[0; 8], xs: &[1.0] }, [0.0; 3]);
    gemm_w8a8_all(&pool, &mut [Product { x, zeros: Some(&[5]), w: &w, out: &mut out }]);
}

#[test]
#[should_panic(expected = "zero points of 2 tokens")]
fn every_token_has_a_zero_point() {
    let (pool, w) = (Threads::new(1), [0; 3 * 8]);
    let grid = Grid::Static { scale: 1.0, zero: 5 };
    let w = PackedQ8::pack(Q8::Int8, 8, &[(&w, &[1.0; 3])], None, Isa::best(), &pool).on(grid, &[(&w, &[1.0; 3])]);
    let (x, mut out) = (Q8Slice { codes: &[0; 16], xs: &[1.0; 2] }, [0.0; 6]);
    gemm_w8a8_all(&pool, &mut [Product { x, zeros: Some(&[5]), w: &w, out: &mut out }]);
}

#[test]
fn extremes_are_exact() {
    let (pools, mut random) = (pools(), Random(3));
    for (x, w) in [(0x80u8, 0x80u8), (0x80, 0x7F), (0x7F, 0x80), (0x7F, 0x7F)] {
        let mut case = Case::new(&mut random, Q8::Int8, 9, 50, 1000);
        case.x.fill(x);
        case.w.fill(w);
        for isa in Isa::available() {
            case.check(isa, &pools[0]);
        }
    }
}

#[test]
fn odd_scales_and_codes() {
    let (pools, mut random) = (pools(), Random(4));
    for kind in Q8::ALL {
        let mut case = Case::new(&mut random, kind, 12, 70, 40);
        case.xs[..3].copy_from_slice(&[0.0, f32::NAN, f32::INFINITY]);
        case.ws[1] = 0.0;
        if kind != Q8::Int8 {
            // Not-a-number weights, tokens; for E5M2 infinities.
            case.w[5 * 40 + 3] = 0x7F;
            case.w[69 * 40] = 0xFF;
            case.x[4 * 40 + 7] = 0xFF;
            case.w[7 * 40 + 3] = 0x7C;
            case.x[6 * 40 + 3] = 0xFC;
        }
        for isa in Isa::available() {
            case.check(isa, &pools[1]);
        }
    }
}

#[test]
fn empty_products() {
    let pool = Threads::new(1);
    for isa in Isa::available() {
        let mut random = Random(5);
        Case::new(&mut random, Q8::Int8, 0, 5, 8).check(isa, &pool);
        Case::new(&mut random, Q8::E4M3, 2, 5, 0).check(isa, &pool);
        Case::new(&mut random, Q8::Int8, 2, 5, 0).check(isa, &pool);
        Case::new(&mut random, Q8::Int8, 2, 0, 8).check(isa, &pool);
    }
}

#[test]
fn every_output_belongs_to_one_task() {
    let pool = Threads::new(1);
    for (t, n, k) in [(1, 576, 576), (16, 960, 576), (300, 100, 64), (700, 49, 4096), (5, 1, 1)] {
        let w = PackedQ8::pack(Q8::Int8, k, &[(&vec![0; n * k], &vec![1.0; n])], None, Isa::best(), &pool);
        for threads in [1, 2, 3, 64] {
            let plan = Plan::new(t, &w, k, threads);
            let mut seen = vec![0; t * w.panels()];
            for task in 0..plan.tasks() {
                let (rows, panels) = plan.task(task);
                assert!(rows.len() <= BLOCK_ROWS);
                rows.for_each(|r| panels.clone().for_each(|p| seen[r * w.panels() + p] += 1));
            }
            assert!(seen.iter().all(|&count| count == 1), "{t} {n} {k} {threads}");
        }
    }
}
