//! `gemm_w8a8` and its gated form: which kernel multiplies, and with what.
//! Arguments of every kernel of `gemm_w8a8.cu`: w, x, xs, ws, bias, out, t, n, k, mode, type of out.
use super::tile::{Tile, fastest, narrowest};
use super::{Grid, address, params};
use crate::{Arch, Cuda, Linear};
use planish_tensor::layout::require;
use planish_tensor::{Activation, DType, Error, LinearPart, Q8, Q8Rows, Result, Tensor};

const FILE: &str = "gemm_w8a8";

/// Tiles of a family: by number of tokens, then for more tokens than those, then for rows that begin anywhere.
struct Family {
    few: &'static [Tile],
    many: &'static [Tile],
    any: Tile,
}

const INT8_80: Family = Family {
    few: &[
        Tile::tensor_core("int8_80_16x8", [1, 1, 8, 1, 1, 512, 4]),
        Tile::tensor_core("int8_80_16x16", [1, 1, 8, 1, 2, 512, 4]),
        Tile::tensor_core("int8_80_32x32", [1, 1, 8, 2, 4, 512, 3]),
        Tile::tensor_core("int8_80_32x64", [1, 1, 8, 2, 8, 256, 4]),
    ],
    many: &[
        Tile::tensor_core("int8_80_128x128", [2, 4, 1, 4, 4, 64, 4]).known(2, 70, 46),
        Tile::tensor_core("int8_80_64x64", [2, 2, 1, 2, 4, 128, 4]).known(3, 30, 11),
        Tile::tensor_core("int8_80_64x64_by_2", [2, 2, 2, 2, 4, 128, 4]).known(2, 28, 8),
    ],
    any: Tile::tensor_core("int8_80_any", [2, 2, 1, 2, 4, 64, 2]),
};

const INT8_75: Family = Family {
    few: &[
        Tile::tensor_core("int8_75_16x8", [1, 1, 8, 1, 1, 512, 2]),
        Tile::tensor_core("int8_75_16x16", [1, 1, 8, 1, 2, 512, 2]),
        Tile::tensor_core("int8_75_32x32", [1, 1, 8, 2, 4, 256, 2]),
    ],
    many: &[
        Tile::tensor_core("int8_75_128x128", [2, 4, 1, 4, 4, 64, 2]).known(2, 58, 47),
        Tile::tensor_core("int8_75_64x64", [2, 2, 2, 2, 4, 128, 2]).known(4, 26, 11),
    ],
    any: Tile::tensor_core("int8_75_any", [2, 2, 1, 2, 4, 64, 2]),
};

const INT8_70: Family = Family {
    few: &[
        Tile::plain("int8_few_1", 16, 1, 256),
        Tile::plain("int8_few_2", 16, 2, 256),
        Tile::plain("int8_few_4", 16, 4, 256),
    ],
    many: &[
        Tile::plain("int8_70_128x128", 128, 128, 256).known(1, 180, 180),
        Tile::plain("int8_70_64x64", 64, 64, 64).known(6, 105, 34),
    ],
    any: Tile::plain("int8_70_64x64", 64, 64, 64),
};

macro_rules! float8_family {
    ($pair:literal) => {
        Family {
            few: &[
                Tile::tensor_core(concat!($pair, "_89_16x8"), [1, 1, 1, 1, 1, 256, 6]),
                Tile::tensor_core(concat!($pair, "_89_16x32"), [1, 4, 1, 1, 1, 256, 4]),
            ],
            many: &[
                Tile::tensor_core(concat!($pair, "_89_128x128"), [2, 4, 1, 4, 4, 64, 4]).known(2, 70, 46),
                Tile::tensor_core(concat!($pair, "_89_64x64"), [2, 2, 1, 2, 4, 128, 4]).known(3, 30, 11),
            ],
            any: Tile::tensor_core(concat!($pair, "_89_any"), [2, 2, 1, 2, 4, 64, 2]),
        }
    };
}

const E4M3_E4M3: Family = float8_family!("e4m3_e4m3");
const E4M3_E5M2: Family = float8_family!("e4m3_e5m2");
const E5M2_E4M3: Family = float8_family!("e5m2_e4m3");
const E5M2_E5M2: Family = float8_family!("e5m2_e5m2");

/// What the sums of a product become, as in `gemm_w8a8.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Plain = 0,
    Woven = 1,
    Silu = 2,
    Gelu = 3,
}

/// The kernels of a weight's and the tokens' 8-bit type on an architecture, or what the chip can run instead.
fn family(weight: Q8, tokens: Q8, arch: Arch) -> Result<&'static Family> {
    match (weight, tokens) {
        (Q8::Int8, Q8::Int8) if arch >= 100 => Err(Error::unsupported(format!(
            "INT8 products on sm_{arch}: chips after Hopper have no fast ones; use FP8 (--quant-dtype fp8)"
        ))),
        (Q8::Int8, Q8::Int8) if arch >= 80 => Ok(&INT8_80),
        (Q8::Int8, Q8::Int8) if arch >= 75 => Ok(&INT8_75),
        (Q8::Int8, Q8::Int8) => Ok(&INT8_70),
        (Q8::Int8, _) | (_, Q8::Int8) => {
            Err(Error::dtype(format!("gemm_w8a8: weights of {weight:?} with tokens of {tokens:?}")))
        }
        _ if arch < 89 => Err(Error::unsupported(format!(
            "FP8 products on sm_{arch}: chips before Ada (sm_89) have none; use INT8 (--quant-dtype int8)"
        ))),
        (Q8::E4M3, Q8::E4M3) => Ok(&E4M3_E4M3),
        (Q8::E4M3, Q8::E5M2) => Ok(&E4M3_E5M2),
        (Q8::E5M2, Q8::E4M3) => Ok(&E5M2_E4M3),
        (Q8::E5M2, Q8::E5M2) => Ok(&E5M2_E5M2),
    }
}

/// The kernel for a product `[t, k]` by `[n, k]`.
fn choose(family: &'static Family, t: usize, n: usize, k: usize, sm_count: usize) -> &'static Tile {
    if !k.is_multiple_of(16) {
        return &family.any;
    }
    let narrow = narrowest(family.few, t);
    // By dp4a, weights that are read again from the cache cost less than a large tile that is mostly empty.
    let again = family.few.last().filter(|tile| tile.shared == 0 && t <= 5 * tile.tokens);
    let few = narrow.or(again);
    // A block of few tokens reads them all for its few rows: with many rows, larger tiles read less.
    let wide = t > 32 && n >= 96 * sm_count;
    let chosen = if wide { None } else { few };
    chosen.or_else(|| fastest(family.many, t, n, sm_count)).unwrap_or(&family.any)
}

pub(crate) fn gemm_w8a8(cuda: &Cuda, x: &Q8Rows<Cuda>, w: &Linear, out: &mut Tensor<Cuda>) -> Result<()> {
    require("gemm_w8a8", out.cols == w.n)?;
    let mode = if w.interleaved { Mode::Woven } else { Mode::Plain };
    product(cuda, x, w, mode, out)
}

/// `out[t, f] = act(gate) * up` for a weight of gate and up rows by turns.
pub(crate) fn gemm_w8a8_gated(
    cuda: &Cuda,
    x: &Q8Rows<Cuda>,
    w: &Linear,
    act: Activation,
    out: &mut Tensor<Cuda>,
) -> Result<()> {
    require("gemm_w8a8_gated", w.interleaved && 2 * out.cols == w.n)?;
    let mode = match act {
        Activation::Silu => Mode::Silu,
        Activation::GeluTanh => Mode::Gelu,
    };
    product(cuda, x, w, mode, out)
}

fn product(cuda: &Cuda, x: &Q8Rows<Cuda>, w: &Linear, mode: Mode, out: &mut Tensor<Cuda>) -> Result<()> {
    let family = family_of(cuda, x, w)?;
    let (t, n, k) = (x.codes.rows, w.n, w.k);
    // The Hopper product goes here: if hopper::takes(cuda, x, w, mode, out) { return hopper::product(…) }
    launch(cuda, choose(family, t, n, k, cuda.info().sm_count as usize), x, w, mode, out)
}

fn family_of(cuda: &Cuda, x: &Q8Rows<Cuda>, w: &Linear) -> Result<&'static Family> {
    let weight = w.q8.ok_or_else(|| Error::dtype("gemm_w8a8: the weight is float"))?;
    let tokens = Q8::from_dtype(x.codes.dtype).ok_or_else(|| Error::dtype("gemm_w8a8: the tokens are float"))?;
    family(weight, tokens, cuda.arch())
}

fn launch(cuda: &Cuda, tile: &Tile, x: &Q8Rows<Cuda>, w: &Linear, mode: Mode, out: &mut Tensor<Cuda>) -> Result<()> {
    let (t, n, k) = (x.codes.rows, w.n, w.k);
    require("gemm_w8a8", x.codes.cols == k && x.scales.rows == t && x.scales.cols == 1 && out.rows == t)?;
    let scales = w.scales.as_ref().ok_or_else(|| Error::dtype("gemm_w8a8: the weight has no scales"))?;
    let out_type = out_type("gemm_w8a8", out.dtype)?;
    let grid = Grid::of(tile.blocks(t, n), tile.threads).with_shared(tile.shared, tile.shared);
    let bias = w.bias.as_ref().map_or(0, |b| b.address());
    let params = params![
        w.weight.address(),
        address(&x.codes),
        address(&x.scales),
        scales.address(),
        bias,
        address(out),
        t,
        n,
        k,
        mode as i32,
        out_type,
    ];
    cuda.launch(FILE, tile.name, grid, params)
}

/// A type of results, as the kernels number it.
pub(super) fn out_type(operation: &str, dtype: DType) -> Result<i32> {
    match dtype {
        DType::F32 => Ok(0),
        DType::BF16 => Ok(1),
        DType::F16 => Ok(2),
        other => Err(Error::dtype(format!("{operation}: results are floats, not {other}"))),
    }
}

impl Cuda {
    /// A gate and an up projection as one weight, for [`Cuda::gemm_w8a8_gated`].
    pub fn load_linear_gated(&self, parts: &[LinearPart; 2]) -> Result<Linear> {
        Linear::gated(&self.context, parts)
    }

    /// `out[t, f] = act(gate) * up` in one kernel, of a weight from [`Cuda::load_linear_gated`].
    pub fn gemm_w8a8_gated(&self, x: &Q8Rows<Cuda>, w: &Linear, act: Activation, out: &mut Tensor<Cuda>) -> Result<()> {
        gemm_w8a8_gated(self, x, w, act, out)
    }
}

/// For measurements: every kernel that could run a product, and a product by one of them.
impl Cuda {
    /// Names of the kernels that take `x` and `w`, the chosen one first.
    pub fn w8a8_kernels(&self, x: &Q8Rows<Cuda>, w: &Linear) -> Result<Vec<&'static str>> {
        let family = family_of(self, x, w)?;
        let chosen = choose(family, x.codes.rows, w.n, w.k, self.info().sm_count as usize).name;
        let others = tiles(family).filter(|tile| w.k.is_multiple_of(16) && tile.name != chosen);
        let fits = |tile: &&Tile| tile.tokens >= x.codes.rows.min(64) || tile.tokens >= 64;
        Ok(std::iter::once(chosen).chain(others.filter(fits).map(|tile| tile.name)).collect())
    }

    /// As [`planish_tensor::Backend::gemm_w8a8`], by the kernel of this name.
    pub fn gemm_w8a8_by(&self, name: &str, x: &Q8Rows<Cuda>, w: &Linear, out: &mut Tensor<Cuda>) -> Result<()> {
        require("gemm_w8a8", out.cols == w.n)?;
        let found = tiles(family_of(self, x, w)?).chain(INT8_70.few).find(|tile| tile.name == name);
        let tile = found.ok_or_else(|| Error::unsupported(format!("no kernel {name} here")))?;
        launch(self, tile, x, w, if w.interleaved { Mode::Woven } else { Mode::Plain }, out)
    }
}

fn tiles(family: &'static Family) -> impl Iterator<Item = &'static Tile> {
    family.few.iter().chain(family.many).chain(std::iter::once(&family.any))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chips_without_a_type_name_the_one_that_they_have() {
        let refusal = |kind, arch| family(kind, kind, arch).err().map(|e| e.to_string());
        assert!(refusal(Q8::E4M3, 86).is_some_and(|e| e.contains("use INT8")));
        assert!(refusal(Q8::Int8, 100).is_some_and(|e| e.contains("use FP8")));
        for arch in [70, 75, 80, 86, 89, 90] {
            assert_eq!(refusal(Q8::Int8, arch), None);
        }
        assert_eq!(refusal(Q8::E5M2, 89), None);
    }

    #[test]
    fn tiles_suit_the_number_of_tokens() {
        let name = |t, n, k| choose(&INT8_80, t, n, k, 132).name;
        assert_eq!(name(1, 4096, 4096), "int8_80_16x8");
        assert_eq!(name(16, 4096, 4096), "int8_80_16x16");
        assert_eq!(name(64, 4096, 14336), "int8_80_32x64");
        assert_eq!(name(64, 28672, 4096), "int8_80_64x64_by_2");
        assert_eq!(name(256, 6144, 4096), "int8_80_64x64");
        assert_eq!(name(4096, 28672, 4096), "int8_80_128x128");
        assert_eq!(name(8192, 4096, 4100), "int8_80_any");
        let name = |t| choose(&INT8_70, t, 4096, 4096, 80).name;
        assert_eq!(
            [1, 2, 3, 20, 21].map(name),
            ["int8_few_1", "int8_few_2", "int8_few_4", "int8_few_4", "int8_70_64x64"]
        );
    }

    #[test]
    fn shared_memory_fits_the_chips() {
        let all = |f: &'static Family| tiles(f).map(|tile| tile.shared).max();
        assert!(all(&INT8_75) <= Some(64 * 1024));
        for family in [&INT8_80, &E4M3_E4M3] {
            assert!(all(family) <= Some(99 * 1024));
        }
    }
}
