//! `--budget KL=x`: measure, keep the most sensitive groups in float, measure again, until the divergence holds.
use super::prepared::Prepared;
use crate::Global;
use anyhow::{Result, bail};
use planish_quant::budget::{Candidate, keep_more};
use planish_quant::calibrate::probe::GroupShare;
use planish_quant::recipe::Pattern;
use planish_quant::report::{Attempt, BudgetReport};

/// Tokens held back for the measurement.
pub const TOKENS: usize = 2048;
/// Of these, tokens on which each layer's share is measured: it need only rank them.
const PROBED: usize = 256;
/// Measurements at most.
const ATTEMPTS: usize = 8;

/// The divergence that `KL=x` allows.
pub fn parse(text: &str) -> Result<f64, String> {
    let number = text.strip_prefix("KL=").or_else(|| text.strip_prefix("kl=")).and_then(|x| x.parse::<f64>().ok());
    let number = number.filter(|x| x.is_finite() && *x > 0.0);
    number.ok_or_else(|| "expected KL= and a number above 0, such as KL=0.01".into())
}

/// Extends what the recipe ignores until the measured divergence, one standard error added, is at most `target`.
pub fn spend(global: &Global, prepared: &mut Prepared, target: f64) -> Result<BudgetReport> {
    let mut report = BudgetReport { target, tokens: prepared.held_back.len(), ..BudgetReport::default() };
    let mut groups: Vec<GroupShare> = Vec::new();
    let mut kept: Vec<usize> = Vec::new();
    for _ in 0..ATTEMPTS {
        let measured = prepared.measure(global)?.quantized;
        let upper = measured.mean + measured.error;
        let bytes = kept.iter().map(|&i| extra(prepared, &groups[i])).sum();
        report.attempts.push(Attempt { kl: measured.mean, standard_error: measured.error, bytes });
        if upper <= target {
            report.kept = kept.iter().flat_map(|&i| groups[i].linears.clone()).collect();
            (report.kl, report.standard_error, report.bytes) = (measured.mean, measured.error, bytes);
            return Ok(report);
        }
        if groups.is_empty() {
            groups = prepared.shares(global, PROBED)?.into_iter().flat_map(|share| share.groups).collect();
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

/// Bytes that a group in float takes more than in 8 bits with its scales.
fn extra(prepared: &Prepared, group: &GroupShare) -> u64 {
    let plan = &prepared.model.plan;
    if plan.tied && group.linears == [plan.arch.names.head] {
        return 0; // in float it is the embedding, which is stored in any case
    }
    (group.weights * (prepared.float_bytes() - 1)).saturating_sub(4 * group.rows) as u64
}
