//! Where the time of a run goes.
use planish_tensor::Backend;
use std::time::Instant;

/// Seconds by phase, in the order in which the phases first came.
#[derive(Clone, Debug)]
pub struct Phases {
    seconds: Vec<(&'static str, f64)>,
    last: Instant,
}

impl Default for Phases {
    fn default() -> Self {
        Phases { seconds: Vec::new(), last: Instant::now() }
    }
}

impl Phases {
    /// What has passed since the last call belongs to `phase`. Waits for the device, so that it is counted where it
    /// worked.
    pub fn end<B: Backend>(&mut self, backend: &B, phase: &'static str) -> planish_tensor::Result<()> {
        backend.sync()?;
        let now = Instant::now();
        let passed = (now - self.last).as_secs_f64();
        self.last = now;
        match self.seconds.iter_mut().find(|(name, _)| *name == phase) {
            Some((_, seconds)) => *seconds += passed,
            None => self.seconds.push((phase, passed)),
        }
        Ok(())
    }

    /// Names and seconds.
    pub fn seconds(&self) -> &[(&'static str, f64)] {
        &self.seconds
    }
}
