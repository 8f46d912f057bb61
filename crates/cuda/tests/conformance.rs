//! The suite of `planish_tensor::conformance` on every GPU of this machine, and there with the kernels of older ones.
use planish_cpu::Scalar;
use planish_cuda::{Cuda, Options};
use planish_tensor::conformance::{self, Tolerance};
use planish_tensor::{DType, Q8};
use std::ops::RangeInclusive;

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

fn check_kernels_of(arch: Option<u32>) -> bool {
    check(Options { kernels_of: arch, ..Options::default() })
}

/// Whether there is a GPU to check.
fn check(options: Options) -> bool {
    let Some(cuda) = open(options) else { return false };
    let report = conformance::run_within(&Scalar, &cuda, tolerance());
    println!("{report}");
    report.assert_ok();
    let lacks = lacking(cuda.arch());
    assert_eq!(report.lacks, lacks, "what sm_{} says it does not run\n{report}", cuda.arch());
    for operation in &report.operations {
        let refuses = !lacks.is_empty() && MULTIPLY.contains(&operation.name);
        assert!(operation.cases > 0 && (operation.unsupported > 0) == refuses, "{}\n{report}", operation.name);
    }
    true
}

/// What architectures do not multiply. Everything else that the suite tries runs on all of them: it fails where a case is
/// refused for any other reason.
const LACKING: [(RangeInclusive<u32>, &[Q8]); 3] =
    [(70..=88, &[Q8::E4M3, Q8::E5M2]), (89..=99, &[]), (100..=u32::MAX, &[Q8::Int8])];

/// The operations with cases of every 8-bit type as weights.
const MULTIPLY: [&str; 4] = ["gemm_w8a8", "gemm_gated_quantize", "mix", "gemm_rope_attention_quantize"];

fn lacking(arch: u32) -> &'static [Q8] {
    let found = LACKING.iter().find(|(archs, _)| archs.contains(&arch));
    found.unwrap_or_else(|| panic!("no kernels are made for sm_{arch}")).1
}

/// Without a GPU too: the table is what the crate says of its architectures.
#[test]
fn architectures_lack_what_they_say() {
    for arch in [70, 72, 75, 80, 86, 87, 89, 90, 100, 103, 120] {
        let lacks: Vec<Q8> = Q8::ALL.into_iter().filter(|&kind| planish_cuda::family(kind, arch).is_err()).collect();
        assert_eq!(lacks, lacking(arch), "sm_{arch}");
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
    if check_kernels_of(Some(89)) {
        check(Options { kernels_of: Some(89), batch_invariant: true, ..Options::default() });
    }
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
