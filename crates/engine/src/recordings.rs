//! Steps that the device has recorded: run again for a fraction of the time that queueing their operations takes.
use planish_tensor::{Recording, RecordingKey};
use std::collections::HashMap;

/// Recordings kept at once: one for each number of sequences in a step, and for each length class of theirs.
const KEPT: usize = 512;

/// Recordings by what they depend on; the one that was used longest ago makes room.
#[derive(Default)]
pub(crate) struct Recordings {
    kept: HashMap<RecordingKey, Kept>,
    clock: u64,
}

struct Kept {
    recording: Box<dyn Recording>,
    used: u64,
}

impl Recordings {
    /// Runs the recording of this key, or makes it (which runs it too).
    pub(crate) fn run(
        &mut self,
        key: RecordingKey,
        record: impl FnOnce() -> planish_tensor::Result<Box<dyn Recording>>,
    ) -> planish_tensor::Result<()> {
        self.clock += 1;
        if let Some(kept) = self.kept.get_mut(&key) {
            kept.used = self.clock;
            return kept.recording.replay();
        }
        let recording = record()?;
        if self.kept.len() >= KEPT {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| *key);
            oldest.and_then(|key| self.kept.remove(&key));
        }
        self.kept.insert(key, Kept { recording, used: self.clock });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Count(Arc<AtomicUsize>);

    impl Recording for Count {
        fn replay(&self) -> planish_tensor::Result<()> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }

    #[test]
    fn records_once_and_forgets_the_oldest() {
        let replays = Arc::new(AtomicUsize::new(0));
        let mut recorded = 0;
        let mut recordings = Recordings::default();
        let mut run = |key: u64, recordings: &mut Recordings| {
            let record = || {
                recorded += 1;
                Ok(Box::new(Count(replays.clone())) as Box<dyn Recording>)
            };
            recordings.run([key, 0, 0, 0, 0], record).unwrap();
            recorded
        };
        assert_eq!(run(0, &mut recordings), 1);
        assert_eq!(run(0, &mut recordings), 1);
        assert_eq!(replays.load(Ordering::Relaxed), 1);
        for key in 1..KEPT as u64 {
            run(key, &mut recordings);
        }
        assert_eq!(run(0, &mut recordings), KEPT);
        // A new one takes the place of key 1, the one used longest ago.
        assert_eq!(run(KEPT as u64, &mut recordings), KEPT + 1);
        assert_eq!(run(0, &mut recordings), KEPT + 1);
        assert_eq!(run(1, &mut recordings), KEPT + 2);
        assert_eq!(recordings.kept.len(), KEPT);
    }

    #[test]
    fn a_failed_recording_is_not_kept() {
        let mut recordings = Recordings::default();
        let fails = || Err(planish_tensor::Error::Device("no".into()));
        assert!(recordings.run([0; 5], fails).is_err());
        assert!(recordings.kept.is_empty());
    }
}
