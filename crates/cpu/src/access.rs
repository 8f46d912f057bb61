//! Typed views of tensors, checked, for both CPU back ends.
use crate::attention::{KvSlice, KvSliceMut};
use crate::buffer::{Aligned, CpuBuf, widen};
use crate::rowwise::Units;
use half::bf16;
use planish_tensor::layout::{require, require_rows};
use planish_tensor::{Backend, DType, Error, KvLayer, Q8, Result, Tensor, kv_scale_bytes};

/// The rows in use of an f32 tensor.
pub fn f32s<B: Backend<Buf = CpuBuf>>(t: &Tensor<B>) -> Result<&[f32]> {
    Ok(&t.buf.view::<f32>(t.dtype)?[..t.rows * t.cols])
}

/// The rows in use of an f32 tensor, writable.
pub fn f32s_mut<B: Backend<Buf = CpuBuf>>(t: &mut Tensor<B>) -> Result<&mut [f32]> {
    let used = t.rows * t.cols;
    Ok(&mut t.buf.view_mut::<f32>(t.dtype)?[..used])
}

/// The rows in use of an i32 tensor.
pub fn i32s<B: Backend<Buf = CpuBuf>>(t: &Tensor<B>) -> Result<&[i32]> {
    Ok(&t.buf.view::<i32>(t.dtype)?[..t.rows * t.cols])
}

/// The rows in use of an i32 tensor, writable.
pub fn i32s_mut<B: Backend<Buf = CpuBuf>>(t: &mut Tensor<B>) -> Result<&mut [i32]> {
    let used = t.rows * t.cols;
    Ok(&mut t.buf.view_mut::<i32>(t.dtype)?[..used])
}

/// The rows in use of a tensor of 8-bit codes.
pub fn u8s<B: Backend<Buf = CpuBuf>>(t: &Tensor<B>) -> Result<&[u8]> {
    Ok(&t.buf.view::<u8>(t.dtype)?[..t.rows * t.cols])
}

/// The rows in use of a tensor of 8-bit codes, writable.
pub fn u8s_mut<B: Backend<Buf = CpuBuf>>(t: &mut Tensor<B>) -> Result<&mut [u8]> {
    let used = t.rows * t.cols;
    Ok(&mut t.buf.view_mut::<u8>(t.dtype)?[..used])
}

fn kv_kind(dtype: DType, scales: bool) -> Result<Option<Q8>> {
    match (kv_scale_bytes(dtype)? > 0, scales) {
        (false, _) => Ok(None),
        (true, true) => Ok(Q8::from_dtype(dtype)),
        (true, false) => Err(Error::dtype(format!("a KV cache of {dtype} without scales"))),
    }
}

/// Keys or values of a layer.
pub fn kv_slice<'a, B: Backend<Buf = CpuBuf>>(t: &'a Tensor<B>, scales: Option<&'a Tensor<B>>) -> Result<KvSlice<'a>> {
    match (kv_kind(t.dtype, scales.is_some())?, scales) {
        (Some(kind), Some(scales)) => Ok(KvSlice::Q8 { kind, codes: u8s(t)?, scales: f32s(scales)? }),
        _ if t.dtype == DType::BF16 => Ok(KvSlice::Bf16(t.buf.view::<bf16>(t.dtype)?)),
        _ => Ok(KvSlice::F32(t.buf.view::<f32>(t.dtype)?)),
    }
}

/// Keys or values of a layer, writable; `scale` is the given one of all vectors, if there is one.
pub fn kv_slice_mut<'a, B: Backend<Buf = CpuBuf>>(
    t: &'a mut Tensor<B>,
    scales: Option<&'a mut Tensor<B>>,
    scale: Option<f32>,
) -> Result<KvSliceMut<'a>> {
    match (kv_kind(t.dtype, scales.is_some())?, scales) {
        (Some(kind), Some(scales)) => {
            Ok(KvSliceMut::Q8 { units: Units { kind, scale }, codes: u8s_mut(t)?, scales: f32s_mut(scales)? })
        }
        _ if t.dtype == DType::BF16 => Ok(KvSliceMut::Bf16(t.buf.view_mut::<bf16>(t.dtype)?)),
        _ => Ok(KvSliceMut::F32(t.buf.view_mut::<f32>(t.dtype)?)),
    }
}

/// The 8-bit type of codes.
pub fn kind_of<B: Backend>(codes: &Tensor<B>) -> Result<Q8> {
    Q8::from_dtype(codes.dtype).ok_or_else(|| Error::dtype(format!("expected 8-bit codes, found {}", codes.dtype)))
}

/// A zeroed matrix; an error if there is no memory for it.
pub fn alloc<B: Backend<Buf = CpuBuf>>(dtype: DType, rows: usize, cols: usize) -> Result<Tensor<B>> {
    let bytes = rows.checked_mul(cols).and_then(|n| n.checked_mul(dtype.size()));
    let bytes = bytes.ok_or_else(|| Error::shape(format!("{dtype} [{rows}, {cols}] is too large")))?;
    let buf = CpuBuf::Owned(Aligned::for_what(|| format!("{dtype} [{rows}, {cols}]"), bytes)?);
    Ok(Tensor { buf, dtype, rows, cols, capacity: rows })
}

/// Overwrites the rows in use.
pub fn upload<B: Backend<Buf = CpuBuf>>(bytes: &[u8], dst: &mut Tensor<B>) -> Result<()> {
    let used = dst.rows * dst.cols * dst.dtype.size();
    require("upload", bytes.len() == used)?;
    dst.buf.bytes_mut()?[..used].copy_from_slice(bytes);
    Ok(())
}

/// Reads the rows in use.
pub fn download<B: Backend<Buf = CpuBuf>>(src: &Tensor<B>, bytes: &mut [u8]) -> Result<()> {
    let used = src.rows * src.cols * src.dtype.size();
    require("download", bytes.len() == used)?;
    bytes.copy_from_slice(&src.buf.bytes()[..used]);
    Ok(())
}

/// Reads these rows, one after the other.
pub fn download_rows<B: Backend<Buf = CpuBuf>>(src: &Tensor<B>, rows: &[u32], bytes: &mut [u8]) -> Result<()> {
    require_rows(src, rows, bytes)?;
    let each = src.cols * src.dtype.size();
    for (to, &row) in bytes.chunks_exact_mut(each.max(1)).zip(rows) {
        to.copy_from_slice(&src.buf.bytes()[row as usize * each..][..each]);
    }
    Ok(())
}

/// Zeroes these pages of every tensor of a layer.
pub fn clear_pages<B: Backend<Buf = CpuBuf>>(kv: &mut KvLayer<B>, pages: &[u32]) -> Result<()> {
    for tensor in kv.tensors_mut() {
        if let Some(bad) = pages.iter().find(|&&p| p as usize >= tensor.rows) {
            return Err(Error::shape(format!("clear_pages: page {bad} of a pool of {}", tensor.rows)));
        }
        let size = tensor.cols * tensor.dtype.size();
        let bytes = tensor.buf.bytes_mut()?;
        pages.iter().for_each(|&p| bytes[p as usize * size..][..size].fill(0));
    }
    Ok(())
}

/// `out[i] = table[rows[i]] * scale`, widened to f32.
pub fn gather<B: Backend<Buf = CpuBuf>>(
    table: &Tensor<B>,
    rows: &[u32],
    scale: f32,
    out: &mut Tensor<B>,
) -> Result<()> {
    let h = table.cols;
    require("gather", out.cols == h && out.rows == rows.len())?;
    if let Some(bad) = rows.iter().find(|&&r| r as usize >= table.rows) {
        return Err(Error::shape(format!("row {bad} of a table with {} rows", table.rows)));
    }
    let (size, dtype) = (table.dtype.size(), table.dtype);
    let bytes = table.buf.bytes();
    for (out, &row) in f32s_mut(out)?.chunks_exact_mut(h).zip(rows) {
        let at = row as usize * h * size;
        planish_tensor::host::decode_f32_into(dtype, &bytes[at..at + h * size], out);
        if scale != 1.0 {
            out.iter_mut().for_each(|o| *o *= scale);
        }
    }
    Ok(())
}

/// `x[i] += table[positions[i] + offset]`.
pub fn add_positions<B: Backend<Buf = CpuBuf>>(
    table: &Tensor<B>,
    positions: &[u32],
    offset: usize,
    x: &mut Tensor<B>,
) -> Result<()> {
    let h = table.cols;
    require("add_positions", x.cols == h && x.rows == positions.len())?;
    if let Some(bad) = positions.iter().find(|&&p| p as usize + offset >= table.rows) {
        let known = table.rows.saturating_sub(offset);
        return Err(Error::shape(format!("position {bad} of a table with {known} positions")));
    }
    let (size, dtype) = (table.dtype.size(), table.dtype);
    let (bytes, mut row) = (table.buf.bytes(), vec![0.0; h]);
    for (x, &position) in f32s_mut(x)?.chunks_exact_mut(h).zip(positions) {
        let at = (position as usize + offset) * h * size;
        planish_tensor::host::decode_f32_into(dtype, &bytes[at..at + h * size], &mut row);
        x.iter_mut().zip(&row).for_each(|(x, p)| *x += p);
    }
    Ok(())
}

/// All elements in use, widened to f32.
pub fn widened<B: Backend<Buf = CpuBuf>>(t: &Tensor<B>) -> Vec<f32> {
    widen(&t.buf, t.dtype, t.rows * t.cols)
}
