//! Rows onto an 8-bit grid, fast: the arithmetic of `planish_tensor::q8` in loops that a compiler can vectorise.
//! `Q8::encode` and `Q8::decode` are the definition; the tests compare every result with them.
use faer::traits::pulp;
use planish_tensor::Q8;

/// Adding and subtracting 1.5 · 2^23 rounds a small float to an integer, ties to even, on every instruction set.
const ROUNDER: f32 = 12_582_912.0;

/// Runs a loop compiled for the widest vectors of this machine; the arithmetic is the same on every one.
pub(crate) fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// The int8 value nearest to `units`, as `Q8::Int8` encodes it (`units` is not NaN).
#[inline(always)]
pub(crate) fn round_int8(units: f32) -> f32 {
    let clamped = units.clamp(-128.0, 127.0);
    (clamped + ROUNDER) - ROUNDER
}

/// Codes of `values`, each divided by the scale at the same index.
/// `units` receives the decoded codes, in units of the scale.
#[inline(always)]
pub(crate) fn encode_into(kind: Q8, values: &[f32], scales: &[f32], codes: &mut [u8], units: &mut [f32]) {
    if kind == Q8::Int8 {
        for ((u, c), (&v, &s)) in units.iter_mut().zip(codes).zip(values.iter().zip(scales)) {
            *u = round_int8(v / s);
            *c = *u as i8 as u8;
        }
        return;
    }
    for ((u, c), (&v, &s)) in units.iter_mut().zip(codes).zip(values.iter().zip(scales)) {
        *c = kind.encode(v / s);
        *u = kind.decode(*c);
    }
}

/// Codes of one row on one scale; `units` receives the decoded codes, in units of the scale.
#[inline(always)]
pub(crate) fn encode_row_into(kind: Q8, row: &[f32], scale: f32, codes: &mut [u8], units: &mut [f32]) {
    if kind == Q8::Int8 {
        for ((u, c), &w) in units.iter_mut().zip(codes).zip(row) {
            *u = round_int8(w / scale);
            *c = *u as i8 as u8;
        }
        return;
    }
    for ((u, c), &w) in units.iter_mut().zip(codes).zip(row) {
        *c = kind.encode(w / scale);
        *u = kind.decode(*c);
    }
}

/// Codes of one row on one scale.
pub(crate) fn encode_row(kind: Q8, row: &[f32], scale: f32, codes: &mut [u8]) {
    if kind != Q8::Int8 {
        return planish_tensor::q8::encode_weight_row(kind, row, scale, codes);
    }
    vectorised(
        #[inline(always)]
        || {
            for (c, &w) in codes.iter_mut().zip(row) {
                *c = round_int8(w / scale) as i8 as u8;
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int8_rounds_as_the_definition() {
        let mut values = vec![f32::MIN, f32::MAX, -0.0, 1e-40, 127.49999, -128.5, 126.5, 127.5];
        for i in -1200i32..1200 {
            let x = i as f32 / 8.0; // every eighth: all ties are among them
            values.extend([x, f32::from_bits(x.to_bits() + 1), f32::from_bits(x.to_bits().wrapping_sub(1))]);
        }
        values.retain(|x| !x.is_nan());
        for kind in Q8::ALL {
            let (mut codes, mut units) = (vec![0; values.len()], vec![0.0; values.len()]);
            encode_into(kind, &values, &vec![1.0; values.len()], &mut codes, &mut units);
            let mut row = vec![0; values.len()];
            encode_row(kind, &values, 1.0, &mut row);
            for (i, &x) in values.iter().enumerate() {
                assert_eq!(codes[i], kind.encode(x), "{kind:?} {x}");
                assert_eq!(row[i], codes[i], "{kind:?} {x}");
                assert_eq!(units[i], kind.decode(codes[i]), "{kind:?} {x}");
            }
        }
    }
}
