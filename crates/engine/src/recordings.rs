//! Steps that the device has recorded: run again for a fraction of the time that queueing their operations takes.
use planish_tensor::{Recording, RecordingKey, Result};
use std::collections::HashMap;

/// Recordings kept at once: one for each number of sequences in a step, and for each length class of theirs.
const KEPT: usize = 512;

/// Recordings by what they depend on; the one that was used longest ago makes room. To record takes milliseconds in which
/// the device may wait, and many a number of sequences comes but once: a step is recorded when its like comes a second time,
/// mostly while the device still runs the first.
#[derive(Default)]
pub(crate) struct Recordings {
    kept: HashMap<RecordingKey, Kept>,
    clock: u64,
}

struct Kept {
    /// None: a step of this key was queued once.
    recording: Option<Box<dyn Recording>>,
    used: u64,
}

impl Recordings {
    /// Runs the recording of this key; or makes it by `record`, which runs it too; or, the first time, calls `queue`.
    pub(crate) fn run(
        &mut self,
        key: RecordingKey,
        queue: &mut dyn FnMut() -> Result<()>,
        record: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recording>>,
    ) -> Result<()> {
        self.clock += 1;
        let Some(kept) = self.kept.get_mut(&key) else {
            queue()?;
            self.make_room();
            self.kept.insert(key, Kept { recording: None, used: self.clock });
            return Ok(());
        };
        kept.used = self.clock;
        match &kept.recording {
            Some(recording) => recording.replay(),
            None => record(queue).map(|made| kept.recording = Some(made)),
        }
    }

    fn make_room(&mut self) {
        if self.kept.len() >= KEPT {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| *key);
            oldest.and_then(|key| self.kept.remove(&key));
        }
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
    fn records_the_second_time_and_forgets_the_oldest() {
        let replays = Arc::new(AtomicUsize::new(0));
        let (mut queued, mut recorded) = (0, 0);
        let mut recordings = Recordings::default();
        // How many were queued, recorded and replayed by now.
        let mut run = |key: u64, recordings: &mut Recordings| {
            let mut queue = || {
                queued += 1;
                Ok(())
            };
            let record = |_: &mut dyn FnMut() -> Result<()>| {
                recorded += 1;
                Ok(Box::new(Count(replays.clone())) as Box<dyn Recording>)
            };
            recordings.run([key, 0, 0, 0, 0], &mut queue, record).unwrap();
            [queued, recorded, replays.load(Ordering::Relaxed)]
        };
        assert_eq!(run(0, &mut recordings), [1, 0, 0]);
        assert_eq!(run(0, &mut recordings), [1, 1, 0]);
        assert_eq!(run(0, &mut recordings), [1, 1, 1]);
        for key in 1..KEPT as u64 {
            run(key, &mut recordings);
        }
        assert_eq!(run(0, &mut recordings), [KEPT, 1, 2]);
        // A new one takes the place of key 1, the one used longest ago.
        assert_eq!(run(KEPT as u64, &mut recordings), [KEPT + 1, 1, 2]);
        assert_eq!(run(0, &mut recordings), [KEPT + 1, 1, 3]);
        assert_eq!(run(1, &mut recordings), [KEPT + 2, 1, 3]);
        assert_eq!(recordings.kept.len(), KEPT);
    }

    #[test]
    fn what_failed_is_tried_again() {
        let mut recordings = Recordings::default();
        let error = || planish_tensor::Error::Device("no".into());
        let record = |_: &mut dyn FnMut() -> Result<()>| Err(error());
        assert!(recordings.run([0; 5], &mut || Err(error()), record).is_err());
        assert!(recordings.kept.is_empty());
        assert!(recordings.run([0; 5], &mut || Ok(()), record).is_ok());
        assert!(recordings.run([0; 5], &mut || Ok(()), record).is_err());
        assert!(recordings.kept[&[0; 5]].recording.is_none());
    }
}
