//! Rotary positions, and the storing of new keys and values in their pages.
//! (a, b) becomes (a cos - b sin, b cos + a sin), each product rounded by itself, as in the reference models.
use crate::attention::KvSliceMut;
use crate::isa::Isa;
use crate::rowwise::{Q8SliceMut, Units, quantize_rows};
use crate::threads::Threads;
use crate::vector::Shared;
use half::bf16;
use planish_tensor::{AttentionShape, Batch};

/// Rotary angles in host memory; see [`planish_tensor::RopeTable`].
#[derive(Clone, Copy)]
pub struct RopeSlice<'a> {
    /// `[positions, 2 * half]`: cosines, then sines.
    pub cos_sin: &'a [f32],
    /// Pairs a head rotates.
    pub half: usize,
    /// Pairs are neighbours.
    pub interleaved: bool,
}

/// Floats below which waking other threads costs more than it saves.
const INLINE: usize = 1 << 14;

/// Rotates q and k inside `qkv` `[t, (nq + 2 nkv) d]` (if there are angles), and stores k and v at the batch's slots.
pub fn rope_store_kv(
    threads: &Threads,
    isa: Isa,
    qkv: &mut [f32],
    rope: Option<RopeSlice<'_>>,
    shape: &AttentionShape,
    batch: &Batch,
    k: &mut KvSliceMut<'_>,
    v: &mut KvSliceMut<'_>,
) {
    let (width, d) = (shape.qkv_width(), shape.d);
    assert_eq!(qkv.len(), batch.t() * width, "rope_store_kv: qkv is [t, (nq + 2 nkv) d]");
    assert!(rope.is_none_or(|r| 2 * r.half <= d), "rope_store_kv: more pairs than a head of {d} has");
    assert!(isa.runs_here(), "this machine has no {}", isa.name());
    let (t, row) = (batch.t(), Shared(qkv.as_mut_ptr()));
    let stores = [Store::new(isa, k, d), Store::new(isa, v, d)];
    // Tasks share out the tokens, whose slots differ; if some do not, the last token of a slot is to win.
    let inline = qkv.len() < INLINE || threads.count() == 1 || repeats(&batch.slots);
    let tasks = if inline { 1 } else { t.div_ceil(8).min(4 * threads.count()) };
    let task = |i: usize| {
        let mut codes = vec![0; if stores[0].has_codes() { shape.nkv * d } else { 0 }];
        let mut scales = vec![0.0; shape.nkv];
        for token in t * i / tasks..t * (i + 1) / tasks {
            // SAFETY: each task has its own tokens' rows, and slots that no other task writes.
            unsafe {
                let x = std::slice::from_raw_parts_mut(row.at(token * width), width);
                if let Some(rope) = &rope {
                    rotate(isa, &mut x[..(shape.nq + shape.nkv) * d], d, rope, batch.positions[token] as usize);
                }
                let slot = batch.slots[token] as usize;
                let first = slot / batch.page_size * shape.nkv * batch.page_size + slot % batch.page_size;
                let kv = x[shape.nq * d..].chunks_exact((shape.nkv * d).max(1));
                for (store, x) in stores.iter().zip(kv) {
                    store.put(first, batch.page_size, x, &mut codes, &mut scales);
                }
            }
        }
    };
    if tasks == 1 { task(0) } else { threads.run(tasks, task) }
}

/// Whether a slot occurs twice.
fn repeats(slots: &[u32]) -> bool {
    let (Some(&low), Some(&high)) = (slots.iter().min(), slots.iter().max()) else { return false };
    let mut seen = vec![0u64; (high - low) as usize / 64 + 1];
    slots.iter().any(|&slot| {
        let (word, bit) = ((slot - low) as usize / 64, 1 << ((slot - low) % 64));
        let twice = seen[word] & bit != 0;
        seen[word] |= bit;
        twice
    })
}

/// Keys or values of a layer, which tasks write at disjoint places.
struct Store {
    pages: Pages,
    isa: Isa,
    /// A pool of one, for quantizing.
    alone: Threads,
}

enum Pages {
    F32(Shared<f32>, usize),
    Bf16(Shared<bf16>, usize),
    Q8(Units, Shared<u8>, Shared<f32>, usize),
}

impl Store {
    fn new(isa: Isa, slice: &mut KvSliceMut<'_>, d: usize) -> Self {
        let pages = match slice {
            KvSliceMut::F32(s) => Pages::F32(Shared(s.as_mut_ptr()), s.len()),
            KvSliceMut::Bf16(s) => Pages::Bf16(Shared(s.as_mut_ptr()), s.len()),
            KvSliceMut::Q8 { units, codes, scales } => {
                assert_eq!(codes.len(), scales.len() * d, "rope_store_kv: a scale for each vector");
                Pages::Q8(*units, Shared(codes.as_mut_ptr()), Shared(scales.as_mut_ptr()), codes.len())
            }
        };
        Store { pages, isa, alone: Threads::new(1) }
    }

    fn has_codes(&self) -> bool {
        matches!(self.pages, Pages::Q8(..))
    }

    /// Stores a token's heads, of which `scales` has the number, `x[nkv * d]`, as vectors `first`, `first + step`, …
    ///
    /// # Safety
    /// No other task writes these vectors; `codes` is as long as `x` if codes are stored.
    unsafe fn put(&self, first: usize, step: usize, x: &[f32], codes: &mut [u8], scales: &mut [f32]) {
        let (&Pages::F32(_, len) | &Pages::Bf16(_, len) | &Pages::Q8(_, _, _, len)) = &self.pages;
        let d = x.len() / scales.len();
        assert!((first + (scales.len() - 1) * step + 1) * d <= len, "rope_store_kv: a slot is outside the pages");
        if let Pages::Q8(units, ..) = self.pages {
            quantize_rows(&self.alone, self.isa, units, x, d, Q8SliceMut { codes, xs: scales });
        }
        for (head, x) in x.chunks_exact(d).enumerate() {
            let vector = first + head * step;
            // SAFETY: inside the slice, as asserted, and the caller's alone; each vector has a scale.
            unsafe {
                match &self.pages {
                    Pages::F32(to, _) => std::ptr::copy_nonoverlapping(x.as_ptr(), to.at(vector * d), d),
                    Pages::Bf16(to, _) => {
                        round(self.isa, x, std::slice::from_raw_parts_mut(to.at(vector * d).cast::<u16>(), d));
                    }
                    Pages::Q8(_, to, to_scales, _) => {
                        std::ptr::copy_nonoverlapping(codes[head * d..][..d].as_ptr(), to.at(vector * d), d);
                        *to_scales.at(vector) = scales[head];
                    }
                }
            }
        }
    }
}

/// Rounds to bf16, to nearest even. One text for every family, as below.
fn round(isa: Isa, x: &[f32], to: &mut [u16]) {
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx2 {
        // SAFETY: the family runs here, as asserted, and those from AVX2 up have AVX2.
        return unsafe { round_avx2(x, to) };
    }
    let _ = isa;
    round_plain(x, to);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn round_avx2(x: &[f32], to: &mut [u16]) {
    round_plain(x, to);
}

/// As `bf16::from_f32`, in a form without branches.
#[inline(always)]
fn round_plain(x: &[f32], to: &mut [u16]) {
    for (to, x) in to.iter_mut().zip(x) {
        let bits = x.to_bits();
        let even = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
        *to = if bits & 0x7FFF_FFFF > 0x7F80_0000 { (bits >> 16) | 0x40 } else { even } as u16;
    }
}

/// Rotates heads of one token. One text for every family: the loops vectorise by themselves, to the same bits.
fn rotate(isa: Isa, heads: &mut [f32], d: usize, rope: &RopeSlice<'_>, position: usize) {
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx2 {
        // SAFETY: the family runs here, as asserted, and those from AVX2 up have AVX2.
        return unsafe { rotate_avx2(heads, d, rope, position) };
    }
    let _ = isa;
    heads.chunks_exact_mut(d).for_each(|x| rotate_plain(x, rope, position));
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn rotate_avx2(heads: &mut [f32], d: usize, rope: &RopeSlice<'_>, position: usize) {
    heads.chunks_exact_mut(d).for_each(|x| rotate_plain(x, rope, position));
}

#[inline(always)]
fn rotate_plain(x: &mut [f32], rope: &RopeSlice<'_>, position: usize) {
    let half = rope.half;
    let (cos, sin) = rope.cos_sin[position * 2 * half..][..2 * half].split_at(half);
    let turn = |a: &mut f32, b: &mut f32, c: f32, s: f32| {
        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
    };
    if rope.interleaved {
        for ((pair, &c), &s) in x.chunks_exact_mut(2).zip(cos).zip(sin) {
            let [a, b] = pair else { unreachable!("chunks of two") };
            turn(a, b, c, s);
        }
    } else {
        let (first, second) = x[..2 * half].split_at_mut(half);
        for (((a, b), &c), &s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            turn(a, b, c, s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use planish_tensor::Q8;

    fn shape() -> AttentionShape {
        AttentionShape { nq: 2, nkv: 1, d: 6, scale: 1.0, window: None, softcap: None }
    }

    /// Three tokens of one sequence at positions 0.. in page 1 of pages of four.
    fn batch() -> Batch {
        let mut batch = Batch::fresh(&[3], 4);
        batch.slots.iter_mut().for_each(|s| *s += 4);
        batch.page_tables = vec![1];
        batch
    }

    fn angle(position: usize, pair: usize) -> f64 {
        position as f64 * [1.0, 0.1][pair]
    }

    /// What element `at` of the rows `x` should become: two pairs of each head of q and k rotate.
    fn turned(x: &[f32], at: usize, interleaved: bool) -> f64 {
        let (token, head, i) = (at / 24, at % 24 / 6, at % 6);
        if i >= 4 || head == 3 {
            return x[at] as f64;
        }
        let (pair, part) = if interleaved { (i / 2, i % 2) } else { (i % 2, i / 2) };
        let other = if interleaved { at ^ 1 } else { at / 6 * 6 + (i + 2) % 4 };
        let (sin, cos) = angle(token, pair).sin_cos();
        x[at] as f64 * cos + x[other] as f64 * if part == 0 { -sin } else { sin }
    }

    #[test]
    fn rotates_in_f64s_direction_and_stores() {
        let (shape, batch, half) = (shape(), batch(), 2);
        let cos_sin: Vec<f32> = (0..3)
            .flat_map(|p| (0..4).map(move |i| if i < 2 { angle(p, i).cos() } else { angle(p, i - 2).sin() } as f32))
            .collect();
        let x: Vec<f32> = (0..3 * 24).map(|i| (i % 7) as f32 - 3.0).collect();
        for isa in Isa::available() {
            for (interleaved, bf) in [(false, false), (true, false), (false, true)] {
                let mut qkv = x.clone();
                let (mut k, mut v) = (vec![9.0f32; 48], vec![9.0f32; 48]);
                let (mut kb, mut vb) = (vec![bf16::ONE; 48], vec![bf16::ONE; 48]);
                let (mut ks, mut vs) = if bf {
                    (KvSliceMut::Bf16(&mut kb), KvSliceMut::Bf16(&mut vb))
                } else {
                    (KvSliceMut::F32(&mut k), KvSliceMut::F32(&mut v))
                };
                let rope = RopeSlice { cos_sin: &cos_sin, half, interleaved };
                rope_store_kv(&Threads::new(2), isa, &mut qkv, Some(rope), &shape, &batch, &mut ks, &mut vs);
                for (at, &y) in qkv.iter().enumerate() {
                    assert!((y as f64 - turned(&x, at, interleaved)).abs() < 1e-6, "{isa:?} element {at}");
                }
                let stored = [(2, &k, &kb), (3, &v, &vb)];
                for (head, f32s, bf16s) in stored {
                    for (token, i) in (0..3).flat_map(|t| (0..6).map(move |i| (t, i))) {
                        let (y, at) = (qkv[token * 24 + head * 6 + i], (4 + token) * 6 + i);
                        if bf {
                            assert_eq!(bf16s[at], bf16::from_f32(y));
                        } else {
                            assert_eq!(f32s[at], y);
                        }
                    }
                    assert!(bf || f32s[..24].iter().all(|&y| y == 9.0), "page 0 is untouched");
                }
            }
        }
    }

    #[test]
    fn rounds_as_bf16_does() {
        let odd = [f32::NAN, f32::from_bits(0x7F80_0001), f32::from_bits(0xFFFF_FFFF), f32::INFINITY, f32::MAX];
        let x: Vec<f32> = (0..40_000u32).map(|i| f32::from_bits(i.wrapping_mul(107_374_183))).chain(odd).collect();
        for isa in Isa::available() {
            let mut to = vec![0; x.len()];
            round(isa, &x, &mut to);
            assert!(to.iter().zip(&x).all(|(&y, &x)| y == bf16::from_f32(x).to_bits()), "{isa:?}");
        }
    }

    #[test]
    fn the_last_of_equal_slots_wins_on_any_number_of_threads() {
        let shape = AttentionShape { nq: 1, nkv: 1, d: 64, scale: 1.0, window: None, softcap: None };
        let mut batch = Batch::fresh(&[300], 16);
        batch.slots[7] = batch.slots[290];
        assert!(repeats(&batch.slots) && !repeats(&batch.slots[8..]) && !repeats(&[]));
        for kind in [Q8::Int8, Q8::E4M3] {
            let stored = [1, 3].map(|threads| {
                let mut qkv: Vec<f32> = (0..300 * 192).map(|i| (i % 977) as f32 - 400.0).collect();
                let mut memory = [vec![7u8; 304 * 64], vec![7u8; 304 * 64]];
                let mut scales = [vec![7.0f32; 304], vec![7.0f32; 304]];
                let ([k, v], [ks, vs]) = (&mut memory, &mut scales);
                let (mut k, mut v) = (
                    KvSliceMut::Q8 { units: kind.into(), codes: k, scales: ks },
                    KvSliceMut::Q8 { units: kind.into(), codes: v, scales: vs },
                );
                rope_store_kv(&Threads::new(threads), Isa::best(), &mut qkv, None, &shape, &batch, &mut k, &mut v);
                let mut row = [0; 64];
                let scale = planish_tensor::q8::quantize_activation_row(kind, &qkv[290 * 192 + 128..][..64], &mut row);
                assert_eq!((&memory[1][290 * 64..][..64], scales[1][290]), (&row[..], scale));
                (memory, scales)
            });
            assert_eq!(stored[0], stored[1]);
        }
    }

    #[test]
    fn without_angles_only_stores() {
        let (shape, batch) = (shape(), batch());
        let mut qkv: Vec<f32> = (0..72).map(|i| i as f32).collect();
        let (mut k, mut v) = (vec![0.0f32; 48], vec![0.0f32; 48]);
        let pool = Threads::new(1);
        let (mut ks, mut vs) = (KvSliceMut::F32(&mut k), KvSliceMut::F32(&mut v));
        rope_store_kv(&pool, Isa::best(), &mut qkv, None, &shape, &batch, &mut ks, &mut vs);
        assert!(qkv.iter().enumerate().all(|(i, &x)| x == i as f32));
        assert_eq!((k[30], v[30]), (36.0, 42.0));
    }
}
