//! Round-to-nearest with scales that blocks of a weight share: one for all, or one for each tile.
use crate::error::{Error, Result, check_len};
use planish_tensor::Q8;

/// Codes `[n, k]` of a weight and a scale for each row and each `columns` neighbours, `[n, ceil(k / columns)]`: equal
/// in all rows of a block of `rows`. Blocks at the edges may be smaller.
///
/// # Errors
/// `w` has not `n * k` elements, or one of them is NaN or infinite.
pub fn quantize_blocks(
    kind: Q8,
    w: &[f32],
    n: usize,
    k: usize,
    rows: usize,
    columns: usize,
) -> Result<(Vec<u8>, Vec<f32>)> {
    check_len("weight", w.len(), &[n, k])?;
    if let Some(at) = w.iter().position(|x| !x.is_finite()) {
        return Err(Error::Weight { row: at / k, column: at % k, value: w[at] });
    }
    let groups = k.div_ceil(columns);
    let mut scales = vec![0.0; n * groups];
    for (first, band) in scales.chunks_mut(rows * groups).enumerate().map(|(i, band)| (i * rows, band)) {
        for group in 0..groups {
            let of_row = |row: usize| &w[row * k..][group * columns..k.min((group + 1) * columns)];
            let rows = first..first + band.len() / groups;
            let absmax = rows.flat_map(of_row).fold(0.0f32, |m, x| m.max(x.abs()));
            band.iter_mut().skip(group).step_by(groups).for_each(|scale| *scale = kind.weight_scale(absmax));
        }
    }
    let code = |(i, x): (usize, &f32)| kind.encode(x / scales[i / k * groups + i % k / columns]);
    let codes = w.iter().enumerate().map(code).collect();
    Ok((codes, scales))
}

/// `||W - Wq|| / ||W||` of codes with such scales; 0 for a matrix of zeros.
pub fn relative_error(kind: Q8, w: &[f32], codes: &[u8], scales: &[f32], k: usize, columns: usize) -> f64 {
    let (groups, mut lost, mut total) = (k.div_ceil(columns), 0.0f64, 0.0f64);
    for (i, (&x, &code)) in w.iter().zip(codes).enumerate() {
        let value = kind.decode(code) * scales[i / k * groups + i % k / columns];
        lost += f64::from(x - value).powi(2);
        total += f64::from(x).powi(2);
    }
    if total == 0.0 { 0.0 } else { (lost / total).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_share_the_scale_of_their_largest() {
        let w = [448.0, 1.0, 2.0, -224.0, 0.5, 4.0, 0.0, 0.0, 896.0];
        let (codes, scales) = quantize_blocks(Q8::E4M3, &w, 3, 3, 2, 2).unwrap();
        assert_eq!(scales, [1.0, 4.0 / 448.0, 1.0, 4.0 / 448.0, f32::EPSILON, 2.0]);
        assert_eq!(codes.iter().map(|&c| Q8::E4M3.decode(c)).collect::<Vec<_>>()[..3], [448.0, 1.0, 224.0]);
        assert!(relative_error(Q8::E4M3, &w, &codes, &scales, 3, 2) < 1e-6);
        let (codes, scales) = quantize_blocks(Q8::Int8, &w, 3, 3, 3, 3).unwrap();
        assert_eq!(scales, [896.0 / 127.5; 3]);
        assert!(relative_error(Q8::Int8, &w, &codes, &scales, 3, 3) > 1e-3);
        assert!(quantize_blocks(Q8::Int8, &[1.0, f32::NAN], 1, 2, 1, 2).unwrap_err().to_string().contains('1'));
    }
}
