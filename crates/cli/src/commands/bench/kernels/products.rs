//! Products of a block, and the output projection: beside the vendor's where there is one, else beside the same in another
//! type.
use super::data::{Sizes, WEIGHT_SCALE, codes, download, float_weight, floats, upload, weight};
use super::{Random, Reference, Row, time};
use planish_tensor::{Backend, DType, Error, FloatMath, HostTensor, LinearPart, Q8, Q8Rows, Result, Tensor};

/// Bytes of weights that the measured products go through: more than a cache holds.
const ROTATION: usize = 256 << 20;

/// Every product at every number of tokens.
pub fn measure<B: Backend>(b: &B, sizes: &Sizes, kind: Q8, tokens: &[usize], rows: &mut Vec<Row>) -> Result<()> {
    let mut random = Random(1);
    for (n, k) in sizes.products() {
        let part = weight(&mut random, kind, n, k)?;
        let float = float_weight(&mut random, n, k)?;
        for &t in tokens {
            let (bf16_us, _, _) = Float { math: FloatMath::Bf16 }.time(b, &float, t, &mut random)?;
            let (row, vendor) = w8a8(b, kind, &part, t, &mut random)?;
            let reference = vendor.unwrap_or_else(|| Reference::of("gemm_float bf16", bf16_us));
            rows.push(Row { reference, bf16_us: Some(bf16_us), ..row });
        }
    }
    let head = float_weight(&mut random, sizes.v, sizes.h)?;
    for &t in tokens {
        let (us, rel_err, vendor) = Float { math: FloatMath::Bf16 }.time(b, &head, t, &mut random)?;
        let reference = match vendor {
            Some(vendor) => vendor,
            None => {
                let (us, _, _) = Float { math: FloatMath::F32 }.time(b, &head, t, &mut random)?;
                Reference::of("gemm_float in f32 math", us)
            }
        };
        let size = [t, sizes.v, sizes.h];
        let bytes = 2.0 * (sizes.v * sizes.h) as f64 + 4.0 * (t * (sizes.v + sizes.h)) as f64;
        let (op, operations, dtype) = ("gemm_float", operations(size), DType::BF16.to_string());
        let kernel = op.into();
        rows.push(Row { op, kernel, size, dtype, us, operations, bytes, reference, bf16_us: Some(us), rel_err });
    }
    Ok(())
}

/// The product of the vendor's library; `None` if a device of this kind has no such library. The reason stands in the
/// name's place where it cannot be measured.
fn vendor<B: Backend>(b: &B, x: &Tensor<B>, weights: &[B::Linear]) -> Result<Option<Reference>> {
    match b.vendor_product(x, weights) {
        Ok(None) => Ok(None),
        Ok(Some(mut product)) => {
            let us = time(b, &mut |turn| (product.queue)(turn % weights.len()))?;
            Ok(Some(Reference::of(product.name, us)))
        }
        Err(Error::Unsupported(why)) => Ok(Some(Reference { name: format!("none: {why}"), us: None })),
        Err(error) => Err(error),
    }
}

fn operations([t, n, k]: [usize; 3]) -> f64 {
    2.0 * t as f64 * n as f64 * k as f64
}

/// As many copies of a weight as a rotation takes.
fn copies<B: Backend>(b: &B, part: &LinearPart) -> Result<Vec<B::Linear>> {
    let count = ROTATION.div_ceil(part.weight.bytes().len().max(1)).clamp(1, 64);
    (0..count).map(|_| b.load_linear(std::slice::from_ref(part))).collect()
}

/// A row, its reference still to be said unless there is a vendor's.
fn w8a8<B: Backend>(
    b: &B,
    kind: Q8,
    part: &LinearPart,
    t: usize,
    random: &mut Random,
) -> Result<(Row, Option<Reference>)> {
    let &[n, k] = part.weight.shape() else { unreachable!("weights have two dimensions") };
    let x = codes(random, kind, t * k);
    let scales: Vec<f32> = floats(random, t).iter().map(|s| (s.abs() + 0.5) / 128.0).collect();
    let codes_on_device = b.load(&HostTensor::from_bytes(kind.dtype(), vec![t, k], x.clone())?)?;
    let mut rows = Q8Rows::of_tokens(codes_on_device, b.alloc(DType::F32, t, 1)?);
    b.upload(&planish_tensor::host::encode_f32(DType::F32, &scales)?, &mut rows.scales)?;
    let mut out = b.alloc(b.activation_dtype(), t, n)?;
    let weights = copies(b, part)?;
    let us = time(b, &mut |turn| b.gemm_w8a8(&rows, &weights[turn % weights.len()], &mut out))?;
    let kernel = b.gemm_w8a8_kernel(&rows, &weights[0], &out)?;
    let w = part.weight.bytes();
    let exact = |i: usize, j: usize| {
        let terms = x[i * k..][..k].iter().zip(&w[j * k..][..k]);
        let sum: f64 = terms.map(|(&x, &w)| f64::from(kind.decode(x)) * f64::from(kind.decode(w))).sum();
        sum * f64::from(scales[i]) * f64::from(WEIGHT_SCALE)
    };
    let rel_err = error(b, &out, random, &exact)?;
    let (size, dtype) = ([t, n, k], kind.dtype().to_string());
    let bytes = ((n + t) * k + 4 * (t + n) + out.dtype.size() * t * n) as f64;
    let (op, operations) = ("gemm_w8a8", operations(size));
    let vendor = vendor(b, &rows.codes, &weights)?;
    let reference = Reference { name: String::new(), us: None };
    Ok((Row { op, kernel, size, dtype, us, operations, bytes, reference, bf16_us: None, rel_err }, vendor))
}

struct Float {
    math: FloatMath,
}

impl Float {
    /// Microseconds, error, and the vendor's product.
    fn time<B: Backend>(
        &self,
        b: &B,
        part: &LinearPart,
        t: usize,
        random: &mut Random,
    ) -> Result<(f64, f64, Option<Reference>)> {
        let &[n, k] = part.weight.shape() else { unreachable!("weights have two dimensions") };
        let values = floats(random, t * k);
        let x = upload(b, &values, t, k, b.activation_dtype())?;
        let mut out = b.alloc(DType::F32, t, n)?;
        let weights = copies(b, part)?;
        let us = time(b, &mut |turn| b.gemm_float(&x, &weights[turn % weights.len()], self.math, &mut out))?;
        let exact = |i: usize, j: usize| {
            let w = planish_tensor::host::decode_f32(DType::BF16, &part.weight.bytes()[2 * j * k..][..2 * k]);
            values[i * k..][..k].iter().zip(w).map(|(&x, w)| f64::from(x) * f64::from(w)).sum()
        };
        Ok((us, error(b, &out, random, &exact)?, vendor(b, &x, &weights)?))
    }
}

/// The largest error of 64 results, in parts of the largest of them.
fn error<B: Backend>(b: &B, out: &Tensor<B>, random: &mut Random, exact: &dyn Fn(usize, usize) -> f64) -> Result<f64> {
    let found = download(b, out, out.rows * out.cols)?;
    let (mut largest, mut worst) = (0.0f64, 0.0f64);
    for _ in 0..64 {
        let (i, j) = (random.below(out.rows), random.below(out.cols));
        let expected = exact(i, j);
        largest = largest.max(expected.abs());
        worst = worst.max((expected - f64::from(found[i * out.cols + j])).abs());
    }
    Ok(worst / largest)
}
