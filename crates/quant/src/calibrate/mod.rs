//! The main job: one pass over the blocks that calibrates, smooths, quantizes, checks and saves, one block in memory.
pub mod changing;
pub mod check;
pub mod fold;
mod head;
pub mod hidden;
mod lines;
pub mod observe;
pub mod phases;
pub mod probe;
pub mod run;
mod sampled;
pub mod save;
pub mod solve;
mod states;
mod steps;
mod stored;
mod streams;
pub mod strength;
