//! The vendor's product of 8-bit numbers, measured in the same run, where its library is on the machine.
use cudarc::cublaslt::sys as lt;
use planish_cuda::Cuda;
use planish_tensor::{Backend, DType, Error, Q8, Result, Tensor};
use std::ffi::c_void;

/// cuBLASLt, its handle and its work space.
pub struct Vendor {
    handle: lt::cublasLtHandle_t,
    space: Tensor<Cuda>,
}

/// What NVIDIA recommends for Hopper.
const SPACE: usize = 32 << 20;

/// A product ready to run: INT8 to int32 sums without scales, or E4M3 with one scale to bf16.
pub struct VendorProduct<'a> {
    vendor: &'a Vendor,
    cuda: &'a Cuda,
    desc: lt::cublasLtMatmulDesc_t,
    layouts: [lt::cublasLtMatrixLayout_t; 3],
    algo: lt::cublasLtMatmulAlgo_t,
    x: Tensor<Cuda>,
    out: Tensor<Cuda>,
    kind: Q8,
    _one: Tensor<Cuda>,
}

fn check(status: lt::cublasStatus_t, what: &str) -> Result<()> {
    match status {
        lt::cublasStatus_t::CUBLAS_STATUS_SUCCESS => Ok(()),
        other => Err(Error::unsupported(format!("cuBLASLt: {what}: {other:?}"))),
    }
}

impl Vendor {
    /// The library, if there is one.
    pub fn open(cuda: &Cuda) -> Result<Option<Vendor>> {
        // SAFETY: looks for a shared library by name.
        if !unsafe { lt::is_culib_present() } {
            return Ok(None);
        }
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle, which lives as long as the bench.
        check(unsafe { lt::cublasLtCreate(&mut handle) }, "open")?;
        Ok(Some(Vendor { handle, space: cuda.alloc(DType::I8, 1, SPACE)? }))
    }

    /// The product of `x` `[t, k]` and weights `[n, k]`, by the algorithm that the library thinks best.
    pub fn product<'a>(
        &'a self,
        cuda: &'a Cuda,
        kind: Q8,
        codes: &[u8],
        n: usize,
        k: usize,
    ) -> Result<VendorProduct<'a>> {
        let t = codes.len() / k;
        let mut x = cuda.alloc(kind.dtype(), t, k)?;
        cuda.upload(codes, &mut x)?;
        let mut one = cuda.alloc(DType::F32, 1, 1)?;
        cuda.upload(&1.0f32.to_le_bytes(), &mut one)?;
        let int8 = kind == Q8::Int8;
        let out = cuda.alloc(if int8 { DType::F32 } else { DType::BF16 }, t, n)?;
        let desc = describe(kind, cuda.address(&one))?;
        use lt::cudaDataType_t as Type;
        let (codes, sums) =
            if int8 { (Type::CUDA_R_8I, Type::CUDA_R_32I) } else { (Type::CUDA_R_8F_E4M3, Type::CUDA_R_16BF) };
        let layouts = [layout(codes, k, n)?, layout(codes, k, t)?, layout(sums, n, t)?];
        let algo = self.best(desc, &layouts)?;
        Ok(VendorProduct { vendor: self, cuda, desc, layouts, algo, x, out, kind, _one: one })
    }

    fn best(
        &self,
        desc: lt::cublasLtMatmulDesc_t,
        layouts: &[lt::cublasLtMatrixLayout_t; 3],
    ) -> Result<lt::cublasLtMatmulAlgo_t> {
        let mut preference = std::ptr::null_mut();
        let mut found: Vec<lt::cublasLtMatmulHeuristicResult_t> = Vec::with_capacity(1);
        let mut count = 0;
        let most = lt::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: handles are written before they are used; room for one result is there, and read if one was written.
        unsafe {
            check(lt::cublasLtMatmulPreferenceCreate(&mut preference), "a preference")?;
            let bytes = std::ptr::from_ref(&SPACE).cast::<c_void>();
            check(
                lt::cublasLtMatmulPreferenceSetAttribute(preference, most, bytes, size_of::<usize>()),
                "a preference",
            )?;
            let [w, x, out] = *layouts;
            let status = lt::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                desc,
                w,
                x,
                out,
                out,
                preference,
                1,
                found.as_mut_ptr(),
                &mut count,
            );
            check(status, "an algorithm")?;
            found.set_len(count.clamp(0, 1) as usize);
        }
        found.first().map(|f| f.algo).ok_or_else(|| Error::unsupported("cuBLASLt has no algorithm"))
    }
}

/// Weights transposed, sums in 32 bits, scales of 1 for E4M3.
fn describe(kind: Q8, one: u64) -> Result<lt::cublasLtMatmulDesc_t> {
    use lt::cublasLtMatmulDescAttributes_t as At;
    let (compute, scale) = match kind {
        Q8::Int8 => (lt::cublasComputeType_t::CUBLAS_COMPUTE_32I, lt::cudaDataType_t::CUDA_R_32I),
        _ => (lt::cublasComputeType_t::CUBLAS_COMPUTE_32F, lt::cudaDataType_t::CUDA_R_32F),
    };
    let mut desc = std::ptr::null_mut();
    let (transposed, fast) = (1i32, 1i8);
    // SAFETY: the description is written first; each attribute has the size that the library documents.
    unsafe {
        check(lt::cublasLtMatmulDescCreate(&mut desc, compute, scale), "a product")?;
        let set = |at, value: *const c_void, size| {
            check(lt::cublasLtMatmulDescSetAttribute(desc, at, value, size), "an attribute")
        };
        set(At::CUBLASLT_MATMUL_DESC_TRANSA, std::ptr::from_ref(&transposed).cast(), 4)?;
        if kind != Q8::Int8 {
            set(At::CUBLASLT_MATMUL_DESC_FAST_ACCUM, std::ptr::from_ref(&fast).cast(), 1)?;
            set(At::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, std::ptr::from_ref(&one).cast(), 8)?;
            set(At::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, std::ptr::from_ref(&one).cast(), 8)?;
        }
    }
    Ok(desc)
}

fn layout(dtype: lt::cudaDataType_t, rows: usize, cols: usize) -> Result<lt::cublasLtMatrixLayout_t> {
    let mut layout = std::ptr::null_mut();
    let (rows, cols, pitch) = (rows as u64, cols as u64, rows as i64);
    // SAFETY: writes one handle; columns are dense.
    let status = unsafe { lt::cublasLtMatrixLayoutCreate(&mut layout, dtype, rows, cols, pitch) };
    check(status, "a layout")?;
    Ok(layout)
}

impl VendorProduct<'_> {
    /// Queues it with the weights at this address.
    pub fn run(&mut self, weights: u64) -> Result<()> {
        let (one, zero) = ([1i32, 0x3f80_0000], [0i32, 0]);
        let at = usize::from(self.kind != Q8::Int8);
        let pointer = |address: u64| address as *mut c_void;
        let (x, out) = (pointer(self.cuda.address(&self.x)), pointer(self.cuda.address(&self.out)));
        let [w_layout, x_layout, out_layout] = self.layouts;
        // SAFETY: the matrices have the sizes of their layouts and live on the device while the stream works; alpha and
        // beta are read before the call returns.
        let status = unsafe {
            lt::cublasLtMatmul(
                self.vendor.handle,
                self.desc,
                std::ptr::from_ref(&one[at]).cast(),
                pointer(weights),
                w_layout,
                x,
                x_layout,
                std::ptr::from_ref(&zero[at]).cast(),
                out,
                out_layout,
                out,
                out_layout,
                &self.algo,
                pointer(self.cuda.address(&self.vendor.space)),
                SPACE,
                self.cuda.stream().cast(),
            )
        };
        check(status, "multiply")
    }
}
