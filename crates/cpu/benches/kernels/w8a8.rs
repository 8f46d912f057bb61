//! 8-bit products: shapes of a 135M model, of an 8B model's layer, and one weight that no cache holds.
use crate::{Setting, best, bytes, floats, line};
use planish_cpu::buffer::Aligned;
use planish_cpu::gemm_w8a8::{GroupedQ8, PackedQ8, Q8Slice, gemm_grouped, gemm_w8a8};
use planish_tensor::{Q8, q8};

const SHAPES: [(usize, usize); 6] = [(960, 576), (576, 576), (3072, 576), (576, 1536), (4096, 4096), (49152, 2048)];
const TOKENS: [usize; 8] = [1, 2, 4, 8, 16, 32, 128, 512];

/// Times every shape.
pub fn products(setting: &Setting) {
    let head = ["kind", "m", "n", "k", "us", "GOP/s", "% peak", "GB/s", "% read", "max error"];
    line(&head.map(String::from));
    let kinds: Vec<Q8> = Q8::ALL.into_iter().filter(|k| setting.kind.is_none_or(|only| only == *k)).collect();
    for kind in kinds {
        let chosen = !setting.shapes.is_empty();
        for &(n, k) in if chosen { &setting.shapes[..] } else { &SHAPES } {
            if n * k > 1 << 25 && kind == Q8::E5M2 {
                continue;
            }
            let codes: Vec<u8> = bytes(n * k, 1).iter().map(|&c| tame(kind, c)).collect();
            let ws = floats(n, 2);
            let w = PackedQ8::pack(kind, k, &[(&codes, &ws)], None, setting.isa, &setting.threads);
            for &m in if setting.tokens.is_empty() { &TOKENS[..] } else { &setting.tokens } {
                if (!chosen && m * n * k > 1 << 34) || (kind != Q8::Int8 && m * n * k > 1 << 31) {
                    continue;
                }
                product(setting, &w, &codes, &ws, m);
            }
        }
    }
}

fn product(setting: &Setting, w: &PackedQ8, codes: &[u8], ws: &[f32], m: usize) {
    let (kind, n, k) = (w.kind(), w.n(), w.k());
    // Aligned as a tensor is.
    let mut codes_of_x = Aligned::zeroed(m * k);
    let x = codes_of_x.bytes_mut();
    bytes(m * k, 3).iter().zip(&mut *x).for_each(|(&c, x)| *x = tame(kind, c));
    let xs = floats(m, 4);
    let mut out = vec![0f32; m * n];
    let seconds = best(|| gemm_w8a8(&setting.threads, Q8Slice { codes: x, xs: &xs }, w, &mut out));
    let mut error = 0f32;
    for i in (0..m * n).step_by(997) {
        let (r, c) = (i / n, i % n);
        let want = q8::rescale(q8::dot(kind, &x[r * k..][..k], &codes[c * k..][..k]), xs[r], ws[c], 0.0);
        error = error.max((out[i] - want).abs());
    }
    let rate = 2.0 * (m * n * k) as f64 / seconds;
    let bandwidth = w.bytes() as f64 / seconds;
    line(&[
        format!("{kind:?}"),
        m.to_string(),
        n.to_string(),
        k.to_string(),
        format!("{:.1}", seconds * 1e6),
        format!("{:.0}", rate / 1e9),
        format!("{:.1}", 100.0 * rate / setting.peak_int8),
        format!("{:.1}", bandwidth / 1e9),
        format!("{:.0}", 100.0 * bandwidth / setting.read),
        format!("{error}"),
    ]);
}

/// Times products whose groups of 128 input channels have scales of their own: one shape, or those that are asked for.
pub fn grouped(setting: &Setting) {
    const GROUP: usize = 128;
    line(&["grouped", "m", "n", "k", "us", "GOP/s"].map(String::from));
    let shapes = if setting.shapes.is_empty() { &[(4096, 4096)][..] } else { &setting.shapes };
    let tokens = if setting.tokens.is_empty() { &[1, 512][..] } else { &setting.tokens };
    for kind in [Q8::Int8, Q8::E4M3].into_iter().filter(|k| setting.kind.is_none_or(|only| only == *k)) {
        for &(n, k) in shapes {
            let codes: Vec<u8> = bytes(n * k, 1).iter().map(|&c| tame(kind, c)).collect();
            let groups = k.div_ceil(GROUP);
            let ws = floats(n * groups, 2);
            let w = GroupedQ8::pack(kind, k, GROUP, &[(&codes, &ws)], None, setting.isa, &setting.threads);
            for &m in tokens {
                let x: Vec<u8> = bytes(m * k, 3).iter().map(|&c| tame(kind, c)).collect();
                let (xs, mut out) = (floats(m * groups, 4), vec![0f32; m * n]);
                let seconds = best(|| gemm_grouped(&setting.threads, Q8Slice { codes: &x, xs: &xs }, &w, &mut out));
                let sizes = [m, n, k].map(|size| size.to_string());
                let rates =
                    [format!("{:.1}", seconds * 1e6), format!("{:.0}", 2.0 * (m * n * k) as f64 / seconds / 1e9)];
                line(&[vec![format!("{kind:?}")], sizes.to_vec(), rates.to_vec()].concat());
            }
        }
    }
}

/// A code that is a number.
fn tame(kind: Q8, code: u8) -> u8 {
    if kind == Q8::Int8 { code } else { code & 0xBB }
}

/// Times packing.
pub fn packing(setting: &Setting) {
    line(&["pack", "n", "k", "ms", "GB/s"].map(String::from));
    for kind in Q8::ALL {
        for (n, k) in SHAPES {
            let (codes, ws) = (bytes(n * k, 1), vec![1.0; n]);
            let seconds = best(|| {
                PackedQ8::pack(kind, k, &[(&codes, &ws)], None, setting.isa, &setting.threads);
            });
            line(&[
                format!("{kind:?}"),
                n.to_string(),
                k.to_string(),
                format!("{:.3}", seconds * 1e3),
                format!("{:.2}", (n * k) as f64 / seconds / 1e9),
            ]);
        }
    }
}
