//! The vendor's products (cuBLASLt), to be measured beside ours: the library is no part of the program and is looked for
//! when a measurement asks for it.
use crate::{Cuda, Linear};
use cudarc::cublaslt::sys as lt;
use planish_tensor::host::{decode_f32, encode_f32};
use planish_tensor::{Backend, DType, Error, Result, Tensor, VendorProduct};
use std::ffi::c_void;

/// Bytes of work space: what NVIDIA recommends for Hopper.
const SPACE: usize = 32 << 20;

/// What is multiplied, and what comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    /// INT8 to int32 sums.
    Int8,
    /// E4M3, with one scale for each operand, to bf16.
    E4M3,
    /// BF16 to f32.
    Bf16,
}

impl Operation {
    fn of(weight: DType) -> Result<Operation> {
        match weight {
            DType::I8 => Ok(Operation::Int8),
            DType::F8E4M3 => Ok(Operation::E4M3),
            DType::BF16 => Ok(Operation::Bf16),
            other => Err(Error::unsupported(format!("cuBLASLt is not measured with weights of {other}"))),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Operation::Int8 => "cuBLASLt int8 to int32, no scales",
            Operation::E4M3 => "cuBLASLt e4m3 to bf16, one scale",
            Operation::Bf16 => "cuBLASLt bf16 to f32",
        }
    }

    /// Types of the operands and of the result.
    const fn types(self) -> (lt::cudaDataType_t, lt::cudaDataType_t) {
        use lt::cudaDataType_t as Type;
        match self {
            Operation::Int8 => (Type::CUDA_R_8I, Type::CUDA_R_32I),
            Operation::E4M3 => (Type::CUDA_R_8F_E4M3, Type::CUDA_R_16BF),
            Operation::Bf16 => (Type::CUDA_R_16BF, Type::CUDA_R_32F),
        }
    }

    /// Type of alpha and beta, and the bits of 1 in it.
    const fn one(self) -> (lt::cudaDataType_t, u32) {
        match self {
            Operation::Int8 => (lt::cudaDataType_t::CUDA_R_32I, 1),
            _ => (lt::cudaDataType_t::CUDA_R_32F, 1.0f32.to_bits()),
        }
    }
}

/// The product of `x` and any of `weights` by the library's own choice of a kernel.
pub(crate) fn product<'a>(cuda: &'a Cuda, x: &Tensor<Cuda>, weights: &'a [Linear]) -> Result<VendorProduct<'a>> {
    let first = weights.first().ok_or_else(|| Error::shape("cuBLASLt: a product of no weights"))?;
    let operation = Operation::of(first.dtype)?;
    let product = Product::new(cuda, operation, x, [first.n, first.k])?;
    let queue = Box::new(move |i: usize| {
        let weight = weights.get(i).filter(|w| (w.dtype, w.n, w.k) == (first.dtype, first.n, first.k));
        product.queue(weight.ok_or_else(|| Error::shape("cuBLASLt: another weight"))?.address())
    });
    Ok(VendorProduct { name: operation.name(), queue })
}

fn check(status: lt::cublasStatus_t, what: &str) -> Result<()> {
    match status {
        lt::cublasStatus_t::CUBLAS_STATUS_SUCCESS => Ok(()),
        other => Err(Error::unsupported(format!("cuBLASLt: {what}: {other:?}"))),
    }
}

/// The library's handle.
struct Handle(lt::cublasLtHandle_t);

impl Handle {
    fn open(cuda: &Cuda) -> Result<Handle> {
        // SAFETY: looks for a shared library by name.
        if !unsafe { lt::is_culib_present() } {
            return Err(Error::unsupported("cuBLASLt is not on this machine (libcublasLt.so, see LD_LIBRARY_PATH)"));
        }
        cuda.context.enter()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle, given back in `drop`.
        check(unsafe { lt::cublasLtCreate(&mut handle) }, "open")?;
        Ok(Handle(handle))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made in `open`; the library waits for nothing of ours.
        let _ = unsafe { lt::cublasLtDestroy(self.0) };
    }
}

/// What is computed: weights transposed, sums in 32 bits.
struct Description(lt::cublasLtMatmulDesc_t);

impl Description {
    fn new(operation: Operation, one: u64) -> Result<Description> {
        use lt::cublasLtMatmulDescAttributes_t as At;
        let compute = match operation {
            Operation::Int8 => lt::cublasComputeType_t::CUBLAS_COMPUTE_32I,
            _ => lt::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        let mut desc = std::ptr::null_mut();
        // SAFETY: writes one handle, given back in `drop`.
        check(unsafe { lt::cublasLtMatmulDescCreate(&mut desc, compute, operation.one().0) }, "a product")?;
        let made = Description(desc);
        let (transposed, fast) = (1i32, 1i8);
        made.set(At::CUBLASLT_MATMUL_DESC_TRANSA, &transposed)?;
        if operation == Operation::E4M3 {
            made.set(At::CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast)?;
            made.set(At::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &one)?;
            made.set(At::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &one)?;
        }
        Ok(made)
    }

    fn set<T>(&self, at: lt::cublasLtMatmulDescAttributes_t, value: &T) -> Result<()> {
        let from = std::ptr::from_ref(value).cast::<c_void>();
        // SAFETY: the description lives, and the value is read before the call returns.
        check(unsafe { lt::cublasLtMatmulDescSetAttribute(self.0, at, from, size_of::<T>()) }, "an attribute")
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: made in `new`.
        let _ = unsafe { lt::cublasLtMatmulDescDestroy(self.0) };
    }
}

/// A matrix whose columns are dense.
struct Layout(lt::cublasLtMatrixLayout_t);

impl Layout {
    fn new(dtype: lt::cudaDataType_t, rows: usize, cols: usize) -> Result<Layout> {
        let mut layout = std::ptr::null_mut();
        // SAFETY: writes one handle, given back in `drop`.
        let status =
            unsafe { lt::cublasLtMatrixLayoutCreate(&mut layout, dtype, rows as u64, cols as u64, rows as i64) };
        check(status, "a layout").map(|()| Layout(layout))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: made in `new`.
        let _ = unsafe { lt::cublasLtMatrixLayoutDestroy(self.0) };
    }
}

struct Preference(lt::cublasLtMatmulPreference_t);

impl Preference {
    fn new() -> Result<Preference> {
        let most = lt::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        let mut preference = std::ptr::null_mut();
        // SAFETY: writes one handle, given back in `drop`.
        check(unsafe { lt::cublasLtMatmulPreferenceCreate(&mut preference) }, "a preference")?;
        let made = Preference(preference);
        let bytes = std::ptr::from_ref(&SPACE).cast::<c_void>();
        // SAFETY: the number is read before the call returns.
        let set = unsafe { lt::cublasLtMatmulPreferenceSetAttribute(made.0, most, bytes, size_of::<usize>()) };
        check(set, "a preference").map(|()| made)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made in `new`.
        let _ = unsafe { lt::cublasLtMatmulPreferenceDestroy(self.0) };
    }
}

/// A product ready to run.
struct Product<'a> {
    cuda: &'a Cuda,
    operation: Operation,
    handle: Handle,
    description: Description,
    /// Of weights, tokens and result.
    layouts: [Layout; 3],
    algorithm: lt::cublasLtMatmulAlgo_t,
    x: Tensor<Cuda>,
    out: Tensor<Cuda>,
    space: Tensor<Cuda>,
    /// The scales point to it.
    _one: Tensor<Cuda>,
}

impl<'a> Product<'a> {
    fn new(cuda: &'a Cuda, operation: Operation, x: &Tensor<Cuda>, [n, k]: [usize; 2]) -> Result<Product<'a>> {
        let handle = Handle::open(cuda)?;
        let x = padded(cuda, operation, x)?;
        let (t, (operands, sums)) = (x.rows, operation.types());
        let mut one = cuda.alloc(DType::F32, 1, 1)?;
        cuda.upload(&1.0f32.to_le_bytes(), &mut one)?;
        let description = Description::new(operation, one.buf.address())?;
        let layouts = [Layout::new(operands, k, n)?, Layout::new(operands, k, t)?, Layout::new(sums, n, t)?];
        let algorithm = best(&handle, &description, &layouts)?;
        let out = cuda.alloc(if operation == Operation::E4M3 { DType::BF16 } else { DType::F32 }, t, n)?;
        let space = cuda.alloc(DType::I8, 1, SPACE)?;
        Ok(Product { cuda, operation, handle, description, layouts, algorithm, x, out, space, _one: one })
    }

    /// Queues it with the weights at this address.
    fn queue(&self, weights: u64) -> Result<()> {
        let (one, zero) = (self.operation.one().1, 0u32);
        let pointer = |address: u64| address as *mut c_void;
        let (x, out) = (pointer(self.x.buf.address()), pointer(self.out.buf.address()));
        let [w_layout, x_layout, out_layout] = &self.layouts;
        // SAFETY: the matrices have the sizes of their layouts and live on the device while the stream works; alpha and
        // beta are read before the call returns.
        let status = unsafe {
            lt::cublasLtMatmul(
                self.handle.0,
                self.description.0,
                std::ptr::from_ref(&one).cast(),
                pointer(weights),
                w_layout.0,
                x,
                x_layout.0,
                std::ptr::from_ref(&zero).cast(),
                out,
                out_layout.0,
                out,
                out_layout.0,
                &self.algorithm,
                pointer(self.space.buf.address()),
                SPACE,
                self.cuda.context.stream.cast(),
            )
        };
        check(status, "multiply")
    }
}

/// A copy of the tokens as the library takes them: by sixteens, floats in bf16.
fn padded(cuda: &Cuda, operation: Operation, x: &Tensor<Cuda>) -> Result<Tensor<Cuda>> {
    let mut bytes = vec![0; x.rows * x.cols * x.dtype.size()];
    cuda.download(x, &mut bytes)?;
    let dtype = match operation {
        Operation::Bf16 => DType::BF16,
        Operation::Int8 | Operation::E4M3 => x.dtype,
    };
    if dtype != x.dtype {
        bytes = encode_f32(dtype, &decode_f32(x.dtype, &bytes))?;
    }
    let rows = x.rows.next_multiple_of(16);
    bytes.resize(rows * x.cols * dtype.size(), 0);
    let mut padded = cuda.alloc(dtype, rows, x.cols)?;
    cuda.upload(&bytes, &mut padded)?;
    Ok(padded)
}

/// The algorithm that the library thinks best.
fn best(handle: &Handle, description: &Description, layouts: &[Layout; 3]) -> Result<lt::cublasLtMatmulAlgo_t> {
    let preference = Preference::new()?;
    let mut found: Vec<lt::cublasLtMatmulHeuristicResult_t> = Vec::with_capacity(1);
    let mut count = 0;
    let [w, x, out] = layouts;
    // SAFETY: all handles live; there is room for one result, which is read only if one was written.
    unsafe {
        let status = lt::cublasLtMatmulAlgoGetHeuristic(
            handle.0,
            description.0,
            w.0,
            x.0,
            out.0,
            out.0,
            preference.0,
            1,
            found.as_mut_ptr(),
            &mut count,
        );
        check(status, "an algorithm")?;
        found.set_len(count.clamp(0, 1) as usize);
    }
    found.first().map(|f| f.algo).ok_or_else(|| Error::unsupported("cuBLASLt has no algorithm for this size"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_decide_what_the_library_multiplies() {
        assert_eq!(Operation::of(DType::I8), Ok(Operation::Int8));
        assert_eq!(Operation::of(DType::F8E4M3), Ok(Operation::E4M3));
        assert_eq!(Operation::of(DType::BF16), Ok(Operation::Bf16));
        // The library has no product of E5M2 by E5M2.
        for dtype in [DType::F8E5M2, DType::F16, DType::F32] {
            assert!(Operation::of(dtype).is_err_and(|e| e.to_string().contains("not measured")), "{dtype}");
        }
        assert_eq!((Operation::Int8.one().1, Operation::Bf16.one().1), (1, 0x3f80_0000));
    }
}
