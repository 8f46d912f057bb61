//! Matrices on a device: of floats and integers, and of tokens quantized to 8 bits.
use crate::{Backend, DType, Grid, InputCodes};

/// A dense row-major matrix `[rows, cols]` on a device, with room for `capacity` rows.
pub struct Tensor<B: Backend> {
    /// The device memory, `capacity * cols` elements.
    pub buf: B::Buf,
    /// Element type.
    pub dtype: DType,
    /// Rows in use.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Rows that fit.
    pub capacity: usize,
}

impl<B: Backend> Tensor<B> {
    /// Changes the number of rows in use. Panics if they do not fit: workspaces are sized by their owner.
    pub fn set_rows(&mut self, rows: usize) {
        assert!(rows <= self.capacity, "{rows} rows asked of a tensor with room for {}", self.capacity);
        self.rows = rows;
    }
}

/// Tokens quantized to 8 bits.
pub struct Q8Rows<B: Backend> {
    /// `[t, k]` codes, element type [`Q8::dtype`].
    pub codes: Tensor<B>,
    /// `[t, groups]` f32 scales `xs`, see [`Grid::groups`].
    pub scales: Tensor<B>,
    /// `[t, 1]` I32 zero points of [`Grid::Asymmetric`], where there is room for such rows.
    pub zeros: Option<Tensor<B>>,
    /// How the codes come to be.
    pub grid: Grid,
}

impl<B: Backend> Q8Rows<B> {
    /// Codes and a scale for each token.
    pub fn of_tokens(codes: Tensor<B>, scales: Tensor<B>) -> Q8Rows<B> {
        Q8Rows { codes, scales, zeros: None, grid: Grid::Token }
    }

    /// Changes the number of rows in use.
    pub fn set_rows(&mut self, rows: usize) {
        self.codes.set_rows(rows);
        self.scales.set_rows(rows);
        self.zeros.iter_mut().for_each(|zeros| zeros.set_rows(rows));
    }

    /// Makes these the rows that a linear reads. They must have been allocated with room for its grid, see
    /// [`Backend::alloc_q8_for`].
    pub fn become_input(&mut self, input: InputCodes) {
        self.codes.dtype = input.kind.dtype();
        self.scales.cols = input.grid.groups(self.codes.cols);
        self.grid = input.grid;
    }
}
