//! A block of keys and values brought into the order of the tiles: keys as `[pairs of channels, KEYS]`,
//! values as `[pairs of keys, pitch]`. What is missing, keys or channels, is zero.
use crate::attention::KEYS;
use half::bf16;
use planish_tensor::Q8;
use std::arch::x86_64::*;

/// Rows of a block, in bytes of whatever the cache holds.
type Rows = [*const f32; KEYS];

/// The bf16 numbers that codes stand for, by magnitude bits: low bytes, then high bytes.
pub struct Table {
    bytes: [[u8; 128]; 2],
    /// Codes are integers, whose magnitude is their absolute value.
    signed: bool,
}

impl Table {
    pub fn new(kind: Q8) -> Table {
        let value = |code: usize| bf16::from_f32(kind.decode(code as u8)).to_bits();
        let byte = |shift: u32| std::array::from_fn(|code| (value(code) >> shift) as u8);
        Table { bytes: [byte(0), byte(8)], signed: kind == Q8::Int8 }
    }
}

/// A table in registers.
struct Lookup {
    tables: [[__m512i; 2]; 2],
    signed: bool,
}

impl Lookup {
    #[inline(always)]
    unsafe fn new(table: &Table) -> Lookup {
        // SAFETY: the caller has the instructions; a table has 128 bytes.
        let half = |which: usize, at: usize| unsafe { _mm512_loadu_si512(table.bytes[which].as_ptr().add(at).cast()) };
        Lookup { tables: [0, 1].map(|which| [half(which, 0), half(which, 64)]), signed: table.signed }
    }

    /// Low and high bytes of 64 codes.
    #[inline(always)]
    unsafe fn of(&self, codes: __m512i) -> [__m512i; 2] {
        // SAFETY: the caller has the instructions.
        unsafe {
            let magnitude = if self.signed { _mm512_abs_epi8(codes) } else { codes };
            // The index is seven bits: a sign is not seen.
            let [low, mut high] = self.tables.map(|[a, b]| _mm512_permutex2var_epi8(a, magnitude, b));
            let sign = _mm512_set1_epi8(-128);
            if self.signed {
                // -128 has no magnitude among the table's: it is found as 0, whose low byte is that of 0xC300, too.
                let lowest = _mm512_cmpeq_epi8_mask(codes, sign);
                high = _mm512_mask_blend_epi8(lowest, high, _mm512_set1_epi8(0xC3u8 as i8));
            }
            [low, _mm512_ternarylogic_epi32::<0xF8>(high, codes, sign)]
        }
    }
}

#[inline(always)]
fn mask(n: usize) -> u64 {
    if n >= 64 { !0 } else { (1 << n) - 1 }
}

/// Sixteen rows of sixteen 32-bit numbers, transposed.
#[inline(always)]
pub(super) unsafe fn transpose(row: impl Fn(usize) -> __m512i, put: impl Fn(usize, __m512i)) {
    // SAFETY: the caller has the instructions.
    unsafe {
        let mut fours = [_mm512_setzero_si512(); 16];
        for g in 0..4 {
            let (a, b, c, d) = (row(4 * g), row(4 * g + 1), row(4 * g + 2), row(4 * g + 3));
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            fours[4 * g] = _mm512_unpacklo_epi64(ab, cd);
            fours[4 * g + 1] = _mm512_unpackhi_epi64(ab, cd);
            let (ab, cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            fours[4 * g + 2] = _mm512_unpacklo_epi64(ab, cd);
            fours[4 * g + 3] = _mm512_unpackhi_epi64(ab, cd);
        }
        // fours[4g + c] holds, in its quarter q, column 4q + c of rows 4g..4g+4.
        for c in 0..4 {
            let (a, b, e, f) = (fours[c], fours[4 + c], fours[8 + c], fours[12 + c]);
            let ab_even = _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b);
            let ab_odd = _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b);
            let ef_even = _mm512_shuffle_i32x4::<0b10_00_10_00>(e, f);
            let ef_odd = _mm512_shuffle_i32x4::<0b11_01_11_01>(e, f);
            put(c, _mm512_shuffle_i32x4::<0b10_00_10_00>(ab_even, ef_even));
            put(4 + c, _mm512_shuffle_i32x4::<0b10_00_10_00>(ab_odd, ef_odd));
            put(8 + c, _mm512_shuffle_i32x4::<0b11_01_11_01>(ab_even, ef_even));
            put(12 + c, _mm512_shuffle_i32x4::<0b11_01_11_01>(ab_odd, ef_odd));
        }
    }
}

/// Part of a row: 64 bytes from `at` on, zeros from byte `end` on.
#[inline(always)]
unsafe fn part(row: *const f32, at: usize, end: usize) -> __m512i {
    // SAFETY: the caller has the instructions; the row has `end` bytes.
    unsafe { _mm512_maskz_loadu_epi8(mask(end.saturating_sub(at)), row.cast::<i8>().wrapping_add(at)) }
}

/// Calls `between` with every sixteenth key.
///
/// # Safety
/// The machine has the instructions; rows have `d` elements, and `to` room for a block.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
pub(super) unsafe fn keys_from_bf16(rows: &Rows, count: usize, d: usize, to: *mut f32, between: impl Fn(usize)) {
    for key in (0..count).step_by(16) {
        between(key);
        for c in (0..d).step_by(32) {
            // SAFETY: the caller keeps the contract.
            unsafe {
                transpose(
                    |i| part(rows[key + i], 2 * c, 2 * d),
                    |i, x| _mm512_storeu_si512(to.add((c / 2 + i) * KEYS + key).cast(), x),
                );
            }
        }
    }
}

/// # Safety
/// As for [`keys_from_bf16`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
pub(super) unsafe fn keys_from_codes(rows: &Rows, count: usize, d: usize, table: &Table, to: *mut f32) {
    // SAFETY: the caller keeps the contract.
    unsafe {
        let lookup = Lookup::new(table);
        // Bytes 2h and 2h + 1 of each lane, as (low, high) pairs.
        let order = |h: i32| {
            let lane = |k: i32| (4 * k + 2 * h) * 0x0101 + 0x4000;
            let byte: [i32; 16] = std::array::from_fn(|k| lane(k as i32) | ((lane(k as i32) + 0x0101) << 16));
            _mm512_loadu_si512(byte.as_ptr().cast())
        };
        let orders = [order(0), order(1)];
        for key in (0..count).step_by(16) {
            for c in (0..d).step_by(64) {
                transpose(
                    |i| part(rows[key + i], c, d),
                    |i, x| {
                        let [low, high] = lookup.of(x);
                        for h in 0..2 {
                            let pairs = _mm512_permutex2var_epi8(low, orders[h], high);
                            _mm512_storeu_si512(to.add((c / 2 + 2 * i + h) * KEYS + key).cast(), pairs);
                        }
                    },
                );
            }
        }
    }
}

/// Words 16 n .. 16 n + 16 of two registers, taken in turn.
#[inline(always)]
unsafe fn word_order(n: i32) -> __m512i {
    let lane: [i32; 16] = std::array::from_fn(|c| (16 * n + c as i32) * 0x1_0001 + (32 << 16));
    // SAFETY: the caller has the instructions.
    unsafe { _mm512_loadu_si512(lane.as_ptr().cast()) }
}

/// # Safety
/// As for [`keys_from_bf16`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
pub(super) unsafe fn values_from_bf16(
    rows: &Rows,
    count: usize,
    d: usize,
    to: *mut f32,
    pitch: usize,
    between: impl Fn(usize),
) {
    // SAFETY: the caller keeps the contract.
    unsafe {
        let orders = [word_order(0), word_order(1)];
        for j in 0..count.div_ceil(2) {
            if j % 8 == 0 {
                between(2 * j);
            }
            for c in (0..d).step_by(32) {
                let (a, b) = (part(rows[2 * j], 2 * c, 2 * d), part(rows[2 * j + 1], 2 * c, 2 * d));
                for h in 0..2 {
                    let pairs = _mm512_permutex2var_epi16(a, orders[h], b);
                    _mm512_storeu_si512(to.add(j * pitch + c + 16 * h).cast(), pairs);
                }
            }
        }
    }
}

/// # Safety
/// As for [`keys_from_bf16`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
pub(super) unsafe fn values_from_codes(rows: &Rows, count: usize, d: usize, table: &Table, to: *mut f32, pitch: usize) {
    // SAFETY: the caller keeps the contract.
    unsafe {
        let lookup = Lookup::new(table);
        // Bytes 32 n .. 32 n + 32 of two registers, taken in turn.
        let bytes = |n: u32| {
            let word: [u16; 32] = std::array::from_fn(|c| (32 * n as u16 + c as u16) * 0x0101 + 0x4000);
            _mm512_loadu_si512(word.as_ptr().cast())
        };
        let (bytes, words) = ([bytes(0), bytes(1)], [word_order(0), word_order(1)]);
        for j in 0..count.div_ceil(2) {
            for c in (0..d).step_by(64) {
                let of = |row: *const f32| lookup.of(part(row, c, d));
                let ([a_low, a_high], [b_low, b_high]) = (of(rows[2 * j]), of(rows[2 * j + 1]));
                for n in 0..2 {
                    let a = _mm512_permutex2var_epi8(a_low, bytes[n], a_high);
                    let b = _mm512_permutex2var_epi8(b_low, bytes[n], b_high);
                    for h in 0..2 {
                        let pairs = _mm512_permutex2var_epi16(a, words[h], b);
                        _mm512_storeu_si512(to.add(j * pitch + c + 32 * n + 16 * h).cast(), pairs);
                    }
                }
            }
        }
    }
}
