//! FP8: f32 fused multiply-adds of exactly decoded values, input channels ascending, columns side by side.
//! The rows of one tile decode the weights in registers; more rows decode a piece of a panel once and read it from cache.
use super::tile::{self, Kernel, Target};
use super::{Block, part};
use crate::simd::{Op, Simd};
use planish_tensor::Q8;

/// Input channels whose weights are decoded at a time: 48 columns of them fit the first-level cache.
const CHUNK: usize = 128;
/// How far ahead weights are asked for.
const AHEAD: usize = 2048;

pub(super) struct Product<'a, const E4M3: bool>(pub(super) Block<'a>);

impl<const E4M3: bool> Op for Product<'_, E4M3> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Product(b) = self;
        let x = decode_tokens::<S, E4M3>(s, &b);
        if b.xs.len() <= S::ROWS { one_tile::<S, E4M3>(s, &b, &x) } else { many_tiles::<S, E4M3>(s, &b, &x) }
    }
}

#[inline(always)]
fn one_tile<S: Simd, const E4M3: bool>(s: S, b: &Block<'_>, x: &[f32]) {
    let (rows, k) = (b.xs.len(), b.w.k);
    for panel in b.panels.clone() {
        let panel = b.w.panel(panel);
        // SAFETY: rows and panel are inside their buffers, whose sizes `pack` and `gemm_w8a8` set.
        unsafe {
            let codes = b.w.codes.bytes().as_ptr().add(panel.first * k);
            let target = Target::new(b, 0..rows, &panel);
            tile::run(s, Coded::<E4M3> { x: x.as_ptr(), channels: k, codes, target }, rows, panel.width);
        }
    }
}

#[inline(always)]
fn many_tiles<S: Simd, const E4M3: bool>(s: S, b: &Block<'_>, x: &[f32]) {
    let (rows, k, width) = (b.xs.len(), b.w.k, b.w.layout.width);
    let (tiles, chunks) = (rows.div_ceil(S::ROWS), k.div_ceil(CHUNK).max(1));
    let mut decoded = vec![0f32; CHUNK * width];
    let mut partial = vec![0f32; if chunks > 1 { rows * width } else { 0 }];
    for panel in b.panels.clone() {
        let panel = b.w.panel(panel);
        for chunk in 0..chunks {
            let channels = part(k, chunks, chunk);
            // SAFETY: rows, panel and channels are inside their buffers, whose sizes `pack` and `gemm_w8a8` set.
            unsafe {
                let codes = b.w.codes.bytes().as_ptr().add(panel.first * k + channels.start * panel.width);
                for i in (0..channels.len() * panel.width).step_by(S::LANES) {
                    s.prefetch(codes.wrapping_add(i + AHEAD));
                    s.store(decoded.as_mut_ptr().add(i), s.decode::<E4M3>(codes.add(i)));
                }
                for tile in 0..tiles {
                    let rows = part(rows, tiles, tile);
                    let target = Target::new(b, rows.clone(), &panel);
                    let sums = Decoded {
                        x: x.as_ptr().add(rows.start * k + channels.start),
                        ldx: k,
                        channels: channels.len(),
                        w: decoded.as_ptr(),
                        partial: partial.as_mut_ptr().wrapping_add(rows.start * width),
                        target: Target { first: chunk == 0, last: chunk + 1 == chunks, ..target },
                    };
                    tile::run(s, sums, rows.len(), panel.width);
                }
            }
        }
    }
}

/// The tokens' values, times the power of two that decoded weights lack: products are the same, and exact.
#[inline(always)]
fn decode_tokens<S: Simd, const E4M3: bool>(s: S, b: &Block<'_>) -> Vec<f32> {
    let (kind, factor) = if E4M3 { (Q8::E4M3, S::E4M3_FACTOR) } else { (Q8::E5M2, 1.0) };
    // SAFETY: the block's rows of `k` codes follow each other.
    let codes = unsafe { std::slice::from_raw_parts(b.x, b.xs.len() * b.w.k) };
    let mut x = vec![0f32; codes.len()];
    let whole = codes.len() / S::LANES * S::LANES;
    for i in (0..whole).step_by(S::LANES) {
        // SAFETY: both slices have `whole` elements.
        unsafe {
            let values = s.decode::<E4M3>(codes.as_ptr().add(i));
            s.store(x.as_mut_ptr().add(i), s.mul(values, s.splat(factor * factor)));
        }
    }
    // The rest; and all, if there is a NaN, which fast decoding of E4M3 does not know.
    let nan = E4M3 && codes.iter().fold(false, |nan, &code| nan | (code & 0x7F == 0x7F));
    for i in if nan { 0 } else { whole }..codes.len() {
        x[i] = kind.decode(codes[i]) * factor;
    }
    x
}

/// Rows times weights as they are stored.
#[derive(Clone, Copy)]
struct Coded<const E4M3: bool> {
    x: *const f32,
    channels: usize,
    codes: *const u8,
    target: Target,
}

impl<const E4M3: bool> Kernel for Coded<E4M3> {
    #[inline(always)]
    unsafe fn run<S: Simd, const R: usize, const V: usize>(self, s: S) {
        let mut acc = [[s.splat(0.0); V]; R];
        let mut x = [self.x; R];
        for r in 0..R {
            x[r] = self.x.wrapping_add(r.min(self.target.rows - 1) * self.channels);
        }
        // SAFETY: the caller's.
        unsafe {
            for i in 0..self.channels {
                let codes = self.codes.add(i * V * S::LANES);
                s.prefetch(codes.wrapping_add(AHEAD));
                for v in 0..V {
                    let w = s.decode::<E4M3>(codes.add(v * S::LANES));
                    for r in 0..R {
                        acc[r][v] = s.fma(s.splat(*x[r].add(i)), w, acc[r][v]);
                    }
                }
            }
            for r in 0..R {
                for v in 0..V {
                    if r < self.target.rows {
                        self.target.put(s, r, v * S::LANES, acc[r][v]);
                    }
                }
            }
        }
    }
}

/// Rows times decoded weights.
#[derive(Clone, Copy)]
struct Decoded {
    x: *const f32,
    /// From row to row of `x`.
    ldx: usize,
    channels: usize,
    w: *const f32,
    /// `[rows][vectors][lanes]` sums of the channels before.
    partial: *mut f32,
    target: Target,
}

impl Kernel for Decoded {
    #[inline(always)]
    unsafe fn run<S: Simd, const R: usize, const V: usize>(self, s: S) {
        let mut acc = [[s.splat(0.0); V]; R];
        let mut x = [self.x; R];
        for r in 0..R {
            x[r] = self.x.wrapping_add(r.min(self.target.rows - 1) * self.ldx);
        }
        // SAFETY: the caller's; `partial` is used only if it was allocated.
        unsafe {
            for r in 0..R {
                for v in 0..V {
                    if !self.target.first && r < self.target.rows {
                        acc[r][v] = s.load(self.partial.add((r * V + v) * S::LANES));
                    }
                }
            }
            for i in 0..self.channels {
                let mut w = [s.splat(0.0); V];
                for v in 0..V {
                    w[v] = s.load(self.w.add((i * V + v) * S::LANES));
                }
                for r in 0..R {
                    let x = s.splat(*x[r].add(i));
                    for v in 0..V {
                        acc[r][v] = s.fma(x, w[v], acc[r][v]);
                    }
                }
            }
            for r in 0..R {
                for v in 0..V {
                    if r >= self.target.rows {
                        break;
                    }
                    if self.target.last {
                        self.target.put(s, r, v * S::LANES, acc[r][v]);
                    } else {
                        s.store(self.partial.add((r * V + v) * S::LANES), acc[r][v]);
                    }
                }
            }
        }
    }
}
