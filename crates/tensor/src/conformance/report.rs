//! What a run of the suite found, operation by operation.
use super::case::{Agreement, Case};
use crate::{Backend, Q8};
use std::fmt;

/// Most failures of one operation that are described.
const DESCRIBED: usize = 8;

/// The findings.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was tested, in the back end's own words.
    pub tested: String,
    /// 8-bit types whose products the back end says it does not run.
    pub lacks: Vec<Q8>,
    /// In the order of the suite.
    pub operations: Vec<Operation>,
}

/// The findings on one operation.
#[derive(Clone, Debug, Default)]
pub struct Operation {
    /// Name in the trait.
    pub name: &'static str,
    /// Cases tried.
    pub cases: usize,
    /// Cases that the back end refused, as it was to (products of types that it lacks), or left to the host, as it may.
    pub unsupported: usize,
    /// Largest difference seen, relative as its tolerance is.
    pub worst: f32,
    /// 8-bit codes of fused operations seen.
    pub codes: usize,
    /// Codes that were neighbours of the expected ones.
    pub neighbours: usize,
    /// Comparisons that failed.
    pub failed: usize,
    /// The first of them: the case and the difference.
    pub failures: Vec<String>,
}

impl Report {
    pub(super) fn of<B: Backend>(tested: &B) -> Report {
        let lacks = Q8::ALL.into_iter().filter(|&kind| tested.runs(kind).is_err()).collect();
        Report { tested: tested.describe(), lacks, operations: Vec::new() }
    }

    /// True when nothing failed.
    pub fn is_ok(&self) -> bool {
        self.operations.iter().all(|o| o.failed == 0)
    }

    /// Panics with the whole report unless nothing failed.
    #[track_caller]
    pub fn assert_ok(&self) {
        assert!(self.is_ok(), "{self}");
    }

    /// The types that are lacked, and the entry of an operation, made if it is the first case.
    pub(super) fn operation(&mut self, name: &'static str) -> (&[Q8], &mut Operation) {
        let at = self.operations.iter().position(|o| o.name == name).unwrap_or_else(|| {
            self.operations.push(Operation { name, ..Operation::default() });
            self.operations.len() - 1
        });
        (&self.lacks, &mut self.operations[at])
    }

    /// Judges what can only be judged over all cases.
    pub(super) fn finish(mut self, neighbours: f64) -> Report {
        for o in &mut self.operations {
            if o.neighbours as f64 > neighbours * o.codes as f64 {
                o.failed += 1;
                o.failures.push(format!("{} of {} codes are neighbours of the expected ones", o.neighbours, o.codes));
            }
        }
        self
    }
}

impl Operation {
    pub(super) fn note(&mut self, seen: Agreement) {
        self.worst = self.worst.max(seen.worst);
        self.codes += seen.codes;
        self.neighbours += seen.neighbours;
    }

    pub(super) fn fail(&mut self, case: &impl Case, difference: &str) {
        self.failed += 1;
        if self.failures.len() < DESCRIBED {
            self.failures.push(format!("{}: {difference}", case.describe()));
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.tested)?;
        if !self.lacks.is_empty() {
            writeln!(f, "  refuses products of {:?}", self.lacks)?;
        }
        for o in &self.operations {
            write!(f, "  {:<26} {:>4} cases, {} failed, worst {:.1e}", o.name, o.cases, o.failed, o.worst)?;
            if o.codes > 0 {
                write!(f, ", {} of {} codes are neighbours", o.neighbours, o.codes)?;
            }
            if o.unsupported > 0 {
                write!(f, ", {} refused", o.unsupported)?;
            }
            writeln!(f)?;
            for failure in &o.failures {
                writeln!(f, "    {failure}")?;
            }
        }
        Ok(())
    }
}
