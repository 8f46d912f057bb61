//! The way of the blocks from and to the files: one after the other, or beside the work, so that a device does not wait.
use super::run::{Progress, Run, Tell};
use super::save;
use super::streams::Kept;
use crate::error::{Error, Result};
use planish_checkpoint::source::TensorSource;
use planish_checkpoint::writer::CheckpointWriter;
use planish_model::Plan;
use planish_model::block::Block;
use planish_model::decoder::release_block;
use planish_model::weights::HostBlock;
use planish_tensor::{Backend, HostTensor};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// A block that comes: as it was read, and on the device.
pub struct Next<B: Backend> {
    pub host: HostBlock,
    pub original: Block<B>,
}

impl<B: Backend> Next<B> {
    /// Reads and loads block `layer`.
    pub fn read(backend: &B, plan: &Plan, source: &dyn TensorSource, layer: usize) -> Result<Next<B>> {
        let host = HostBlock::read(plan, source, layer)?;
        Ok(Next { original: Block::load(backend, plan, layer, &host)?, host })
    }
}

/// A block that is done.
struct Done {
    layer: usize,
    tensors: Vec<(String, HostTensor)>,
    kept: Kept<'static>,
}

/// Reads, quantizes and writes one block after the other.
pub fn one_by_one<B: Backend>(
    run: &mut Run<'_, '_, B>,
    writer: &mut CheckpointWriter,
    progress: Tell<'_, Progress>,
) -> Result<()> {
    let (plan, source) = (run.job.plan, run.job.source);
    for layer in writer.completed_blocks()..plan.layers {
        let next = Next::read(run.lane.backend, plan, source, layer)?;
        run.phases.end(run.lane.backend, "load")?;
        let mut part = |part| progress(Progress { layer, layers: plan.layers, part });
        save::write(writer, &run.block(layer, next, &mut part)?)?;
        let kept = run.streams.keep(&run.lane, &run.layers)?;
        writer.save_state(layer, |w| kept.write(w))?;
        writer.finish_block(layer)?;
        release_block(plan, source, layer);
        run.phases.end(run.lane.backend, "write")?;
    }
    Ok(())
}

/// The same with the next block read and brought to the device, and the one before written, by two more threads.
pub fn side_by_side<B: Backend>(
    run: &mut Run<'_, '_, B>,
    writer: &mut CheckpointWriter,
    progress: Tell<'_, Progress>,
) -> Result<()> {
    let (first, plan, source) = (writer.completed_blocks(), run.job.plan, run.job.source);
    let backend = run.lane.backend;
    // Nobody waits in this channel: one block more than the one in work is on the device, not two.
    let (read, blocks) = sync_channel(0);
    let (done, finished) = sync_channel(1);
    std::thread::scope(|scope| {
        scope.spawn(move || read_blocks(backend, plan, source, first, &read));
        let writing = scope.spawn(move || write_blocks(writer, &finished));
        let worked = work(run, first, blocks, done, progress);
        // What stopped the writer is the reason why its channel was closed.
        writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        worked
    })
}

fn work<B: Backend>(
    run: &mut Run<'_, '_, B>,
    first: usize,
    blocks: Receiver<Result<Next<B>>>,
    done: SyncSender<Done>,
    progress: Tell<'_, Progress>,
) -> Result<()> {
    let (plan, source) = (run.job.plan, run.job.source);
    let gone = |_| Error::State("a thread that reads or writes has ended".into());
    for layer in first..plan.layers {
        let next = blocks.recv().map_err(|e| gone(e.to_string()))??;
        run.phases.end(run.lane.backend, "wait for reading")?;
        let mut part = |part| progress(Progress { layer, layers: plan.layers, part });
        let tensors = run.block(layer, next, &mut part)?;
        let kept = run.streams.keep(&run.lane, &run.layers)?.into_owned();
        release_block(plan, source, layer);
        done.send(Done { layer, tensors, kept }).map_err(|e| gone(e.to_string()))?;
        run.phases.end(run.lane.backend, "wait for writing")?;
    }
    Ok(())
}

fn read_blocks<B: Backend>(
    backend: &B,
    plan: &Plan,
    source: &dyn TensorSource,
    first: usize,
    to: &SyncSender<Result<Next<B>>>,
) {
    for layer in first..plan.layers {
        if to.send(Next::read(backend, plan, source, layer)).is_err() {
            return;
        }
    }
}

fn write_blocks(writer: &mut CheckpointWriter, blocks: &Receiver<Done>) -> Result<()> {
    for block in blocks {
        save::write(writer, &block.tensors)?;
        writer.save_state(block.layer, |w| block.kept.write(w))?;
        writer.finish_block(block.layer)?;
    }
    Ok(())
}
