//! What is known of each sequence and of each slot of the cache without asking the scheduler.
use planish_engine::pages::Pages;
use planish_engine::scheduler::{Sequence, Slice};

/// Few token ids, so that texts meet.
pub const VOCAB: usize = 3;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// One of `low..=high`.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }

    /// True once in `n`.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.between(1, n) == 1
    }
}

fn mix(x: u64) -> u64 {
    let z = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Stands for keys and values: all tokens up to a position, and who may share them.
pub fn extend(content: u64, token: u32) -> u64 {
    mix(content.wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(u64::from(token) + 1)))
}

/// Stands for the model: the token after a text.
pub fn next_token(content: u64) -> u32 {
    (mix(content ^ 0x5555) % VOCAB as u64) as u32
}

/// What the owner of a sequence knows.
pub struct Owned {
    pub id: u64,
    pub tokens: Vec<u32>,
    /// `[tokens + 1]`: what is before each token, and after the last.
    pub contents: Vec<u64>,
    /// Tokens at which it ends.
    pub end: usize,
    /// It never generates.
    pub scored: bool,
    /// First position whose logits are wanted and were not given.
    pub told: usize,
    pub drafts: Vec<u32>,
    /// Chosen tokens that the scheduler was not told yet.
    pub pending: Option<Vec<u32>>,
    pub paused: bool,
    /// Who gives rows of their prompt first, and the prompt's length.
    pub after: Option<(u64, usize)>,
    /// Steps since it last came further than ever before.
    pub waits: usize,
    pub furthest: usize,
}

impl Owned {
    pub fn new(id: u64, tokens: Vec<u32>, seed: u64, end: usize, scored: bool, rows_from: usize) -> Owned {
        let mut owned = Owned {
            id,
            tokens: Vec::new(),
            contents: vec![mix(seed)],
            end,
            scored,
            told: rows_from.min(tokens.len() - 1),
            drafts: Vec::new(),
            pending: None,
            paused: false,
            after: None,
            waits: 0,
            furthest: 0,
        };
        owned.append(&tokens);
        owned
    }

    pub fn append(&mut self, tokens: &[u32]) {
        for &token in tokens {
            self.tokens.push(token);
            self.contents.push(extend(self.contents[self.contents.len() - 1], token));
        }
    }

    pub fn is_ready(&self) -> bool {
        !self.paused && self.pending.is_none()
    }

    /// The model's text from here, for drafts.
    pub fn foresee(&self, count: usize) -> Vec<u32> {
        let mut content = self.contents[self.tokens.len()];
        let mut tokens = Vec::new();
        for _ in 0..count {
            tokens.push(next_token(content));
            content = extend(content, tokens[tokens.len() - 1]);
        }
        tokens
    }

    /// Tokens chosen by a slice that reached the end: those of right drafts, and one more.
    pub fn choose(&self, drafts: usize) -> Vec<u32> {
        let right = self.foresee(drafts + 1);
        let agreed = self.drafts[..drafts].iter().zip(&right).take_while(|(a, b)| a == b).count();
        right[..agreed + 1].to_vec()
    }

    /// Checks a slice of this sequence against what it must be.
    pub fn check(&self, slice: &Slice, sequence: &Sequence) {
        let end = slice.start + slice.count;
        assert!(self.is_ready(), "only ready sequences run");
        assert!(slice.count > 0 && slice.start == sequence.computed && sequence.tokens == self.tokens);
        assert!(slice.drafts == end.saturating_sub(self.tokens.len()) && slice.drafts <= self.drafts.len());
        assert!(slice.drafts == 0 || slice.drafts < slice.count, "drafts follow a known token");
        assert_eq!(sequence.drafts()[..slice.drafts], self.drafts[..slice.drafts]);
        let first = self.told.max(slice.start);
        assert_eq!(slice.rows, end.saturating_sub(first), "logits of each wanted position come once");
        assert!(first == self.told, "no wanted position is passed over");
        assert!(sequence.lease().capacity() >= end);
    }
}

/// What each slot of the cache holds.
pub struct Slots {
    contents: Vec<Option<u64>>,
    page_size: usize,
    pages: Pages,
}

impl Slots {
    pub fn new(pages: Pages) -> Slots {
        Slots { contents: vec![None; pages.total() * pages.page_size()], page_size: pages.page_size(), pages }
    }

    /// All before the slice must be what the sequence would have computed itself.
    pub fn read(&self, slice: &Slice, sequence: &Sequence, owned: &Owned) {
        for position in 0..slice.start {
            let found = self.contents[sequence.lease().slot(position) as usize];
            assert_eq!(found, Some(owned.contents[position + 1]), "position {position} of {}", owned.id);
        }
    }

    /// Writes the slice. Nobody else may hold these pages, and the prefix cache may not know them.
    pub fn write(&mut self, slice: &Slice, sequence: &Sequence, owned: &Owned) {
        let mut content = owned.contents[slice.start];
        let mut checked = None;
        for position in slice.start..slice.start + slice.count {
            let slot = sequence.lease().slot(position) as usize;
            let page = (slot / self.page_size) as u32;
            if checked.replace(page) != Some(page) {
                assert_eq!(self.pages.holders(page), (1, false), "a page that others may read is written");
            }
            let after = owned.tokens.len();
            let token = if position < after { owned.tokens[position] } else { owned.drafts[position - after] };
            content = extend(content, token);
            self.contents[slot] = Some(content);
        }
    }

    /// NaN in all pages that are returned; they stay unreadable until they are written again.
    pub fn spoil(&mut self, pages: &[u32]) {
        for &page in pages {
            self.contents[page as usize * self.page_size..][..self.page_size].fill(None);
            assert_eq!(self.pages.holders(page), (0, false), "a page to be cleared is in use");
        }
    }
}
