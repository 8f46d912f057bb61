//! Rotary positions, and the storing of new keys and values in their pages.
//! (a, b) becomes (a cos - b sin, b cos + a sin), each product rounded by itself, as in the reference models.
use crate::attention::KvSliceMut;
use crate::isa::Isa;
use crate::threads::Threads;
use crate::vector::Shared;
use half::bf16;
use planish_tensor::{Batch, Q8, backend::AttentionShape, q8};

/// Rotary angles in host memory; see [`planish_tensor::backend::RopeTable`].
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
    let floats = qkv.len();
    let qkv = Shared(qkv.as_mut_ptr());
    let (k, v) = (Pages::new(k), Pages::new(v));
    // A task is a head, of all tokens: whatever the slots are, no two tasks write the same memory.
    let task = |head: usize| {
        for token in 0..batch.t() {
            // SAFETY: each task has its own head's columns of every row.
            let x = unsafe { std::slice::from_raw_parts_mut(qkv.at(token * width + head * d), d) };
            if let Some(rope) = rope
                && head < shape.nq + shape.nkv
            {
                rotate(isa, x, &rope, batch.positions[token] as usize);
            }
            let Some(kv_head) = head.checked_sub(shape.nq) else { continue };
            let (pages, kv_head) = if kv_head < shape.nkv { (&k, kv_head) } else { (&v, kv_head - shape.nkv) };
            let slot = batch.slots[token] as usize;
            let (page, offset) = (slot / batch.page_size, slot % batch.page_size);
            let vector = (page * shape.nkv + kv_head) * batch.page_size + offset;
            // SAFETY: each task has its own head's part of every page.
            unsafe { pages.put(vector, x) };
        }
    };
    let heads = shape.nq + 2 * shape.nkv;
    if floats < INLINE { (0..heads).for_each(task) } else { threads.run(heads, task) }
}

/// Keys or values as addresses and a length, for tasks that write disjoint parts.
enum Pages {
    F32(Shared<f32>, usize),
    Bf16(Shared<bf16>, usize),
    Q8(Q8, Shared<u8>, Shared<f32>, usize),
}

impl Pages {
    fn new(slice: &mut KvSliceMut<'_>) -> Self {
        match slice {
            KvSliceMut::F32(s) => Pages::F32(Shared(s.as_mut_ptr()), s.len()),
            KvSliceMut::Bf16(s) => Pages::Bf16(Shared(s.as_mut_ptr()), s.len()),
            KvSliceMut::Q8 { kind, codes, scales } => {
                Pages::Q8(*kind, Shared(codes.as_mut_ptr()), Shared(scales.as_mut_ptr()), codes.len())
            }
        }
    }

    /// Stores a head's channels as vector number `vector`.
    ///
    /// # Safety
    /// No other task writes this vector.
    unsafe fn put(&self, vector: usize, x: &[f32]) {
        let (&Pages::F32(_, len) | &Pages::Bf16(_, len) | &Pages::Q8(_, _, _, len)) = self;
        let at = vector * x.len();
        assert!(at + x.len() <= len, "rope_store_kv: a slot is outside the pages");
        // SAFETY: inside the slice, as asserted, and the caller's alone; each vector has a scale.
        unsafe {
            match self {
                Pages::F32(to, _) => std::ptr::copy_nonoverlapping(x.as_ptr(), to.at(at), x.len()),
                Pages::Bf16(to, _) => {
                    let to = std::slice::from_raw_parts_mut(to.at(at), x.len());
                    to.iter_mut().zip(x).for_each(|(o, &x)| *o = bf16::from_f32(x));
                }
                Pages::Q8(kind, to, scales, _) => {
                    let to = std::slice::from_raw_parts_mut(to.at(at), x.len());
                    *scales.at(vector) = q8::quantize_activation_row(*kind, x, to);
                }
            }
        }
    }
}

/// Rotates one head of one token. One text for every family: the loops vectorise by themselves, to the same bits.
fn rotate(isa: Isa, x: &mut [f32], rope: &RopeSlice<'_>, position: usize) {
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx2 {
        // SAFETY: the family runs here, as asserted, and those from AVX2 up have AVX2.
        return unsafe { rotate_avx2(x, rope, position) };
    }
    let _ = isa;
    rotate_plain(x, rope, position);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn rotate_avx2(x: &mut [f32], rope: &RopeSlice<'_>, position: usize) {
    rotate_plain(x, rope, position);
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
