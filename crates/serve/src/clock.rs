//! Wall time for labels, and ids that nobody can guess or repeat. Deadlines never use the wall clock.
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970-01-01 00:00 UTC.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Numbers that look random: a counter under keyed hashes, whose keys come from the system's random source.
pub struct Ids {
    keys: [RandomState; 2],
    next: AtomicU64,
}

impl Default for Ids {
    fn default() -> Ids {
        Ids { keys: [RandomState::new(), RandomState::new()], next: AtomicU64::new(0) }
    }
}

impl Ids {
    /// A number, never the same twice for all practical purposes.
    pub fn number(&self) -> u64 {
        self.keys[0].hash_one(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// 32 hexadecimal digits behind a prefix, such as `chatcmpl-`.
    pub fn label(&self, prefix: &str) -> String {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}{:016x}{:016x}", self.keys[0].hash_one(n), self.keys[1].hash_one(n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_differ_and_have_a_length() {
        let ids = Ids::default();
        let (a, b) = (ids.label("x-"), ids.label("x-"));
        assert_ne!(a, b);
        assert_eq!((a.len(), Ids::default().label("x-") == a), (34, false));
    }
}
