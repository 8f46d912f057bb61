//! Products: float and 8-bit linears, and Gram matrices.
use super::case::{Case, Check, Judge, Output, activations, blank, put, read};
use super::data::Random;
use crate::{Backend, DType, FloatMath, HostTensor, LinearPart, Q8, Q8Rows, Result};

pub(super) fn cases(judge: &mut impl Judge, random: &mut Random) {
    for i in 0..30 {
        let (t, k) = (random.rows(i), random.size());
        judge.hear(&Float::new(random, i, t, k));
        let (t, k) = (random.rows(i), random.size());
        judge.hear(&W8A8::new(random, Q8::ALL[i % 3], t, k));
        if i < 12 {
            let (t, k) = (random.rows(i), random.size());
            judge.hear(&Gram::new(random, [FloatMath::F32, FloatMath::Bf16][i % 2], t, k));
        }
    }
    // Sums of many terms, and more rows than a stretch.
    judge.hear(&Float::new(random, 1, 3, 2053));
    judge.hear(&W8A8::new(random, Q8::Int8, 5, 4111));
    judge.hear(&W8A8::new(random, Q8::E4M3, 5, 1031));
    judge.hear(&Gram::new(random, FloatMath::F32, 1030, 19));
}

/// One to three sizes that a linear's parts have.
fn part_sizes(random: &mut Random) -> Vec<usize> {
    (0..1 + random.below(3)).map(|_| random.size()).collect()
}

fn bias(random: &mut Random, n: usize) -> Option<Vec<f32>> {
    (random.below(2) == 0).then(|| random.floats(n))
}

/// Magnitudes that leave room for a zero in place of a subnormal: bf16 instructions take and give none of those.
fn normal(mut magnitudes: Vec<f32>) -> Vec<f32> {
    magnitudes.iter_mut().for_each(|m| *m = m.max(1e-30));
    magnitudes
}

struct Float {
    math: FloatMath,
    k: usize,
    x: Vec<f32>,
    parts: Vec<LinearPart>,
    /// Output in f32, as logits are.
    wide: bool,
}

impl Float {
    fn new(random: &mut Random, i: usize, t: usize, k: usize) -> Float {
        let dtype = [DType::BF16, DType::F32, DType::F16][i % 3];
        let parts = part_sizes(random).into_iter();
        let parts = parts.map(|n| LinearPart::float(random.weight(dtype, n, k), bias(random, n))).collect();
        let math = if i % 5 == 4 { FloatMath::Bf16 } else { FloatMath::F32 };
        Float { math, k, x: random.odd_activations(t, k), parts, wide: i.is_multiple_of(2) }
    }

    /// `Σ |x| |w| + |bias|` of each output.
    fn magnitudes(&self) -> Vec<f32> {
        let mut channels: Vec<(Vec<f32>, f32)> = Vec::new();
        for part in &self.parts {
            let bias = |c: usize| part.bias.as_ref().map_or(0.0, |b| b[c].abs());
            let rows = part.weight.to_f32();
            channels.extend(rows.chunks(self.k).enumerate().map(|(c, row)| (row.to_vec(), bias(c))));
        }
        let sum = |x: &[f32], w: &[f32], bias: f32| x.iter().zip(w).fold(bias, |sum, (a, b)| sum + (a * b).abs());
        self.x.chunks(self.k).flat_map(|x| channels.iter().map(move |(w, bias)| sum(x, w, *bias))).collect()
    }
}

impl Case for Float {
    fn operation(&self) -> &'static str {
        "gemm_float"
    }

    fn describe(&self) -> String {
        let weights: Vec<&HostTensor> = self.parts.iter().map(|p| &p.weight).collect();
        format!("x [{}, {}] · {weights:?} {:?}", self.x.len() / self.k, self.k, self.math)
    }

    fn run<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        let linear = b.load_linear(&self.parts)?;
        let n = b.linear_shape(&linear).n;
        let dtype = if self.wide { DType::F32 } else { b.activation_dtype() };
        let mut out = blank(b, dtype, self.x.len() / self.k, n)?;
        b.gemm_float(&activations(b, self.k, &self.x)?, &linear, self.math, &mut out)?;
        let check = match self.math {
            FloatMath::F32 => Check::Product(self.magnitudes()),
            FloatMath::Bf16 => Check::Bf16Product(normal(self.magnitudes())),
        };
        Ok(vec![read(b, &mut out, check)?, shape(b, &linear)])
    }
}

/// What the back end says of the linear.
fn shape<B: Backend>(b: &B, linear: &B::Linear) -> Output {
    let shape = b.linear_shape(linear);
    let kind = Q8::ALL.iter().position(|&q| Some(q) == shape.q8).map_or(-1.0, |i| i as f32);
    Output { cols: 3, dtype: DType::F32, values: vec![shape.n as f32, shape.k as f32, kind], check: Check::Equal }
}

struct W8A8 {
    kind: Q8,
    k: usize,
    x: Vec<f32>,
    xs: Vec<f32>,
    parts: Vec<LinearPart>,
}

impl W8A8 {
    fn new(random: &mut Random, kind: Q8, t: usize, k: usize) -> W8A8 {
        let mut parts = Vec::new();
        for n in part_sizes(random) {
            let codes = random.codes(kind, n * k);
            let weight = HostTensor::from_bytes(kind.dtype(), vec![n, k], codes).expect("sizes fit");
            parts.push(LinearPart::channels(weight, random.floats(n), bias(random, n)));
        }
        let x = random.codes(kind, t * k).into_iter().map(|c| kind.decode(c)).collect();
        let mut xs = random.floats(t);
        for scale in &mut xs {
            *scale = [f32::NAN, 0.0, *scale, *scale, *scale, *scale, *scale, *scale][random.below(8)];
        }
        W8A8 { kind, k, x, xs, parts }
    }
}

impl Case for W8A8 {
    fn operation(&self) -> &'static str {
        "gemm_w8a8"
    }

    fn describe(&self) -> String {
        let weights: Vec<&HostTensor> = self.parts.iter().map(|p| &p.weight).collect();
        format!("x [{}, {}] · {weights:?}", self.xs.len(), self.k)
    }

    fn multiplies(&self) -> Vec<Q8> {
        vec![self.kind]
    }

    fn run<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        let linear = b.load_linear(&self.parts)?;
        let codes = put(b, self.kind.dtype(), self.k, &self.x)?;
        let x = Q8Rows::of_tokens(codes, put(b, DType::F32, 1, &self.xs)?);
        let mut out = blank(b, b.activation_dtype(), self.xs.len(), b.linear_shape(&linear).n)?;
        b.gemm_w8a8(&x, &linear, &mut out)?;
        let check = if self.kind == Q8::Int8 { Check::Equal } else { Check::Float8 };
        Ok(vec![read(b, &mut out, check)?, shape(b, &linear)])
    }
}

struct Gram {
    math: FloatMath,
    k: usize,
    x: Vec<f32>,
    before: Vec<f32>,
}

impl Gram {
    fn new(random: &mut Random, math: FloatMath, t: usize, k: usize) -> Gram {
        Gram { math, k, x: random.activations(t, k), before: random.floats(k * k) }
    }

    /// `Σ |x_i| |x_j| + |before|` of each element of the lower triangle; zeros above it, which is to be left alone.
    fn magnitudes(&self) -> Vec<f32> {
        let mut sums: Vec<f32> = self.before.iter().map(|v| v.abs()).collect();
        for (at, sum) in sums.iter_mut().enumerate() {
            let (i, j) = (at / self.k, at % self.k);
            *sum = match j <= i {
                true => self.x.chunks(self.k).fold(*sum, |sum, row| sum + (row[i] * row[j]).abs()),
                false => 0.0,
            };
        }
        sums
    }
}

impl Case for Gram {
    fn operation(&self) -> &'static str {
        "accumulate_gram"
    }

    fn describe(&self) -> String {
        format!("x [{}, {}] {:?}", self.x.len() / self.k, self.k, self.math)
    }

    fn run<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        let mut gram = put(b, DType::F32, self.k, &self.before)?;
        b.accumulate_gram(&activations(b, self.k, &self.x)?, self.math, &mut gram)?;
        let check = match self.math {
            FloatMath::F32 => Check::Sum(self.magnitudes()),
            FloatMath::Bf16 => Check::Bf16Product(normal(self.magnitudes())),
        };
        Ok(vec![read(b, &mut gram, check)?])
    }
}
