//! The one suite that every back end passes: every operation of [`Backend`] on seeded cases, against a reference.
//! Sizes are mostly odd; rows of zeros, NaN and infinity, unaligned weights and rows past the end are among the cases.
//! A back end refuses products of the 8-bit types that it says it does not run ([`Backend::runs`]), and nothing else.
mod attention;
mod case;
mod data;
mod fused;
mod grids;
mod likely;
mod mixture;
mod products;
mod report;
mod rows;

pub use report::{Operation, Report};

use crate::{Backend, DType, Error, Q8, Result};
use case::{Case, Judge};
use data::Random;

/// What a back end's float arithmetic may differ from the reference's by. Integer products, quantized rows, look-ups,
/// sums and maxima have no tolerance: they are equal (after rounding to the output's type).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Norms, rope, attention, gates, log-softmax and Gram matrices: relative to the largest magnitude of the row.
    pub relative: f32,
    /// Float products in f32: relative to the sum of the terms' magnitudes. 0 asks for equality.
    pub product: f32,
    /// Float products in bf16: as `product`.
    pub bf16_product: f32,
    /// FP8 products: relative to the largest magnitude of the row. 0 asks for equality.
    pub float8: f32,
    /// Attention over a cache narrower than f32: relative to the sum of the terms' magnitudes.
    pub narrow_attention: f32,
    /// Share of the codes of a fused operation that may be neighbours of the reference's codes.
    pub neighbours: f64,
}

impl Tolerance {
    /// What a back end with activations of this type is held to, unless it states otherwise.
    pub fn of(activations: DType) -> Tolerance {
        // Two operands rounded to bf16 differ by 2^-8 each at most; a little is left for the order of the sum.
        let bf16_product = 1.02 / 128.0;
        if activations == DType::F32 {
            // The weights alone are rounded: the suite's queries are numbers that bf16 holds.
            let narrow_attention = 1.02 / 256.0;
            let (relative, product, float8) = (2e-6, 0.0, 0.0);
            return Tolerance { relative, product, bf16_product, float8, narrow_attention, neighbours: 0.005 };
        }
        let rounding = 1.5 / 128.0;
        Tolerance {
            relative: rounding,
            product: rounding,
            bf16_product: rounding,
            float8: rounding,
            narrow_attention: rounding,
            neighbours: 0.5,
        }
    }
}

/// Compares every operation of `tested` with `reference`, within [`Tolerance::of`] its activations' type.
pub fn run<R: Backend, B: Backend>(reference: &R, tested: &B) -> Report {
    run_within(reference, tested, Tolerance::of(tested.activation_dtype()))
}

/// As [`run`], within a stated tolerance.
pub fn run_within<R: Backend, B: Backend>(reference: &R, tested: &B, tolerance: Tolerance) -> Report {
    let mut comparison = Comparison { reference, tested, tolerance, report: Report::of(tested) };
    every_case(&mut comparison, tested.activation_dtype());
    comparison.report.finish(tolerance.neighbours)
}

/// Only runs every operation: for a back end that computes nothing.
pub fn run_unchecked<B: Backend>(tested: &B) -> Report {
    let mut rehearsal = Rehearsal { tested, report: Report::of(tested) };
    every_case(&mut rehearsal, tested.activation_dtype());
    rehearsal.report.finish(0.0)
}

fn every_case(judge: &mut impl Judge, activations: DType) {
    let mut random = Random::new(activations);
    rows::cases(judge, &mut random);
    products::cases(judge, &mut random);
    attention::cases(judge, &mut random);
    fused::cases(judge, &mut random);
    grids::cases(judge, &mut random);
    mixture::cases(judge, &mut random, activations);
    likely::cases(judge);
}

struct Comparison<'a, R, B> {
    reference: &'a R,
    tested: &'a B,
    tolerance: Tolerance,
    report: Report,
}

impl<R: Backend, B: Backend> Judge for Comparison<'_, R, B> {
    fn hear(&mut self, case: &impl Case) {
        let (lacks, operation) = self.report.operation(case.operation());
        let outputs = match case.run(self.reference) {
            Ok(expected) => case.run(self.tested).map(|found| (expected, found)),
            Err(error) => return operation.fail(case, &format!("the reference fails: {error}")),
        };
        let Some((expected, found)) = judged(operation, lacks, case, outputs) else { return };
        for (expected, found) in expected.iter().zip(&found) {
            match case::compare(expected, found, &self.tolerance) {
                Ok(agreement) => operation.note(agreement),
                Err(difference) => operation.fail(case, &difference),
            }
        }
    }
}

struct Rehearsal<'a, B> {
    tested: &'a B,
    report: Report,
}

impl<B: Backend> Judge for Rehearsal<'_, B> {
    fn hear(&mut self, case: &impl Case) {
        let (lacks, operation) = self.report.operation(case.operation());
        judged(operation, lacks, case, case.run(self.tested));
    }
}

/// Counts a case; what it gave, if it ran as a back end without the types `lacks` is to run it.
fn judged<T>(operation: &mut Operation, lacks: &[Q8], case: &impl Case, outcome: Result<T>) -> Option<T> {
    operation.cases += 1;
    let lacking = case.multiplies().into_iter().find(|kind| lacks.contains(kind));
    match (outcome, lacking) {
        (Ok(outputs), None) => return Some(outputs),
        (Err(Error::Unsupported(_)), Some(_)) => operation.unsupported += 1,
        (Err(Error::Unsupported(_)), None) if case.may_be_left() => operation.unsupported += 1,
        (Ok(_), Some(kind)) => operation.fail(case, &format!("multiplies {kind:?}, which it says it does not run")),
        (Err(error), _) => operation.fail(case, &error.to_string()),
    }
    None
}

#[cfg(test)]
mod tests {
    use super::case::Output;
    use super::*;

    struct Product;

    impl Case for Product {
        fn operation(&self) -> &'static str {
            "product"
        }

        fn describe(&self) -> String {
            "a product".into()
        }

        fn multiplies(&self) -> Vec<Q8> {
            vec![Q8::E4M3, Q8::Int8]
        }

        fn run<B: Backend>(&self, _: &B) -> Result<Vec<Output>> {
            Ok(Vec::new())
        }
    }

    /// Whether it counts as run, as refused, and as failed.
    fn judge(lacks: &[Q8], outcome: Result<()>) -> (bool, usize, usize) {
        let mut operation = Operation::default();
        let ran = judged(&mut operation, lacks, &Product, outcome).is_some();
        (ran, operation.unsupported, operation.failed)
    }

    #[test]
    fn only_products_of_types_that_a_back_end_lacks_may_be_refused() {
        let refuse = || Err(Error::unsupported("no kernel"));
        assert_eq!(judge(&[], Ok(())), (true, 0, 0));
        assert_eq!(judge(&[], refuse()), (false, 0, 1));
        assert_eq!(judge(&[Q8::E5M2], refuse()), (false, 0, 1));
        assert_eq!(judge(&[Q8::E5M2, Q8::E4M3], refuse()), (false, 1, 0));
        assert_eq!(judge(&[Q8::Int8], Ok(())), (false, 0, 1));
        assert_eq!(judge(&[Q8::Int8], Err(Error::Device("broken".into()))), (false, 0, 1));
    }
}
