//! `gemm_float`: f32 activations by float weights, in f32 or by the tensor cores' bf16.
//! Arguments of the products of `gemm_float.cu`: w, x, bias, out, t, n, k, type of out.
use super::gemm_hopper;
use super::gemm_w8a8::out_type;
use super::{Grid, address, params};
use crate::choose::tile::{Tile, fastest, narrowest};
use crate::{Cuda, Linear};
use planish_tensor::layout::require;
use planish_tensor::{DType, Error, FloatMath, Result, Tensor};

const FILE: &str = "gemm_float";

/// Products in f32, of a type of weights: by number of tokens, then for more.
struct Plain {
    few: &'static [Tile],
    many: &'static [Tile],
}

/// A ring of `gemm_float.cu`'s `few`: stages of 128 bytes of 32 rows, and of as many f32 elements of each token.
const fn few(name: &'static str, tokens: usize, stages: usize, element: usize) -> Tile {
    let mut tile = Tile::plain(name, 32, tokens, 32);
    tile.shared = stages * (32 * 128 + tokens * (128 / element) * 4);
    tile
}

macro_rules! plain_family {
    ($type:literal, $size:literal) => {
        Plain {
            few: &[
                few(concat!($type, "_few_1"), 1, 5, $size),
                few(concat!($type, "_few_4"), 4, 4, $size),
                few(concat!($type, "_few_16"), 16, 3, $size),
            ],
            many: &[
                Tile::plain(concat!($type, "_plain_128x128"), 128, 128, 256).known(2, 35, 23),
                Tile::plain(concat!($type, "_plain_64x64"), 64, 64, 64).known(6, 20, 7),
            ],
        }
    };
}

const F32: Plain = plain_family!("f32", 4);
const BF16: Plain = plain_family!("bf16", 2);
const F16: Plain = plain_family!("f16", 2);

/// Weights of bf16 whose rows begin at multiples of 16 bytes.
const TENSOR_CORE_FEW: &[Tile] = &[
    Tile::tensor_core("bf16_80_64x8", [4, 1, 1, 1, 1, 256, 4]),
    Tile::tensor_core("bf16_80_64x16", [4, 1, 1, 1, 2, 256, 4]),
    Tile::tensor_core("bf16_80_64x32", [4, 1, 1, 1, 4, 128, 4]),
];
const TENSOR_CORE_MANY: &[Tile] = &[
    Tile::tensor_core("bf16_80_128x128", [2, 4, 1, 4, 4, 64, 4]).known(2, 35, 23),
    Tile::tensor_core("bf16_80_64x64", [2, 2, 1, 2, 4, 128, 4]).known(3, 14, 7),
];

macro_rules! any_tiles {
    ($type:literal) => {
        [
            Tile::tensor_core(concat!($type, "_80_any_64x8"), [4, 1, 1, 1, 1, 128, 3]),
            Tile::tensor_core(concat!($type, "_80_any_64x64"), [2, 2, 1, 2, 4, 64, 3]),
        ]
    };
}

const ANY_BF16: [Tile; 2] = any_tiles!("bf16");
const ANY_F16: [Tile; 2] = any_tiles!("f16");
const ANY_F32: [Tile; 2] = any_tiles!("f32");

/// The kernel for a product in f32.
fn choose_plain(dtype: DType, t: usize, n: usize, sm_count: usize) -> Option<&'static Tile> {
    let tiles = match dtype {
        DType::F32 => &F32,
        DType::BF16 => &BF16,
        DType::F16 => &F16,
        _ => return None,
    };
    narrowest(tiles.few, t).or_else(|| fastest(tiles.many, t, n, sm_count))
}

/// The kernel for a product in bf16.
fn choose_bf16(dtype: DType, t: usize, n: usize, k: usize, sm_count: usize) -> Option<&'static Tile> {
    let any = match dtype {
        DType::F32 => &ANY_F32,
        DType::BF16 => &ANY_BF16,
        DType::F16 => &ANY_F16,
        _ => return None,
    };
    if dtype != DType::BF16 || !k.is_multiple_of(8) {
        return any.get(usize::from(t > 8));
    }
    narrowest(TENSOR_CORE_FEW, t).or_else(|| fastest(TENSOR_CORE_MANY, t, n, sm_count))
}

pub(crate) fn gemm_float(
    cuda: &Cuda,
    x: &Tensor<Cuda>,
    w: &Linear,
    math: FloatMath,
    out: &mut Tensor<Cuda>,
) -> Result<()> {
    let (t, n, k, sm_count) = (x.rows, w.n, w.k, cuda.info().sm_count as usize);
    if math == FloatMath::Bf16 && w.dtype == DType::BF16 && cuda.arch() == 90 && k.is_multiple_of(8) {
        return by_hopper(cuda, x, w, out);
    }
    let tile = match math {
        FloatMath::Bf16 if cuda.arch() >= 80 => choose_bf16(w.dtype, t, n, k, sm_count),
        _ => choose_plain(w.dtype, t, n, sm_count),
    };
    launch(cuda, tile.ok_or_else(|| Error::dtype("gemm_float: the weight is 8-bit"))?, x, w, out)
}

/// By the products of sm_90a, which read tokens in bf16. At any number of tokens, so that a token's sums are the same at
/// each: rounding first costs a few microseconds.
fn by_hopper(cuda: &Cuda, x: &Tensor<Cuda>, w: &Linear, out: &mut Tensor<Cuda>) -> Result<()> {
    let (t, k) = (x.rows, x.cols);
    require("gemm_float", k == w.k && out.cols == w.n && out.rows == t)?;
    if x.dtype != DType::F32 {
        return Err(Error::dtype(format!("gemm_float: activations are F32, not {}", x.dtype)));
    }
    let rounded = cuda.scratch("tokens in bf16", 2 * t * k)?;
    let params = params![address(x), rounded, (t * k) as u64];
    cuda.launch(FILE, "round_to_bf16", Grid::of((t * k).div_ceil(2048), 256), params)?;
    gemm_hopper::product(cuda, &gemm_hopper::bf16(rounded, t, w, out))
}

fn launch(cuda: &Cuda, tile: &Tile, x: &Tensor<Cuda>, w: &Linear, out: &mut Tensor<Cuda>) -> Result<()> {
    let (t, n, k) = (x.rows, w.n, w.k);
    require("gemm_float", x.cols == k && out.cols == n && out.rows == t)?;
    if x.dtype != DType::F32 {
        return Err(Error::dtype(format!("gemm_float: activations are F32, not {}", x.dtype)));
    }
    let out_type = out_type("gemm_float", out.dtype)?;
    let grid = Grid::of(tile.blocks(t, n), tile.threads).with_shared(tile.shared, tile.shared);
    let bias = w.bias.as_ref().map_or(0, |b| b.address());
    cuda.launch(FILE, tile.name, grid, params![w.weight.address(), address(x), bias, address(out), t, n, k, out_type])
}

/// For measurements: every kernel that could run a product, and a product by one of them.
impl Cuda {
    /// Names of the kernels that take a product of `t` tokens by `w`, the chosen one first.
    pub fn float_kernels(&self, t: usize, w: &Linear, math: FloatMath) -> Vec<&'static str> {
        let sm_count = self.info().sm_count as usize;
        let chosen = match math {
            FloatMath::Bf16 if self.arch() >= 80 => choose_bf16(w.dtype, t, w.n, w.k, sm_count),
            _ => choose_plain(w.dtype, t, w.n, sm_count),
        };
        let fits = |tile: &&Tile| (t <= tile.tokens || tile.tokens >= 64) && chosen.is_none_or(|c| c.name != tile.name);
        chosen.into_iter().chain(tiles(w, math).filter(fits)).map(|tile| tile.name).collect()
    }

    /// As [`planish_tensor::Backend::gemm_float`], by the kernel of this name.
    pub fn gemm_float_by(&self, name: &str, x: &Tensor<Cuda>, w: &Linear, out: &mut Tensor<Cuda>) -> Result<()> {
        let all = tiles(w, FloatMath::F32).chain(tiles(w, FloatMath::Bf16));
        let found = all.into_iter().find(|tile| tile.name == name);
        launch(self, found.ok_or_else(|| Error::unsupported(format!("no kernel {name} here")))?, x, w, out)
    }
}

/// Every kernel of this arithmetic that takes the weight.
fn tiles(w: &Linear, math: FloatMath) -> impl Iterator<Item = &'static Tile> {
    let aligned = w.k.is_multiple_of(8);
    let (few, many): (&[Tile], &[Tile]) = match (math, w.dtype) {
        (FloatMath::F32, DType::F32) => (F32.few, F32.many),
        (FloatMath::F32, DType::BF16) => (BF16.few, BF16.many),
        (FloatMath::F32, _) => (F16.few, F16.many),
        (FloatMath::Bf16, DType::BF16) if aligned => (TENSOR_CORE_FEW, TENSOR_CORE_MANY),
        (FloatMath::Bf16, DType::F32) => (&[], &ANY_F32),
        (FloatMath::Bf16, DType::BF16) => (&[], &ANY_BF16),
        (FloatMath::Bf16, _) => (&[], &ANY_F16),
    };
    few.iter().chain(many)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_suit_the_weight_and_the_number_of_tokens() {
        let name = |dtype, t, n, k| choose_bf16(dtype, t, n, k, 132).map(|tile| tile.name);
        assert_eq!(name(DType::BF16, 1, 128_256, 4096), Some("bf16_80_64x8"));
        assert_eq!(name(DType::BF16, 16, 128_256, 4096), Some("bf16_80_64x16"));
        assert_eq!(name(DType::BF16, 4096, 4096, 4096), Some("bf16_80_128x128"));
        assert_eq!(name(DType::BF16, 5, 17, 17), Some("bf16_80_any_64x8"));
        assert_eq!(name(DType::F16, 50, 17, 17), Some("f16_80_any_64x64"));
        assert_eq!(name(DType::I8, 1, 1, 1), None);
        assert_eq!(choose_plain(DType::F32, 3, 100, 132).map(|tile| tile.name), Some("f32_few_4"));
    }
}
