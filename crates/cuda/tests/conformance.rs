//! The suite of `planish_tensor::conformance` on every GPU of this machine, and there with the kernels of older ones.
use planish_cpu::Scalar;
use planish_cuda::{Cuda, Options};
use planish_tensor::DType;
use planish_tensor::conformance::{self, Tolerance};

/// The first GPU, or a line that says why there is none.
fn open(options: Options) -> Option<Cuda> {
    match Cuda::open(options) {
        Ok(cuda) => Some(cuda),
        Err(error) => {
            println!("skipped: no device ({error})");
            None
        }
    }
}

/// Sums of a GPU go over many threads, so f32 results differ from sequential sums; FP8 and bf16 products are summed
/// by tensor cores, which keep fewer digits than f32.
fn tolerance() -> Tolerance {
    Tolerance { relative: 2e-5, product: 2e-5, float8: 2e-3, ..Tolerance::of(DType::F32) }
}

fn check_kernels_of(arch: Option<u32>) {
    check(Options { kernels_of: arch, ..Options::default() });
}

fn check(options: Options) {
    let Some(cuda) = open(options) else { return };
    let report = conformance::run_within(&Scalar, &cuda, tolerance());
    println!("{report}");
    report.assert_ok();
    for operation in &report.operations {
        let may_lack = cuda.arch() < 89;
        assert!(operation.cases > 0 && (may_lack || operation.unsupported == 0), "{report}");
    }
}

#[test]
fn own_kernels() {
    check_kernels_of(None);
}

#[test]
fn own_kernels_that_sum_in_one_order() {
    check(Options { batch_invariant: true, ..Options::default() });
}

#[test]
fn kernels_of_sm_89() {
    check_kernels_of(Some(89));
    check(Options { kernels_of: Some(89), batch_invariant: true, ..Options::default() });
}

#[test]
fn kernels_of_sm_80() {
    check_kernels_of(Some(80));
}

#[test]
fn kernels_of_sm_75() {
    check_kernels_of(Some(75));
}

#[test]
fn kernels_of_sm_70() {
    check_kernels_of(Some(70));
}
