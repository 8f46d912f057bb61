//! Grids other than the usual one: quantizing rows, products, and norms and gates that end with them.
use super::case::{Case, Check, Judge, Output, activations, blank, put, read};
use super::data::Random;
use crate::{Activation, Backend, DType, Grid, HostTensor, LinearPart, Q8, Q8Rows, Result};

pub(super) fn cases(judge: &mut impl Judge, random: &mut Random) {
    for i in 0..36 {
        let (kind, grid) = kind_and_grid(random, i);
        let (t, k) = (random.rows(i), random.size());
        judge.hear(&Quantize { kind, grid, k, x: random.odd_activations(t, k) });
        let (t, k) = (random.rows(i), random.size());
        judge.hear(&Product::new(random, kind, grid, t, k));
        if grid != Grid::Asymmetric {
            let (t, h) = (random.rows(i), random.size());
            let (x, weight) = (random.odd_activations(t, h), random.floats(h));
            judge.hear(&Fused { kind, grid, x, weight: Some(weight), cols: h });
            let x = random.odd_activations(t, 2 * h);
            judge.hear(&Fused { kind, grid, x, weight: None, cols: h });
        }
    }
    // Sums of many terms and groups, and more rows than a tile.
    judge.hear(&Product::new(random, Q8::Int8, Grid::Asymmetric, 37, 2051));
    judge.hear(&Product::new(random, Q8::Int8, Grid::Static { scale: 0.01, zero: -128 }, 5, 4111));
    judge.hear(&Product::new(random, Q8::E4M3, Grid::Group(128), 5, 1031));
    judge.hear(&Product::new(random, Q8::E4M3, Grid::Powers(32), 33, 320));
}

fn kind_and_grid(random: &mut Random, i: usize) -> (Q8, Grid) {
    let scale = [0.004, 0.25, 3.0][random.below(3)];
    let float = [Q8::E4M3, Q8::E5M2][random.below(2)];
    match i % 6 {
        0 => (Q8::Int8, Grid::Asymmetric),
        1 => (Q8::Int8, Grid::Static { scale, zero: random.below(256) as u8 as i8 }),
        2 => (Q8::Int8, Grid::Static { scale, zero: 0 }),
        3 => (float, Grid::Static { scale, zero: 0 }),
        4 => (Q8::ALL[random.below(3)], Grid::Group([1, 16, 32, 128][random.below(4)])),
        _ => (float, Grid::Powers([16, 32][random.below(2)])),
    }
}

/// Codes, scales and, if there are some, zero points.
fn outputs<B: Backend>(b: &B, rows: &mut Q8Rows<B>, codes: Check, scales: Check) -> Result<Vec<Output>> {
    let mut out = vec![read(b, &mut rows.codes, codes)?, read(b, &mut rows.scales, scales)?];
    if let Some(zeros) = rows.zeros.as_mut().filter(|_| rows.grid == Grid::Asymmetric) {
        out.push(read(b, zeros, Check::Equal)?);
    }
    Ok(out)
}

struct Quantize {
    kind: Q8,
    grid: Grid,
    k: usize,
    x: Vec<f32>,
}

impl Case for Quantize {
    fn operation(&self) -> &'static str {
        "quantize_rows"
    }

    fn describe(&self) -> String {
        format!("x [{}, {}] {:?} {:?}", self.x.len() / self.k, self.k, self.kind, self.grid)
    }

    fn run<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        let mut out = b.alloc_q8_for(self.kind, &[self.grid], self.x.len() / self.k, self.k)?;
        b.quantize_rows(&activations(b, self.k, &self.x)?, &mut out)?;
        outputs(b, &mut out, Check::Equal, Check::Equal)
    }
}

struct Product {
    kind: Q8,
    grid: Grid,
    k: usize,
    codes: Vec<f32>,
    xs: Vec<f32>,
    zeros: Vec<i32>,
    parts: Vec<LinearPart>,
}

impl Product {
    /// Tokens as the definition quantizes them.
    fn new(random: &mut Random, kind: Q8, grid: Grid, t: usize, k: usize) -> Product {
        let groups = grid.groups(k);
        let (mut codes, mut xs, mut zeros) = (Vec::new(), Vec::new(), Vec::new());
        for row in random.odd_activations(t, k).chunks(k) {
            let (mut row_codes, mut row_xs) = (vec![0; k], vec![0.0; groups]);
            zeros.push(grid.quantize_row(kind, row, &mut row_codes, &mut row_xs).into());
            codes.extend(row_codes.into_iter().map(|c| kind.decode(c)));
            xs.extend(row_xs);
        }
        let part = |random: &mut Random| {
            let n = random.size();
            let weight = HostTensor::from_bytes(kind.dtype(), vec![n, k], random.codes(kind, n * k));
            let bias = (random.below(2) == 0).then(|| random.floats(n));
            let scales = Some(random.floats(n * groups));
            LinearPart { weight: weight.expect("sizes fit"), scales, bias, grid }
        };
        let parts = (0..1 + random.below(3)).map(|_| part(random)).collect();
        Product { kind, grid, k, codes, xs, zeros, parts }
    }
}

impl Case for Product {
    fn operation(&self) -> &'static str {
        "gemm_w8a8"
    }

    fn describe(&self) -> String {
        let weights: Vec<&HostTensor> = self.parts.iter().map(|p| &p.weight).collect();
        format!("x [{}, {}] · {weights:?} {:?}", self.zeros.len(), self.k, self.grid)
    }

    fn multiplies(&self) -> Vec<Q8> {
        vec![self.kind]
    }

    fn run<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        let (linear, t) = (b.load_linear(&self.parts)?, self.zeros.len());
        let mut x = b.alloc_q8_for(self.kind, &[self.grid], t, self.k)?;
        x.codes = put(b, self.kind.dtype(), self.k, &self.codes)?;
        x.scales = put(b, DType::F32, self.grid.groups(self.k), &self.xs)?;
        if let Some(zeros) = &mut x.zeros {
            b.upload(&self.zeros.iter().flat_map(|z| z.to_le_bytes()).collect::<Vec<u8>>(), zeros)?;
        }
        let shape = b.linear_shape(&linear);
        let mut out = blank(b, b.activation_dtype(), t, shape.n)?;
        b.gemm_w8a8(&x, &linear, &mut out)?;
        let check = if self.kind == Q8::Int8 && self.grid.groups(self.k) == 1 { Check::Equal } else { Check::Float8 };
        let same = Output {
            cols: 3,
            dtype: DType::F32,
            values: vec![shape.n as f32, shape.k as f32, (shape.grid == self.grid) as u8 as f32],
            check: Check::Equal,
        };
        Ok(vec![read(b, &mut out, check)?, same])
    }
}

/// A norm (with its weight) or a gate, quantized at once and in two steps.
struct Fused {
    kind: Q8,
    grid: Grid,
    x: Vec<f32>,
    weight: Option<Vec<f32>>,
    cols: usize,
}

impl Case for Fused {
    fn operation(&self) -> &'static str {
        if self.weight.is_some() { "add_rms_norm_quantize" } else { "gated_quantize" }
    }

    fn describe(&self) -> String {
        format!("[{}, {}] to {:?} {:?}", self.rows(), self.cols, self.kind, self.grid)
    }

    fn run<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        let (rows, cols, act) = (self.rows(), self.cols, Activation::Silu);
        let mut x = activations(b, self.x.len() / rows.max(1), &self.x)?;
        x.cols = if self.weight.is_some() { cols } else { 2 * cols };
        let mut scratch = blank(b, x.dtype, rows, cols)?;
        let mut at_once = b.alloc_q8_for(self.kind, &[self.grid], rows, cols)?;
        let mut in_two = b.alloc_q8_for(self.kind, &[self.grid], rows, cols)?;
        match &self.weight {
            Some(weight) => {
                let weight = put(b, DType::F32, cols, weight)?;
                b.add_rms_norm_quantize(&mut x, None, &weight, 1e-5, &mut scratch, &mut at_once)?;
                b.rms_norm(&x, &weight, 1e-5, &mut scratch)?;
            }
            None => {
                b.gated_quantize(&x, act, &mut scratch, &mut at_once)?;
                b.gated(&x, act, &mut scratch)?;
            }
        }
        b.quantize_rows(&scratch, &mut in_two)?;
        let mut all = Vec::new();
        for rows in [&mut at_once, &mut in_two] {
            all.extend(self.outputs(b, rows)?);
        }
        Ok(all)
    }
}

impl Fused {
    /// Codes on a given scale may be neighbours; where scales follow the values, codes and scales are judged together.
    fn outputs<B: Backend>(&self, b: &B, rows: &mut Q8Rows<B>) -> Result<Vec<Output>> {
        if matches!(self.grid, Grid::Static { .. }) {
            return outputs(b, rows, Check::Codes(self.kind), Check::Equal);
        }
        let (size, groups) = (self.grid.group_size(self.cols), self.grid.groups(self.cols));
        let mut out = outputs(b, rows, Check::Equal, Check::Equal)?;
        let (scales, mut values) = (out.swap_remove(1).values, out.swap_remove(0));
        for (row, scales) in values.values.chunks_mut(self.cols).zip(scales.chunks(groups)) {
            row.iter_mut().enumerate().for_each(|(i, code)| *code *= scales[i / size]);
        }
        let step = [1.0 / 127.0, 1.0 / 14.0, 1.0 / 7.0][Q8::ALL.iter().position(|&k| k == self.kind).unwrap_or(0)];
        Ok(vec![Output { dtype: DType::F32, check: Check::Within(step + 1.0 / 128.0), ..values }])
    }

    fn rows(&self) -> usize {
        self.x.len() / self.cols / if self.weight.is_some() { 1 } else { 2 }
    }
}
