//! What the quantizer has done on the device: `kernels/gptq_*.cu`. Matrices inside are padded to whole tiles.
mod factor;
mod solve;
mod weight;

use crate::buffer::Buffer;
use crate::driver::check;
use crate::{Cuda, Linear};
use cudarc::driver::sys;
use planish_tensor::layout::require;
use planish_tensor::{Backend, DType, Error, GramFactor, HostTensor, Q8, Result, SolvedRows, Solver, Tensor};

/// Rows and columns of a tile of a product, and columns of a panel (`gptq_product.cuh`).
const TILE: usize = 128;
/// Rows of a block that walks through a panel (`gptq_panel.cuh`).
const PANEL_ROWS: usize = 64;

/// A side of a padded matrix.
fn padded(n: usize) -> usize {
    n.next_multiple_of(TILE)
}

impl Cuda {
    /// A matrix with anything in it.
    fn blank(&self, dtype: DType, rows: usize, cols: usize) -> Result<Tensor<Cuda>> {
        let too_large = || Error::shape(format!("{dtype} [{rows}, {cols}] is too large"));
        i32::try_from(rows).and(i32::try_from(cols)).map_err(|_| too_large())?;
        let bytes = rows.checked_mul(cols).and_then(|n| n.checked_mul(dtype.size())).ok_or_else(too_large)?;
        let buf = Buffer::uninitialized(&self.context, bytes, &format!("{dtype} [{rows}, {cols}]"))?;
        Ok(Tensor { buf, dtype, rows, cols, capacity: rows })
    }

    /// A row of numbers.
    fn numbers(&self, values: &[f32]) -> Result<Tensor<Cuda>> {
        self.load(&HostTensor::from_f32(vec![values.len()], values)?)
    }

    /// Queues a copy of `bytes` on the device.
    fn copy_bytes(&self, from: &Buffer, to: &Buffer, at: usize, bytes: usize) -> Result<()> {
        require("copy on the device", bytes <= from.len() && at.checked_add(bytes).is_some_and(|end| end <= to.len()))?;
        self.context.enter()?;
        let to = to.address() + at as u64;
        // SAFETY: both ranges are checked.
        check(
            unsafe { sys::cuMemcpyDtoDAsync_v2(to, from.address(), bytes, self.context.stream) },
            "copy on the device",
        )
    }
}

/// Fails unless a tensor is a dense F32 matrix of these sides.
fn require_f32(what: &str, t: &Tensor<Cuda>, rows: usize, cols: usize) -> Result<()> {
    require(what, t.dtype == DType::F32 && t.rows == rows && t.cols == cols)
}

impl Solver<Cuda> for Cuda {
    /// Enough for every matrix unit; the activations of so many tokens of an 8B model take 4.5 GB.
    fn pass_tokens(&self) -> usize {
        if self.info.total >= 40 << 30 { 16384 } else { 4096 }
    }

    fn copy(&self, from: &Tensor<Cuda>, to: &mut Tensor<Cuda>) -> Result<()> {
        require("copy", (from.dtype, from.rows, from.cols) == (to.dtype, to.rows, to.cols))?;
        self.copy_bytes(&from.buf, &to.buf, 0, from.rows * from.cols * from.dtype.size())
    }

    fn load_f32(&self, host: &HostTensor) -> Result<Tensor<Cuda>> {
        weight::load_f32(self, host)
    }

    fn linear_of(&self, parts: &[(&Tensor<Cuda>, Option<&[f32]>)]) -> Result<Linear> {
        weight::linear_of(self, parts)
    }

    fn multiply_columns(&self, w: &mut Tensor<Cuda>, s: &[f32]) -> Result<()> {
        weight::multiply_columns(self, w, s)
    }

    fn divide_rows(&self, w: &mut Tensor<Cuda>, s: &[f32]) -> Result<()> {
        weight::divide_rows(self, w, s)
    }

    fn divide_gram(&self, gram: &mut Tensor<Cuda>, s: &[f32]) -> Result<()> {
        factor::divide_gram(self, gram, s)
    }

    fn gram_diagonal(&self, gram: &Tensor<Cuda>) -> Result<Vec<f32>> {
        factor::gram_diagonal(self, gram)
    }

    fn factor_gram(&self, gram: &Tensor<Cuda>, order: &[usize], added: &[f32]) -> Result<Option<GramFactor<Cuda>>> {
        factor::factor_gram(self, gram, order, added)
    }

    fn solve_rows(
        &self,
        kind: Q8,
        w: &Tensor<Cuda>,
        factor: Option<&GramFactor<Cuda>>,
        keep_better: bool,
    ) -> Result<SolvedRows<Cuda>> {
        solve::solve_rows(self, kind, w, factor, keep_better)
    }
}

/// The elements of a tensor.
fn read<T: bytemuck::Pod>(cuda: &Cuda, t: &Tensor<Cuda>) -> Result<Vec<T>> {
    let mut out = vec![T::zeroed(); t.rows * t.cols * t.dtype.size() / size_of::<T>()];
    cuda.download(t, bytemuck::cast_slice_mut(&mut out))?;
    Ok(out)
}
