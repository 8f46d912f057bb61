//! Prints which kernel multiplies 8-bit numbers, without a GPU: `choices [ARCH [MULTIPROCESSORS [M N K]…]]`, ARCH such as 80
//! (default: one chip of each architecture), at the shapes of Llama-3-8B unless sizes are given.
use planish_cuda::{Device, Operands, choose};
use planish_tensor::Q8;

/// Architectures and the multiprocessors of a chip of each: V100, T4, A100, A10, L40S, H200, B200, RTX PRO 6000.
const CHIPS: [(u32, usize); 8] =
    [(70, 80), (75, 40), (80, 108), (86, 72), (89, 142), (90, 132), (100, 148), (120, 188)];
/// n x k of q+k+v, o, gate+up, down.
const SHAPES: [(usize, usize); 4] = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)];
const TOKENS: [usize; 8] = [1, 8, 16, 32, 64, 256, 2048, 8192];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers = std::env::args().skip(1).map(|word| word.parse()).collect::<Result<Vec<usize>, _>>();
    let numbers = numbers.map_err(|e| format!("expected ARCH, MULTIPROCESSORS and sizes M N K as numbers: {e}"))?;
    let chips = match numbers[..] {
        [] => CHIPS.to_vec(),
        [arch] => vec![(arch as u32, CHIPS.iter().find(|chip| chip.0 as usize == arch).map_or(100, |chip| chip.1))],
        [arch, sm_count, ..] => vec![(arch as u32, sm_count)],
    };
    let (asked, rest) = numbers.get(2..).unwrap_or_default().as_chunks::<3>();
    if !rest.is_empty() {
        return Err(format!("expected sizes M N K in threes, found {} of them", rest.len()).into());
    }
    let usual = SHAPES.iter().flat_map(|&(n, k)| TOKENS.map(|m| [m, n, k])).collect();
    let sizes: Vec<[usize; 3]> = if asked.is_empty() { usual } else { asked.to_vec() };
    for (arch, sm_count) in chips {
        println!("sm_{arch}, {sm_count} multiprocessors");
        for kind in [Q8::Int8, Q8::E4M3] {
            print(Device { arch, sm_count }, kind, &sizes);
        }
    }
    Ok(())
}

fn print(device: Device, kind: Q8, sizes: &[[usize; 3]]) {
    for &[m, n, k] in sizes {
        match choose([m, n, k], Operands::of(kind), device) {
            Ok(kernel) => println!("  {kind:?} {m} x {n} x {k}: {kernel}"),
            Err(error) => return println!("  {kind:?}: {error}"),
        }
    }
}
