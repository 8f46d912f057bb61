//! The suite of `planish_tensor::conformance` on every CPU back end: each family of kernels, on one to three threads.
use planish_cpu::{Cpu, Isa, Null, Scalar};
use planish_tensor::conformance::{self, Report};

fn check(report: &Report) {
    println!("{report}");
    report.assert_ok();
    for operation in &report.operations {
        // Rows that lie in the host's memory are left to the host's threads.
        let left = operation.name == "likely" && !report.tested.contains("reference");
        assert!(operation.cases > 0 && (operation.unsupported == 0 || left), "{report}");
    }
}

#[test]
fn the_reference_agrees_with_itself() {
    let report = conformance::run(&Scalar, &Scalar);
    check(&report);
    assert!(report.operations.iter().all(|o| o.worst == 0.0 || o.name.contains("quantize")), "{report}");
}

#[test]
fn one_thread() {
    Isa::available().into_iter().for_each(|isa| check(&conformance::run(&Scalar, &Cpu::new(1, isa))));
}

#[test]
fn two_threads() {
    Isa::available().into_iter().for_each(|isa| check(&conformance::run(&Scalar, &Cpu::new(2, isa))));
}

#[test]
fn three_threads() {
    Isa::available().into_iter().for_each(|isa| check(&conformance::run(&Scalar, &Cpu::new(3, isa))));
}

#[test]
fn the_null_back_end_runs_everything() {
    check(&conformance::run_unchecked(&Null));
}
