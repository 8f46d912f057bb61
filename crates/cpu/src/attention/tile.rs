//! The two products of attention, some query rows at a time, the sums held in registers.
use super::KEYS;
use crate::vector::{Vector, Work};
use std::marker::PhantomData;
use std::ops::Range;

/// Most rows of a tile, on any family.
pub(super) const MOST_ROWS: usize = 6;

/// Scores of some rows against a block of keys.
pub(super) struct Scores<'a> {
    /// The rows' queries, `d` floats each.
    pub q: &'a [*const f32],
    /// The block's keys, `[d, KEYS]`.
    pub kt: *const f32,
    pub d: usize,
    /// Factors on the keys' scores, `[KEYS]`.
    pub factors: *const f32,
    /// `[rows, KEYS]`.
    pub out: *mut f32,
}

/// Values of a block, weighed and added to some rows' outputs.
pub(super) struct Values<'a> {
    /// `[rows, KEYS]` weights.
    pub p: *const f32,
    /// Keys to add, in the block.
    pub keys: Range<usize>,
    /// Each key's value, `width` floats.
    pub v: &'a [*const f32; KEYS],
    /// `[rows, width]`.
    pub o: *mut f32,
    pub width: usize,
    /// What each row's output is multiplied with first.
    pub factors: &'a [f32],
}

/// One float of each row, in all lanes: these stay in registers, and keys and values are loaded one at a time.
#[inline(always)]
unsafe fn splats<V: Vector, const M: usize>(read: impl Fn(usize) -> f32) -> [V; M] {
    // SAFETY: the caller keeps the contract of `Vector`.
    unsafe {
        let mut x = [V::splat(0.0); M];
        for r in 0..M {
            x[r] = V::splat(read(r));
        }
        x
    }
}

struct ScoreTile<'a, V, const M: usize>(&'a Scores<'a>, PhantomData<V>);

impl<V: Vector, const M: usize> Work for ScoreTile<'_, V, M> {
    #[inline(always)]
    unsafe fn run(self) {
        let t = self.0;
        // SAFETY: the maker of `Scores` answers for the pointers.
        unsafe {
            let mut q = [std::ptr::null(); M];
            q.copy_from_slice(&t.q[..M]);
            for first in (0..KEYS).step_by(4 * V::LANES) {
                let mut acc = [[V::splat(0.0); 4]; M];
                let mut k = t.kt.add(first);
                for i in 0..t.d {
                    let x: [V; M] = splats(|r| *q[r].add(i));
                    for v in 0..4 {
                        let key = V::load(k.add(v * V::LANES));
                        for r in 0..M {
                            acc[r][v] = V::fma(x[r], key, acc[r][v]);
                        }
                    }
                    k = k.add(KEYS);
                }
                for r in 0..M {
                    for v in 0..4 {
                        let at = first + v * V::LANES;
                        acc[r][v].mul(V::load(t.factors.add(at))).store(t.out.add(r * KEYS + at));
                    }
                }
            }
        }
    }
}

struct ValueTile<'a, V, const M: usize, const N: usize>(&'a Values<'a>, usize, PhantomData<V>);

impl<V: Vector, const M: usize, const N: usize> Work for ValueTile<'_, V, M, N> {
    #[inline(always)]
    unsafe fn run(self) {
        let (t, column) = (self.0, self.1);
        // SAFETY: the maker of `Values` answers for the pointers.
        unsafe {
            let at = |r: usize, v: usize| t.o.add(r * t.width + column + v * V::LANES);
            let mut acc = [[V::splat(0.0); N]; M];
            for r in 0..M {
                let factor = V::splat(*t.factors.get_unchecked(r));
                for v in 0..N {
                    acc[r][v] = V::load(at(r, v)).mul(factor);
                }
            }
            for j in t.keys.clone() {
                let value = (*t.v.get_unchecked(j)).add(column);
                let p: [V; M] = splats(|r| *t.p.add(r * KEYS + j));
                for v in 0..N {
                    let value = V::load(value.add(v * V::LANES));
                    for r in 0..M {
                        acc[r][v] = V::fma(p[r], value, acc[r][v]);
                    }
                }
            }
            for r in 0..M {
                for v in 0..N {
                    acc[r][v].store(at(r, v));
                }
            }
        }
    }
}

macro_rules! by_rows {
    ($rows:expr, $m:ident => $call:expr) => {
        match $rows {
            1 => by_rows!(1, $m, $call),
            2 => by_rows!(2, $m, $call),
            3 => by_rows!(3, $m, $call),
            _ if const { V::QUERIES < 6 } => unreachable!("tiles have at most V::QUERIES rows"),
            4 => by_rows!(4, $m, $call),
            5 => by_rows!(5, $m, $call),
            _ => by_rows!(6, $m, $call),
        }
    };
    ($value:literal, $m:ident, $call:expr) => {{
        const $m: usize = $value;
        $call
    }};
}

/// Computes scores of `q.len()` rows, at most `V::QUERIES`.
///
/// # Safety
/// The machine has the family's instructions; the pointers cover rows, channels and keys.
#[inline(always)]
pub(super) unsafe fn score<V: Vector>(s: &Scores<'_>) {
    // SAFETY: the caller keeps the contract.
    unsafe { by_rows!(s.q.len(), M => V::enter(ScoreTile::<V, M>(s, PhantomData))) }
}

/// Adds values to `factors.len()` rows, at most `V::QUERIES`.
///
/// # Safety
/// The machine has the family's instructions; the pointers cover rows, channels and keys.
#[inline(always)]
pub(super) unsafe fn add_values<V: Vector>(s: &Values<'_>) {
    let mut column = 0;
    while column < s.width {
        // SAFETY: the caller keeps the contract.
        unsafe {
            column += V::LANES
                * match (s.width - column) / V::LANES {
                    4.. => {
                        by_rows!(s.factors.len(), M => V::enter(ValueTile::<V, M, 4>(s, column, PhantomData)));
                        4
                    }
                    2 | 3 => {
                        by_rows!(s.factors.len(), M => V::enter(ValueTile::<V, M, 2>(s, column, PhantomData)));
                        2
                    }
                    _ => {
                        by_rows!(s.factors.len(), M => V::enter(ValueTile::<V, M, 1>(s, column, PhantomData)));
                        1
                    }
                };
        }
    }
}
