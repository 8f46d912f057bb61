//! What the reference does with keys and values: rotates and stores them, and attends to them.
use super::Scalar;
use crate::access::f32s;
use half::bf16;
use planish_tensor::{
    AttentionShape, Batch, DType, Error, Grid, KvLayer, Q8, Result, RopeTable, Tensor, host::decode_f32, kv_scale_bytes,
};

/// Keys are visited in blocks of this many, counted from the first of the sequence.
pub const KEY_BLOCK: usize = 64;

/// Rotates `rows` `[t, (nq + 2 nkv) d]` and stores their keys and values.
pub(super) fn rope_store(
    rows: &mut [f32],
    rope: Option<&RopeTable<Scalar>>,
    shape: &AttentionShape,
    batch: &Batch,
    kv: &mut KvLayer<Scalar>,
) -> Result<()> {
    for (t, row) in rows.chunks_exact_mut(shape.qkv_width()).enumerate() {
        if let Some(rope) = rope {
            let angles = &f32s(&rope.cos_sin)?[batch.positions[t] as usize * 2 * rope.half..][..2 * rope.half];
            for head in row[..(shape.nq + shape.nkv) * shape.d].chunks_exact_mut(shape.d) {
                rotate(head, angles, rope.interleaved);
            }
        }
        let (k, v) = row[shape.nq * shape.d..].split_at(shape.nkv * shape.d);
        for head in 0..shape.nkv {
            let at = vector(shape, batch, batch.slots[t] as usize, head);
            let range = head * shape.d..(head + 1) * shape.d;
            let grid = |i: usize| kv.fixed.map_or(Grid::Token, |scales| Grid::Static { scale: scales[i], zero: 0 });
            store(&mut kv.k, kv.k_scales.as_mut(), at, &k[range.clone()], grid(0))?;
            store(&mut kv.v, kv.v_scales.as_mut(), at, &v[range], grid(1))?;
        }
    }
    Ok(())
}

/// Zeroes pages, number by number.
pub(super) fn clear(kv: &mut KvLayer<Scalar>, pages: &[u32]) -> Result<()> {
    let KvLayer { k, v, k_scales, v_scales, .. } = kv;
    for tensor in [Some(k), Some(v), k_scales.as_mut(), v_scales.as_mut()].into_iter().flatten() {
        let page = tensor.cols * tensor.dtype.size();
        for (i, byte) in tensor.buf.bytes_mut()?.iter_mut().enumerate() {
            if pages.contains(&((i / page) as u32)) {
                *byte = 0;
            }
        }
    }
    Ok(())
}

/// Attends with the q part of `rows`, into `out` `[t, nq d]`.
pub(super) fn attention(
    rows: &[f32],
    shape: &AttentionShape,
    batch: &Batch,
    kv: &KvLayer<Scalar>,
    out: &mut [f32],
) -> Result<()> {
    let (width, d) = (shape.qkv_width(), shape.d);
    let (k, v) = (Vectors::load(&kv.k, kv.k_scales.as_ref(), d)?, Vectors::load(&kv.v, kv.v_scales.as_ref(), d)?);
    for s in 0..batch.sequences() {
        let slots = sequence_slots(batch, s);
        for t in batch.query_starts[s] as usize..batch.query_starts[s + 1] as usize {
            for head in 0..shape.nq {
                let q = &rows[t * width + head * d..][..d];
                let position = batch.positions[t] as usize;
                let result = attend(q, shape, batch, &slots[..=position], head, &k, &v);
                out[(t * shape.nq + head) * d..][..d].copy_from_slice(&result);
            }
        }
    }
    Ok(())
}

/// Rotates one head in place; `angles` holds `half` cosines, then `half` sines.
fn rotate(head: &mut [f32], angles: &[f32], interleaved: bool) {
    let half = angles.len() / 2;
    for i in 0..half {
        let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
        let (x, y, cos, sin) = (head[a], head[b], angles[i], angles[half + i]);
        head[a] = x * cos - y * sin;
        head[b] = y * cos + x * sin;
    }
}

/// Number of a head's vector in a KV buffer of `[pages, nkv, page_size, d]`.
fn vector(shape: &AttentionShape, batch: &Batch, slot: usize, head: usize) -> usize {
    let (page, offset) = (slot / batch.page_size, slot % batch.page_size);
    (page * shape.nkv + head) * batch.page_size + offset
}

fn sequence_slots(batch: &Batch, s: usize) -> Vec<usize> {
    let table = &batch.page_tables[s * batch.pages_per_seq..];
    (0..batch.kv_lens[s] as usize)
        .map(|i| table[i / batch.page_size] as usize * batch.page_size + i % batch.page_size)
        .collect()
}

/// Stores vector `at`: rounded, or quantized like a token's activations.
fn store(
    dst: &mut Tensor<Scalar>,
    scales: Option<&mut Tensor<Scalar>>,
    at: usize,
    values: &[f32],
    grid: Grid,
) -> Result<()> {
    let (dtype, range) = (dst.dtype, at * values.len()..(at + 1) * values.len());
    match (dtype, scales) {
        (DType::F32, _) => dst.buf.view_mut::<f32>(dtype)?[range].copy_from_slice(values),
        (DType::BF16, _) => {
            for (o, &v) in dst.buf.view_mut::<bf16>(dtype)?[range].iter_mut().zip(values) {
                *o = bf16::from_f32(v);
            }
        }
        (DType::I8 | DType::F8E4M3, Some(scales)) => {
            let kind = if dtype == DType::I8 { Q8::Int8 } else { Q8::E4M3 };
            let (codes, scales) = (dst.buf.view_mut::<u8>(dtype)?, scales.buf.view_mut::<f32>(scales.dtype)?);
            grid.quantize_row(kind, values, &mut codes[range], &mut scales[at..=at]);
        }
        (other, _) => return Err(Error::dtype(format!("no KV cache, or one without scales: {other}"))),
    }
    Ok(())
}

/// Keys or values in units of their scales, and the scales, one for each vector.
struct Vectors {
    units: Vec<f32>,
    scales: Vec<f32>,
    d: usize,
}

impl Vectors {
    fn load(src: &Tensor<Scalar>, scales: Option<&Tensor<Scalar>>, d: usize) -> Result<Vectors> {
        if kv_scale_bytes(src.dtype)? == 0 {
            let units = decode_f32(src.dtype, src.buf.bytes());
            return Ok(Vectors { scales: vec![1.0; units.len() / d], units, d });
        }
        let kind = Q8::from_dtype(src.dtype).expect("types with scales are 8-bit types");
        let scales = scales.ok_or_else(|| Error::dtype(format!("a KV cache of {} without scales", src.dtype)))?;
        let units = src.buf.bytes().iter().map(|&c| kind.decode(c)).collect();
        Ok(Vectors { units, scales: f32s(scales)?.to_vec(), d })
    }

    fn at(&self, vector: usize) -> (&[f32], f32) {
        (&self.units[vector * self.d..][..self.d], self.scales[vector])
    }
}

/// One query head over the visible slots: scores, softmax and the weighted sum of values, block by block.
/// A key's scale multiplies the factor on its score, a value's scale the weight it gets.
fn attend(
    q: &[f32],
    shape: &AttentionShape,
    batch: &Batch,
    visible: &[usize],
    head: usize,
    k: &Vectors,
    v: &Vectors,
) -> Vec<f32> {
    let kv_head = head / (shape.nq / shape.nkv);
    let first = shape.window.map_or(0, |w| visible.len().saturating_sub(w as usize));
    let (mut max, mut sum, mut out) = (f32::NEG_INFINITY, 0.0f32, vec![0.0f32; shape.d]);
    for block in (0..visible.len()).step_by(KEY_BLOCK) {
        let keys = block.max(first)..(block + KEY_BLOCK).min(visible.len());
        if keys.is_empty() {
            continue;
        }
        let mut scores = Vec::with_capacity(KEY_BLOCK);
        for i in keys.clone() {
            let (k, ks) = k.at(vector(shape, batch, visible[i], kv_head));
            let score = q.iter().zip(k).fold(0.0f32, |acc, (&a, &b)| a.mul_add(b, acc)) * (ks * shape.scale);
            scores.push(shape.softcap.map_or(score, |cap| cap * (score / cap).tanh()));
        }
        let new_max = scores.iter().copied().fold(max, |m, s| if s.is_nan() { s } else { m.max(s) });
        let shrink = (max - new_max).exp();
        sum *= shrink;
        out.iter_mut().for_each(|o| *o *= shrink);
        for (i, score) in keys.zip(scores) {
            let p = (score - new_max).exp();
            sum += p;
            let (v, vs) = v.at(vector(shape, batch, visible[i], kv_head));
            out.iter_mut().zip(v).for_each(|(o, &v)| *o = (p * vs).mul_add(v, *o));
        }
        max = new_max;
    }
    out.iter_mut().for_each(|o| *o /= sum);
    out
}
