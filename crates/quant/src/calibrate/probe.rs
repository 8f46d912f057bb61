//! How much of the damage each group of linears does: the divergence of a model in which it alone is quantized.
//!
//! Every block is calibrated on the float model's states. For each layer one stream of the held-back tokens leaves the
//! original at that layer, goes through the quantized block, and through the original's blocks from there on. Within a
//! layer the linears that run as one product stand or fall together; the layer's divergence is shared out among them by
//! what each of them alone changes in the block's output.
use super::check::{self, Divergence};
use super::fold::{FloatBlock, reader_names};
use super::head::{self, Head};
use super::hidden::{Hidden, Lane};
use super::run::{Job, Progress, Tell};
use super::solve::Solved;
use super::steps::{calibrate, smooth, solve};
use super::streams::Streams;
use crate::error::Result;
use planish_model::block::Block;
use planish_model::decoder::release_block;
use planish_model::weights::HostBlock;
use planish_model::{Ends, Input, Mlp, Role};
use planish_tensor::{Backend, FloatMath};

/// A layer that alone is quantized.
#[derive(Clone, Debug)]
pub struct LayerShare {
    /// Its name.
    pub name: String,
    /// What that does.
    pub divergence: Divergence,
    /// Its groups, in the order of a block.
    pub groups: Vec<GroupShare>,
}

/// Linears that run as one product.
#[derive(Clone, Debug)]
pub struct GroupShare {
    /// Names of the linears that are quantized.
    pub linears: Vec<String>,
    /// Their weights.
    pub weights: usize,
    /// Their output channels.
    pub rows: usize,
    /// Their part of the layer's divergence.
    pub kl: f64,
}

/// Measures every layer that has something to quantize.
pub fn sensitivity<B: Backend>(backend: &B, job: &Job<'_>, progress: Tell<'_, Progress>) -> Result<Vec<LayerShare>> {
    job.runs_on(backend)?;
    let (plan, lengths) = (job.plan, job.samples.iter().map(Vec::len).collect::<Vec<_>>());
    let solver = backend.solver().filter(|_| job.algorithm.solvable());
    let mut lane = Lane::new(backend, solver, job.stored, &lengths, job.held_back.len(), check::ROWS, job.keys)?;
    let ends = Ends::load(backend, plan, job.source, false)?;
    let mut streams = Streams::begin(&mut lane, &ends, job)?;
    drop(ends);
    let (mut shares, mut probes) = (Vec::new(), Vec::new());
    for layer in 0..plan.layers {
        let host = HostBlock::read(plan, job.source, layer)?;
        let block = Block::load(backend, plan, layer, &host)?;
        for probe in &mut probes {
            lane.advance(&block, FloatMath::F32, probe)?;
        }
        let mut part = |part| progress(Progress { layer, layers: plan.layers, part });
        if let Some((share, probe)) = quantized_alone(&mut lane, job, layer, &host, &block, &streams, &mut part)? {
            shares.push(share);
            probes.push(probe);
        }
        lane.advance(&block, FloatMath::F32, &mut streams.original)?;
        if layer + 1 < plan.layers || head::observes(job) {
            lane.advance_all(&block, FloatMath::Bf16, &mut streams.calibration)?;
        }
        release_block(plan, job.source, layer);
    }
    let head = head::quantized(&mut lane, job, &streams)?;
    let ends = Ends::load(backend, plan, job.source, false)?;
    let others: Vec<&Hidden> = probes.iter().collect();
    let found = check::divergences(&mut lane, [&ends; 2], &streams.original, &others, plan.hidden)?;
    for (share, divergence) in shares.iter_mut().zip(found) {
        share.divergence = divergence;
        share.groups.iter_mut().for_each(|g| g.kl *= divergence.mean);
    }
    if let Some(head) = head {
        shares.push(of_head(&mut lane, job, &ends, &head, &streams)?);
    }
    Ok(shares)
}

/// What the output projection does alone.
fn of_head<B: Backend>(
    lane: &mut Lane<'_, B>,
    job: &Job<'_>,
    ends: &Ends<B>,
    head: &Head,
    streams: &Streams<B>,
) -> Result<LayerShare> {
    let (plan, other, states) = (job.plan, head.ends(lane.backend, job)?, &streams.original);
    let divergence = check::divergence(lane, [ends, &other], states, states, plan.hidden)?;
    let name = plan.arch.names.head.to_owned();
    let (weights, rows) = (plan.vocab * plan.hidden, plan.vocab);
    let groups = vec![GroupShare { linears: vec![name.clone()], weights, rows, kl: divergence.mean }];
    Ok(LayerShare { name, divergence, groups })
}

/// The held-back tokens behind block `layer` quantized, and each group's part of what that changes.
fn quantized_alone<B: Backend>(
    lane: &mut Lane<'_, B>,
    job: &Job<'_>,
    layer: usize,
    host: &HostBlock,
    original: &Block<B>,
    streams: &Streams<B>,
    progress: Tell<'_, f64>,
) -> Result<Option<(LayerShare, Hidden)>> {
    let (plan, backend) = (job.plan, lane.backend);
    if !plan.roles(layer).into_iter().any(|role| job.kind_of(layer, role).is_some()) {
        return Ok(None);
    }
    let (mut statistics, sampled, _) = calibrate(lane, job, layer, original, streams, progress)?;
    let mut float = FloatBlock::new(backend, lane.solver, host)?;
    let smoothed = smooth(backend, job, layer, &mut float, statistics.as_ref(), sampled.as_ref())?;
    let solved = solve(lane, job, layer, &float, statistics.as_mut(), &smoothed)?;
    let mut behind = |chosen: &dyn Fn(&Solved) -> bool| {
        let codes = |role| solved.iter().find(|s| s.role == role && chosen(s)).map(|s| s.part.clone());
        let host =
            float.with_linears(&plan.roles(layer), |role| codes(role).map_or_else(|| float.part(plan, role), Ok))?;
        let mut hidden = Hidden { values: streams.original.values.clone() };
        lane.advance(&Block::load(backend, plan, layer, &host)?, FloatMath::F32, &mut hidden)?;
        Ok::<_, crate::Error>(hidden)
    };
    let (float_end, probe) = (behind(&|_| false)?, behind(&|_| true)?);
    let mut groups = Vec::new();
    for group in solved.chunk_by(|a, b| together(a.role) == together(b.role)) {
        let alone = behind(&|s| together(s.role) == together(group[0].role))?;
        groups.push(GroupShare {
            linears: reader_names(plan, layer, &group.iter().map(|s| s.role).collect::<Vec<_>>()),
            weights: group.iter().map(|s| s.part.weight.len()).sum(),
            rows: group.iter().map(|s| s.part.weight.shape()[0]).sum(),
            kl: check::token_error(&float_end.values, &alone.values, plan.hidden),
        });
    }
    let all: f64 = groups.iter().map(|g| g.kl).sum();
    groups.iter_mut().for_each(|g| g.kl = if all > 0.0 { g.kl / all } else { 0.0 });
    let name = plan.block_prefix(layer).trim_end_matches('.').to_owned();
    Ok(Some((LayerShare { name, divergence: Divergence::default(), groups }, probe)))
}

/// What a linear stands or falls with: those of its input, and all experts of a layer with each other.
fn together(role: Role) -> Option<Input> {
    match role {
        Role::Gate(Mlp::Expert(_)) | Role::Up(Mlp::Expert(_)) | Role::Down(Mlp::Expert(_)) => None,
        _ => Some(role.input()),
    }
}
