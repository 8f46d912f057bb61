//! Numbers to work on, and counting what differs.
use planish_tensor::{Backend, DType, HostTensor, Tensor};

/// Deterministic numbers, roughly normal.
pub fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..n).map(|_| (0..4).map(|_| uniform()).sum::<f32>()).collect()
}

/// Gram matrix of `t` tokens whose channels are correlated and of different sizes; the `dead` ones are zero. Above the
/// diagonal stands what nobody may read.
pub fn gram(k: usize, t: usize, seed: u64, dead: &[usize]) -> Vec<f32> {
    let x = noise(t * k, seed);
    let alive = |j: usize| if dead.contains(&j) { 0.0 } else { 1.0 + (j % 7) as f32 };
    // By channels, so that the sums below run along memory.
    let channel = |j: usize| (0..t).map(move |r| r * k).map(|r| (x[r + j] + 0.8 * x[r + j / 3]) * alive(j)).collect();
    let channels: Vec<Vec<f32>> = (0..k).map(channel).collect();
    let mut g = vec![f32::NAN; k * k];
    for i in 0..k {
        for j in 0..=i {
            g[i * k + j] = channels[i].iter().zip(&channels[j]).map(|(a, b)| a * b).sum();
        }
    }
    g
}

/// A matrix on a device.
pub fn load<B: Backend>(b: &B, rows: usize, cols: usize, values: &[f32]) -> Tensor<B> {
    b.load(&HostTensor::from_f32(vec![rows, cols], values).unwrap()).unwrap()
}

/// Its elements.
pub fn read<B: Backend>(b: &B, t: &Tensor<B>) -> Vec<f32> {
    assert_eq!(t.dtype, DType::F32);
    planish_quant::calibrate::observe::read(b, t).unwrap()
}

/// Bit for bit, so that zeros with signs and NaN count.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Codes that differ.
pub fn different(a: &[u8], b: &[u8]) -> usize {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).filter(|(a, b)| a != b).count()
}

/// `a / b - 1`, without its sign.
pub fn off(a: f64, b: f64) -> f64 {
    if a == b { 0.0 } else { (a / b - 1.0).abs() }
}
