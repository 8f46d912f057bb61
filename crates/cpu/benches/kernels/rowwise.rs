//! Operations on rows.
use crate::{Setting, best, floats, line};
use planish_cpu::rowwise::*;
use planish_tensor::Activation;
use planish_tensor::{Q8, q8};

/// Times every operation for a decode step, a small batch and a prompt.
pub fn rows(setting: &Setting) {
    line(&["op", "rows", "width", "us", "Gelem/s"].map(String::from));
    for t in [1, 16, 512] {
        norms(setting, t, 576);
        norms(setting, t, 4096);
        gates(setting, t, 1536);
    }
    for t in [1, 16] {
        logits(setting, t, 49152);
    }
}

fn report(op: &str, t: usize, width: usize, seconds: f64) {
    let rate = (t * width) as f64 / seconds;
    line(&[op.into(), t.to_string(), width.to_string(), format!("{:.2}", seconds * 1e6), format!("{:.2}", rate / 1e9)]);
}

fn norms(setting: &Setting, t: usize, h: usize) {
    let (pool, isa) = (&setting.threads, setting.isa);
    let (x, weight, delta) = (floats(t * h, 1), floats(h, 2), vec![1e-9; t * h]);
    let (mut y, mut out) = (x.clone(), vec![0.0; t * h]);
    let (mut codes, mut xs) = (vec![0u8; t * h], vec![0f32; t]);
    report("rms_norm", t, h, best(|| rms_norm(pool, isa, &x, &weight, 1e-5, &mut out)));
    report("add", t, h, best(|| add(pool, isa, &mut y, &delta)));
    for kind in Q8::ALL {
        let seconds = best(|| quantize_rows(pool, isa, kind, &x, h, Q8SliceMut { codes: &mut codes, xs: &mut xs }));
        report(&format!("q {kind:?}"), t, h, seconds);
        let mut want = vec![0; h];
        for (r, row) in x.chunks(h).enumerate() {
            assert_eq!(q8::quantize_activation_row(kind, row, &mut want), xs[r]);
            assert_eq!(want, codes[r * h..][..h]);
        }
    }
    let seconds = best(|| {
        let out = Q8SliceMut { codes: &mut codes, xs: &mut xs };
        add_rms_norm_quantize(pool, isa, Q8::Int8, &mut y, Some(&delta), &weight, 1e-5, out);
    });
    report("add norm q", t, h, seconds);
}

fn gates(setting: &Setting, t: usize, f: usize) {
    let (pool, isa) = (&setting.threads, setting.isa);
    let gate_up = floats(t * 2 * f, 1);
    let (mut out, mut codes, mut xs) = (vec![0.0; t * f], vec![0u8; t * f], vec![0f32; t]);
    for act in [Activation::Silu, Activation::GeluTanh] {
        report(&format!("{act:?}"), t, f, best(|| gated(pool, isa, &gate_up, f, act, &mut out)));
    }
    let seconds = best(|| {
        let out = Q8SliceMut { codes: &mut codes, xs: &mut xs };
        gated_quantize(pool, isa, Q8::Int8, &gate_up, f, Activation::Silu, out);
    });
    report("Silu q", t, f, seconds);
}

fn logits(setting: &Setting, t: usize, v: usize) {
    let (pool, isa) = (&setting.threads, setting.isa);
    let mut x = floats(t * v, 1);
    report("argmax", t, v, best(|| drop(argmax(pool, isa, &x, v))));
    report("log_softmax", t, v, best(|| log_softmax(pool, isa, &mut x, v)));
}
