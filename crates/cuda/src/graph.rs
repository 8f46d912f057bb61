//! Recorded steps: the kernels of a step captured into a CUDA graph, so that running them again is one call.
use crate::driver::{Context, check};
use cudarc::driver::sys;
use planish_tensor::Recording;
use planish_tensor::{Error, Result};
use std::sync::Arc;

/// An instantiated graph.
pub(crate) struct Graph {
    context: Arc<Context>,
    executable: sys::CUgraphExec,
}

// SAFETY: the handle may be used from any thread, one at a time: replaying takes the graph's owner.
unsafe impl Send for Graph {}

impl Graph {
    /// Captures what `work` queues, and runs it once.
    pub(crate) fn record(context: &Arc<Context>, work: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        context.enter()?;
        // Relaxed: while this thread captures, others may allocate; kernels loaded for the first time allocate too.
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is ours; the capture is ended below whatever `work` says.
        check(unsafe { sys::cuStreamBeginCapture_v2(context.stream, mode) }, "begin to record a step")?;
        let worked = work();
        let mut graph = std::ptr::null_mut();
        // SAFETY: ends the capture that was begun above; writes one handle, destroyed below.
        let ended = check(unsafe { sys::cuStreamEndCapture(context.stream, &mut graph) }, "record a step");
        let made = worked.and(ended).and_then(|()| Graph::instantiate(context, graph));
        if !graph.is_null() {
            // SAFETY: the executable is a copy.
            let _ = unsafe { sys::cuGraphDestroy(graph) };
        }
        let made = made?;
        made.replay()?;
        Ok(made)
    }

    fn instantiate(context: &Arc<Context>, graph: sys::CUgraph) -> Result<Graph> {
        if graph.is_null() {
            return Err(Error::Device("CUDA: recording a step gave no graph".into()));
        }
        let mut executable = std::ptr::null_mut();
        // SAFETY: the graph was captured just now; writes one handle, destroyed in `drop`.
        let result = unsafe { sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0) };
        check(result, "prepare a recorded step")?;
        Ok(Graph { context: context.clone(), executable })
    }
}

impl Recording for Graph {
    fn replay(&self) -> Result<()> {
        self.context.enter()?;
        // SAFETY: the executable lives as long as `self`; what it reads and writes lives as long as its owner says.
        check(unsafe { sys::cuGraphLaunch(self.executable, self.context.stream) }, "run a recorded step")
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: the wait ends the last run.
        unsafe {
            let _ = sys::cuCtxSetCurrent(self.context.raw());
            let _ = sys::cuStreamSynchronize(self.context.stream);
            let _ = sys::cuGraphExecDestroy(self.executable);
        }
    }
}
