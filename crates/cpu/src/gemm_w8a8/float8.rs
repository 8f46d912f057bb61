//! FP8: f32 fused multiply-adds of exactly decoded values, input channels ascending, columns side by side.
//! A few rows decode the weights in registers; more rows decode a piece of a panel once and read it again from cache.
use super::Block;
use crate::simd::{Op, Simd};
use planish_tensor::Q8;

/// Input channels whose weights are decoded at a time: 48 columns of them fit the first-level cache.
const CHUNK: usize = 128;
/// Widest panel of any family.
const WIDTH: usize = 64;

pub(super) struct Product<'a, const E4M3: bool>(pub(super) Block<'a>);

impl<const E4M3: bool> Op for Product<'_, E4M3> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Product(b) = self;
        let (rows, k) = (b.xs.len(), b.w.k);
        let x = decode_tokens::<S, E4M3>(s, &b);
        let tiles = rows.div_ceil(S::ROWS);
        let mut decoded = if tiles == 1 { Vec::new() } else { vec![0f32; CHUNK * WIDTH] };
        let mut partial = if tiles > 1 && k > CHUNK { vec![0f32; rows * b.w.layout.width] } else { Vec::new() };
        let chunk = if tiles == 1 { k } else { CHUNK };
        for panel in b.panels.clone() {
            let (columns, vectors) = b.w.panel_width(panel);
            let first_column = panel * b.w.layout.width;
            for i in (0..k.max(1)).step_by(chunk.max(1)) {
                let channels = chunk.min(k - i);
                // SAFETY: rows, panel and channels are inside their buffers, whose sizes `pack` and `gemm_w8a8` set.
                unsafe {
                    let codes = b.w.codes.bytes().as_ptr().add(first_column * k + i * vectors * S::LANES);
                    if tiles > 1 {
                        for v in 0..channels * vectors {
                            let values = s.decode::<E4M3>(codes.add(v * S::LANES));
                            s.store(decoded.as_mut_ptr().add(v * S::LANES), values);
                        }
                    }
                    for tile in 0..tiles {
                        let (r, end) = (rows * tile / tiles, rows * (tile + 1) / tiles);
                        let t = Tile::<E4M3> {
                            x: x.as_ptr().add(r * k + i),
                            ldx: k,
                            channels,
                            codes,
                            decoded: if tiles > 1 { decoded.as_ptr() } else { std::ptr::null() },
                            first: i == 0,
                            last: i + channels >= k,
                            partial: partial.as_mut_ptr().wrapping_add(r * b.w.layout.width),
                            xs: b.xs.as_ptr().add(r),
                            ws: b.w.ws.as_ptr().add(first_column),
                            bias: b.w.bias.as_ptr().add(first_column),
                            out: b.out.add(r * b.w.n + first_column),
                            ldo: b.w.n,
                            columns,
                        };
                        match vectors {
                            1 => t.rows::<S, 1>(s, end - r),
                            2 => t.rows::<S, 2>(s, end - r),
                            3 => t.rows::<S, 3>(s, end - r),
                            _ => t.rows::<S, 4>(s, end - r),
                        }
                    }
                }
            }
        }
    }
}

/// The tokens' values, times the power of two that decoded weights lack: products are the same, and exact.
#[inline(always)]
fn decode_tokens<S: Simd, const E4M3: bool>(s: S, b: &Block<'_>) -> Vec<f32> {
    let (rows, k) = (b.xs.len(), b.w.k);
    let (kind, factor) = if E4M3 { (Q8::E4M3, S::E4M3_FACTOR) } else { (Q8::E5M2, 1.0) };
    // SAFETY: `rows` rows of `k` codes follow each other.
    let codes = unsafe { std::slice::from_raw_parts(b.x, rows * k) };
    let mut x = vec![0f32; codes.len()];
    let whole = codes.len() / S::LANES * S::LANES;
    for i in (0..whole).step_by(S::LANES) {
        // SAFETY: both slices have `whole` elements.
        unsafe {
            let values = s.decode::<E4M3>(codes.as_ptr().add(i));
            s.store(x.as_mut_ptr().add(i), s.mul(values, s.splat(factor * factor)));
        }
    }
    for i in whole..codes.len() {
        x[i] = kind.decode(codes[i]) * factor;
    }
    if E4M3 && codes.iter().fold(false, |nan, &code| nan | (code & 0x7F == 0x7F)) {
        for (x, &code) in x.iter_mut().zip(codes) {
            *x = kind.decode(code) * factor;
        }
    }
    x
}

/// One register tile's sources and targets.
struct Tile<const E4M3: bool> {
    x: *const f32,
    ldx: usize,
    channels: usize,
    codes: *const u8,
    /// The weights as f32, or null: then `codes` are decoded.
    decoded: *const f32,
    /// Sums start from zero, else from `partial`.
    first: bool,
    /// Sums end as outputs, else in `partial`.
    last: bool,
    /// `[rows][vectors][lanes]` sums.
    partial: *mut f32,
    xs: *const f32,
    ws: *const f32,
    bias: *const f32,
    out: *mut f32,
    ldo: usize,
    columns: usize,
}

impl<const E4M3: bool> Tile<E4M3> {
    /// # Safety
    /// As for [`Tile::run`]; `rows` is at most 8.
    #[inline(always)]
    unsafe fn rows<S: Simd, const V: usize>(&self, s: S, rows: usize) {
        // SAFETY: the caller's.
        unsafe {
            match rows {
                1 => self.run::<S, 1, V>(s),
                2 => self.run::<S, 2, V>(s),
                3 => self.run::<S, 3, V>(s),
                4 => self.run::<S, 4, V>(s),
                5 => self.run::<S, 5, V>(s),
                6 => self.run::<S, 6, V>(s),
                7 => self.run::<S, 7, V>(s),
                _ => self.run::<S, 8, V>(s),
            }
        }
    }

    /// `R` rows by `V` vectors.
    ///
    /// # Safety
    /// Every pointer must be valid for the tile.
    #[inline(always)]
    unsafe fn run<S: Simd, const R: usize, const V: usize>(&self, s: S) {
        // Never called; said here so that no code is made for it.
        if R > S::ROWS || V > S::VECTORS {
            return;
        }
        // SAFETY: the caller's. `partial` is used only if it was allocated.
        unsafe {
            let mut acc = [[s.splat(0.0); V]; R];
            if !self.first {
                for r in 0..R {
                    for v in 0..V {
                        acc[r][v] = s.load(self.partial.add((r * V + v) * S::LANES));
                    }
                }
            }
            if self.decoded.is_null() {
                for i in 0..self.channels {
                    let mut w = [s.splat(0.0); V];
                    for v in 0..V {
                        w[v] = s.decode::<E4M3>(self.codes.add((i * V + v) * S::LANES));
                    }
                    self.step(s, i, w, &mut acc);
                }
            } else {
                for i in 0..self.channels {
                    let mut w = [s.splat(0.0); V];
                    for v in 0..V {
                        w[v] = s.load(self.decoded.add((i * V + v) * S::LANES));
                    }
                    self.step(s, i, w, &mut acc);
                }
            }
            self.finish(s, acc);
        }
    }

    #[inline(always)]
    unsafe fn step<S: Simd, const R: usize, const V: usize>(
        &self,
        s: S,
        i: usize,
        w: [S::F; V],
        acc: &mut [[S::F; V]; R],
    ) {
        for r in 0..R {
            // SAFETY: the caller's.
            let x = s.splat(unsafe { *self.x.add(r * self.ldx + i) });
            for v in 0..V {
                acc[r][v] = s.fma(x, w[v], acc[r][v]);
            }
        }
    }

    #[inline(always)]
    unsafe fn finish<S: Simd, const R: usize, const V: usize>(&self, s: S, acc: [[S::F; V]; R]) {
        for r in 0..R {
            for v in 0..V {
                // SAFETY: the caller's. Columns from `columns` on are not written.
                unsafe {
                    if !self.last {
                        s.store(self.partial.add((r * V + v) * S::LANES), acc[r][v]);
                        continue;
                    }
                    let c = v * S::LANES;
                    let y = s.mul(s.mul(acc[r][v], s.splat(*self.xs.add(r))), s.load(self.ws.add(c)));
                    let y = s.add(y, s.load(self.bias.add(c)));
                    let out = self.out.add(r * self.ldo + c);
                    if v + 1 < V || self.columns == V * S::LANES {
                        s.store(out, y);
                    } else {
                        s.store_part(out, self.columns - c, y);
                    }
                }
            }
        }
    }
}
