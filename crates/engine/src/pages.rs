//! Pages of the KV cache as leases: dropping a lease gives its pages back, so a forgotten request cannot keep any.
use std::sync::{Arc, Mutex, MutexGuard};

/// All pages of a pool, each either free or in exactly one lease.
#[derive(Clone, Debug)]
pub struct Pages {
    free: Arc<Mutex<Vec<u32>>>,
    total: usize,
    page_size: usize,
}

/// Pages of one sequence, in order.
#[derive(Debug)]
pub struct Lease {
    pages: Vec<u32>,
    owner: Pages,
}

impl Pages {
    /// `total` free pages of `page_size` tokens.
    pub fn new(total: usize, page_size: usize) -> Pages {
        // Popped from the end: page 0 first.
        Pages { free: Arc::new(Mutex::new((0..total as u32).rev().collect())), total, page_size }
    }

    /// Pages in no lease.
    pub fn free(&self) -> usize {
        self.lock().len()
    }

    /// All pages.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Tokens in a page.
    pub fn page_size(&self) -> usize {
        self.page_size
    }

    /// A lease without pages.
    pub fn lease(&self) -> Lease {
        Lease { pages: Vec::new(), owner: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u32>> {
        self.free.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Lease {
    /// The pages, in the order of the sequence.
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Makes room for `tokens` tokens; false, and nothing changed, if too few pages are free.
    pub fn grow(&mut self, tokens: usize) -> bool {
        let missing = tokens.div_ceil(self.owner.page_size).saturating_sub(self.pages.len());
        let mut free = self.owner.lock();
        if missing > free.len() {
            return false;
        }
        let rest = free.len() - missing;
        self.pages.extend(free.drain(rest..).rev());
        true
    }

    /// Gives all pages back.
    pub fn release(&mut self) {
        let mut free = self.owner.lock();
        free.extend(self.pages.drain(..).rev());
    }

    /// Slot of a position: `page * page_size + offset`.
    pub fn slot(&self, position: usize) -> u32 {
        let size = self.owner.page_size;
        self.pages[position / size] * size as u32 + (position % size) as u32
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_give_back() {
        let pages = Pages::new(5, 16);
        let mut a = pages.lease();
        assert!(a.grow(17) && a.grow(20));
        assert_eq!((a.pages(), pages.free()), (&[0, 1][..], 3));
        let mut b = pages.lease();
        assert!(!b.grow(49));
        assert_eq!(pages.free(), 3);
        assert!(b.grow(48));
        assert_eq!(b.slot(20), 3 * 16 + 4);
        drop(a);
        assert_eq!(pages.free(), 2);
        b.release();
        drop(b);
        assert_eq!(pages.free(), 5);
    }
}
