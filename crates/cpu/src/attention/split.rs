//! How a call's work is shared out: heads of chunks of tokens, or their segments one by one if there are few.
//! Who finishes the last part of something does what comes next, so that a call is one operation of the pool.
use super::arena::Arena;
use super::scratch::{Scratch, clear, row};
use super::segment::{Tiles, attend_segment};
use super::softmax::merge;
use super::{Operands, QUERIES, Quantized, SEGMENT};
use crate::threads::Threads;
use crate::vector::{Shared, Vector, Work};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::*};

/// Some neighbouring tokens of a sequence.
struct Chunk {
    seq: usize,
    tokens: Range<usize>,
    /// Keys from the first that a row sees to the last.
    keys: usize,
    /// Segments in which a row sees a key.
    segments: Range<usize>,
    /// Where the segments' states go if they are computed one by one.
    parts: usize,
}

/// Query rows of a chunk, for one key head: row `i * group + g` is token i, head g.
pub(super) struct Item {
    pub seq: usize,
    pub head: usize,
    pub tokens: Range<usize>,
    segments: Range<usize>,
}

/// Multiply-adds below which waking other threads costs more than it saves.
const INLINE: usize = 1 << 17;

/// A call: everything that its threads share.
struct Call<'a> {
    operands: Operands<'a>,
    isa: crate::isa::Isa,
    chunks: Vec<Chunk>,
    /// Chunk, head and segment, if segments are taken one by one.
    tasks: Option<Vec<(usize, usize, usize)>>,
    /// For each chunk, tasks left of each key head, and heads left. Empty if nothing waits for another.
    left: Vec<AtomicUsize>,
    arena: &'a Arena,
    /// Rows of a chunk at most.
    rows: usize,
    /// Floats of a state of that many rows.
    size: usize,
    parts: Shared<f32>,
    out: Shared<f32>,
    quantized: Option<Quantized<'a>>,
}

/// Attends. Chunks are taken heaviest first.
///
/// # Safety
/// The machine has the family's instructions; `out` is `[t, nq d]`, and so are the codes, if any are wanted.
pub(super) unsafe fn run<T: Tiles>(
    threads: &Threads,
    isa: crate::isa::Isa,
    operands: Operands<'_>,
    arena: &Arena,
    out: &mut [f32],
    quantized: Option<Quantized<'_>>,
) {
    let (nkv, group, d) = (operands.shape.nkv, operands.group(), operands.shape.d);
    let mut chunks = chunks(&operands, threads.count());
    let work: usize = chunks.iter().map(|c| c.tokens.len() * c.keys).sum();
    let small = work * operands.shape.nq * d < INLINE;
    let few = chunks.len() * nkv < 4 * threads.count();
    let split = !small && few && chunks.iter().any(|c| c.segments.len() > 1);
    let rows = chunks.iter().map(|c| c.tokens.len()).max().unwrap_or(0) * group;
    let size = rows * (d.next_multiple_of(T::V::LANES) + 2);
    let (mut tasks, mut parts) = (Vec::new(), 0);
    for (i, chunk) in chunks.iter_mut().enumerate().filter(|_| split) {
        chunk.parts = parts;
        parts += nkv * chunk.segments.len() * size;
        tasks.extend((0..nkv).flat_map(|head| chunk.segments.clone().map(move |s| (i, head, s))));
    }
    let mut parts = arena.lease(parts);
    let mut left = Vec::new();
    if split || quantized.is_some() {
        for chunk in &chunks {
            left.extend((0..nkv).map(|_| AtomicUsize::new(chunk.segments.len())));
            left.push(AtomicUsize::new(nkv));
        }
    }
    // Many chunks: a task is all heads of one, which lie near each other.
    let heads = if chunks.len() >= 8 * threads.count() { nkv } else { 1 };
    let count = if split { tasks.len() } else { chunks.len() * nkv / heads };
    let (parts, out) = (Shared(parts.at(0)), Shared(out.as_mut_ptr()));
    let tasks = split.then_some(tasks);
    let call = Call { operands, isa, chunks, tasks, left, arena, rows, size, parts, out, quantized };
    let next = AtomicUsize::new(0);
    let pull = |_: usize| {
        let mut scratch = Scratch::new::<T::V>(&call.operands, call.rows, call.arena);
        loop {
            let task = next.fetch_add(1, Relaxed);
            if task >= count {
                return;
            }
            let tasks = if split { task..task + 1 } else { task * heads..(task + 1) * heads };
            // Threads take tasks in turn.
            let next_turn = tasks.start + threads.count() * tasks.len();
            for task in tasks.clone() {
                scratch.following = call.sequence_of(if task + 1 < tasks.end { task + 1 } else { next_turn });
                // SAFETY: the caller's contract; each task is taken once.
                unsafe { T::enter(Attend::<T> { call: &call, task, scratch: &mut scratch, family: PhantomData }) };
            }
        }
    };
    if small { pull(0) } else { threads.run(threads.count().min(count), pull) }
}

/// The chunks of a call, heaviest first.
fn chunks(o: &Operands<'_>, threads: usize) -> Vec<Chunk> {
    // Sixteen tokens fill registers with rows, whatever the group.
    let mut tokens_each = (QUERIES / o.shape.d.next_multiple_of(64) / o.group() / 16 * 16).max(16);
    // Large chunks read fewer keys in all, but leave threads idle in the end.
    let fair = |each: usize| if each > 64 { 4 * threads * each } else { 2 * threads * each };
    while tokens_each > 16 && o.batch.t() * o.shape.nkv < fair(tokens_each) {
        tokens_each = (tokens_each / 2).next_multiple_of(16);
    }
    let mut chunks = Vec::with_capacity(o.batch.sequences() + o.batch.t() / tokens_each);
    for seq in 0..o.batch.sequences() {
        let (first, end) = (o.batch.query_starts[seq] as usize, o.batch.query_starts[seq + 1] as usize);
        for start in (first..end).step_by(tokens_each) {
            let tokens = start..(start + tokens_each).min(end);
            let lo = tokens.clone().map(|t| o.visible(seq, t).start).min().unwrap_or(0);
            let hi = tokens.clone().map(|t| o.visible(seq, t).end).max().unwrap_or(0);
            let segments = lo / SEGMENT..hi.div_ceil(SEGMENT);
            chunks.push(Chunk { seq, tokens, keys: hi - lo, segments, parts: 0 });
        }
    }
    chunks.sort_unstable_by_key(|c| (std::cmp::Reverse(c.tokens.len() * c.keys), c.tokens.start));
    chunks
}

struct Attend<'a, 'b, T> {
    call: &'a Call<'a>,
    task: usize,
    scratch: &'a mut Scratch<'b>,
    family: PhantomData<T>,
}

impl<T: Tiles> Work for Attend<'_, '_, T> {
    #[inline(always)]
    unsafe fn run(self) {
        let Attend { call, task, scratch: s, .. } = self;
        let (nkv, group) = (call.operands.shape.nkv, call.operands.group());
        let (i, head, segment) = match &call.tasks {
            Some(tasks) => (tasks[task].0, tasks[task].1, Some(tasks[task].2)),
            None => (task / nkv, task % nkv, None),
        };
        let chunk = &call.chunks[i];
        let item = Item { seq: chunk.seq, head, tokens: chunk.tokens.clone(), segments: chunk.segments.clone() };
        let seen = |t: usize| std::iter::repeat_n(call.operands.visible(chunk.seq, t), group);
        s.visible.clear();
        s.visible.extend(chunk.tokens.clone().flat_map(seen));
        let (part, all) = (s.state(0), s.state(1));
        // SAFETY: `run` answers for the family; parts and rows of `out` are the task's own, or complete and the last's.
        unsafe {
            T::begin(&call.operands, &item, s);
            if let Some(segment) = segment {
                attend_segment::<T>(&call.operands, &item, s, segment, call.part(chunk, head, segment));
                if call.left[i * (nkv + 1) + head].fetch_sub(1, AcqRel) > 1 {
                    return;
                }
            }
            let (rows, width) = (item.tokens.len() * group, s.width);
            if segment.is_some() || item.segments.is_empty() {
                clear(all, rows, width);
            }
            for (nth, at) in item.segments.clone().enumerate() {
                let from = match segment {
                    Some(_) => call.part(chunk, head, at),
                    // What merging it with nothing would give, but for signs of zeros, which `finish` takes away.
                    None if nth == 0 => all,
                    None => part,
                };
                if segment.is_none() {
                    attend_segment::<T>(&call.operands, &item, s, at, from);
                    if nth == 0 {
                        continue;
                    }
                }
                for r in 0..rows {
                    merge::<T>(&row(all, rows, width, r), &row(from, rows, width, r), width);
                }
            }
            finish::<T::V>(&call.operands, &item, all, width, call.out);
            call.quantize(i);
        }
    }
}

impl Call<'_> {
    /// Sequence and head of a task, unless it is one segment of them, or there is none.
    fn sequence_of(&self, task: usize) -> Option<(usize, usize)> {
        let nkv = self.operands.shape.nkv;
        let chunk = self.chunks.get(task / nkv).filter(|_| self.tasks.is_none())?;
        Some((chunk.seq, task % nkv))
    }

    /// Where the state of a head's segment is kept.
    fn part(&self, chunk: &Chunk, head: usize, segment: usize) -> *mut f32 {
        self.parts.at(chunk.parts + (head * chunk.segments.len() + segment - chunk.segments.start) * self.size)
    }

    /// Quantizes a chunk's tokens, if this was its last head.
    ///
    /// # Safety
    /// The caller has finished a head of the chunk, and says so once.
    unsafe fn quantize(&self, chunk: usize) {
        let Some(to) = &self.quantized else { return };
        let heads = &self.left[chunk * (self.operands.shape.nkv + 1) + self.operands.shape.nkv];
        if heads.fetch_sub(1, AcqRel) > 1 {
            return;
        }
        let (tokens, width) = (self.chunks[chunk].tokens.clone(), self.operands.shape.nq * self.operands.shape.d);
        // SAFETY: all heads of these rows are written, and no other thread comes here for this chunk.
        unsafe {
            let x = std::slice::from_raw_parts(self.out.at(tokens.start * width), tokens.len() * width);
            to.rows(self.isa, tokens, x, width);
        }
    }
}

/// Divides by the sums and writes the item's rows, with +0 for -0.
///
/// # Safety
/// As for [`Vector`]; the state is the item's, and `out` is `[t, nq d]`.
#[inline(always)]
unsafe fn finish<V: Vector>(o: &Operands<'_>, item: &Item, all: *mut f32, width: usize, out: Shared<f32>) {
    let (group, d) = (o.group(), o.shape.d);
    let rows = item.tokens.len() * group;
    for r in 0..rows {
        let from = row(all, rows, width, r);
        let head = item.head * group + r % group;
        let to = out.at(((item.tokens.start + r / group) * o.shape.nq + head) * d);
        // SAFETY: the caller keeps the contract.
        unsafe {
            let share = V::splat(1.0 / *from.l);
            for c in (0..d).step_by(V::LANES) {
                let y = V::load(from.o.add(c)).fma(share, V::splat(0.0));
                if c + V::LANES <= d { y.store(to.add(c)) } else { y.store_part(to.add(c), d - c) }
            }
        }
    }
}
