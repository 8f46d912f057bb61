//! Packing: from rows of output channels, as checkpoints store them, to panels of columns.
use super::{Layout, LayoutOf, PackedQ8, Panel, part};
use crate::buffer::Aligned;
use crate::isa::Isa;
use crate::simd::dispatch;
use crate::threads::Threads;
use planish_tensor::{Grid, Q8};

pub(super) fn pack(
    kind: Q8,
    k: usize,
    parts: &[(&[u8], &[f32])],
    bias: Option<Vec<f32>>,
    isa: Isa,
    threads: &Threads,
) -> PackedQ8 {
    let layout = dispatch(isa, LayoutOf { kind, k, isa });
    let kp = layout.kp;
    let mut ws = Vec::new();
    for (codes, scales) in parts {
        assert_eq!(codes.len(), scales.len() * k, "codes of {} channels of width {k}", scales.len());
        ws.extend_from_slice(scales);
    }
    let n = ws.len();
    let mut bias = bias.unwrap_or_else(|| vec![0.0; n]);
    assert_eq!(bias.len(), n, "one bias for each channel");
    let np = n.next_multiple_of(layout.lanes);
    ws.resize(np, 0.0);
    bias.resize(np, 0.0);
    let codes = Aligned::zeroed(np * kp);
    let mut packed = PackedQ8 { n, k, kind, grid: Grid::Token, isa, layout, codes, ws, sums: Vec::new(), bias };
    if k == 0 || n == 0 {
        return packed;
    }
    let rows: Vec<&[u8]> = parts.iter().flat_map(|(codes, _)| codes.chunks_exact(k)).collect();
    let target = Target(packed.codes.bytes_mut().as_mut_ptr());
    let tasks = if np * kp < 1 << 16 { 1 } else { packed.panels().min(4 * threads.count()) };
    threads.run(tasks, |task| {
        for panel in part(packed.panels(), tasks, task) {
            let panel = packed.panel(panel);
            // SAFETY: panels are disjoint and inside the buffer.
            let panel_codes = unsafe { target.panel(panel.first * kp, panel.width * kp) };
            let rows = &rows[panel.first..][..panel.columns];
            match kind {
                Q8::Int8 if layout.depth == 8 => int8_panel::<2>(rows, k, &panel, layout, panel_codes),
                Q8::Int8 => int8_panel::<1>(rows, k, &panel, layout, panel_codes),
                _ => float8_panel(rows, k, panel.width, panel_codes),
            }
        }
    });
    if kind == Q8::E4M3 {
        poison(&mut packed, &rows);
    }
    packed
}

/// The packed codes, shared by tasks that write disjoint panels.
struct Target(*mut u8);
// SAFETY: see the type.
unsafe impl Sync for Target {}
impl Target {
    /// # Safety
    /// The range must be inside, and no other live slice may overlap it.
    #[allow(clippy::mut_from_ref)]
    unsafe fn panel(&self, offset: usize, len: usize) -> &mut [u8] {
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(offset), len) }
    }
}

/// Bytes of a row that are moved at a time: a cache line.
const LINE: usize = 64;

/// A panel whose columns are `WORDS` times four channels deep.
fn int8_panel<const WORDS: usize>(rows: &[&[u8]], k: usize, panel: &Panel, layout: Layout, out: &mut [u8]) {
    let (width, flip) = (panel.width, if layout.unsigned { 0x80 } else { 0 });
    let flip4 = u32::from_ne_bytes([flip; 4]);
    let place = |c: usize, group: usize| (group / WORDS * width + c) * 4 * WORDS + group % WORDS * 4;
    for k0 in (0..k).step_by(LINE) {
        let line = LINE.min(k - k0);
        let out = &mut out[k0 * width..];
        for (c, row) in rows.iter().enumerate() {
            let (groups, rest) = row[k0..k0 + line].as_chunks::<4>();
            for (g, &group) in groups.iter().enumerate() {
                let at = place(c, g);
                out[at..at + 4].copy_from_slice(&(u32::from_ne_bytes(group) ^ flip4).to_ne_bytes());
            }
            let at = place(c, groups.len());
            for (i, &code) in rest.iter().enumerate() {
                out[at + i] = code ^ flip;
            }
        }
    }
}

fn float8_panel(rows: &[&[u8]], k: usize, width: usize, out: &mut [u8]) {
    for k0 in (0..k).step_by(LINE) {
        let line = LINE.min(k - k0);
        for (c, row) in rows.iter().enumerate() {
            for (i, &code) in row[k0..k0 + line].iter().enumerate() {
                out[(k0 + i) * width + c] = code;
            }
        }
    }
}

/// E4M3's NaN is one code that fast decoding does not know. A channel with such a weight is NaN for every token,
/// which a scale of NaN says as well.
fn poison(packed: &mut PackedQ8, rows: &[&[u8]]) {
    for (ws, row) in packed.ws.iter_mut().zip(rows) {
        if row.iter().fold(false, |nan, &code| nan | (code & 0x7F == 0x7F)) {
            *ws = f32::NAN;
        }
    }
}
