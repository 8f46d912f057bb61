//! What a GPU does for the quantizer against the host's arithmetic: weights, factors, walks, and whole runs.
mod numbers;
mod runs;
mod solve;
mod weights;

use planish_cuda::{Cuda, Options};

/// The first GPU, or a line that says why there is none.
fn open() -> Option<Cuda> {
    match Cuda::open(Options::default()) {
        Ok(cuda) => Some(cuda),
        Err(error) => {
            println!("skipped: no device ({error})");
            None
        }
    }
}
