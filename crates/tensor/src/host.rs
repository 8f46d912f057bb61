//! Tensors in host memory: owned, or a range of a shared (usually mapped) file.
use crate::{DType, Error, Result, float8};
use half::{bf16, f16};
use std::{ops::Range, sync::Arc};

/// Bytes that several tensors may share: a mapped file, or a vector.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A dense row-major tensor in host memory. Cloning shares the bytes.
#[derive(Clone)]
pub struct HostTensor {
    dtype: DType,
    shape: Vec<usize>,
    bytes: SharedBytes,
    range: Range<usize>,
}

impl std::fmt::Debug for HostTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostTensor({} {:?})", self.dtype, self.shape)
    }
}

impl HostTensor {
    /// A tensor over `range` of `bytes`; the range must hold exactly `shape` elements.
    pub fn new(dtype: DType, shape: Vec<usize>, bytes: SharedBytes, range: Range<usize>) -> Result<Self> {
        let elements = element_count(&shape)?;
        let expected = elements.checked_mul(dtype.size()).ok_or_else(|| Error::shape("tensor size overflows"))?;
        let available = (*bytes).as_ref().len();
        if range.start > range.end || range.end > available || range.len() != expected {
            return Err(Error::shape(format!(
                "{dtype} {shape:?} needs {expected} bytes, found range {range:?} of {available}"
            )));
        }
        Ok(Self { dtype, shape, bytes, range })
    }

    /// A tensor that owns its bytes.
    pub fn from_bytes(dtype: DType, shape: Vec<usize>, bytes: Vec<u8>) -> Result<Self> {
        let len = bytes.len();
        Self::new(dtype, shape, Arc::new(bytes), 0..len)
    }

    /// An F32 tensor.
    pub fn from_f32(shape: Vec<usize>, values: &[f32]) -> Result<Self> {
        Self::from_bytes(DType::F32, shape, bytemuck::cast_slice(values).to_vec())
    }

    /// Rounds `values` to `dtype` (a float type) to nearest even.
    pub fn from_f32_as(dtype: DType, shape: Vec<usize>, values: &[f32]) -> Result<Self> {
        Self::from_bytes(dtype, shape, encode_f32(dtype, values)?)
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.range.len() / self.dtype.size()
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The raw little-endian bytes.
    pub fn bytes(&self) -> &[u8] {
        &(*self.bytes).as_ref()[self.range.clone()]
    }

    /// Rows `range` of the outermost dimension, sharing the bytes.
    pub fn slice_rows(&self, range: Range<usize>) -> Result<HostTensor> {
        let rows = self.shape.first().copied().unwrap_or(0);
        if range.start > range.end || range.end > rows {
            return Err(Error::shape(format!("rows {range:?} of a tensor with {rows} rows")));
        }
        let row_bytes = self.range.len().checked_div(rows).unwrap_or(0);
        let mut shape = self.shape.clone();
        shape[0] = range.len();
        let start = self.range.start + range.start * row_bytes;
        Ok(HostTensor {
            dtype: self.dtype,
            shape,
            bytes: self.bytes.clone(),
            range: start..start + range.len() * row_bytes,
        })
    }

    /// All elements widened to f32 (exact for every 8- and 16-bit type).
    pub fn to_f32(&self) -> Vec<f32> {
        decode_f32(self.dtype, self.bytes())
    }
}

/// Product of the dimensions, checked.
pub fn element_count(shape: &[usize]) -> Result<usize> {
    shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .ok_or_else(|| Error::shape(format!("element count of {shape:?} overflows")))
}

/// Widens little-endian elements to f32. Integers are converted by value.
pub fn decode_f32(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / dtype.size()];
    decode_f32_into(dtype, bytes, &mut out);
    out
}

/// As [`decode_f32`], into an existing slice of the same element count.
pub fn decode_f32_into(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), out.len() * dtype.size(), "element counts differ");
    macro_rules! each {
        ($n:literal, $f:expr) => {{
            let f = $f;
            for (o, c) in out.iter_mut().zip(bytes.chunks_exact($n)) {
                *o = f(<[u8; $n]>::try_from(c).expect("chunk of the asked size"));
            }
        }};
    }
    match dtype {
        DType::F32 => bytemuck::cast_slice_mut::<f32, u8>(out).copy_from_slice(bytes),
        DType::F64 => each!(8, |c| f64::from_le_bytes(c) as f32),
        DType::F16 => each!(2, |c| f16::from_le_bytes(c).to_f32()),
        DType::BF16 => each!(2, |c| bf16::from_le_bytes(c).to_f32()),
        DType::F8E4M3 => each!(1, |c: [u8; 1]| float8::e4m3_to_f32(c[0])),
        DType::F8E5M2 => each!(1, |c: [u8; 1]| float8::e5m2_to_f32(c[0])),
        DType::I8 => each!(1, |c: [u8; 1]| c[0] as i8 as f32),
        DType::U8 => each!(1, |c: [u8; 1]| c[0] as f32),
        DType::I32 => each!(4, |c| i32::from_le_bytes(c) as f32),
        DType::I64 => each!(8, |c| i64::from_le_bytes(c) as f32),
    }
}

/// Rounds f32 values to a float type, to nearest even, as little-endian bytes.
pub fn encode_f32(dtype: DType, values: &[f32]) -> Result<Vec<u8>> {
    Ok(match dtype {
        DType::F32 => bytemuck::cast_slice(values).to_vec(),
        DType::F16 => {
            let halves: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
            bytemuck::cast_slice(&halves).to_vec()
        }
        DType::BF16 => {
            let halves: Vec<bf16> = values.iter().map(|&v| bf16::from_f32(v)).collect();
            bytemuck::cast_slice(&halves).to_vec()
        }
        DType::F64 => values.iter().flat_map(|&v| (v as f64).to_le_bytes()).collect(),
        other => return Err(Error::dtype(format!("cannot round f32 values to {other}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked() {
        let bytes: SharedBytes = Arc::new(vec![0u8; 16]);
        assert!(HostTensor::new(DType::F32, vec![2, 2], bytes.clone(), 0..16).is_ok());
        assert!(HostTensor::new(DType::F32, vec![2, 2], bytes.clone(), 0..12).is_err());
        assert!(HostTensor::new(DType::F32, vec![2, 2], bytes.clone(), 4..20).is_err());
        assert!(HostTensor::new(DType::F32, vec![usize::MAX, 2], bytes, 0..16).is_err());
    }

    #[test]
    fn rows_share_bytes() {
        let t = HostTensor::from_f32(vec![3, 2], &[0., 1., 2., 3., 4., 5.]).unwrap();
        assert_eq!(t.slice_rows(1..3).unwrap().to_f32(), [2., 3., 4., 5.]);
        assert!(t.slice_rows(2..4).is_err());
    }

    #[test]
    fn bf16_rounds_to_nearest_even() {
        let t = HostTensor::from_f32_as(DType::BF16, vec![2], &[1.0 + 1.0 / 256.0, 1.0117188]).unwrap();
        assert_eq!(t.to_f32(), [1.0, 1.015625]);
    }
}
