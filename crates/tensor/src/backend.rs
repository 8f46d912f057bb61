//! `trait Backend`: the one waist between what a network is and the machine that runs it.
//! About twenty coarse operations; those that a device may fuse have defaults made of the plain ones.
use crate::host::decode_f32_into;
use crate::mixture::Mixer;
use crate::q8::quantize_weight_row;
use crate::{Batch, DType, Error, Grid, HostTensor, InputCodes, Q8, Result, SampleRow, Solver};

/// A dense row-major matrix `[rows, cols]` on a device, with room for `capacity` rows.
pub struct Tensor<B: Backend> {
    /// The device memory, `capacity * cols` elements.
    pub buf: B::Buf,
    /// Element type.
    pub dtype: DType,
    /// Rows in use.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Rows that fit.
    pub capacity: usize,
}

impl<B: Backend> Tensor<B> {
    /// Changes the number of rows in use. Panics if they do not fit: workspaces are sized by their owner.
    pub fn set_rows(&mut self, rows: usize) {
        assert!(rows <= self.capacity, "{rows} rows asked of a tensor with room for {}", self.capacity);
        self.rows = rows;
    }
}

/// Tokens quantized to 8 bits.
pub struct Q8Rows<B: Backend> {
    /// `[t, k]` codes, element type [`Q8::dtype`].
    pub codes: Tensor<B>,
    /// `[t, groups]` f32 scales `xs`, see [`Grid::groups`].
    pub scales: Tensor<B>,
    /// `[t, 1]` I32 zero points of [`Grid::Asymmetric`], where there is room for such rows.
    pub zeros: Option<Tensor<B>>,
    /// How the codes come to be.
    pub grid: Grid,
}

impl<B: Backend> Q8Rows<B> {
    /// Codes and a scale for each token.
    pub fn of_tokens(codes: Tensor<B>, scales: Tensor<B>) -> Q8Rows<B> {
        Q8Rows { codes, scales, zeros: None, grid: Grid::Token }
    }

    /// Changes the number of rows in use.
    pub fn set_rows(&mut self, rows: usize) {
        self.codes.set_rows(rows);
        self.scales.set_rows(rows);
        self.zeros.iter_mut().for_each(|zeros| zeros.set_rows(rows));
    }

    /// Makes these the rows that a linear reads. They must have been allocated with room for its grid, see
    /// [`Backend::alloc_q8_for`].
    pub fn become_input(&mut self, input: InputCodes) {
        self.codes.dtype = input.kind.dtype();
        self.scales.cols = input.grid.groups(self.codes.cols);
        self.grid = input.grid;
    }
}

/// One layer's k and v: each `[pages, nkv * page_size * d]`, a page holding `[nkv, page_size, d]`.
/// F32, BF16, or codes (I8, F8E4M3) with a scale for each token and head: a head of a token is quantized as
/// [`crate::q8::quantize_activation_row`] does, and stands for `code * scale`.
pub struct KvLayer<B: Backend> {
    /// Keys, after rope.
    pub k: Tensor<B>,
    /// Values.
    pub v: Tensor<B>,
    /// `[pages, nkv * page_size]` f32 scales of 8-bit keys, a page holding `[nkv, page_size]`.
    pub k_scales: Option<Tensor<B>>,
    /// The same of the values.
    pub v_scales: Option<Tensor<B>>,
    /// Scales of all keys and all values of an 8-bit cache, in place of each vector's own: values outside saturate.
    pub fixed: Option<[f32; 2]>,
}

impl<B: Backend> KvLayer<B> {
    /// Zeroed pages with room for `heads_tokens = nkv * page_size` vectors of width `d` each. Fails on an element
    /// type that no cache has.
    pub fn new(b: &B, dtype: DType, pages: usize, heads_tokens: usize, d: usize) -> Result<KvLayer<B>> {
        let scaled = kv_scale_bytes(dtype)? > 0;
        let rows = || b.alloc(dtype, pages, heads_tokens * d);
        let scales = || scaled.then(|| b.alloc(DType::F32, pages, heads_tokens)).transpose();
        Ok(KvLayer { k: rows()?, v: rows()?, k_scales: scales()?, v_scales: scales()?, fixed: None })
    }

    /// All tensors of the layer, each with a row for each page.
    pub fn tensors_mut(&mut self) -> impl Iterator<Item = &mut Tensor<B>> {
        [&mut self.k, &mut self.v].into_iter().chain(&mut self.k_scales).chain(&mut self.v_scales)
    }
}

/// Bytes of the scale that a cache of this type keeps for each token and head: 0 for F32 and BF16, 4 for I8 and
/// F8E4M3; other types hold no keys.
pub fn kv_scale_bytes(dtype: DType) -> Result<usize> {
    match dtype {
        DType::F32 | DType::BF16 => Ok(0),
        DType::I8 | DType::F8E4M3 => Ok(DType::F32.size()),
        other => Err(Error::dtype(format!("a KV cache is of F32, BF16, I8 or F8_E4M3, not of {other}"))),
    }
}

/// How float products are computed. Weights are never rounded further than they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloatMath {
    /// f32 activations, sequential fused multiply-adds over the input channels.
    F32,
    /// Activations (and f32 weights) rounded to bf16, products exact, sums in f32. A back end without such
    /// instructions may compute as [`FloatMath::F32`] does, which is never less exact.
    Bf16,
}

/// One weight `[n, k]`, as stored. A linear may be loaded from several, concatenated over `n` (q+k+v, gate+up).
#[derive(Clone, Debug)]
pub struct LinearPart {
    /// `[n, k]` F32, F16 or BF16; or I8 / F8 codes, then `scales` must be present.
    pub weight: HostTensor,
    /// `[n, groups]` scales `ws` of an 8-bit weight: one for each channel, or for each of its groups ([`Grid::groups`]).
    pub scales: Option<Vec<f32>>,
    /// `[n]` bias.
    pub bias: Option<Vec<f32>>,
    /// How the input of an 8-bit weight becomes codes.
    pub grid: Grid,
}

impl LinearPart {
    /// A float weight `[n, k]`.
    pub fn float(weight: HostTensor, bias: Option<Vec<f32>>) -> LinearPart {
        LinearPart { weight, scales: None, bias, grid: Grid::Token }
    }

    /// Codes `[n, k]` with a scale for each channel, for inputs with a scale for each token.
    pub fn channels(weight: HostTensor, scales: Vec<f32>, bias: Option<Vec<f32>>) -> LinearPart {
        LinearPart { weight, scales: Some(scales), bias, grid: Grid::Token }
    }

    /// A float part with its rows rounded to the nearest codes of `kind`, as [`crate::q8::quantize_weight_row`] does.
    pub fn quantized(&self, kind: Q8) -> Result<LinearPart> {
        let &[n, k] = self.weight.shape() else {
            return Err(Error::shape(format!("a weight to quantize: expected [n, k], found {:?}", self.weight)));
        };
        if Q8::from_dtype(self.weight.dtype()).is_some() {
            return Err(Error::dtype(format!("a weight to quantize: expected floats, found {:?}", self.weight)));
        }
        let (size, bytes) = (k * self.weight.dtype().size(), self.weight.bytes());
        let (mut codes, mut scales, mut row) = (vec![0; n * k], vec![0.0; n], vec![0.0; k]);
        for i in 0..n {
            decode_f32_into(self.weight.dtype(), &bytes[i * size..][..size], &mut row);
            scales[i] = quantize_weight_row(kind, &row, &mut codes[i * k..][..k]);
        }
        let weight = HostTensor::from_bytes(kind.dtype(), vec![n, k], codes)?;
        Ok(LinearPart::channels(weight, scales, self.bias.clone()))
    }
}

/// What a loaded linear is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearShape {
    /// Output channels.
    pub n: usize,
    /// Input channels.
    pub k: usize,
    /// The 8-bit type, or `None` for a float weight.
    pub q8: Option<Q8>,
    /// How the input of an 8-bit weight becomes codes.
    pub grid: Grid,
    /// Bytes that one pass over the weight reads.
    pub bytes: usize,
}

/// Sizes and rules of one attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub nq: usize,
    /// Key and value heads; `nq` is a multiple.
    pub nkv: usize,
    /// Head width.
    pub d: usize,
    /// Factor on q·k before the softmax.
    pub scale: f32,
    /// A query at position p sees keys at positions > p - window.
    pub window: Option<u32>,
    /// Scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
}

impl AttentionShape {
    /// Width of a packed q+k+v row.
    pub fn qkv_width(&self) -> usize {
        (self.nq + 2 * self.nkv) * self.d
    }
}

/// Rotary angles. The first `2 * half` channels of a head rotate, in pairs `(i, i + half)`,
/// or `(2i, 2i + 1)` when interleaved.
pub struct RopeTable<B: Backend> {
    /// `[positions, 2 * half]` f32: cosines, then sines (each already times the attention factor, if any).
    pub cos_sin: Tensor<B>,
    /// Pairs a head rotates.
    pub half: usize,
    /// Pairs are neighbours.
    pub interleaved: bool,
}

/// The nonlinearity of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x·sigmoid(x).
    Silu,
    /// GELU, tanh approximation.
    GeluTanh,
    /// GELU, `x (1 + erf(x / √2)) / 2`.
    Gelu,
    /// max(x, 0); NaN stays.
    Relu,
}

impl Activation {
    /// Every nonlinearity.
    pub const ALL: [Activation; 4] = [Activation::Silu, Activation::GeluTanh, Activation::Gelu, Activation::Relu];

    /// Whether `act(x / s) = act(x) / s` for every s above 0, so that a factor passes through.
    pub const fn is_homogeneous(self) -> bool {
        matches!(self, Activation::Relu)
    }
}

/// How an engine does well on a device, unless it is told otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preferences {
    /// Tokens in a page of the KV cache.
    pub page_size: usize,
    /// Tokens in one step.
    pub step_tokens: usize,
    /// Sequences running at once.
    pub max_batch: usize,
    /// Part of the memory that is free beside weights and buffers for keys and values.
    pub kv_share: f64,
    /// Prepare a step while the one before runs.
    pub overlap: bool,
    /// Choose tokens on the device, see [`Backend::sample`].
    pub sample: bool,
}

impl Preferences {
    /// Of a CPU, which shares its memory with everything else. Its thread pool wants every core, and preparing a step
    /// takes less time than waking a second thread saves.
    pub const CPU: Preferences =
        Preferences { page_size: 16, step_tokens: 512, max_batch: 64, kv_share: 0.4, overlap: false, sample: false };
}

/// Bytes on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes not in use.
    pub free: u64,
    /// All bytes.
    pub total: u64,
}

/// See [`Backend::recording_key`].
pub type RecordingKey = [u64; 5];

/// Queued operations that can be run again at little cost.
pub trait Recording: Send {
    /// Queues them once more.
    fn replay(&self) -> Result<()>;
}

/// A machine that can run the network's operations.
///
/// Shapes: `t` tokens, `h` hidden, `f` ffn, `nq`/`nkv` heads, `d` head width, `v` vocabulary.
/// Activations are of [`Backend::activation_dtype`]; every sum is in f32. Operations are queued in call order;
/// results may be read after [`Backend::download`], which waits. Outputs must not alias inputs unless said.
/// The output's rows are set by the caller to the input's (`set_rows`) before the call.
pub trait Backend: Send + Sync + Sized + 'static {
    /// Device memory. Freed when dropped.
    type Buf: Send + Sync;
    /// A weight in the back end's own order.
    type Linear: Send + Sync;
    /// A batch's arrays where the operations can read them.
    type Batch: Send + Sync;

    /// One line for people: device and kernels chosen.
    fn describe(&self) -> String;
    /// Element type of hidden states: F32 on CPUs, BF16 on GPUs.
    fn activation_dtype(&self) -> DType;
    /// Memory of the device.
    fn memory(&self) -> Memory;
    /// How an engine does well here.
    fn preferences(&self) -> Preferences {
        Preferences::CPU
    }

    /// Fails if products of this type do not run here; the error names the type that does.
    fn runs(&self, _kind: Q8) -> Result<()> {
        Ok(())
    }

    /// A zeroed matrix.
    fn alloc(&self, dtype: DType, rows: usize, cols: usize) -> Result<Tensor<Self>>;
    /// Puts a host matrix on the device (1-D becomes one row); may share the host's bytes.
    fn load(&self, host: &HostTensor) -> Result<Tensor<Self>>;
    /// Overwrites the rows in use with little-endian `bytes`.
    fn upload(&self, bytes: &[u8], dst: &mut Tensor<Self>) -> Result<()>;
    /// Reads the rows in use as little-endian bytes, after all queued work.
    fn download(&self, src: &Tensor<Self>, bytes: &mut [u8]) -> Result<()>;
    /// Waits for all queued work.
    fn sync(&self) -> Result<()>;
    /// Uploads a step's arrays. `pages` is the size of the pool that the batch refers to.
    fn upload_batch(&self, batch: &Batch, pages: usize) -> Result<Self::Batch>;
    /// Packs a weight made of parts with equal `k`, all float or all of one 8-bit type and grid.
    fn load_linear(&self, parts: &[LinearPart]) -> Result<Self::Linear>;
    /// As [`Backend::load_linear`], of float parts that are rounded to the nearest codes of `kind` on the way.
    fn load_linear_as(&self, kind: Q8, parts: &[LinearPart]) -> Result<Self::Linear> {
        let quantized: Vec<LinearPart> = parts.iter().map(|p| p.quantized(kind)).collect::<Result<_>>()?;
        self.load_linear(&quantized)
    }
    /// As [`Backend::load_linear`] of a gate and an up projection, for [`Backend::gemm_gated_quantize`].
    fn load_gated(&self, parts: &[LinearPart; 2]) -> Result<Self::Linear> {
        self.load_linear(parts)
    }
    /// What a loaded linear is.
    fn linear_shape(&self, linear: &Self::Linear) -> LinearShape;

    /// `out[t, h] = table[tokens[t]] * scale`; the table is `[v, h]` of a float type.
    fn embed(&self, table: &Tensor<Self>, batch: &Self::Batch, scale: f32, out: &mut Tensor<Self>) -> Result<()>;
    /// `out = x / sqrt(mean(x²) + eps) * weight`, by row; weight `[1, h]` f32.
    fn rms_norm(&self, x: &Tensor<Self>, weight: &Tensor<Self>, eps: f32, out: &mut Tensor<Self>) -> Result<()>;
    /// `out = (x - mean(x)) / sqrt(mean((x - mean(x))²) + eps) * weight + bias`, by row; weight and bias `[1, h]` f32.
    fn layer_norm(
        &self,
        x: &Tensor<Self>,
        weight: &Tensor<Self>,
        bias: &Tensor<Self>,
        eps: f32,
        out: &mut Tensor<Self>,
    ) -> Result<()>;
    /// Of each row of `x`, the `count` neighbouring stretches of the weight's width from column `first` on, in place:
    /// each as [`Backend::rms_norm`] does a row; weight `[1, w]` f32. The other columns stay.
    fn rms_norm_stretches(
        &self,
        x: &mut Tensor<Self>,
        first: usize,
        count: usize,
        weight: &Tensor<Self>,
        eps: f32,
    ) -> Result<()>;
    /// Quantizes each token as [`Grid::quantize_row`] does, on the grid of `out`; the 8-bit type is that of `out.codes`.
    fn quantize_rows(&self, x: &Tensor<Self>, out: &mut Q8Rows<Self>) -> Result<()>;
    /// `x[t] += table[positions[t] + offset]`; the table is `[p, h]` of a float type.
    fn add_positions(
        &self,
        table: &Tensor<Self>,
        batch: &Self::Batch,
        offset: usize,
        x: &mut Tensor<Self>,
    ) -> Result<()>;
    /// `out[t, n] = x[t, k] · w[n, k]ᵀ + bias`, float weight; `out` may be F32 (logits) or the activation type.
    fn gemm_float(&self, x: &Tensor<Self>, w: &Self::Linear, math: FloatMath, out: &mut Tensor<Self>) -> Result<()>;
    /// `out[t, n] = (acc * xs[t]) * ws[n] + bias[n]`, see [`crate::q8`]; of other grids than the usual one as
    /// [`crate::grid`] says. `x` is on the grid of `w`.
    fn gemm_w8a8(&self, x: &Q8Rows<Self>, w: &Self::Linear, out: &mut Tensor<Self>) -> Result<()>;
    /// Rotates q and k inside `qkv` `[t, (nq + 2 nkv) d]` and stores k and v at the batch's slots. No table: only stores.
    fn rope_store_kv(
        &self,
        qkv: &mut Tensor<Self>,
        rope: Option<&RopeTable<Self>>,
        shape: &AttentionShape,
        batch: &Self::Batch,
        kv: &mut KvLayer<Self>,
    ) -> Result<()>;
    /// Zeroes these pages of every tensor of the layer.
    fn clear_pages(&self, kv: &mut KvLayer<Self>, pages: &[u32]) -> Result<()>;
    /// Causal softmax attention of the q part of `qkv` over the pages: `out[t, nq d]`.
    /// A token's result depends on its own sequence alone, and not on how that was cut into steps.
    /// Over a cache narrower than f32, q and the softmax's weights (times the values' scales) may be rounded to bf16;
    /// sums are in f32.
    fn paged_attention(
        &self,
        qkv: &Tensor<Self>,
        shape: &AttentionShape,
        batch: &Self::Batch,
        kv: &KvLayer<Self>,
        out: &mut Tensor<Self>,
    ) -> Result<()>;
    /// `out[t, f] = act(gate) * up` for `gate_up[t, 2f]` = gate then up.
    fn gated(&self, gate_up: &Tensor<Self>, act: Activation, out: &mut Tensor<Self>) -> Result<()>;
    /// `out = act(x)`.
    fn activate(&self, x: &Tensor<Self>, act: Activation, out: &mut Tensor<Self>) -> Result<()>;
    /// `x = cap * tanh(x / cap)`; `x` F32.
    fn softcap(&self, x: &mut Tensor<Self>, cap: f32) -> Result<()>;
    /// `x += y`.
    fn add(&self, x: &mut Tensor<Self>, y: &Tensor<Self>) -> Result<()>;
    /// `out[i] = x[logit_rows[i]]`.
    fn gather_rows(&self, x: &Tensor<Self>, batch: &Self::Batch, out: &mut Tensor<Self>) -> Result<()>;
    /// Index of the largest of each row (the first of equals); `u32::MAX` for a row with NaN. `logits[r, v]` F32.
    fn argmax(&self, logits: &Tensor<Self>) -> Result<Vec<u32>>;
    /// The next token of each row of `logits[r, v]` F32, which mean nothing afterwards; or a number of [`SampleRow`] in
    /// its place. `None` if this back end does not choose, or not by such rules: the logits are as they were then.
    fn sample(&self, _logits: &mut Tensor<Self>, _rows: &[SampleRow]) -> Result<Option<Vec<u32>>> {
        Ok(None)
    }
    /// `logits[r, v]` F32 become natural-log probabilities, by row.
    fn log_softmax(&self, logits: &mut Tensor<Self>) -> Result<()>;
    /// `absmax[0, j] = max(absmax[0, j], |x[t, j]|)` over the rows; `absmax[1, k]` F32.
    fn observe_columns(&self, x: &Tensor<Self>, absmax: &mut Tensor<Self>) -> Result<()>;
    /// `gram[i, j] += Σ_t x[t, i] x[t, j]` for `j <= i` (the upper triangle is left alone); `gram[k, k]` F32.
    fn accumulate_gram(&self, x: &Tensor<Self>, math: FloatMath, gram: &mut Tensor<Self>) -> Result<()>;

    /// `x += delta` (if given), then the norm of `x`, into `out`.
    fn add_rms_norm(
        &self,
        x: &mut Tensor<Self>,
        delta: Option<&Tensor<Self>>,
        weight: &Tensor<Self>,
        eps: f32,
        out: &mut Tensor<Self>,
    ) -> Result<()> {
        if let Some(delta) = delta {
            self.add(x, delta)?;
        }
        self.rms_norm(x, weight, eps, out)
    }

    /// As [`Backend::add_rms_norm`], quantized into `out`; `scratch[t, h]` may be used or not.
    fn add_rms_norm_quantize(
        &self,
        x: &mut Tensor<Self>,
        delta: Option<&Tensor<Self>>,
        weight: &Tensor<Self>,
        eps: f32,
        scratch: &mut Tensor<Self>,
        out: &mut Q8Rows<Self>,
    ) -> Result<()> {
        self.add_rms_norm(x, delta, weight, eps, scratch)?;
        self.quantize_rows(scratch, out)
    }

    /// As [`Backend::gated`], quantized into `out`; `scratch[t, f]` may be used or not.
    fn gated_quantize(
        &self,
        gate_up: &Tensor<Self>,
        act: Activation,
        scratch: &mut Tensor<Self>,
        out: &mut Q8Rows<Self>,
    ) -> Result<()> {
        self.gated(gate_up, act, scratch)?;
        self.quantize_rows(scratch, out)
    }

    /// As [`Backend::activate`], quantized into `out`; `scratch[t, f]` may be used or not.
    fn activate_quantize(
        &self,
        x: &Tensor<Self>,
        act: Activation,
        scratch: &mut Tensor<Self>,
        out: &mut Q8Rows<Self>,
    ) -> Result<()> {
        self.activate(x, act, scratch)?;
        self.quantize_rows(scratch, out)
    }

    /// As [`Backend::paged_attention`], quantized into `out`; `scratch[t, nq d]` may be used or not.
    fn paged_attention_quantize(
        &self,
        qkv: &Tensor<Self>,
        shape: &AttentionShape,
        batch: &Self::Batch,
        kv: &KvLayer<Self>,
        scratch: &mut Tensor<Self>,
        out: &mut Q8Rows<Self>,
    ) -> Result<()> {
        self.paged_attention(qkv, shape, batch, kv, scratch)?;
        self.quantize_rows(scratch, out)
    }

    /// [`Backend::gemm_w8a8`] of gate and up (from [`Backend::load_gated`]), then [`Backend::gated_quantize`];
    /// `gate_up[t, 2f]` and `inner[t, f]` may be used or not.
    fn gemm_gated_quantize(
        &self,
        x: &Q8Rows<Self>,
        w: &Self::Linear,
        act: Activation,
        gate_up: &mut Tensor<Self>,
        inner: &mut Tensor<Self>,
        out: &mut Q8Rows<Self>,
    ) -> Result<()> {
        self.gemm_w8a8(x, w, gate_up)?;
        self.gated_quantize(gate_up, act, inner, out)
    }

    /// What the operations of a step over this batch are queued by, apart from the batch's contents: steps with
    /// equal keys may be recorded once and replayed. `None`: every step is queued anew.
    fn recording_key(&self, _batch: &Self::Batch) -> Option<RecordingKey> {
        None
    }
    /// Runs `work`, which queues operations and waits for none, and gives back what runs it again on the same
    /// tensors, over the batch that lies where its batch lay. Only asked of batches with a key.
    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recording>> {
        let _ = work;
        Err(Error::unsupported("this back end records nothing"))
    }

    /// What runs mixtures of experts on the device, if it can. Otherwise [`crate::mixture`] does it through the host.
    fn mixer(&self) -> Option<&dyn Mixer<Self>> {
        None
    }

    /// What changes weights on the device, if it can. Otherwise the host does it.
    fn solver(&self) -> Option<&dyn Solver<Self>> {
        None
    }

    /// Allocates room for `rows` quantized tokens of width `k`, each with one scale.
    fn alloc_q8(&self, kind: Q8, rows: usize, k: usize) -> Result<Q8Rows<Self>> {
        Ok(Q8Rows::of_tokens(self.alloc(kind.dtype(), rows, k)?, self.alloc(DType::F32, rows, 1)?))
    }

    /// As [`Backend::alloc_q8`], with room for rows of any of these grids; they begin on the first.
    fn alloc_q8_for(&self, kind: Q8, grids: &[Grid], rows: usize, k: usize) -> Result<Q8Rows<Self>> {
        let mut scales = self.alloc(DType::F32, rows, grids.iter().map(|g| g.groups(k)).max().unwrap_or(1))?;
        let zeros = grids.contains(&Grid::Asymmetric).then(|| self.alloc(DType::I32, rows, 1)).transpose()?;
        let grid = grids.first().copied().unwrap_or_default();
        scales.cols = grid.groups(k);
        Ok(Q8Rows { codes: self.alloc(kind.dtype(), rows, k)?, scales, zeros, grid })
    }
}
