//! Pages of the KV cache as leases: dropping a lease gives its pages back, so a forgotten request cannot keep any.
//!
//! A full page whose tokens are known may be in several leases at once (`prefix`). A count goes up only when a page
//! enters a lease's private list and down only when it leaves it, so nothing can be given back twice.
use crate::prefix::{Parent, Prefixes, Root};
use std::sync::{Arc, Mutex, MutexGuard};

/// All pages of a pool. Each is free, leased, cached (in no lease, but known by its tokens), or waits to be cleared.
#[derive(Clone, Debug)]
pub struct Pages {
    pool: Arc<Mutex<Pool>>,
    total: usize,
    page_size: usize,
}

#[derive(Debug)]
struct Pool {
    /// Known to nobody; taken from the end.
    free: Vec<u32>,
    /// `[pages]` leases that hold each page.
    leases: Vec<u32>,
    /// `[pages]` may hold NaN: not to be used before it is cleared.
    soiled: Vec<bool>,
    prefixes: Prefixes,
}

/// Pages of one sequence, in order.
#[derive(Debug)]
pub struct Lease {
    pages: Vec<u32>,
    /// The first so many pages are in the prefix cache, each the child of the one before.
    chained: usize,
    owner: Pages,
}

impl Pages {
    /// `total` free pages of `page_size` tokens.
    pub fn new(total: usize, page_size: usize) -> Pages {
        let pool = Pool {
            // Page 0 first.
            free: (0..total as u32).rev().collect(),
            leases: vec![0; total],
            soiled: vec![false; total],
            prefixes: Prefixes::new(total),
        };
        Pages { pool: Arc::new(Mutex::new(pool)), total, page_size }
    }

    /// Pages in no lease that nobody knows.
    pub fn free(&self) -> usize {
        self.lock().free.len()
    }

    /// Pages in no lease that the prefix cache knows: used again by a hit, or taken when no other is free.
    pub fn cached(&self) -> usize {
        self.lock().prefixes.idle()
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
        Lease { pages: Vec::new(), chained: 0, owner: self.clone() }
    }

    /// Leases that hold a page, and whether the prefix cache knows it. Only a page in one lease that is not known may be
    /// written.
    pub fn holders(&self, page: u32) -> (usize, bool) {
        let pool = self.lock();
        (pool.leases[page as usize] as usize, pool.prefixes.holds(page))
    }

    /// How many of these tokens cached and leased pages hold, in full pages.
    pub fn known(&self, root: &Root, tokens: &[u32]) -> usize {
        let pool = self.lock();
        let mut parent = Parent::Root(root.clone());
        let mut known = 0;
        for page_tokens in tokens.chunks_exact(self.page_size) {
            let Some(page) = pool.prefixes.child(&parent, page_tokens) else { break };
            parent = Parent::Page(page);
            known += self.page_size;
        }
        known
    }

    /// Drops all that is cached below a root.
    pub(crate) fn forget(&self, root: &Root) {
        let mut pool = self.lock();
        for top in pool.prefixes.tops(root) {
            pool.uproot(top, false);
        }
    }

    /// Takes a page and all that follow it out of the prefix cache. Those in no lease, which are told, wait to be
    /// cleared.
    pub(crate) fn condemn(&self, page: u32) -> Vec<u32> {
        self.lock().uproot(page, true)
    }

    /// Lets pages that were cleared be used again. Pages that did not wait for it are left as they are.
    pub fn cleared(&self, pages: &[u32]) {
        let mut pool = self.lock();
        for &page in pages {
            if pool.soiled.get_mut(page as usize).is_some_and(std::mem::take) {
                pool.free.push(page);
            }
        }
    }

    /// Checks that every page is in exactly one state and in as many of these leases as the pool counts, which must be
    /// all leases there are.
    pub fn check<'a>(&self, leases: impl Iterator<Item = &'a Lease>) -> Result<(), String> {
        let pool = self.lock();
        let mut counts = vec![0; self.total];
        for lease in leases {
            for (i, &page) in lease.pages.iter().enumerate() {
                counts[page as usize] += 1;
                if (i < lease.chained) != pool.prefixes.holds(page) {
                    return Err(format!(
                        "page {page}, number {i} of a lease, is in a chain or not as it should not be"
                    ));
                }
            }
        }
        for (page, (&found, &counted)) in counts.iter().zip(&pool.leases).enumerate() {
            if found != counted {
                return Err(format!("page {page} is in {found} leases, {counted} counted"));
            }
        }
        pool.check_states(self.total)?;
        pool.prefixes.check(self.page_size)
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Pool {
    /// Any page that nobody leases: free ones first, then the least recently used cached one.
    fn take_any(&mut self) -> Option<u32> {
        let page = self.free.pop().or_else(|| self.prefixes.evict())?;
        self.leases[page as usize] = 1;
        Some(page)
    }

    /// A cached page for one more lease.
    fn take(&mut self, page: u32) {
        self.leases[page as usize] += 1;
        self.prefixes.wake(page);
    }

    /// One lease less. A page that may hold NaN is told by `soiled` and kept out of use.
    fn give(&mut self, page: u32, soiled: bool) -> bool {
        self.leases[page as usize] -= 1;
        if self.leases[page as usize] > 0 {
            return false;
        }
        match (soiled, self.prefixes.holds(page)) {
            (true, _) => self.soiled[page as usize] = true,
            (false, true) => self.prefixes.rest(page),
            (false, false) => self.free.push(page),
        }
        true
    }

    fn uproot(&mut self, top: u32, soiled: bool) -> Vec<u32> {
        let mut pages = self.prefixes.uproot(top);
        pages.retain(|&page| self.leases[page as usize] == 0);
        for &page in &pages {
            match soiled {
                true => self.soiled[page as usize] = true,
                false => self.free.push(page),
            }
        }
        pages
    }

    fn check_states(&self, total: usize) -> Result<(), String> {
        let mut states = vec![0u8; total];
        let leased = (0..total as u32).filter(|&p| self.leases[p as usize] > 0);
        let soiled = (0..total as u32).filter(|&p| self.soiled[p as usize]);
        let all = leased.chain(soiled).chain(self.free.iter().copied()).chain(self.prefixes.idle_pages());
        // More than all of them means that a list runs in a circle.
        for page in all.take(total + 1) {
            states[page as usize] += 1;
        }
        if let Some(page) = states.iter().position(|&n| n != 1) {
            return Err(format!("page {page} is in {} states: expected one", states[page]));
        }
        let lost = |&p: &u32| self.prefixes.holds(p);
        match self.free.iter().copied().find(lost) {
            Some(page) => Err(format!("page {page} is free and cached")),
            None => Ok(()),
        }
    }
}

impl Lease {
    /// The pages, in the order of the sequence.
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Tokens that the pages hold.
    pub fn capacity(&self) -> usize {
        self.pages.len() * self.owner.page_size
    }

    /// Tokens, in full pages, that the prefix cache knows: these pages may be in other leases too and are never written.
    pub fn shared(&self) -> usize {
        self.chained * self.owner.page_size
    }

    /// True if the shared pages are the chain of these tokens.
    pub(crate) fn follows(&self, root: &Root, tokens: &[u32]) -> bool {
        let pool = self.owner.lock();
        let mut parent = Parent::Root(root.clone());
        let chain = tokens.chunks_exact(self.owner.page_size).map_while(|page_tokens| {
            let page = pool.prefixes.child(&parent, page_tokens)?;
            parent = Parent::Page(page);
            Some(page)
        });
        chain.eq(self.pages[..self.chained].iter().copied())
    }

    /// Makes room for `tokens` tokens; false, and nothing changed, if too few pages are free or cached.
    pub fn grow(&mut self, tokens: usize) -> bool {
        if tokens <= self.capacity() {
            return true;
        }
        let missing = tokens.div_ceil(self.owner.page_size) - self.pages.len();
        let mut pool = self.owner.lock();
        if missing > pool.free.len() + pool.prefixes.idle() {
            return false;
        }
        self.pages.extend((0..missing).map_while(|_| pool.take_any()));
        true
    }

    /// Fills an empty lease with the pages that hold the first of these tokens; how many they hold.
    pub fn adopt(&mut self, root: &Root, tokens: &[u32]) -> usize {
        debug_assert!(self.pages.is_empty());
        let mut pool = self.owner.lock();
        let mut parent = Parent::Root(root.clone());
        for page_tokens in tokens.chunks_exact(self.owner.page_size) {
            let Some(page) = pool.prefixes.child(&parent, page_tokens) else { break };
            pool.take(page);
            self.pages.push(page);
            parent = Parent::Page(page);
        }
        self.chained = self.pages.len();
        self.chained * self.owner.page_size
    }

    /// Makes the full pages of these computed tokens, the sequence's first ones, known to the prefix cache. A page that
    /// is known already takes the place of the lease's own, so that a lease always begins with a chain.
    pub fn publish(&mut self, root: &Root, tokens: &[u32]) {
        let size = self.owner.page_size;
        let full = tokens.len() / size;
        if full <= self.chained {
            return;
        }
        let mut pool = self.owner.lock();
        for i in self.chained..full {
            let parent = if i == 0 { Parent::Root(root.clone()) } else { Parent::Page(self.pages[i - 1]) };
            let page_tokens = &tokens[i * size..][..size];
            match pool.prefixes.child(&parent, page_tokens) {
                None => pool.prefixes.insert(parent, page_tokens, self.pages[i]),
                Some(known) => {
                    pool.take(known);
                    let own = std::mem::replace(&mut self.pages[i], known);
                    pool.give(own, false);
                }
            }
        }
        self.chained = full;
    }

    /// Gives all pages back, the last first.
    pub fn release(&mut self) {
        if self.pages.is_empty() {
            return;
        }
        let mut pool = self.owner.lock();
        for page in self.pages.drain(..).rev() {
            pool.give(page, false);
        }
        self.chained = 0;
    }

    /// Gives all pages back as such that may hold NaN. Those in no other lease, which are told, wait to be cleared.
    /// The pages must have left the prefix cache (`condemn`).
    pub(crate) fn release_soiled(&mut self) -> Vec<u32> {
        let mut pool = self.owner.lock();
        let pages = std::mem::take(&mut self.pages);
        self.chained = 0;
        pages.into_iter().filter(|&page| pool.give(page, true)).collect()
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
