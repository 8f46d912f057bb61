//! The way of the blocks from and to the files: one after the other, or beside the work, so that a device does not wait.
use super::run::{Progress, Run, Tell};
use super::save;
use super::streams::Kept;
use crate::error::{Error, Result};
use planish_checkpoint::source::TensorSource;
use planish_checkpoint::writer::CheckpointWriter;
use planish_model::Plan;
use planish_model::decoder::release_block;
use planish_model::weights::HostBlock;
use planish_tensor::{Backend, HostTensor};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

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
        let host = HostBlock::read(plan, source, layer)?;
        let mut part = |part| progress(Progress { layer, layers: plan.layers, part });
        save::write(writer, &run.block(layer, host, &mut part)?)?;
        let kept = run.streams.keep(&run.lane, &run.layers)?;
        writer.save_state(layer, |w| kept.write(w))?;
        writer.finish_block(layer)?;
        release_block(plan, source, layer);
        run.phases.end(run.lane.backend, "write")?;
    }
    Ok(())
}

/// The same with the next block read and the one before written by two more threads.
pub fn side_by_side<B: Backend>(
    run: &mut Run<'_, '_, B>,
    writer: &mut CheckpointWriter,
    progress: Tell<'_, Progress>,
) -> Result<()> {
    let (first, plan, source) = (writer.completed_blocks(), run.job.plan, run.job.source);
    let (read, blocks) = sync_channel(1);
    let (done, finished) = sync_channel(1);
    std::thread::scope(|scope| {
        scope.spawn(move || read_blocks(plan, source, first, &read));
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
    blocks: Receiver<Result<HostBlock>>,
    done: SyncSender<Done>,
    progress: Tell<'_, Progress>,
) -> Result<()> {
    let (plan, source) = (run.job.plan, run.job.source);
    let gone = |_| Error::State("a thread that reads or writes has ended".into());
    for layer in first..plan.layers {
        let host = blocks.recv().map_err(|e| gone(e.to_string()))??;
        run.phases.end(run.lane.backend, "wait for reading")?;
        let mut part = |part| progress(Progress { layer, layers: plan.layers, part });
        let tensors = run.block(layer, host, &mut part)?;
        let kept = run.streams.keep(&run.lane, &run.layers)?.into_owned();
        release_block(plan, source, layer);
        done.send(Done { layer, tensors, kept }).map_err(|e| gone(e.to_string()))?;
        run.phases.end(run.lane.backend, "wait for writing")?;
    }
    Ok(())
}

fn read_blocks(plan: &Plan, source: &dyn TensorSource, first: usize, to: &SyncSender<Result<HostBlock>>) {
    for layer in first..plan.layers {
        let block = HostBlock::read(plan, source, layer).map_err(Error::from);
        if let Ok(block) = &block {
            block.linears.values().for_each(|linear| touch(linear.weight.bytes()));
        }
        if to.send(block).is_err() {
            return;
        }
    }
}

/// Reads a byte of each page, so that a mapped file is in memory when the device wants it.
fn touch(bytes: &[u8]) {
    std::hint::black_box(bytes.iter().step_by(4096).fold(0u8, |sum, b| sum.wrapping_add(*b)));
}

fn write_blocks(writer: &mut CheckpointWriter, blocks: &Receiver<Done>) -> Result<()> {
    for block in blocks {
        save::write(writer, &block.tensors)?;
        writer.save_state(block.layer, |w| block.kept.write(w))?;
        writer.finish_block(block.layer)?;
    }
    Ok(())
}
