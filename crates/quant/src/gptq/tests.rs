//! GPTQ against the papers' own steps in f64, and its promises about losses, threads and hopeless input.
use super::*;

/// Deterministic numbers, roughly normal.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..n).map(|_| (0..4).map(|_| uniform()).sum::<f32>()).collect()
}

/// Gram matrix of `t` tokens whose channels are correlated and of different sizes.
fn gram(k: usize, t: usize, seed: u64) -> Vec<f32> {
    let (x, mut g) = (noise(t * k, seed), vec![0.0f32; k * k]);
    let at = |r: usize, j: usize| (x[r * k + j] + 0.8 * x[r * k + j / 3]) * (1.0 + (j % 7) as f32);
    for i in 0..k {
        for j in 0..=i {
            g[i * k + j] = (0..t).map(|r| at(r, i) * at(r, j)).sum();
        }
    }
    g
}

fn full(g: &[f32], k: usize) -> Vec<f64> {
    (0..k * k).map(|i| f64::from(g[(i / k).max(i % k) * k + (i / k).min(i % k)])).collect()
}

fn loss(w: &[f32], q: &[f32], g: &[f32], k: usize) -> f64 {
    let g = full(g, k);
    let mut sum = 0.0;
    for (w, q) in w.chunks(k).zip(q.chunks(k)) {
        let d: Vec<f64> = w.iter().zip(q).map(|(a, b)| f64::from(a - b)).collect();
        sum += (0..k).map(|i| d[i] * (0..k).map(|j| g[i * k + j] * d[j]).sum::<f64>()).sum::<f64>();
    }
    sum
}

/// The papers' steps: damp, invert, take the upper Cholesky factor of the inverse, update the columns to come.
fn textbook(kind: Q8, w: &[f32], k: usize, g: &[f32], damping: f64) -> Vec<u8> {
    let mut h = full(g, k);
    let mut order: Vec<usize> = (0..k).collect();
    order.sort_by(|&a, &b| h[b * k + b].total_cmp(&h[a * k + a]));
    let mean = (0..k).map(|j| h[j * k + j]).sum::<f64>() / k as f64;
    (0..k).for_each(|j| h[j * k + j] += damping * mean);
    let h: Vec<f64> = (0..k * k).map(|i| h[order[i / k] * k + order[i % k]]).collect();
    let u = upper_cholesky_of_inverse(&h, k);
    let mut codes = vec![0; w.len()];
    for (row, codes) in w.chunks(k).zip(codes.chunks_mut(k)) {
        let scale = f64::from(kind.weight_scale(planish_tensor::q8::absmax(row)));
        let mut now: Vec<f64> = order.iter().map(|&j| f64::from(row[j])).collect();
        for c in 0..k {
            let code = kind.encode((now[c] / scale) as f32);
            codes[order[c]] = code;
            let error = (now[c] - f64::from(kind.decode(code)) * scale) / u[c * k + c];
            (c..k).for_each(|j| now[j] -= error * u[c * k + j]);
        }
    }
    codes
}

fn upper_cholesky_of_inverse(h: &[f64], k: usize) -> Vec<f64> {
    let mut work: Vec<f64> = h.to_vec();
    let mut inverse: Vec<f64> = (0..k * k).map(|i| f64::from(u8::from(i / k == i % k))).collect();
    for p in 0..k {
        let pivot = work[p * k + p];
        for j in 0..k {
            work[p * k + j] /= pivot;
            inverse[p * k + j] /= pivot;
        }
        for i in (0..k).filter(|&i| i != p) {
            let f = work[i * k + p];
            for j in 0..k {
                work[i * k + j] -= f * work[p * k + j];
                inverse[i * k + j] -= f * inverse[p * k + j];
            }
        }
    }
    let mut u = vec![0.0; k * k]; // inverse = Uᵀ U
    for i in 0..k {
        for j in i..k {
            let sum = inverse[i * k + j] - (0..i).map(|p| u[p * k + i] * u[p * k + j]).sum::<f64>();
            u[i * k + j] = if i == j { sum.sqrt() } else { sum / u[i * k + i] };
        }
    }
    u
}

fn different(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).filter(|(a, b)| a != b).count()
}

#[test]
fn equals_the_textbook() {
    let (n, k) = (150, 75); // not multiples of the chunk and the panel
    let (w, g) = (noise(n * k, 1), gram(k, 300, 2));
    for kind in Q8::ALL {
        let got = quantize(kind, &w, n, &g, k, &GptqOptions::default()).unwrap();
        let wrong = different(&got.weight.codes, &textbook(kind, &w, k, &g, 0.01));
        let nearest = crate::rtn::quantize_rows(kind, &w, n, k).unwrap();
        let moved = different(&nearest.codes, &got.weight.codes);
        assert!(wrong <= 5, "{kind:?}: {wrong} of {} codes differ", n * k);
        assert!(moved > n * k / 50, "{kind:?}: only {moved} codes differ from round-to-nearest");
        assert_eq!(got.weight.scales, nearest.scales);
        let (gptq, rtn) = (got.proxy_loss.unwrap(), got.rtn_proxy_loss.unwrap());
        assert!(gptq < 0.8 * rtn, "{kind:?}: {gptq} {rtn}");
        let direct = loss(&w, &got.weight.dequantize(), &g, k);
        assert!((gptq / direct - 1.0).abs() < 1e-3, "{kind:?}: {gptq} {direct}");
        let direct = loss(&w, &nearest.dequantize(), &g, k);
        assert!((rtn / direct - 1.0).abs() < 1e-3, "{kind:?}: {rtn} {direct}");
    }
}

#[test]
fn threads_and_the_scale_of_the_gram_matrix_change_nothing() {
    let (n, k) = (3 * CHUNK_ROWS + 7, 40);
    let (w, g) = (noise(n * k, 3), gram(k, 90, 4));
    let one = quantize(Q8::Int8, &w, n, &g, k, &GptqOptions::default()).unwrap();
    for threads in [2, 3, 64] {
        let options = GptqOptions { threads, ..GptqOptions::default() };
        assert_eq!(quantize(Q8::Int8, &w, n, &g, k, &options).unwrap(), one);
    }
    let scaled: Vec<f32> = g.iter().map(|x| x * 1024.0).collect();
    let got = quantize(Q8::Int8, &w, n, &scaled, k, &GptqOptions::default()).unwrap();
    assert_eq!(got.weight, one.weight);
}

#[test]
fn better_scales_never_raise_the_loss() {
    let (n, k) = (60, 64);
    let (w, g) = (noise(n * k, 5), gram(k, 200, 6));
    for kind in Q8::ALL {
        let base = GptqOptions::default();
        let plain = quantize(kind, &w, n, &g, k, &base).unwrap();
        let refit = quantize(kind, &w, n, &g, k, &GptqOptions { refit_scales: true, ..base.clone() }).unwrap();
        assert_eq!(refit.weight.codes, plain.weight.codes);
        assert_ne!(refit.weight.scales, plain.weight.scales);
        for row in 0..n {
            let slice = |v: &[f32]| v[row * k..][..k].to_vec();
            let before = loss(&slice(&w), &slice(&plain.weight.dequantize()), &g, k);
            let after = loss(&slice(&w), &slice(&refit.weight.dequantize()), &g, k);
            assert!(after <= before * (1.0 + 1e-4), "{kind:?} row {row}: {before} {after}");
        }
        assert!(refit.proxy_loss < plain.proxy_loss);
        let both = GptqOptions { refit_scales: true, search_scales: true, ..base };
        let searched = quantize(kind, &w, n, &g, k, &both).unwrap();
        assert!(searched.proxy_loss <= searched.rtn_proxy_loss);
        assert_eq!(searched.rtn_proxy_loss, plain.rtn_proxy_loss);
    }
}

#[test]
fn dead_channels_keep_the_nearest_code() {
    let (n, k) = (20, 33);
    let (w, mut g) = (noise(n * k, 7), gram(k, 100, 8));
    for dead in [0, 11] {
        (0..k).for_each(|j| g[dead.max(j) * k + dead.min(j)] = 0.0);
    }
    let got = quantize(Q8::Int8, &w, n, &g, k, &GptqOptions::default()).unwrap();
    let nearest = crate::rtn::quantize_rows(Q8::Int8, &w, n, k).unwrap();
    assert_eq!(got.dead_columns, [0, 11]);
    for row in 0..n {
        for dead in [0, 11] {
            assert_eq!(got.weight.codes[row * k + dead], nearest.codes[row * k + dead]);
        }
    }
    assert!(!got.fell_back_to_rtn && got.proxy_loss < got.rtn_proxy_loss);
    let direct = loss(&w, &got.weight.dequantize(), &g, k);
    assert!((got.proxy_loss.unwrap() / direct - 1.0).abs() < 1e-3);
}

#[test]
fn falls_back_and_says_so() {
    let (n, k) = (4, 8);
    let w = noise(n * k, 9);
    let nearest = crate::rtn::quantize_rows(Q8::Int8, &w, n, k).unwrap();
    let hopeless: Vec<f32> = (0..k * k).map(|i| if i % (k + 1) == 0 { 1.0 } else { -9.0 }).collect();
    let not_a_number: Vec<f32> = (0..k * k).map(|i| if i % (k + 1) == 0 { 1.0 } else { f32::NAN }).collect();
    for gram in [vec![0.0; k * k], hopeless, not_a_number] {
        let got = quantize(Q8::Int8, &w, n, &gram, k, &GptqOptions::default()).unwrap();
        assert!(got.fell_back_to_rtn && got.damping_used.is_none() && got.proxy_loss.is_none());
        assert_eq!(got.weight, nearest);
    }
    // Off-diagonals a little too large for 1 % of damping, and for 10 %, but not for 100 %.
    let indefinite: Vec<f32> = (0..k * k).map(|i| if i % (k + 1) == 0 { 1.0 } else { -0.2 }).collect();
    let got = quantize(Q8::Int8, &w, n, &indefinite, k, &GptqOptions::default()).unwrap();
    assert_eq!((got.damping_used, got.fell_back_to_rtn), (Some(1.0), false));
}

#[test]
fn refuses_bad_input() {
    let options = GptqOptions::default();
    let identity = [1.0, 0.0, 0.0, 1.0];
    let message = |r: Result<GptqResult>| r.unwrap_err().to_string();
    assert!(message(quantize(Q8::Int8, &[1.0; 3], 2, &identity, 2, &options)).starts_with("weight: expected 4"));
    assert!(message(quantize(Q8::Int8, &[1.0; 4], 2, &[1.0; 3], 2, &options)).starts_with("Gram matrix: expected 4"));
    assert!(message(quantize(Q8::Int8, &[1.0, f32::NAN], 1, &identity, 2, &options)).contains("row 0, column 1"));
    let bad = [1.0, 0.0, 0.0, f32::INFINITY];
    assert!(message(quantize(Q8::Int8, &[1.0; 4], 2, &bad, 2, &options)).contains("Gram diagonal of channel 1"));
    let options = GptqOptions { damping: 0.0, ..options };
    assert!(message(quantize(Q8::Int8, &[1.0; 4], 2, &identity, 2, &options)).starts_with("damping"));
}
