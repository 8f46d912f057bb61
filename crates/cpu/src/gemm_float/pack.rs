//! Packing of float weights on the load path: panels of columns, channels outermost within a panel.
use super::PANEL;
use crate::buffer::Aligned;
use crate::isa::Isa;
use crate::threads::Threads;
use crate::vector::Shared;
use planish_tensor::{DType, Error, HostTensor, Result};

/// A float weight `[n, k]` in panels of [`PANEL`] columns (the last padded with zeros).
/// A panel holds, channel by channel, its columns' f32; or, for bf16, for each pair of channels its columns' pairs
/// (the even channel in the low half), so that one layout serves f32 and bf16 arithmetic.
pub struct PackedFloat {
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) dtype: DType,
    pub(super) isa: Isa,
    pub(super) data: Aligned,
    pub(super) bias: Option<Vec<f32>>,
}

/// One part of a concatenated weight: its raw bytes and how many rows precede it.
struct Part<'a> {
    bytes: &'a [u8],
    dtype: DType,
    first: usize,
    rows: usize,
}

impl PackedFloat {
    /// Packs parts `[n_i, k]` of F32, F16 or BF16, concatenated over `n`. BF16 stays at two bytes a weight if every
    /// part is BF16; all else becomes f32 (exactly). `bias` is `[n]`.
    pub fn pack(parts: &[&HostTensor], bias: Option<Vec<f32>>, isa: Isa, threads: &Threads) -> Result<Self> {
        if !isa.runs_here() {
            return Err(Error::unsupported(format!("float weight: this machine has no {}", isa.name())));
        }
        let (parts, n, k) = check(parts)?;
        if let Some(bias) = &bias
            && bias.len() != n
        {
            return Err(Error::shape(format!("float weight [{n}, {k}]: expected {n} biases, found {}", bias.len())));
        }
        let dtype = if parts.iter().all(|p| p.dtype == DType::BF16) { DType::BF16 } else { DType::F32 };
        let steps = if dtype == DType::BF16 { k.div_ceil(2) } else { k };
        let words = n.next_multiple_of(PANEL).checked_mul(steps).and_then(|w| w.checked_mul(4));
        let bytes = words.ok_or_else(|| Error::shape(format!("float weight [{n}, {k}]: size overflows")))?;
        let mut data = Aligned::for_what(|| format!("float weight [{n}, {k}]"), bytes)?;
        let out = Shared(data.bytes_mut().as_mut_ptr().cast::<u32>());
        threads.run(n.div_ceil(PANEL), |p| {
            // SAFETY: panel `p` occupies these words of `data` alone, and the memory is aligned and initialised.
            let panel = unsafe { std::slice::from_raw_parts_mut(out.at(p * PANEL * steps), PANEL * steps) };
            for column in 0..PANEL.min(n - p * PANEL) {
                pack_column(&parts, p * PANEL + column, k, dtype, &mut panel[column..]);
            }
        });
        Ok(Self { n, k, dtype, isa, data, bias })
    }

    /// Output channels.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Input channels.
    pub fn k(&self) -> usize {
        self.k
    }

    /// BF16 or F32: how the weights are kept.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes that one pass over the weight reads.
    pub fn bytes(&self) -> usize {
        self.data.bytes().len()
    }

    /// Kernels that multiply with it.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Packed rows (steps) of a panel.
    pub(super) fn steps(&self) -> usize {
        if self.dtype == DType::BF16 { self.k.div_ceil(2) } else { self.k }
    }

    /// The packed words.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    pub(super) fn words(&self) -> *const u32 {
        self.data.bytes().as_ptr().cast()
    }
}

fn check<'a>(parts: &[&'a HostTensor]) -> Result<(Vec<Part<'a>>, usize, usize)> {
    let (mut list, mut n, mut width) = (Vec::new(), 0usize, None);
    for part in parts {
        let &[rows, k] = part.shape() else {
            return Err(Error::shape(format!("float weight: expected [n, k], found {:?}", part.shape())));
        };
        if !matches!(part.dtype(), DType::F32 | DType::F16 | DType::BF16) {
            return Err(Error::dtype(format!("float weight: expected F32, F16 or BF16, found {}", part.dtype())));
        }
        if *width.get_or_insert(k) != k || k == 0 {
            return Err(Error::shape(format!("float weight: parts [_, {}] and [{rows}, {k}]", width.unwrap_or(k))));
        }
        list.push(Part { bytes: part.bytes(), dtype: part.dtype(), first: n, rows });
        n += rows;
    }
    match width {
        Some(k) if n > 0 => Ok((list, n, k)),
        _ => Err(Error::shape("float weight: no output channels")),
    }
}

/// Writes one output channel down a panel: word `i * PANEL` for step `i`.
fn pack_column(parts: &[Part<'_>], row: usize, k: usize, dtype: DType, panel: &mut [u32]) {
    let part = parts.iter().find(|p| row < p.first + p.rows).expect("rows are counted over the parts");
    let size = k * part.dtype.size();
    let bytes = &part.bytes[(row - part.first) * size..][..size];
    let slots = panel.iter_mut().step_by(PANEL);
    let half = |c: &[u8]| u16::from_le_bytes([c[0], c[1]]);
    match (dtype, part.dtype) {
        (DType::BF16, _) => {
            for (slot, c) in slots.zip(bytes.chunks(4)) {
                *slot = half(c) as u32 | if c.len() == 4 { (half(&c[2..]) as u32) << 16 } else { 0 };
            }
        }
        (_, DType::BF16) => slots.zip(bytes.chunks_exact(2)).for_each(|(s, c)| *s = (half(c) as u32) << 16),
        (_, DType::F16) => {
            let widen = |c: &[u8]| half::f16::from_bits(half(c)).to_f32().to_bits();
            slots.zip(bytes.chunks_exact(2)).for_each(|(s, c)| *s = widen(c));
        }
        _ => slots.zip(bytes.chunks_exact(4)).for_each(|(s, c)| *s = u32::from_le_bytes([c[0], c[1], c[2], c[3]])),
    }
}
