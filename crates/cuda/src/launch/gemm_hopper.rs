//! Products by the tensor cores of sm_90a (`kernels/gemm_hopper.cu`): tensor maps, the chosen tile, the launch.
//! Arguments of every kernel: maps of w, x and out, then xs, ws, bias, out, t, n, row, steps, xs_stride, layout, gate,
//! out_type, boxes, group, add, as `GemmArguments` in `gemm_hopper.cuh` explains. Those of `kernels/gemm_hopper_heads.cu`:
//! maps of w and x, xs, ws, bias, t, n, steps, xs_stride, group, then [`Heads::params`].
use super::gemm_w8a8::operands;
use super::rope_store_kv::Heads;
use super::tensor_map::{BF16, F32, Map, U8};
use super::{Grid, Param, address, params};
use crate::choose::hopper::{Choice, Element, STEP_BYTES, Tile, choices, choose, element};
use crate::support::no_kernel;
use crate::{Cuda, Linear};
use cudarc::driver::sys;
use planish_tensor::{Activation, DType, Error, Q8Rows, Result, Tensor};

const FILE: &str = "gemm_hopper";
const HEADS_FILE: &str = "gemm_hopper_heads";
/// Tokens of a stored box of sums in 32 bits, as in the kernels.
const SUM_TOKENS: usize = 32;

/// What becomes of the sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Epilogue {
    /// Rows of the weight are columns of the output.
    Plain,
    /// Rows of gate and up alternate by eight; the output is `act(gate) * up`, half as wide.
    Gated(Activation),
    /// Rows alternate by eight; the output is gate, then up.
    Interleaved,
}

/// `out[t, n] = (acc * xs[t]) * ws[n] + bias[n]`, `acc = x[t, k] · w[n, k]ᵀ`. Addresses are on the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    /// Types of the weights and the tokens.
    pub element: Element,
    /// `[t, k]`.
    pub x: u64,
    /// `[t]` f32, or 0 for scales of 1.
    pub xs: u64,
    /// One scale for all tokens.
    pub one_scale: bool,
    /// `[n, k]`.
    pub w: u64,
    /// `[n]` f32, or 0 for scales of 1.
    pub ws: u64,
    /// `[n]` f32, or 0 for none.
    pub bias: u64,
    /// `[t, n]`, or `[t, n / 2]` when gated.
    pub out: u64,
    /// F32, BF16 or F16.
    pub out_type: DType,
    /// Tokens.
    pub t: usize,
    /// Rows of the weight.
    pub n: usize,
    /// Input channels.
    pub k: usize,
    /// What becomes of the sums.
    pub epilogue: Epilogue,
    /// The product is added to what `out` (f32, plain) holds.
    pub add: bool,
    /// A token's result may not depend on how many others there are, in floating types either.
    pub invariant: bool,
}

impl Product {
    /// Steps of k.
    fn steps(&self) -> usize {
        (self.k * self.element.size()).div_ceil(STEP_BYTES)
    }
}

/// The product of quantized tokens and a weight. The sizes must fit together, and [`choose`] must have a tile for them.
pub(crate) fn w8a8(
    cuda: &Cuda,
    element: Element,
    x: &Q8Rows<Cuda>,
    w: &Linear,
    epilogue: Epilogue,
    out: &Tensor<Cuda>,
) -> Result<Product> {
    let scales = w.scales.as_ref().ok_or_else(|| Error::dtype("gemm_w8a8: the weight has no scales"))?;
    Ok(Product {
        element,
        x: address(&x.codes),
        xs: address(&x.scales),
        one_scale: false,
        w: w.weight.address(),
        ws: scales.address(),
        bias: w.bias.as_ref().map_or(0, |b| b.address()),
        out: address(out),
        out_type: out.dtype,
        t: x.codes.rows,
        n: w.n,
        k: w.k,
        epilogue,
        add: false,
        invariant: cuda.batch_invariant,
    })
}

/// The product of `t` tokens at `x`, rounded to bf16, and a bf16 weight. The sizes must fit together.
pub(crate) fn bf16(x: u64, t: usize, w: &Linear, out: &Tensor<Cuda>) -> Product {
    Product {
        element: Element::Bf16,
        x,
        xs: 0,
        one_scale: false,
        w: w.weight.address(),
        ws: 0,
        bias: w.bias.as_ref().map_or(0, |b| b.address()),
        out: address(out),
        out_type: out.dtype,
        t,
        n: w.n,
        k: w.k,
        epilogue: Epilogue::Plain,
        add: false,
        invariant: true,
    }
}

/// Queues a product by the tile that the model of the chip finds fastest.
pub(crate) fn product(cuda: &Cuda, p: &Product) -> Result<()> {
    if p.t == 0 || p.n == 0 {
        return Ok(());
    }
    let choice = choose(p.t, p.n, p.k, p.element, cuda.chip(), p.invariant);
    queue(cuda, p, &choice.ok_or_else(|| Error::unsupported(format!("no sm_90a kernel multiplies {:?}", p.element)))?)
}

/// The tile of these kernels, also where others are faster.
pub(crate) fn fastest(cuda: &Cuda, x: &Q8Rows<Cuda>, w: &Linear) -> Result<Choice> {
    let choice = choose(x.codes.rows, w.n, w.k, element_of(cuda, x, w)?, cuda.chip(), cuda.batch_invariant);
    choice.ok_or_else(|| Error::unsupported("no sm_90a kernel multiplies this"))
}

fn element_of(cuda: &Cuda, x: &Q8Rows<Cuda>, w: &Linear) -> Result<Element> {
    element(operands(cuda, x, w)?).ok_or_else(|| Error::unsupported("no sm_90a kernel multiplies this"))
}

/// For measurements.
impl Cuda {
    /// Every tile of the sm_90a kernels for this product, placed on this device; none on other chips.
    pub fn hopper_tiles(&self, x: &Q8Rows<Cuda>, w: &Linear) -> Result<Vec<Choice>> {
        let element = element_of(self, x, w)?;
        Ok(choices(x.codes.rows, w.n, w.k, element, self.chip(), self.batch_invariant))
    }

    /// As [`planish_tensor::Backend::gemm_w8a8`], by this tile of [`Cuda::hopper_tiles`] for the same operands.
    pub fn gemm_w8a8_tile(&self, tile: &Choice, x: &Q8Rows<Cuda>, w: &Linear, out: &mut Tensor<Cuda>) -> Result<()> {
        let epilogue = if w.interleaved { Epilogue::Interleaved } else { Epilogue::Plain };
        queue(self, &w8a8(self, element_of(self, x, w)?, x, w, epilogue, out)?, tile)
    }
}

/// Queues a product with a given tile.
pub(crate) fn queue(cuda: &Cuda, p: &Product, choice: &Choice) -> Result<()> {
    let tile = choice.tile;
    let out_type = out_code(p.out_type)?;
    let [w, x] = operand_maps(p, &tile)?;
    let gated = matches!(p.epilogue, Epilogue::Gated(_));
    let row = if gated { p.n / 2 } else { p.n };
    let boxes = tile.stores_boxes()
        && match p.epilogue {
            Epilogue::Plain => true,
            Epilogue::Gated(_) => p.out_type != DType::F16,
            Epilogue::Interleaved => p.out_type == DType::F32,
        }
        && (row * p.out_type.size()).is_multiple_of(16)
        && p.out.is_multiple_of(16);
    // A kernel that stores directly is given any map.
    let out = if boxes { out_map(p, row).encode()? } else { x };
    let (layout, gate) = match p.epilogue {
        Epilogue::Plain => (0, 0),
        Epilogue::Gated(Activation::Silu) => (1, 0),
        Epilogue::Gated(Activation::GeluTanh) => (1, 1),
        Epilogue::Gated(act) => return Err(no_kernel(&format!("gates with {act:?}"))),
        Epilogue::Interleaved => (2, 0),
    };
    let grid = Grid::of(choice.blocks, tile.threads()).with_shared(tile.shared(), tile.shared());
    let name = choice.kernel(p.element);
    let values = params![
        &w,
        &x,
        &out,
        p.xs,
        p.ws,
        p.bias,
        p.out,
        p.t,
        p.n,
        row,
        p.steps(),
        i32::from(!p.one_scale),
        layout,
        gate,
        out_type,
        i32::from(boxes),
        choice.group,
        i32::from(p.add),
    ];
    cuda.launch(FILE, &name, grid, values)
}

/// Queues a product of queries, keys and values whose heads are rotated and stored in place of its sums, bit for bit as by
/// `rope_store_kv` afterwards; by a tile that [`Tile::takes_heads`].
pub(crate) fn queue_heads(cuda: &Cuda, p: &Product, choice: &Choice, heads: &Heads<'_>) -> Result<()> {
    if p.t == 0 || p.n == 0 {
        return Ok(());
    }
    let tile = choice.tile;
    let [w, x] = operand_maps(p, &tile)?;
    let grid = Grid::of(choice.blocks, tile.threads()).with_shared(tile.shared(), tile.shared());
    let stride = i32::from(!p.one_scale);
    let mut values: Vec<Param<'_>> =
        params![&w, &x, p.xs, p.ws, p.bias, p.t, p.n, p.steps(), stride, choice.group].to_vec();
    values.extend(heads.params());
    cuda.launch(HEADS_FILE, &format!("{}_heads", choice.kernel(p.element)), grid, &values)
}

/// The weights and the tokens as the copy engine sees them.
fn operand_maps(p: &Product, tile: &Tile) -> Result<[sys::CUtensorMap; 2]> {
    let [cn, ct, _] = tile.cluster;
    let element = p.element.size();
    let operand = |address, rows, box_rows| Map {
        address,
        dtype: if element == 2 { BF16 } else { U8 },
        size: element,
        cols: p.k,
        rows,
        box_cols: STEP_BYTES / element,
        box_rows,
        swizzle: sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    Ok([operand(p.w, p.n, tile.rows / ct).encode()?, operand(p.x, p.t, tile.tokens / cn).encode()?])
}

fn out_code(dtype: DType) -> Result<i32> {
    match dtype {
        DType::F32 => Ok(0),
        DType::BF16 => Ok(1),
        DType::F16 => Ok(2),
        other => Err(Error::dtype(format!("a product's output is F32, BF16 or F16, not {other}"))),
    }
}

/// The output, as the kernels store it: a warp boxes of sums in 32 bits, and a warpgroup rows of all else.
fn out_map(p: &Product, row: usize) -> Map {
    use sys::CUtensorMapSwizzle as Swizzle;
    let size = p.out_type.size();
    let [box_cols, box_rows] = match (p.epilogue, size) {
        (Epilogue::Plain, 4) => [16, SUM_TOKENS],
        (Epilogue::Interleaved, 4) => [8, SUM_TOKENS],
        (Epilogue::Plain | Epilogue::Interleaved, _) => [64, 32],
        (Epilogue::Gated(_), _) => [32, 32],
    };
    let swizzle = match box_cols * size {
        32 => Swizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        64 => Swizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        _ => Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    let dtype = if size == 4 { F32 } else { BF16 };
    Map { address: p.out, dtype, size, cols: row, rows: p.t, box_cols, box_rows, swizzle }
}
