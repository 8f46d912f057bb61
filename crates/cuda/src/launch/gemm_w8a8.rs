//! `gemm_w8a8` and its gated form: which kernel multiplies, and with what.
//! Arguments of every kernel of `gemm_w8a8.cu`: w, x, xs, ws, bias, out, t, n, k, mode, type of out.
use super::gemm_hopper::{self, Epilogue, Product};
use super::grids;
use super::rope_store_kv::Heads;
use super::{Grid, address, params};
use crate::choose::hopper::choose_heads;
use crate::choose::tile::Tile;
use crate::choose::{Element, Kernel, Operands, choose, portable, portables};
use crate::support::no_kernel;
use crate::{Cuda, Linear};
use planish_tensor::layout::require;
use planish_tensor::{Activation, DType, Error, Q8, Q8Rows, Result, Tensor};

const FILE: &str = "gemm_w8a8";

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

pub(crate) fn gemm_w8a8(cuda: &Cuda, x: &Q8Rows<Cuda>, w: &Linear, out: &mut Tensor<Cuda>) -> Result<()> {
    require("gemm_w8a8", out.cols == w.n && x.grid == w.grid)?;
    if !grids::is_usual(w.grid) {
        return grids::product(cuda, x, w, out);
    }
    let mode = if w.interleaved { Mode::Woven } else { Mode::Plain };
    product(cuda, x, w, mode, out)
}

/// The name of the kernel that [`gemm_w8a8`] queues.
pub(crate) fn kernel_name(cuda: &Cuda, x: &Q8Rows<Cuda>, w: &Linear) -> Result<String> {
    match grids::is_usual(w.grid) {
        true => chosen(cuda, x, w).map(|kernel| kernel.name()),
        false => grids::kernel_name(x, w).map(str::to_owned),
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
    if plain && let Kernel::Hopper(element, choice) = chosen(cuda, x, w)? {
        check_sizes(x, w, sum)?;
        let product = gemm_hopper::w8a8(cuda, element, x, w, Epilogue::Plain, sum)?;
        return gemm_hopper::queue(cuda, &Product { add: true, ..product }, &choice).map(|()| true);
    }
    gemm_w8a8(cuda, x, w, out).map(|()| false)
}

/// The product of queries, keys and values with their heads rotated and stored, where the chip's own kernels are of sm_90a
/// and the usual types; otherwise false, and nothing is done.
pub(crate) fn gemm_w8a8_heads(cuda: &Cuda, x: &Q8Rows<Cuda>, w: &Linear, heads: &Heads<'_>) -> Result<bool> {
    let plain = grids::is_usual(w.grid) && !w.interleaved && x.grid == w.grid && w.n == heads.width();
    if !plain || !heads.fill_rows() || !heads.suit_product() {
        return Ok(false);
    }
    let t = x.codes.rows;
    require("gemm_w8a8", x.codes.cols == w.k && x.scales.rows == t && x.scales.cols == 1 && heads.tokens() == t)?;
    let Kernel::Hopper(element @ (Element::Int8 | Element::E4M3), _) = chosen(cuda, x, w)? else { return Ok(false) };
    let Some(choice) = choose_heads(t, w.n, w.k, element, cuda.chip()) else { return Ok(false) };
    let product = gemm_hopper::w8a8(cuda, element, x, w, Epilogue::Plain, heads.qkv)?;
    gemm_hopper::queue_heads(cuda, &product, &choice, heads).map(|()| true)
}

fn product(cuda: &Cuda, x: &Q8Rows<Cuda>, w: &Linear, mode: Mode, out: &mut Tensor<Cuda>) -> Result<()> {
    check_sizes(x, w, out)?;
    match chosen(cuda, x, w)? {
        Kernel::Hopper(element, choice) => {
            gemm_hopper::queue(cuda, &gemm_hopper::w8a8(cuda, element, x, w, mode.into(), out)?, &choice)
        }
        Kernel::Portable(tile, _) => launch(cuda, tile, x, w, mode, out),
    }
}

fn chosen(cuda: &Cuda, x: &Q8Rows<Cuda>, w: &Linear) -> Result<Kernel> {
    choose([x.codes.rows, w.n, w.k], operands(cuda, x, w)?, cuda.chip())
}

pub(super) fn operands(cuda: &Cuda, x: &Q8Rows<Cuda>, w: &Linear) -> Result<Operands> {
    let weight = w.q8.ok_or_else(|| Error::dtype("gemm_w8a8: the weight is float"))?;
    let tokens = Q8::from_dtype(x.codes.dtype).ok_or_else(|| Error::dtype("gemm_w8a8: the tokens are float"))?;
    Ok(Operands { weight, tokens, invariant: cuda.batch_invariant })
}

fn check_sizes(x: &Q8Rows<Cuda>, w: &Linear, out: &Tensor<Cuda>) -> Result<()> {
    let t = x.codes.rows;
    require("gemm_w8a8", x.codes.cols == w.k && x.scales.rows == t && x.scales.cols == 1 && out.rows == t)
}

fn launch(cuda: &Cuda, tile: &Tile, x: &Q8Rows<Cuda>, w: &Linear, mode: Mode, out: &mut Tensor<Cuda>) -> Result<()> {
    let (t, n, k) = (x.codes.rows, w.n, w.k);
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
    /// Names of the kernels that take `x` and `w`, the chosen one first; [`HOPPER`] for those of sm_90a.
    pub fn w8a8_kernels(&self, x: &Q8Rows<Cuda>, w: &Linear) -> Result<Vec<&'static str>> {
        let (size, operands) = ([x.codes.rows, w.n, w.k], operands(self, x, w)?);
        let mut names = portables(size, operands, self.arch())?;
        if self.arch() == 90 && w.k.is_multiple_of(16) {
            names.insert(0, HOPPER);
        }
        let first = match choose(size, operands, self.chip())? {
            Kernel::Portable(tile, _) => tile.name,
            Kernel::Hopper(..) => HOPPER,
        };
        names.retain(|name| *name != first);
        names.insert(0, first);
        Ok(names)
    }

    /// As [`planish_tensor::Backend::gemm_w8a8`], by the kernel of this name.
    pub fn gemm_w8a8_by(&self, name: &str, x: &Q8Rows<Cuda>, w: &Linear, out: &mut Tensor<Cuda>) -> Result<()> {
        require("gemm_w8a8", out.cols == w.n)?;
        check_sizes(x, w, out)?;
        if name == HOPPER {
            let tile = gemm_hopper::fastest(self, x, w)?;
            return self.gemm_w8a8_tile(&tile, x, w, out);
        }
        let found = portable(name, operands(self, x, w)?, self.arch())?;
        let tile = found.ok_or_else(|| Error::unsupported(format!("no kernel {name} here")))?;
        launch(self, tile, x, w, if w.interleaved { Mode::Woven } else { Mode::Plain }, out)
    }
}
