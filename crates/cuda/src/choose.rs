//! Which kernel multiplies 8-bit numbers: one choice for every architecture, pure and printable. Launching asks it, benches
//! print it, and `examples/choices.rs` prints it for a chip that is not there.
pub(crate) mod hopper;
mod portable;
pub(crate) mod tile;

pub use hopper::Element;

use crate::driver::Arch;
use planish_tensor::{Q8, Result};
use std::fmt;

/// What is multiplied, beside its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operands {
    /// Type of the weight.
    pub weight: Q8,
    /// Type of the tokens.
    pub tokens: Q8,
    /// A token's sums do not depend on m in FP8 either: those of INT8 never do.
    pub invariant: bool,
}

impl Operands {
    /// Weights and tokens of one type.
    pub const fn of(kind: Q8) -> Operands {
        Operands { weight: kind, tokens: kind, invariant: false }
    }
}

/// The chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Architecture.
    pub arch: Arch,
    /// Multiprocessors.
    pub sm_count: usize,
}

/// The kernel of a product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kernel {
    /// Of `kernels/gemm_w8a8.cu`.
    Portable(&'static tile::Tile, usize),
    /// Of `kernels/gemm_hopper.cu`.
    Hopper(Element, hopper::Choice),
}

impl Kernel {
    /// As it is called in its file.
    pub fn name(&self) -> String {
        match self {
            Kernel::Portable(tile, _) => tile.name.into(),
            Kernel::Hopper(element, choice) => choice.kernel(*element),
        }
    }

    /// Bytes of dynamic shared memory of a block.
    pub fn shared(&self) -> usize {
        match self {
            Kernel::Portable(tile, _) => tile.shared,
            Kernel::Hopper(_, choice) => choice.tile.shared(),
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kernel::Portable(tile, blocks) => {
                let tile::Tile { name, rows, tokens, threads, .. } = tile;
                write!(f, "{name}: {tokens} tokens x {rows} rows, {threads} threads, {blocks} blocks")
            }
            Kernel::Hopper(element, choice) => write!(f, "{}: {choice}", choice.kernel(*element)),
        }
    }
}

/// Up to here the portable kernels read weights faster than the Hopper ones.
pub(crate) const FEW_TOKENS: usize = 16;

/// The kernel for `out[m, n] = x[m, k] · w[n, k]ᵀ`, or an error that names the type which this architecture multiplies.
pub fn choose([m, n, k]: [usize; 3], operands: Operands, device: Device) -> Result<Kernel> {
    let family = portable::family(operands.weight, operands.tokens, device.arch)?;
    // INT8 sums are exact, so kernels may take turns; invariant ones of other types are summed by one family for every m.
    let may_differ = operands.weight == Q8::Int8 || !(operands.invariant || family.split.is_empty());
    if !(may_differ && m <= FEW_TOKENS)
        && let Some(element) = hopper::element(operands)
        && let Some(choice) = hopper::choose(m, n, k, element, device, operands.invariant)
    {
        return Ok(Kernel::Hopper(element, choice));
    }
    let tile = portable::place(family, [m, n, k], device.sm_count, operands.invariant);
    Ok(Kernel::Portable(tile, tile.blocks(m, n)))
}

/// Names of the portable kernels that can take the place of another at this size.
pub(crate) fn portables([m, _, k]: [usize; 3], operands: Operands, arch: Arch) -> Result<Vec<&'static str>> {
    let others = portable::tiles(portable::family(operands.weight, operands.tokens, arch)?);
    let fits = |tile: &&tile::Tile| k.is_multiple_of(16) && (tile.tokens >= m.min(64) || tile.tokens >= 64);
    Ok(others.filter(fits).map(|tile| tile.name).collect())
}

/// The portable kernel of this name, if it multiplies these operands here.
pub(crate) fn portable(name: &str, operands: Operands, arch: Arch) -> Result<Option<&'static tile::Tile>> {
    let tiles = portable::tiles(portable::family(operands.weight, operands.tokens, arch)?);
    let few = portable::DP4A_FEW.iter().filter(|_| operands.weight == Q8::Int8);
    Ok(tiles.chain(few).find(|tile| tile.name == name))
}

#[cfg(test)]
mod tests;
