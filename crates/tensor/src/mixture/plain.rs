//! Mixtures made of plain operations, expert by expert. Routes and rows pass through host memory.
use super::{ExpertMath, ExpertRows, Experts, Routes, Routing, choose};
use crate::host::{decode_f32, encode_f32};
use crate::{Backend, FloatMath, Grid, InputCodes, LinearPart, Q8Rows, Result, Tensor};

/// See [`super::load`]: each linear by itself.
pub fn load<B: Backend>(b: &B, experts: &[[LinearPart; 3]]) -> Result<Experts<B>> {
    let mut packed = Experts { gate_up: Vec::new(), down: Vec::new(), grouped: false };
    for [gate, up, down] in experts {
        packed.gate_up.push(b.load_gated(&[gate.clone(), up.clone()])?);
        packed.down.push(b.load_linear(std::slice::from_ref(down))?);
    }
    Ok(packed)
}

/// See [`super::route`].
pub(super) fn route<B: Backend>(b: &B, logits: &Tensor<B>, routing: &Routing, out: &mut Routes<B>) -> Result<()> {
    let (c, logits) = (routing.chosen, values(b, logits)?);
    let tokens = logits.len() / routing.experts;
    let (mut experts, mut weights) = (vec![0i32; tokens * c], vec![0.0f32; tokens * c]);
    for (t, logits) in logits.chunks_exact(routing.experts).enumerate() {
        choose(logits, routing, &mut experts[t * c..][..c], &mut weights[t * c..][..c]);
    }
    b.upload(bytemuck::cast_slice(&experts), &mut out.experts)?;
    b.upload(bytemuck::cast_slice(&weights), &mut out.weights)
}

/// See [`super::mix`].
pub(super) fn mix<B: Backend>(
    b: &B,
    x: &Tensor<B>,
    routes: &Routes<B>,
    experts: &Experts<B>,
    how: ExpertMath,
    scratch: &mut ExpertRows<B>,
    out: &mut Tensor<B>,
) -> Result<()> {
    let (h, c) = (x.cols, routes.experts.cols);
    let groups = super::groups(b, routes, experts.gate_up.len())?;
    let weights = values(b, &routes.weights)?;
    // Experts come in ascending order, as each token's sum wants them.
    let mut sums: Vec<Option<Vec<f32>>> = vec![None; x.rows];
    for (e, rows) in groups.used() {
        scratch.set_rows(rows.len());
        super::select_rows(b, x, &groups.tokens(rows.clone()), &mut scratch.x)?;
        gate_rows(b, &experts.gate_up[e], how, scratch)?;
        multiply(b, &experts.down[e], &scratch.inner, &mut scratch.inner_q8, how.math, &mut scratch.out)?;
        for (row, &place) in values(b, &scratch.out)?.chunks_exact(h).zip(&groups.places[rows]) {
            let weight = weights[place as usize];
            match &mut sums[place as usize / c] {
                Some(sum) => sum.iter_mut().zip(row).for_each(|(sum, y)| *sum += weight * y),
                sum => *sum = Some(row.iter().map(|y| weight * y).collect()),
            }
        }
    }
    let sums: Vec<f32> = sums.into_iter().flat_map(|sum| sum.unwrap_or_else(|| vec![0.0; h])).collect();
    b.upload(&encode_f32(out.dtype, &sums)?, out)
}

/// `scratch.inner = act(gate(x)) · up(x)` of the rows in `scratch.x`, for one expert.
pub fn gate_rows<B: Backend>(b: &B, gate_up: &B::Linear, how: ExpertMath, scratch: &mut ExpertRows<B>) -> Result<()> {
    multiply(b, gate_up, &scratch.x, &mut scratch.x_q8, how.math, &mut scratch.gate_up)?;
    b.gated(&scratch.gate_up, how.act, &mut scratch.inner)
}

/// A product of rows that are quantized first, if the linear wants codes; `q` has room for a scale of each row.
fn multiply<B: Backend>(
    b: &B,
    w: &B::Linear,
    x: &Tensor<B>,
    q: &mut Q8Rows<B>,
    math: FloatMath,
    out: &mut Tensor<B>,
) -> Result<()> {
    let shape = b.linear_shape(w);
    let mut other;
    let q = match (shape.q8, shape.grid) {
        (None, _) => return b.gemm_float(x, w, math, out),
        (Some(kind), Grid::Token) => {
            q.become_input(InputCodes { kind, grid: Grid::Token });
            q
        }
        (Some(kind), grid) => {
            other = b.alloc_q8_for(kind, &[grid], x.rows, x.cols)?;
            &mut other
        }
    };
    b.quantize_rows(x, q)?;
    b.gemm_w8a8(q, w, out)
}

/// See [`super::add_gated`].
pub(super) fn add_gated<B: Backend>(b: &B, x: &mut Tensor<B>, y: &Tensor<B>, gates: &Tensor<B>) -> Result<()> {
    let (mut sums, rows, gates) = (values(b, x)?, values(b, y)?, values(b, gates)?);
    let h = x.cols;
    for ((sum, row), gate) in sums.chunks_exact_mut(h).zip(rows.chunks_exact(h)).zip(gates) {
        let factor = sigmoid(gate);
        sum.iter_mut().zip(row).for_each(|(sum, y)| *sum += y * factor);
    }
    b.upload(&encode_f32(x.dtype, &sums)?, x)
}

/// `1 / (1 + exp(-x))`.
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// See [`super::select_rows`].
pub(super) fn select_rows<B: Backend>(b: &B, x: &Tensor<B>, rows: &[u32], out: &mut Tensor<B>) -> Result<()> {
    let size = x.cols * x.dtype.size();
    let mut all = vec![0; x.rows * size];
    b.download(x, &mut all)?;
    let picked: Vec<u8> = rows.iter().flat_map(|&row| &all[row as usize * size..][..size]).copied().collect();
    b.upload(&picked, out)
}

/// A tensor's elements as f32.
fn values<B: Backend>(b: &B, t: &Tensor<B>) -> Result<Vec<f32>> {
    let mut bytes = vec![0; t.rows * t.cols * t.dtype.size()];
    b.download(t, &mut bytes)?;
    Ok(decode_f32(t.dtype, &bytes))
}

/// The experts of a step.
pub(super) fn chosen<B: Backend>(b: &B, experts: &Tensor<B>) -> Result<Vec<i32>> {
    let mut bytes = vec![0; experts.rows * experts.cols * 4];
    b.download(experts, &mut bytes)?;
    Ok(bytes.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}
