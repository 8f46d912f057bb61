//! A weight on the device: parts one below the other, or gate and up rows interleaved.
use crate::buffer::Buffer;
use crate::driver::{Context, check};
use cudarc::driver::sys;
use planish_tensor::layout::linear_layout;
use planish_tensor::{DType, Error, Grid, HostTensor, LinearPart, LinearShape, Q8, Result};
use std::sync::Arc;

/// Rows of gate, then of up, that alternate in a gated weight: a thread of the tensor cores' 16-row tiles holds rows
/// `r` and `r + 8`, so it has a channel's gate and up together.
pub(crate) const INTERLEAVE: usize = 8;

/// A weight `[n, k]`, dense and row-major.
pub struct Linear {
    /// Output channels (of both halves, if gated).
    pub(crate) n: usize,
    /// Input channels.
    pub(crate) k: usize,
    /// Element type.
    pub(crate) dtype: DType,
    /// The 8-bit type, or `None` for a float weight.
    pub(crate) q8: Option<Q8>,
    /// How the input of an 8-bit weight becomes codes.
    pub(crate) grid: Grid,
    /// Rows are gate and up by turns of [`INTERLEAVE`].
    pub(crate) interleaved: bool,
    /// `[n, k]`.
    pub(crate) weight: Buffer,
    /// `[n, groups]` f32 scales, in the order of the rows.
    pub(crate) scales: Option<Buffer>,
    /// `[n]` f32, in the order of the rows.
    pub(crate) bias: Option<Buffer>,
}

impl Linear {
    /// Uploads parts one below the other.
    pub(crate) fn new(context: &Arc<Context>, parts: &[LinearPart]) -> Result<Linear> {
        Linear::placed(context, parts, false)
    }

    /// Uploads a gate and an up projection, rows interleaved if their number allows it.
    pub(crate) fn gated(context: &Arc<Context>, parts: &[LinearPart; 2]) -> Result<Linear> {
        let rows = |p: &LinearPart| p.weight.shape().first().copied().unwrap_or(0);
        let fits = rows(&parts[0]) == rows(&parts[1]) && rows(&parts[0]).is_multiple_of(INTERLEAVE);
        let same = parts[0].bias.is_some() == parts[1].bias.is_some();
        let interleaved = fits && same && Q8::from_dtype(parts[0].weight.dtype()).is_some();
        Linear::placed(context, parts, interleaved)
    }

    fn placed(context: &Arc<Context>, parts: &[LinearPart], interleaved: bool) -> Result<Linear> {
        let layout = linear_layout(parts)?;
        let (n, k) = (layout.n, layout.k);
        let size =
            |v: usize| i32::try_from(v).map_err(|_| Error::shape(format!("a weight of [{n}, {k}] is too large")));
        size(n).and(size(k))?;
        let first = parts[0].weight.dtype();
        // Parts of different float types meet in the one that holds them all.
        let dtype = if parts.iter().all(|p| p.weight.dtype() == first) { first } else { DType::F32 };
        let row = k * dtype.size();
        let weight = Buffer::uninitialized(context, n * row, "a weight")?;
        let mut above = 0;
        for (i, part) in parts.iter().enumerate() {
            let widened = (part.weight.dtype() != dtype).then(|| widen(&part.weight)).transpose()?;
            let bytes = widened.as_ref().unwrap_or(&part.weight).bytes();
            match interleaved {
                true => weave(context, &weight, bytes, row, i)?,
                false => weight.fill(above * row, bytes)?,
            }
            above += part.weight.shape()[0];
        }
        let order = |values: Vec<f32>, row: usize| if interleaved { woven(&values, row) } else { values };
        let buffer = |values, row, what| Buffer::of(context, bytemuck::cast_slice(&order(values, row)), what);
        let groups = layout.grid.groups(k);
        let scales = layout.q8.map(|_| parts.iter().flat_map(|p| p.scales.iter().flatten().copied()).collect());
        Ok(Linear {
            n,
            k,
            dtype,
            q8: layout.q8,
            grid: layout.grid,
            interleaved,
            weight,
            scales: scales.map(|s| buffer(s, groups, "channel scales")).transpose()?,
            bias: biases(parts).map(|b| buffer(b, 1, "a bias")).transpose()?,
        })
    }

    /// Where the codes or numbers lie on the device.
    pub fn address(&self) -> u64 {
        self.weight.address()
    }

    /// What the trait asks of a linear.
    pub(crate) fn shape(&self) -> LinearShape {
        LinearShape { n: self.n, k: self.k, q8: self.q8, grid: self.grid, bytes: self.weight.len() }
    }
}

fn widen(weight: &HostTensor) -> Result<HostTensor> {
    HostTensor::from_f32(weight.shape().to_vec(), &weight.to_f32())
}

/// All biases, 0 where a part has none; nothing if no part has one.
fn biases(parts: &[LinearPart]) -> Option<Vec<f32>> {
    let of = |p: &LinearPart| p.bias.clone().unwrap_or_else(|| vec![0.0; p.weight.shape()[0]]);
    parts.iter().any(|p| p.bias.is_some()).then(|| parts.iter().flat_map(of).collect())
}

/// Rows of gate values, then of up values, become groups of rows by turns.
fn woven(values: &[f32], row: usize) -> Vec<f32> {
    let (gate, up) = values.split_at(values.len() / 2);
    let groups = gate.chunks(INTERLEAVE * row).zip(up.chunks(INTERLEAVE * row));
    groups.flat_map(|(gate, up)| gate.iter().chain(up).copied()).collect()
}

/// Copies the groups of part `i` to every other place for a group: there in one piece, then apart on the device.
fn weave(context: &Arc<Context>, weight: &Buffer, bytes: &[u8], row: usize, i: usize) -> Result<()> {
    let group = INTERLEAVE * row;
    if bytes.len() * 2 != weight.len() || !bytes.len().is_multiple_of(group) {
        return Err(Error::shape("gate and up differ in size"));
    }
    let whole = Buffer::of(context, bytes, "a weight on its way")?;
    let copy = sys::CUDA_MEMCPY2D {
        srcXInBytes: 0,
        srcY: 0,
        srcMemoryType: sys::CUmemorytype_enum::CU_MEMORYTYPE_DEVICE,
        srcHost: std::ptr::null(),
        srcDevice: whole.address(),
        srcArray: std::ptr::null_mut(),
        srcPitch: group,
        dstXInBytes: i * group,
        dstY: 0,
        dstMemoryType: sys::CUmemorytype_enum::CU_MEMORYTYPE_DEVICE,
        dstHost: std::ptr::null_mut(),
        dstDevice: weight.address(),
        dstArray: std::ptr::null_mut(),
        dstPitch: 2 * group,
        WidthInBytes: group,
        Height: bytes.len() / group,
    };
    // SAFETY: the source has `Height` groups and the destination twice as many, as checked; the wait ends the reading.
    check(unsafe { sys::cuMemcpy2DAsync_v2(&copy, context.stream) }, "place a weight")?;
    context.sync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gate_and_up_alternate_by_eight() {
        let values: Vec<f32> = (0..32).map(|i| i as f32).collect();
        let expected: Vec<f32> = [0..8, 16..24, 8..16, 24..32].into_iter().flatten().map(|i| i as f32).collect();
        assert_eq!(woven(&values, 1), expected);
        let pairs: Vec<f32> = expected.iter().flat_map(|&v| [v, -v]).collect();
        assert_eq!(woven(&values.iter().flat_map(|&v| [v, -v]).collect::<Vec<_>>(), 2), pairs);
    }
}
