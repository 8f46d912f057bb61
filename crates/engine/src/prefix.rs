//! The prefix cache: full pages in chains, each found by the page before it and its own token ids.
//!
//! A key is exact. A page hangs in the map of its parent (or of the root of its salt) under its whole token ids, and
//! every map compares whole keys; a hash only chooses the bucket, so two texts whose hashes collide are still two
//! texts, and no caller can be given another's keys and values by a crafted collision. A node *is* its page: there is no
//! second name for it that could go stale.
//!
//! Pages that are in no lease ("idle") stand in a queue, the least recently used first. Whoever leases a page leases all
//! pages before it, and gives them back last page first, so a page always stands in front of its parent.
use std::collections::HashMap;
use std::sync::Arc;

/// Where chains begin: pages are shared only below the same root.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Root {
    /// Everybody with this salt.
    Salt(Option<Arc<str>>),
    /// The continuations of one request, where the cache is off.
    Group(u64),
}

/// What a page follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parent {
    Root(Root),
    Page(u32),
}

type Children = HashMap<Arc<[u32]>, u32>;

/// A cached page: the tokens whose keys and values it holds, and its place in the chain and in the queue.
#[derive(Debug)]
struct Node {
    parent: Parent,
    tokens: Arc<[u32]>,
    children: Children,
    /// `Some` while idle: neighbours in the queue.
    idle: Option<Links>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Links {
    before: Option<u32>,
    after: Option<u32>,
}

/// All chains of a pool.
#[derive(Debug)]
pub(crate) struct Prefixes {
    /// `[pages]`; `None` for a page that is not cached.
    nodes: Vec<Option<Node>>,
    roots: HashMap<Root, Children>,
    oldest: Option<u32>,
    newest: Option<u32>,
    idle: usize,
}

impl Prefixes {
    /// No chains yet.
    pub(crate) fn new(pages: usize) -> Prefixes {
        Prefixes {
            nodes: (0..pages).map(|_| None).collect(),
            roots: HashMap::new(),
            oldest: None,
            newest: None,
            idle: 0,
        }
    }

    /// The page that follows `parent` with these tokens.
    pub(crate) fn child(&self, parent: &Parent, tokens: &[u32]) -> Option<u32> {
        let children = match parent {
            Parent::Root(root) => self.roots.get(root)?,
            Parent::Page(page) => &self.nodes[*page as usize].as_ref()?.children,
        };
        children.get(tokens).copied()
    }

    /// Hangs a leased page below its parent, which has no such child yet.
    pub(crate) fn insert(&mut self, parent: Parent, tokens: &[u32], page: u32) {
        let tokens: Arc<[u32]> = tokens.into();
        let children = match &parent {
            Parent::Root(root) => self.roots.entry(root.clone()).or_default(),
            Parent::Page(above) => {
                &mut self.nodes[*above as usize].as_mut().expect("a parent is in the chain").children
            }
        };
        let before = children.insert(tokens.clone(), page);
        debug_assert!(before.is_none() && self.nodes[page as usize].is_none());
        self.nodes[page as usize] = Some(Node { parent, tokens, children: Children::new(), idle: None });
    }

    /// True if the page is in a chain.
    pub(crate) fn holds(&self, page: u32) -> bool {
        self.nodes[page as usize].is_some()
    }

    /// Idle pages.
    pub(crate) fn idle(&self) -> usize {
        self.idle
    }

    /// Idle pages, least recently used first.
    pub(crate) fn idle_pages(&self) -> impl Iterator<Item = u32> + '_ {
        std::iter::successors(self.oldest, |&page| self.links(page).after)
    }

    /// Takes the least recently used idle page, which is a leaf, out of its chain.
    pub(crate) fn evict(&mut self) -> Option<u32> {
        let page = self.oldest?;
        self.wake(page);
        self.unhang(page);
        Some(page)
    }

    /// The last lease of a cached page has gone: it joins the queue.
    pub(crate) fn rest(&mut self, page: u32) {
        let links = Links { before: self.newest, after: None };
        match self.newest.replace(page) {
            Some(before) => self.links_mut(before).after = Some(page),
            None => self.oldest = Some(page),
        }
        let node = self.nodes[page as usize].as_mut().expect("only cached pages rest");
        debug_assert!(node.idle.is_none());
        node.idle = Some(links);
        self.idle += 1;
    }

    /// A page is leased again, or leaves its chain: it leaves the queue.
    pub(crate) fn wake(&mut self, page: u32) {
        let Some(links) = self.nodes[page as usize].as_mut().and_then(|n| n.idle.take()) else { return };
        match links.before {
            Some(before) => self.links_mut(before).after = links.after,
            None => self.oldest = links.after,
        }
        match links.after {
            Some(after) => self.links_mut(after).before = links.before,
            None => self.newest = links.before,
        }
        self.idle -= 1;
    }

    /// Takes a page and all that hang below it out of the chains. They are told, deepest first.
    pub(crate) fn uproot(&mut self, page: u32) -> Vec<u32> {
        if !self.holds(page) {
            return Vec::new();
        }
        let mut found = vec![page];
        let mut next = 0;
        while next < found.len() {
            found.extend(self.nodes[found[next] as usize].iter().flat_map(|n| n.children.values()));
            next += 1;
        }
        found.reverse();
        for &page in &found {
            self.wake(page);
            self.unhang(page);
        }
        found
    }

    /// The first pages of all chains of a root.
    pub(crate) fn tops(&self, root: &Root) -> Vec<u32> {
        self.roots.get(root).map(|children| children.values().copied().collect()).unwrap_or_default()
    }

    /// Every chain hangs together: parents know their children and children their parents; idle pages stand in front of
    /// their parents.
    pub(crate) fn check(&self, page_size: usize) -> Result<(), String> {
        let mut hung = 0;
        for (page, node) in self.nodes.iter().enumerate() {
            let Some(node) = node else { continue };
            if node.tokens.len() != page_size || self.child(&node.parent, &node.tokens) != Some(page as u32) {
                return Err(format!("cached page {page} is not found where it hangs"));
            }
            hung += node.children.len();
        }
        hung += self.roots.values().map(HashMap::len).sum::<usize>();
        let cached = self.nodes.iter().flatten().count();
        if hung != cached || self.roots.values().any(HashMap::is_empty) {
            return Err(format!("{cached} cached pages, {hung} known to their parents"));
        }
        self.check_queue()
    }

    fn check_queue(&self) -> Result<(), String> {
        let mut rank = vec![usize::MAX; self.nodes.len()];
        let mut before = None;
        for (i, page) in self.idle_pages().enumerate() {
            if i >= self.idle || self.links(page).before != before {
                return Err(format!("the queue of idle pages is torn at page {page}"));
            }
            rank[page as usize] = i;
            before = Some(page);
        }
        let idle = self.nodes.iter().flatten().filter(|n| n.idle.is_some()).count();
        if before != self.newest || idle != self.idle || rank.iter().filter(|&&r| r != usize::MAX).count() != idle {
            return Err(format!("{idle} idle pages, {} counted", self.idle));
        }
        for (page, node) in self.nodes.iter().enumerate() {
            if let Some(Node { parent: Parent::Page(above), .. }) = node
                && rank[*above as usize] < rank[page]
            {
                return Err(format!("page {above} would be evicted before page {page}, which follows it"));
            }
        }
        Ok(())
    }

    /// Takes a page without children out of its parent's map.
    fn unhang(&mut self, page: u32) {
        let node = self.nodes[page as usize].take().expect("only cached pages hang");
        debug_assert!(node.children.is_empty() && node.idle.is_none());
        match &node.parent {
            Parent::Page(above) => {
                let above = self.nodes[*above as usize].as_mut().expect("a parent outlives its children");
                above.children.remove(&node.tokens);
            }
            Parent::Root(root) => {
                let children = self.roots.get_mut(root).expect("a root outlives its children");
                children.remove(&node.tokens);
                // Salts come from callers: nothing is kept of one that holds no page.
                if children.is_empty() {
                    self.roots.remove(root);
                }
            }
        }
    }

    fn links(&self, page: u32) -> Links {
        self.nodes[page as usize].as_ref().and_then(|n| n.idle).unwrap_or_default()
    }

    fn links_mut(&mut self, page: u32) -> &mut Links {
        self.nodes[page as usize].as_mut().and_then(|n| n.idle.as_mut()).expect("neighbours in the queue are idle")
    }
}
