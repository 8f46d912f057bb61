//! `gemm_w8a8` and its gated form: which kernel multiplies, and with what.
//! Arguments of every kernel of `gemm_w8a8.cu`: w, x, xs, ws, bias, out, t, n, k, mode, type of out.
use super::gemm_hopper::{self, Epilogue, Product};
use super::grids;
use super::tile::{Tile, fastest, narrowest};
use super::{Grid, address, params};
use crate::support::no_kernel;
use crate::{Arch, Cuda, Linear, support};
use planish_tensor::layout::require;
use planish_tensor::{Activation, DType, Error, Q8, Q8Rows, Result, Tensor};

const FILE: &str = "gemm_w8a8";

/// Tiles of a family: by number of tokens, then for more tokens than those, then for rows that begin anywhere.
struct Family {
    few: &'static [Tile],
    /// In place of `few` where floating sums may depend on the number of tokens; none if there are no better.
    split: &'static [Tile],
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
    split: &[],
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
    split: &[],
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
    split: &[],
    many: &[
        Tile::plain("int8_70_128x128", 128, 128, 256).known(1, 180, 180),
        Tile::plain("int8_70_64x64", 64, 64, 64).known(6, 105, 34),
    ],
    any: Tile::plain("int8_70_64x64", 64, 64, 64),
};

macro_rules! float8_family {
    ($pair:literal, $split:expr) => {
        Family {
            few: &[
                Tile::tensor_core(concat!($pair, "_89_16x8"), [1, 1, 1, 1, 1, 256, 6]),
                Tile::tensor_core(concat!($pair, "_89_16x32"), [1, 4, 1, 1, 1, 256, 4]),
            ],
            split: $split,
            many: &[
                Tile::tensor_core(concat!($pair, "_89_128x128"), [2, 4, 1, 4, 4, 64, 4]).known(2, 70, 46),
                Tile::tensor_core(concat!($pair, "_89_64x64"), [2, 2, 1, 2, 4, 128, 4]).known(3, 30, 11),
            ],
            any: Tile::tensor_core(concat!($pair, "_89_any"), [2, 2, 1, 2, 4, 64, 2]),
        }
    };
}

const E4M3_E4M3: Family = float8_family!("e4m3_e4m3", E4M3_SPLIT);
const E4M3_E5M2: Family = float8_family!("e4m3_e5m2", &[]);
const E5M2_E4M3: Family = float8_family!("e5m2_e4m3", &[]);
const E5M2_E5M2: Family = float8_family!("e5m2_e5m2", &[]);

/// Eight warps share k, as those of INT8 do.
const E4M3_SPLIT: &[Tile] = &[
    Tile::tensor_core("e4m3_e4m3_89_16x8_by_8", [1, 1, 8, 1, 1, 512, 4]),
    Tile::tensor_core("e4m3_e4m3_89_16x16_by_8", [1, 1, 8, 1, 2, 512, 4]),
    Tile::tensor_core("e4m3_e4m3_89_32x32_by_8", [1, 1, 8, 2, 4, 512, 3]),
];

/// What the sums of a product become, as in `gemm_w8a8.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Plain = 0,
    Woven = 1,
    Silu = 2,
    Gelu = 3,
}

impl From<Mode> for Epilogue {
    fn from(mode: Mode) -> Epilogue {
        match mode {
            Mode::Plain => Epilogue::Plain,
            Mode::Woven => Epilogue::Interleaved,
            Mode::Silu => Epilogue::Gated(Activation::Silu),
            Mode::Gelu => Epilogue::Gated(Activation::GeluTanh),
        }
    }
}

/// The name that measurements have for the products of sm_90a, whichever tile they take.
const HOPPER: &str = "hopper";

/// The kernels of a weight's and the tokens' 8-bit type on an architecture, or what the chip can run instead.
fn family(weight: Q8, tokens: Q8, arch: Arch) -> Result<&'static Family> {
    support::family(weight, arch)?;
    match (weight, tokens) {
        (Q8::Int8, Q8::Int8) if arch >= 80 => Ok(&INT8_80),
        (Q8::Int8, Q8::Int8) if arch >= 75 => Ok(&INT8_75),
        (Q8::Int8, Q8::Int8) => Ok(&INT8_70),
        (Q8::E4M3, Q8::E4M3) => Ok(&E4M3_E4M3),
        (Q8::E4M3, Q8::E5M2) => Ok(&E4M3_E5M2),
        (Q8::E5M2, Q8::E4M3) => Ok(&E5M2_E4M3),
        (Q8::E5M2, Q8::E5M2) => Ok(&E5M2_E5M2),
        _ => Err(Error::dtype(format!("gemm_w8a8: weights of {weight:?} with tokens of {tokens:?}"))),
    }
}

/// The kernel for a product `[t, k]` by `[n, k]`; `invariant`: floating sums may not depend on t.
fn choose(family: &'static Family, [t, n, k]: [usize; 3], sm_count: usize, invariant: bool) -> &'static Tile {
    if !k.is_multiple_of(16) {
        return &family.any;
    }
    let tiles = if invariant || family.split.is_empty() { family.few } else { family.split };
    let narrow = narrowest(tiles, t);
    // By dp4a, weights that are read again from the cache cost less than a large tile that is mostly empty.
    let again = tiles.last().filter(|tile| tile.shared == 0 && t <= 5 * tile.tokens);
    let few = narrow.or(again);
    // A block of few tokens reads them all for its few rows: with many rows, larger tiles read less.
    let wide = t > 32 && n >= 96 * sm_count;
    let chosen = if wide { None } else { few };
    chosen.or_else(|| fastest(family.many, t, n, sm_count)).unwrap_or(&family.any)
}

pub(crate) fn gemm_w8a8(cuda: &Cuda, x: &Q8Rows<Cuda>, w: &Linear, out: &mut Tensor<Cuda>) -> Result<()> {
    require("gemm_w8a8", out.cols == w.n && x.grid == w.grid)?;
    if !grids::is_usual(w.grid) {
        return grids::product(cuda, x, w, out);
    }
    let mode = if w.interleaved { Mode::Woven } else { Mode::Plain };
    product(cuda, x, w, mode, out)
}

/// The name of the kernel that [`gemm_w8a8`] queues.
pub(crate) fn kernel(cuda: &Cuda, x: &Q8Rows<Cuda>, w: &Linear, out: &Tensor<Cuda>) -> Result<String> {
    if !grids::is_usual(w.grid) {
        return Ok("grid_product".into());
    }
    let mode = if w.interleaved { Mode::Woven } else { Mode::Plain };
    match hopper(cuda, x, w, mode, out)? {
        Some(product) => gemm_hopper::kernel(cuda, &product),
        None => Ok(chosen(cuda, family_of(cuda, x, w)?, [x.codes.rows, w.n, w.k]).name.into()),
    }
}

/// Whether products join gate and up by this nonlinearity.
pub(crate) fn joins(act: Activation) -> bool {
    matches!(act, Activation::Silu | Activation::GeluTanh)
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
        Activation::Gelu | Activation::Relu => return Err(no_kernel(&format!("gates with {act:?}"))),
    };
    product(cuda, x, w, mode, out)
}

/// Adds the product to `sum` where the kernels of sm_90a take it; otherwise writes it to `out` and returns false.
pub(crate) fn gemm_w8a8_add(
    cuda: &Cuda,
    x: &Q8Rows<Cuda>,
    w: &Linear,
    sum: &mut Tensor<Cuda>,
    out: &mut Tensor<Cuda>,
) -> Result<bool> {
    require("gemm_w8a8_add", sum.cols == w.n && sum.rows == x.codes.rows && x.grid == w.grid)?;
    let plain = grids::is_usual(w.grid) && !w.interleaved && sum.dtype == DType::F32;
    match if plain { hopper(cuda, x, w, Mode::Plain, sum)? } else { None } {
        Some(product) => gemm_hopper::product(cuda, &Product { add: true, ..product }).map(|()| true),
        None => gemm_w8a8(cuda, x, w, out).map(|()| false),
    }
}

fn product(cuda: &Cuda, x: &Q8Rows<Cuda>, w: &Linear, mode: Mode, out: &mut Tensor<Cuda>) -> Result<()> {
    match hopper(cuda, x, w, mode, out)? {
        Some(product) => gemm_hopper::product(cuda, &product),
        None => {
            let size = [x.codes.rows, w.n, w.k];
            launch(cuda, chosen(cuda, family_of(cuda, x, w)?, size), x, w, mode, out)
        }
    }
}

/// The product by the kernels of sm_90a, where they are the ones to take it.
fn hopper(cuda: &Cuda, x: &Q8Rows<Cuda>, w: &Linear, mode: Mode, out: &Tensor<Cuda>) -> Result<Option<Product>> {
    let family = family_of(cuda, x, w)?;
    // INT8 sums are exact, so kernels may take turns; invariant ones of other types are summed by one family for every t.
    let may_differ = w.q8 == Some(Q8::Int8) || !(cuda.batch_invariant || family.split.is_empty());
    let portable_is_faster = may_differ && x.codes.rows <= FEW_TOKENS;
    let product = gemm_hopper::w8a8(cuda, x, w, mode.into(), out).filter(|_| !portable_is_faster);
    if product.is_some() {
        check_sizes(x, w, out)?;
    }
    Ok(product)
}

fn chosen(cuda: &Cuda, family: &'static Family, size: [usize; 3]) -> &'static Tile {
    choose(family, size, cuda.info().sm_count as usize, cuda.batch_invariant)
}

/// Up to here the portable kernels read weights faster than the Hopper ones.
pub(crate) const FEW_TOKENS: usize = 16;

fn family_of(cuda: &Cuda, x: &Q8Rows<Cuda>, w: &Linear) -> Result<&'static Family> {
    let weight = w.q8.ok_or_else(|| Error::dtype("gemm_w8a8: the weight is float"))?;
    let tokens = Q8::from_dtype(x.codes.dtype).ok_or_else(|| Error::dtype("gemm_w8a8: the tokens are float"))?;
    family(weight, tokens, cuda.arch())
}

fn check_sizes(x: &Q8Rows<Cuda>, w: &Linear, out: &Tensor<Cuda>) -> Result<()> {
    let t = x.codes.rows;
    require("gemm_w8a8", x.codes.cols == w.k && x.scales.rows == t && x.scales.cols == 1 && out.rows == t)
}

fn launch(cuda: &Cuda, tile: &Tile, x: &Q8Rows<Cuda>, w: &Linear, mode: Mode, out: &mut Tensor<Cuda>) -> Result<()> {
    let (t, n, k) = (x.codes.rows, w.n, w.k);
    check_sizes(x, w, out)?;
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
    /// `out[t, f] = act(gate) * up` in one kernel, of a weight from [`planish_tensor::Backend::load_gated`].
    pub fn gemm_w8a8_gated(&self, x: &Q8Rows<Cuda>, w: &Linear, act: Activation, out: &mut Tensor<Cuda>) -> Result<()> {
        gemm_w8a8_gated(self, x, w, act, out)
    }
}

/// For measurements: every kernel that could run a product, and a product by one of them.
impl Cuda {
    /// Names of the kernels that take `x` and `w`, the chosen one first.
    pub fn w8a8_kernels(&self, x: &Q8Rows<Cuda>, w: &Linear) -> Result<Vec<&'static str>> {
        let family = family_of(self, x, w)?;
        let chosen = chosen(self, family, [x.codes.rows, w.n, w.k]).name;
        let others = tiles(family).filter(|tile| w.k.is_multiple_of(16) && tile.name != chosen);
        let fits = |tile: &&Tile| tile.tokens >= x.codes.rows.min(64) || tile.tokens >= 64;
        let hopper = (self.arch() == 90 && w.k.is_multiple_of(16)).then_some(HOPPER);
        Ok(hopper.into_iter().chain(std::iter::once(chosen)).chain(others.filter(fits).map(|tile| tile.name)).collect())
    }

    /// As [`planish_tensor::Backend::gemm_w8a8`], by the kernel of this name.
    pub fn gemm_w8a8_by(&self, name: &str, x: &Q8Rows<Cuda>, w: &Linear, out: &mut Tensor<Cuda>) -> Result<()> {
        require("gemm_w8a8", out.cols == w.n)?;
        if name == HOPPER {
            return gemm_w8a8(self, x, w, out);
        }
        let found = tiles(family_of(self, x, w)?).chain(INT8_70.few).find(|tile| tile.name == name);
        let tile = found.ok_or_else(|| Error::unsupported(format!("no kernel {name} here")))?;
        launch(self, tile, x, w, if w.interleaved { Mode::Woven } else { Mode::Plain }, out)
    }
}

fn tiles(family: &'static Family) -> impl Iterator<Item = &'static Tile> {
    family.few.iter().chain(family.split).chain(family.many).chain(std::iter::once(&family.any))
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
        let name = |t, n, k| choose(&INT8_80, [t, n, k], 132, true).name;
        assert_eq!(name(1, 4096, 4096), "int8_80_16x8");
        assert_eq!(name(16, 4096, 4096), "int8_80_16x16");
        assert_eq!(name(64, 4096, 14336), "int8_80_32x64");
        assert_eq!(name(64, 28672, 4096), "int8_80_64x64_by_2");
        assert_eq!(name(256, 6144, 4096), "int8_80_64x64");
        assert_eq!(name(4096, 28672, 4096), "int8_80_128x128");
        assert_eq!(name(8192, 4096, 4100), "int8_80_any");
        let name = |t| choose(&INT8_70, [t, 4096, 4096], 80, true).name;
        assert_eq!(
            [1, 2, 3, 20, 21].map(name),
            ["int8_few_1", "int8_few_2", "int8_few_4", "int8_few_4", "int8_70_64x64"]
        );
    }

    #[test]
    fn float_sums_are_split_only_where_they_may_be() {
        let name = |t, invariant| choose(&E4M3_E4M3, [t, 4096, 4096], 132, invariant).name;
        assert_eq!([1, 8, 16].map(|t| name(t, true)), ["e4m3_e4m3_89_16x8", "e4m3_e4m3_89_16x8", "e4m3_e4m3_89_16x32"]);
        assert_eq!(name(1, false), "e4m3_e4m3_89_16x8_by_8");
        assert_eq!(name(16, false), "e4m3_e4m3_89_16x16_by_8");
        assert_eq!(choose(&E5M2_E4M3, [1, 4096, 4096], 132, false).name, "e5m2_e4m3_89_16x8");
        assert_eq!(choose(&INT8_80, [1, 4096, 4096], 132, false), choose(&INT8_80, [1, 4096, 4096], 132, true));
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
