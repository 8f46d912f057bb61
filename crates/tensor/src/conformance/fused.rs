//! Fused operations, and the plain ones they stand for, from the same inputs.
use super::case::{Case, Check, Judge, Output, activations, blank, put, read};
use super::data::Random;
use crate::{Activation, Backend, DType, HostTensor, LinearPart, Q8, Q8Rows, Result};

pub(super) fn cases(judge: &mut impl Judge, random: &mut Random) {
    for i in 0..24 {
        let (t, h) = (random.rows(i), random.size());
        judge.hear(&Norm {
            kind: (i % 4 > 0).then(|| Q8::ALL[i % 4 - 1]),
            x: random.odd_activations(t, h),
            delta: (i / 4 % 2 == 0).then(|| random.activations(t, h)),
            weight: random.floats(h),
        });
        let (t, f) = (random.rows(i), random.size());
        let act = [Activation::Silu, Activation::GeluTanh][i % 2];
        judge.hear(&Gate { kind: Q8::ALL[i % 3], act, f, x: random.odd_activations(t, 2 * f) });
        judge.hear(&GatedProduct::new(random, i));
    }
}

/// Codes and scales.
pub(super) fn quantized<B: Backend>(b: &B, kind: Q8, mut rows: Q8Rows<B>) -> Result<[Output; 2]> {
    Ok([read(b, &mut rows.codes, Check::Codes(kind))?, read(b, &mut rows.scales, Check::Relative)?])
}

struct Norm {
    kind: Option<Q8>,
    x: Vec<f32>,
    delta: Option<Vec<f32>>,
    weight: Vec<f32>,
}

const EPS: f32 = 1e-5;

impl Case for Norm {
    fn operation(&self) -> &'static str {
        if self.kind.is_some() { "add_rms_norm_quantize" } else { "add_rms_norm" }
    }

    fn describe(&self) -> String {
        let (h, delta) = (self.weight.len(), if self.delta.is_some() { "with" } else { "without" });
        format!("x [{}, {h}] {delta} delta, to {:?}", self.x.len() / h, self.kind)
    }

    fn run<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        let h = self.weight.len();
        let weight = put(b, DType::F32, h, &self.weight)?;
        let delta = self.delta.as_ref().map(|delta| activations(b, h, delta)).transpose()?;
        let mut x = activations(b, h, &self.x)?;
        let (t, mut normed) = (x.rows, blank(b, x.dtype, x.rows, h)?);
        let mut outputs = Vec::new();
        if let Some(kind) = self.kind {
            let mut out = b.alloc_q8(kind, t, h)?;
            b.add_rms_norm_quantize(&mut x, delta.as_ref(), &weight, EPS, &mut normed, &mut out)?;
            outputs.extend(quantized(b, kind, out)?);
        } else {
            b.add_rms_norm(&mut x, delta.as_ref(), &weight, EPS, &mut normed)?;
            outputs.push(read(b, &mut normed, Check::Relative)?);
        }
        outputs.push(read(b, &mut x, Check::Equal)?);
        outputs.extend(self.plain(b)?);
        Ok(outputs)
    }
}

impl Norm {
    fn plain<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        let h = self.weight.len();
        let mut x = activations(b, h, &self.x)?;
        if let Some(delta) = &self.delta {
            b.add(&mut x, &activations(b, h, delta)?)?;
        }
        let mut normed = blank(b, x.dtype, x.rows, h)?;
        b.rms_norm(&x, &put(b, DType::F32, h, &self.weight)?, EPS, &mut normed)?;
        let Some(kind) = self.kind else { return Ok(vec![read(b, &mut normed, Check::Relative)?]) };
        let mut out = b.alloc_q8(kind, x.rows, h)?;
        b.quantize_rows(&normed, &mut out)?;
        Ok(quantized(b, kind, out)?.into())
    }
}

/// A gated product, and the plain product of the same weight.
struct GatedProduct {
    kind: Q8,
    act: Activation,
    k: usize,
    f: usize,
    x: Vec<f32>,
    xs: Vec<f32>,
    parts: [LinearPart; 2],
}

impl GatedProduct {
    fn new(random: &mut Random, i: usize) -> GatedProduct {
        let (kind, t) = (Q8::ALL[i % 3], random.rows(i));
        // Every other width is one that tiles of tensor cores like.
        let (k, f) = match i % 2 {
            0 => (random.size(), random.size()),
            _ => (16 * (1 + random.below(20)), 8 * (1 + random.below(20))),
        };
        let biased = i % 4 > 1;
        let parts = [(); 2].map(|()| {
            let weight = HostTensor::from_bytes(kind.dtype(), vec![f, k], random.codes(kind, f * k));
            let scales = random.floats(f).iter().map(|s| s / 16384.0).collect();
            let bias = biased.then(|| random.floats(f));
            LinearPart::channels(weight.expect("sizes fit"), scales, bias)
        });
        let x = random.codes(kind, t * k).into_iter().map(|c| kind.decode(c)).collect();
        GatedProduct {
            kind,
            act: [Activation::Silu, Activation::GeluTanh][i / 2 % 2],
            k,
            f,
            x,
            xs: random.floats(t),
            parts,
        }
    }
}

impl Case for GatedProduct {
    fn operation(&self) -> &'static str {
        "gemm_gated_quantize"
    }

    fn describe(&self) -> String {
        format!("x [{}, {}] · 2 x {} {:?} {:?}", self.xs.len(), self.k, self.f, self.kind, self.act)
    }

    fn multiplies(&self) -> Vec<Q8> {
        vec![self.kind]
    }

    fn run<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        let (t, f) = (self.xs.len(), self.f);
        let w = b.load_gated(&self.parts)?;
        let codes = put(b, self.kind.dtype(), self.k, &self.x)?;
        let x = Q8Rows::of_tokens(codes, put(b, DType::F32, 1, &self.xs)?);
        let act = b.activation_dtype();
        let (mut gate_up, mut inner) = (blank(b, act, t, 2 * f)?, blank(b, act, t, f)?);
        let mut out = b.alloc_q8(self.kind, t, f)?;
        b.gemm_gated_quantize(&x, &w, self.act, &mut gate_up, &mut inner, &mut out)?;
        // Codes and scales together: sums in another order may move both.
        let [mut codes, scales] = quantized(b, self.kind, out)?;
        for (row, scale) in codes.values.chunks_mut(f).zip(&scales.values) {
            row.iter_mut().for_each(|code| *code *= scale);
        }
        let step = [1.0 / 127.0, 1.0 / 14.0, 1.0 / 7.0][Q8::ALL.iter().position(|&k| k == self.kind).unwrap_or(0)];
        let fused = Output { dtype: DType::F32, check: Check::Within(step + 1.0 / 128.0), ..codes };
        b.gemm_w8a8(&x, &w, &mut gate_up)?;
        let check = if self.kind == Q8::Int8 { Check::Equal } else { Check::Float8 };
        Ok(vec![fused, read(b, &mut gate_up, check)?])
    }
}

struct Gate {
    kind: Q8,
    act: Activation,
    f: usize,
    x: Vec<f32>,
}

impl Case for Gate {
    fn operation(&self) -> &'static str {
        "gated_quantize"
    }

    fn describe(&self) -> String {
        format!("x [{}, {}] {:?} to {:?}", self.x.len() / 2 / self.f, 2 * self.f, self.act, self.kind)
    }

    fn run<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        let x = activations(b, 2 * self.f, &self.x)?;
        let mut scratch = blank(b, x.dtype, x.rows, self.f)?;
        let mut out = b.alloc_q8(self.kind, x.rows, self.f)?;
        b.gated_quantize(&x, self.act, &mut scratch, &mut out)?;
        let fused = self.outputs(b, out)?;
        let mut out = b.alloc_q8(self.kind, x.rows, self.f)?;
        b.gated(&x, self.act, &mut scratch)?;
        b.quantize_rows(&scratch, &mut out)?;
        Ok(fused.into_iter().chain(self.outputs(b, out)?).collect())
    }
}

impl Gate {
    /// Codes and scales; a gate's value, and so a scale, is judged beside `|gate| |up|`.
    fn outputs<B: Backend>(&self, b: &B, out: Q8Rows<B>) -> Result<[Output; 2]> {
        let [codes, mut scales] = quantized(b, self.kind, out)?;
        let magnitude = |row: &[f32]| {
            let (gate, up) = row.split_at(self.f);
            let products = gate.iter().zip(up).map(|(a, b)| (a * b).abs());
            products.filter(|v| v.is_finite()).fold(0.0, f32::max) / self.kind.activation_range()
        };
        scales.check = Check::Sum(self.x.chunks(2 * self.f).map(magnitude).collect());
        Ok([codes, scales])
    }
}
