//! How long recorded operations take, so that launching is not measured.
use planish_cuda::Cuda;
use planish_tensor::{Backend, Result};
use std::time::Instant;

/// Microseconds of a run, the median of several replays of a recording of `runs`.
pub fn time(cuda: &Cuda, runs: usize, mut run: impl FnMut(usize) -> Result<()>) -> Result<f64> {
    (0..runs).try_for_each(&mut run)?;
    let recording = cuda.record(&mut || (0..runs).try_for_each(&mut run))?;
    let mut times = Vec::new();
    for _ in 0..9 {
        cuda.sync()?;
        let start = Instant::now();
        recording.replay()?;
        cuda.sync()?;
        times.push(start.elapsed().as_secs_f64() * 1e6 / runs as f64);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}
