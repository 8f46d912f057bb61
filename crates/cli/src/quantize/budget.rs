//! `--budget KL=x`: measure, keep the most sensitive groups in float, measure again, until the divergence holds. With
//! `KL=x,fp8`, groups that lose less in FP8 go there first, which costs no bytes.
use super::prepared::Prepared;
use crate::machine::Machine;
use anyhow::{Result, bail};
use planish_quant::budget::{Candidate, keep_more};
use planish_quant::calibrate::probe::GroupShare;
use planish_quant::recipe::{Format, Pattern};
use planish_quant::report::{Attempt, BudgetReport};
use planish_tensor::Q8;

/// Tokens held back for the measurement.
pub const TOKENS: usize = 2048;
/// Of these, tokens on which each layer's share is measured: it need only rank them.
const PROBED: usize = 256;
/// Measurements at most.
const ATTEMPTS: usize = 8;
/// A group goes to FP8 where its share is at most this part of what it was: less is within the noise of the probes.
const CLEARLY: f64 = 0.8;

/// What the flag allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Mean KL divergence, nats.
    pub target: f64,
    /// Whether linears may become FP8.
    pub fp8: bool,
}

impl Budget {
    /// The budget that `KL=x` or `KL=x,fp8` means.
    pub fn parse(text: &str) -> Result<Budget, String> {
        let (number, fp8) = text.strip_suffix(",fp8").map_or((text, false), |number| (number, true));
        let number =
            number.strip_prefix("KL=").or_else(|| number.strip_prefix("kl=")).and_then(|x| x.parse::<f64>().ok());
        let target = number.filter(|x| x.is_finite() && *x > 0.0);
        let target = target.ok_or("expected KL= and a number above 0, such as KL=0.01 or KL=0.01,fp8")?;
        Ok(Budget { target, fp8 })
    }
}

/// Refuses, before any work, a budget that a recipe leaves no room for.
pub fn check(budget: Budget, prepared: &Prepared) -> Result<()> {
    let recipe = &prepared.recipe;
    if !budget.fp8 {
        return Ok(());
    }
    if recipe.format == Format::Lmdeploy {
        bail!("--budget: expected KL=x with --format lmdeploy, which stores one 8-bit type, found fp8");
    }
    if recipe.dtypes() != [Q8::Int8] {
        bail!("--budget: expected KL=x where not all is INT8, found fp8, which INT8 linears may become");
    }
    Ok(recipe.in_fp8().check_made()?)
}

/// Changes the recipe until the measured divergence, one standard error added, is at most the target.
pub fn spend(machine: &Machine, prepared: &mut Prepared, budget: Budget) -> Result<BudgetReport> {
    let target = budget.target;
    let mut report = BudgetReport { target, tokens: prepared.held_back.len(), ..BudgetReport::default() };
    let mut groups: Vec<GroupShare> = Vec::new();
    let mut kept: Vec<usize> = Vec::new();
    for _ in 0..ATTEMPTS {
        let measured = prepared.measure(machine)?.quantized;
        let upper = measured.mean + measured.error;
        let bytes = kept.iter().map(|&i| extra(prepared, &groups[i])).sum();
        report.attempts.push(Attempt { kl: measured.mean, standard_error: measured.error, bytes });
        if upper <= target {
            report.kept = kept.iter().flat_map(|&i| groups[i].linears.clone()).collect();
            report.fp8.retain(|name| !report.kept.contains(name));
            (report.kl, report.standard_error, report.bytes) = (measured.mean, measured.error, bytes);
            return Ok(report);
        }
        if groups.is_empty() {
            groups = prepared.shares(machine, PROBED)?.into_iter().flat_map(|share| share.groups).collect();
            if budget.fp8 {
                report.fp8 = to_fp8(machine, prepared, &mut groups)?;
                if !report.fp8.is_empty() {
                    continue; // perhaps that is enough
                }
            }
        }
        let candidates: Vec<Candidate> =
            groups.iter().map(|g| Candidate { kl: g.kl, bytes: extra(prepared, g) }).collect();
        // The shares add up to another number than all together do: they are scaled to what was measured.
        let left: f64 = (0..groups.len()).filter(|i| !kept.contains(i)).map(|i| groups[i].kl).sum();
        let more = keep_more(&candidates, &kept, left * target / upper);
        for &i in more.iter().filter(|i| !kept.contains(i)) {
            let names = groups[i].linears.iter().map(|name| Pattern::new(name));
            prepared.recipe.ignore.extend(names.collect::<planish_quant::Result<Vec<_>>>()?);
        }
        if more.len() == groups.len() {
            bail!("--budget: expected a divergence of at most {target}, found that only the float model has it");
        }
        kept = more;
    }
    let last = report.attempts.last().map_or(f64::NAN, |a| a.kl);
    bail!("--budget: expected a divergence of at most {target}, found {last:.2e} after {ATTEMPTS} attempts; allow more")
}

/// Puts the groups that clearly lose less there into FP8, and their shares to what they are then; their names.
fn to_fp8(machine: &Machine, prepared: &mut Prepared, groups: &mut [GroupShare]) -> Result<Vec<String>> {
    let fp8 = prepared.recipe.in_fp8();
    let int8 = std::mem::replace(&mut prepared.recipe, fp8);
    let there = prepared.shares(machine, PROBED);
    prepared.recipe = int8;
    let there: Vec<GroupShare> = there?.into_iter().flat_map(|share| share.groups).collect();
    let mut names = Vec::new();
    for group in groups {
        let Some(other) = there.iter().find(|other| other.linears == group.linears) else { continue };
        if other.kl <= CLEARLY * group.kl {
            prepared.recipe.put_in_fp8(&group.linears)?;
            names.extend(group.linears.iter().cloned());
            group.kl = other.kl;
        }
    }
    Ok(names)
}

/// Bytes that a group in float takes more than in 8 bits with its scales.
fn extra(prepared: &Prepared, group: &GroupShare) -> u64 {
    let plan = &prepared.model.plan;
    if plan.tied && group.linears == [plan.arch.names.head] {
        return 0; // in float it is the embedding, which is stored in any case
    }
    (group.weights * (prepared.float_bytes() - 1)).saturating_sub(4 * group.rows) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_read() {
        assert_eq!(Budget::parse("KL=0.01"), Ok(Budget { target: 0.01, fp8: false }));
        assert_eq!(Budget::parse("kl=1e-3,fp8"), Ok(Budget { target: 1e-3, fp8: true }));
        for wrong in ["0.1", "KL=0", "KL=", "KL=0.1,int8", "KL=0.1,", "KL=inf", ",fp8", "KL=-1"] {
            assert!(Budget::parse(wrong).is_err(), "{wrong}");
        }
    }
}
