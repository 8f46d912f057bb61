//! The main job: one pass over the blocks that calibrates, smooths, quantizes, checks and saves, one block in memory.
pub mod check;
pub mod fold;
pub mod hidden;
pub mod observe;
pub mod run;
pub mod save;
pub mod solve;
