//! Weights whose groups of input channels have scales of their own: a product for each group, summed in order.
use super::{Block, Output, PackedQ8, Plan, Q8Slice, multiply, part};
use crate::isa::Isa;
use crate::simd::{Op, Simd, dispatch};
use crate::threads::Threads;
use crate::vector::Shared;
use planish_tensor::Q8;
use std::borrow::Cow;
use std::ops::Range;

/// Bytes of one group's products that lie between multiplying and adding: a part of the second-level cache.
const TERM_BYTES: usize = 1 << 17;
/// Codes that are not worth waking a thread for to bring them in order.
const CUT_INLINE: usize = 1 << 16;

/// An 8-bit weight `[n, k]` with a scale for each channel and each `size` neighbouring input channels.
pub struct GroupedQ8 {
    k: usize,
    size: usize,
    /// One weight `[n, size]` for each group (the last may be narrower), without biases.
    groups: Vec<PackedQ8>,
    /// `[n]`.
    bias: Option<Vec<f32>>,
}

impl GroupedQ8 {
    /// Packs weights with equal `k`, concatenated over `n`; each part is its codes `[n_i, k]` and scales
    /// `[n_i, groups]`. `bias` has the sum of all `n_i`. Panics if lengths disagree or `size` is 0.
    pub fn pack(
        kind: Q8,
        k: usize,
        size: usize,
        parts: &[(&[u8], &[f32])],
        bias: Option<Vec<f32>>,
        isa: Isa,
        threads: &Threads,
    ) -> GroupedQ8 {
        let count = k.div_ceil(size);
        let group = |g: usize| {
            let (first, width) = (g * size, size.min(k - g * size));
            let cut: Vec<(Vec<u8>, Vec<f32>)> = parts
                .iter()
                .map(|(codes, scales)| {
                    assert_eq!(codes.len() * count, scales.len() * k, "a scale for each group of a channel");
                    let codes = codes.chunks_exact(k).flat_map(|row| &row[first..first + width]).copied().collect();
                    (codes, scales.iter().skip(g).step_by(count).copied().collect())
                })
                .collect();
            let cut: Vec<(&[u8], &[f32])> = cut.iter().map(|(codes, scales)| (&codes[..], &scales[..])).collect();
            PackedQ8::pack(kind, width, &cut, None, isa, threads)
        };
        GroupedQ8 { k, size, groups: (0..count).map(group).collect(), bias }
    }

    /// Output channels.
    pub fn n(&self) -> usize {
        self.groups.first().map_or(0, PackedQ8::n)
    }

    /// Input channels.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The 8-bit type.
    pub fn kind(&self) -> Option<Q8> {
        self.groups.first().map(PackedQ8::kind)
    }

    /// Bytes that one pass reads.
    pub fn bytes(&self) -> usize {
        self.groups.iter().map(PackedQ8::bytes).sum()
    }

    /// Where the codes of group `g` begin among those of `t` tokens: all groups before it are of one size.
    fn first_code(&self, g: usize, t: usize) -> usize {
        g * t * self.groups[0].row_bytes()
    }
}

/// `out[t, n] = Σ_g (x_g · w_gᵀ * xs[t, g]) * ws[n, g] (+ bias[n])`, groups ascending; `x.xs` is `[t, groups]`.
/// Panics if lengths disagree.
pub fn gemm_grouped(threads: &Threads, x: Q8Slice<'_>, w: &GroupedQ8, out: &mut [f32]) {
    let (n, count) = (w.n(), w.groups.len());
    let t = x.xs.len().checked_div(count).unwrap_or(0);
    assert_eq!(x.xs.len(), t * count, "{count} scales for each token");
    assert_eq!((x.codes.len(), out.len()), (t * w.k, t * n), "codes and output of {t} tokens");
    if out.is_empty() {
        return;
    }
    let (tokens, plan) = (Tokens::new(threads, x, w, t), Plan::new(t, &w.groups[0], w.k, threads.count()));
    let call = Call { w, tokens, plan, out: Output(out.as_mut_ptr()) };
    threads.run(call.plan.tasks(), |task| call.run(task));
}

/// Codes and scales, group by group.
struct Tokens<'a> {
    t: usize,
    /// `[groups][t][row bytes of the group]`.
    codes: Cow<'a, [u8]>,
    /// `[groups][t]`.
    xs: Cow<'a, [f32]>,
}

impl<'a> Tokens<'a> {
    fn new(threads: &Threads, x: Q8Slice<'a>, w: &GroupedQ8, t: usize) -> Tokens<'a> {
        let row: usize = w.groups.iter().map(PackedQ8::row_bytes).sum();
        if t == 1 && row == w.k {
            return Tokens { t, codes: Cow::Borrowed(x.codes), xs: Cow::Borrowed(x.xs) };
        }
        let (mut codes, mut xs) = (vec![0; t * row], vec![0.0; x.xs.len()]);
        let (to, to_xs) = (Shared(codes.as_mut_ptr()), Shared(xs.as_mut_ptr()));
        let tasks = if t * row < CUT_INLINE { 1 } else { t.min(4 * threads.count()) };
        threads.run(tasks, |task| {
            for (r, g) in part(t, tasks, task).flat_map(|r| (0..w.groups.len()).map(move |g| (r, g))) {
                let (from, width) = (r * w.k + g * w.size, w.groups[g].k);
                // SAFETY: each token of each group has room of its own, in which its codes fit.
                unsafe {
                    let to = to.at(w.first_code(g, t) + r * w.groups[g].row_bytes());
                    std::ptr::copy_nonoverlapping(x.codes[from..from + width].as_ptr(), to, width);
                    *to_xs.at(g * t + r) = x.xs[r * w.groups.len() + g];
                }
            }
        });
        Tokens { t, codes: Cow::Owned(codes), xs: Cow::Owned(xs) }
    }
}

/// A product as tasks, each of which takes its rows and channels through all groups.
struct Call<'a> {
    w: &'a GroupedQ8,
    tokens: Tokens<'a>,
    plan: Plan,
    out: Output,
}

impl Call<'_> {
    fn run(&self, task: usize) {
        let ((rows, panels), first) = (self.plan.task(task), &self.w.groups[0]);
        let mut term = Vec::new();
        // So many at a time that what is added to stays near.
        let each = (TERM_BYTES / (4 * rows.len().max(1) * first.layout.width)).max(1);
        for start in panels.clone().step_by(each) {
            self.sum(rows.clone(), start..(start + each).min(panels.end), &mut term);
        }
    }

    /// All groups of some rows and panels; `term` is memory for the groups after the first.
    fn sum(&self, rows: Range<usize>, panels: Range<usize>, term: &mut Vec<f32>) {
        let (w, n) = (self.w, self.w.n());
        let (start, last) = (w.groups[0].panel(panels.start).first, w.groups[0].panel(panels.end - 1));
        let width = last.first + last.columns - start;
        term.resize(rows.len() * width, 0.0);
        // SAFETY: the rows and columns lie inside the output, and are this task's alone.
        let (out, isa) = (unsafe { self.out.at(rows.start * n) }, w.groups[0].isa);
        for g in 0..w.groups.len() {
            // Where column 0 would be.
            let (to, ldo) = if g == 0 { (out, n) } else { (term.as_mut_ptr().wrapping_sub(start), width) };
            multiply(self.block(g, rows.clone(), panels.clone(), to, ldo));
            if g > 0 {
                dispatch(
                    isa,
                    Add { rows: rows.len(), width, to: out.wrapping_add(start), ldo: n, from: term, ldf: width },
                );
            }
        }
        if let Some(bias) = &w.bias {
            let from = &bias[start..start + width];
            dispatch(isa, Add { rows: rows.len(), width, to: out.wrapping_add(start), ldo: n, from, ldf: 0 });
        }
    }

    fn block(&self, g: usize, rows: Range<usize>, panels: Range<usize>, out: *mut f32, ldo: usize) -> Block<'_> {
        let (group, Tokens { t, codes, xs }) = (&self.w.groups[g], &self.tokens);
        let ldx = group.row_bytes();
        let x = codes[self.w.first_code(g, *t) + rows.start * ldx..][..rows.len() * ldx].as_ptr();
        Block { w: group, x, ldx, xs: &xs[g * t..][rows], zeros: None, panels, out, ldo }
    }
}

/// Adds rows of numbers to rows of outputs.
struct Add<'a> {
    rows: usize,
    width: usize,
    /// First of the outputs, and numbers from row to row.
    to: *mut f32,
    ldo: usize,
    /// What is added, and numbers from row to row: none for one row that is added to all.
    from: &'a [f32],
    ldf: usize,
}

impl Op for Add<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for r in 0..self.rows {
            let from = &self.from[r * self.ldf..][..self.width];
            let whole = from.len() / S::LANES * S::LANES;
            // SAFETY: whoever made this answers for the outputs; vectors lie inside the rows.
            unsafe {
                let (to, p) = (self.to.add(r * self.ldo), from.as_ptr());
                for i in (0..whole).step_by(S::LANES) {
                    s.store(to.add(i), s.add(s.load(to.add(i)), s.load(p.add(i))));
                }
                (whole..from.len()).for_each(|i| *to.add(i) += from[i]);
            }
        }
    }
}
