//! The definition of attention in plain loops: the same blocks, segments and orders as the vector engine.
use super::{KEYS, KvSlice, Operands, SEGMENT};
use crate::exp::{EXP_HIGH, EXP_LOW, LN2_HIGH, LN2_LOW, P, TANH, TANH_SWITCH};
use crate::threads::Threads;
use crate::vector::Shared;

/// One task for each token.
pub(super) fn run(threads: &Threads, o: Operands<'_>, out: &mut [f32]) {
    let (t, width) = (o.batch.t(), o.shape.nq * o.shape.d);
    let out = Shared(out.as_mut_ptr());
    threads.run(t, |token| {
        let seq = o.batch.query_starts.partition_point(|&s| s as usize <= token) - 1;
        // SAFETY: each task has its own row of `out`, which is [t, nq d].
        let row = unsafe { std::slice::from_raw_parts_mut(out.at(token * width), width) };
        for (head, out) in row.chunks_exact_mut(o.shape.d).enumerate() {
            attend(&o, seq, token, head, out);
        }
    });
}

/// What a row knows after some keys.
struct State {
    m: f32,
    l: f32,
    o: Vec<f32>,
}

impl State {
    fn new(d: usize) -> Self {
        State { m: f32::NEG_INFINITY, l: 0.0, o: vec![0.0; d] }
    }

    /// Adds a later stretch of keys.
    fn merge(&mut self, later: &State) {
        let m = larger(self.m, later.m);
        let (a, b) = (exp(self.m - m), exp(later.m - m));
        self.l = self.l.mul_add(a, later.l * b);
        self.o.iter_mut().zip(&later.o).for_each(|(x, y)| *x = x.mul_add(a, y * b));
        self.m = m;
    }
}

fn attend(o: &Operands<'_>, seq: usize, token: usize, head: usize, out: &mut [f32]) {
    let (visible, q, d) = (o.visible(seq, token), o.query(token, head), o.shape.d);
    let mut all = State::new(d);
    for segment in visible.start / SEGMENT..visible.end.div_ceil(SEGMENT) {
        let mut part = State::new(d);
        let first = (segment * SEGMENT).max(visible.start);
        let end = ((segment + 1) * SEGMENT).min(visible.end);
        for block in first / KEYS..end.div_ceil(KEYS) {
            let keys = (block * KEYS).max(first)..((block + 1) * KEYS).min(end);
            let mut scores = [f32::NEG_INFINITY; KEYS];
            let vector = |key| o.vector(seq, head / o.group(), key);
            for key in keys.clone() {
                let at = vector(key);
                let dot = (0..d).fold(0.0f32, |y, i| q[i].mul_add(element(o.k, at * d + i), y));
                let score = dot * (scale(o.k, at) * o.shape.scale);
                scores[key % KEYS] = o.shape.softcap.map_or(score, |cap| tanh(score / cap) * cap);
            }
            let m = larger(part.m, scores.iter().fold(f32::NEG_INFINITY, |a, &b| larger(a, b)));
            let factor = exp(part.m - m);
            let p = scores.map(|s| exp(s - m));
            part.l = part.l.mul_add(factor, sum(&p));
            part.m = m;
            for (c, o_c) in part.o.iter_mut().enumerate() {
                let weight = |key: usize| p[key % KEYS] * scale(o.v, vector(key));
                let add = |y: f32, key: usize| weight(key).mul_add(element(o.v, vector(key) * d + c), y);
                *o_c = keys.clone().fold(*o_c * factor, add);
            }
        }
        all.merge(&part);
    }
    let share = 1.0 / all.l;
    out.iter_mut().zip(&all.o).for_each(|(y, x)| *y = x.mul_add(share, 0.0));
}

fn element(from: KvSlice<'_>, i: usize) -> f32 {
    match from {
        KvSlice::F32(x) => x[i],
        KvSlice::Bf16(x) => x[i].to_f32(),
        KvSlice::Q8 { kind, codes, .. } => kind.decode(codes[i]),
    }
}

/// What the elements of a vector are multiplied with.
fn scale(from: KvSlice<'_>, vector: usize) -> f32 {
    if let KvSlice::Q8 { scales, .. } = from { scales[vector] } else { 1.0 }
}

/// The larger; `b` if either is NaN.
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Sum of a block: sixteen running sums, added by halves.
fn sum(p: &[f32; KEYS]) -> f32 {
    let mut sums: [f32; 16] = std::array::from_fn(|i| p[i]);
    for (i, x) in p.iter().enumerate().skip(16) {
        sums[i % 16] += x;
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
    }
    sums[0]
}

/// exp as the vector families compute it.
fn exp(x: f32) -> f32 {
    if x < EXP_LOW {
        return 0.0;
    }
    let y = if x > EXP_HIGH { EXP_HIGH } else { x };
    let n = (y * std::f32::consts::LOG2_E).round_ties_even();
    let r = (-n).mul_add(LN2_LOW, (-n).mul_add(LN2_HIGH, y));
    let p = P[..4].iter().rev().fold(P[4], |p, &c| p.mul_add(r, c));
    let p = p.mul_add(r * r, r) + 1.0;
    let (n, power) = (n as i32, |e: i32| f32::from_bits(((e + 127) as u32) << 23));
    p * power(n >> 1) * power(n - (n >> 1))
}

fn tanh(x: f32) -> f32 {
    if x.abs() >= TANH_SWITCH {
        let e = exp(x.abs() * -2.0);
        return ((1.0 - e) / (1.0 + e)).copysign(x);
    }
    let p = TANH[1..].iter().fold(TANH[0], |p, &c| p.mul_add(x * x, c));
    (p * (x * x)).mul_add(x, x)
}
