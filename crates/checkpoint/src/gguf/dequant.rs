//! ggml's block formats to f32, bit for bit as ggml's reference code computes them (no fused multiply-add).
//! Layouts: `ggml-common.h` of the ggml project.
use super::error::{GgufError, Result};
use super::types::GgmlType;
use half::{bf16, f16};

/// Widens whole blocks of `ty` to f32, in order.
///
/// # Errors
/// [`GgufError::Malformed`] when `blocks` is not `out.len()` elements of `ty`.
pub fn dequantize(ty: GgmlType, blocks: &[u8], out: &mut [f32]) -> Result<()> {
    let (elements, bytes) = (ty.block_elements(), ty.block_bytes());
    let fits = out.len().is_multiple_of(elements) && (out.len() / elements).checked_mul(bytes) == Some(blocks.len());
    if !fits {
        let expected = format!("{} elements in blocks of {elements} elements and {bytes} bytes", out.len());
        return Err(GgufError::malformed(format!("{ty} data"), expected, format!("{} bytes", blocks.len())));
    }
    let block: fn(&[u8], &mut [f32]) = match ty {
        GgmlType::F32 => |b, y| y[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        GgmlType::F16 => |b, y| y[0] = half_at(b, 0),
        GgmlType::BF16 => |b, y| y[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        GgmlType::Q4_0 => q4_0,
        GgmlType::Q4_1 => q4_1,
        GgmlType::Q5_0 => q5_0,
        GgmlType::Q5_1 => q5_1,
        GgmlType::Q8_0 => q8_0,
        GgmlType::Q4_K => q4_k,
        GgmlType::Q5_K => q5_k,
        GgmlType::Q6_K => q6_k,
    };
    for (b, y) in blocks.chunks_exact(bytes).zip(out.chunks_exact_mut(elements)) {
        block(b, y);
    }
    Ok(())
}

/// The f16 at byte `at`.
fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// d[2] qs[16]: low nibbles are elements 0 to 15, high nibbles 16 to 31.
fn q4_0(b: &[u8], y: &mut [f32]) {
    let (d, qs) = (half_at(b, 0), &b[2..18]);
    for i in 0..16 {
        y[i] = d * ((qs[i] & 15) as i32 - 8) as f32;
        y[i + 16] = d * ((qs[i] >> 4) as i32 - 8) as f32;
    }
}

/// d[2] m[2] qs[16]
fn q4_1(b: &[u8], y: &mut [f32]) {
    let (d, m, qs) = (half_at(b, 0), half_at(b, 2), &b[4..20]);
    for i in 0..16 {
        y[i] = d * (qs[i] & 15) as f32 + m;
        y[i + 16] = d * (qs[i] >> 4) as f32 + m;
    }
}

/// Elements `i` and `i + 16` of a 5-bit block: the nibbles of `qs[i]` under bits `i` and `i + 16` of `qh`.
fn five_bits(qh: &[u8], qs: &[u8], i: usize) -> (u8, u8) {
    let high = u32::from_le_bytes([qh[0], qh[1], qh[2], qh[3]]);
    let bit = |n: usize| ((high >> n) as u8 & 1) << 4;
    ((qs[i] & 15) | bit(i), (qs[i] >> 4) | bit(i + 16))
}

/// d[2] qh[4] qs[16]
fn q5_0(b: &[u8], y: &mut [f32]) {
    let d = half_at(b, 0);
    for i in 0..16 {
        let (low, high) = five_bits(&b[2..6], &b[6..22], i);
        y[i] = d * (low as i32 - 16) as f32;
        y[i + 16] = d * (high as i32 - 16) as f32;
    }
}

/// d[2] m[2] qh[4] qs[16]
fn q5_1(b: &[u8], y: &mut [f32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    for i in 0..16 {
        let (low, high) = five_bits(&b[4..8], &b[8..24], i);
        y[i] = d * low as f32 + m;
        y[i + 16] = d * high as f32 + m;
    }
}

/// d[2] qs[32]
fn q8_0(b: &[u8], y: &mut [f32]) {
    let d = half_at(b, 0);
    for i in 0..32 {
        y[i] = d * (b[2 + i] as i8) as f32;
    }
}

/// Scale and minimum of group `g` of eight, 6 bits each in 12 bytes: the first four groups lie in the low 6 bits of
/// bytes 0 to 3 and 4 to 7; the other four have their low nibbles in bytes 8 to 11 and their top bits in those bytes.
fn scale_and_min(s: &[u8], g: usize) -> (f32, f32) {
    let (scale, min) = if g < 4 {
        (s[g] & 63, s[g + 4] & 63)
    } else {
        ((s[g + 4] & 15) | (s[g - 4] >> 6) << 4, (s[g + 4] >> 4) | (s[g] >> 6) << 4)
    };
    (scale as f32, min as f32)
}

/// d[2] dmin[2] scales[12] qs[128]: each 32 bytes hold two groups of 32, low nibbles first.
fn q4_k(b: &[u8], y: &mut [f32]) {
    let (d, dmin, scales, qs) = (half_at(b, 0), half_at(b, 2), &b[4..16], &b[16..144]);
    for g in 0..8 {
        let (scale, min) = scale_and_min(scales, g);
        let (scale, min) = (d * scale, dmin * min);
        for i in 0..32 {
            let q = (qs[g / 2 * 32 + i] >> (g % 2 * 4)) & 15;
            y[g * 32 + i] = scale * q as f32 - min;
        }
    }
}

/// d[2] dmin[2] scales[12] qh[32] qs[128]: as Q4_K, with the fifth bit of group g in bit g of `qh`.
fn q5_k(b: &[u8], y: &mut [f32]) {
    let (d, dmin, scales) = (half_at(b, 0), half_at(b, 2), &b[4..16]);
    let (qh, qs) = (&b[16..48], &b[48..176]);
    for g in 0..8 {
        let (scale, min) = scale_and_min(scales, g);
        let (scale, min) = (d * scale, dmin * min);
        for i in 0..32 {
            let q = ((qs[g / 2 * 32 + i] >> (g % 2 * 4)) & 15) | ((qh[i] >> g) & 1) << 4;
            y[g * 32 + i] = scale * q as f32 - min;
        }
    }
}

/// ql[128] qh[64] scales[16] d[2]: two halves of 128 elements; in a half, 64 bytes of `ql` hold four runs of 32 (low
/// nibbles first) and 32 bytes of `qh` their top two bits.
fn q6_k(b: &[u8], y: &mut [f32]) {
    let (ql, qh, scales, d) = (&b[..128], &b[128..192], &b[192..208], half_at(b, 208));
    for run in 0..8 {
        let (half, r) = (run / 4, run % 4);
        for i in 0..32 {
            let low = (ql[half * 64 + r % 2 * 32 + i] >> (r / 2 * 4)) & 15;
            let high = (qh[half * 32 + i] >> (r * 2)) & 3;
            let q = (low | high << 4) as i32 - 32;
            let scale = scales[run * 2 + i / 16] as i8 as f32;
            y[run * 32 + i] = d * scale * q as f32;
        }
    }
}
