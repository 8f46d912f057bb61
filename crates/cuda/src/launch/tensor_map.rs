//! How matrices are described to the copy engine of sm_90.
use crate::driver::check;
use cudarc::driver::sys;
use planish_tensor::Result;
use std::ffi::c_void;

pub(super) const U8: sys::CUtensorMapDataType = sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8;
pub(super) const BF16: sys::CUtensorMapDataType = sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
pub(super) const F32: sys::CUtensorMapDataType = sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32;

/// A dense row-major matrix as the copy engine sees it: a box of it, placed in shared memory with a swizzle.
pub(super) struct Map {
    /// On the device, at a multiple of 16.
    pub(super) address: u64,
    /// Elements.
    pub(super) dtype: sys::CUtensorMapDataType,
    /// Bytes of an element.
    pub(super) size: usize,
    /// Elements of a row.
    pub(super) cols: usize,
    /// Rows.
    pub(super) rows: usize,
    /// Elements of a box's row.
    pub(super) box_cols: usize,
    /// Rows of a box.
    pub(super) box_rows: usize,
    /// How a box's chunks of 16 bytes change places.
    pub(super) swizzle: sys::CUtensorMapSwizzle,
}

impl Map {
    /// What a kernel is given.
    pub(super) fn encode(&self) -> Result<sys::CUtensorMap> {
        let sizes = [self.cols as u64, self.rows as u64];
        let boxed = [self.box_cols as u32, self.box_rows as u32];
        encode(self.address, self.dtype, sizes, [(self.cols * self.size) as u64], boxed, self.swizzle)
    }
}

/// `[tokens, heads, d]` of bf16: a box has 64 channels of some heads of some tokens.
pub(super) struct HeadsMap {
    /// On the device, at a multiple of 16.
    pub(super) address: u64,
    /// Channels.
    pub(super) d: usize,
    pub(super) heads: usize,
    pub(super) tokens: usize,
    pub(super) box_heads: usize,
    pub(super) box_tokens: usize,
}

impl HeadsMap {
    /// What a kernel is given.
    pub(super) fn encode(&self) -> Result<sys::CUtensorMap> {
        let row = (self.d * 2) as u64;
        let sizes = [self.d as u64, self.heads as u64, self.tokens as u64];
        let boxed = [64, self.box_heads as u32, self.box_tokens as u32];
        let swizzle = sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B;
        encode(self.address, BF16, sizes, [row, row * self.heads as u64], boxed, swizzle)
    }
}

/// Sizes in elements, strides of all but the first dimension in bytes.
fn encode<const N: usize, const STRIDES: usize>(
    address: u64,
    dtype: sys::CUtensorMapDataType,
    sizes: [u64; N],
    strides: [u64; STRIDES],
    boxed: [u32; N],
    swizzle: sys::CUtensorMapSwizzle,
) -> Result<sys::CUtensorMap> {
    const { assert!(STRIDES + 1 == N) };
    let mut map = sys::CUtensorMap { opaque: [0; 16] };
    let steps = [1u32; N];
    // SAFETY: the arrays have the N (and N - 1) entries that N dimensions need; the address is not read now.
    let result = unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut map,
            dtype,
            N as u32,
            address as *mut c_void,
            sizes.as_ptr(),
            strides.as_ptr(),
            boxed.as_ptr(),
            steps.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    check(result, "describe a matrix to the copy engine")?;
    Ok(map)
}
