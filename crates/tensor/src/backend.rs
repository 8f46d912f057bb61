//! `trait Backend`: the one waist between what a network is and the machine that runs it.
//! About twenty coarse operations; those that a device may fuse have defaults made of the plain ones.
use crate::mixture::Mixer;
use crate::{
    Activation, Asked, Attended, AttentionShape, Batch, Courtesy, DType, Error, FloatMath, Grid, HostTensor, Judged,
    KvLayer, Likely, LinearPart, LinearShape, Memory, Preferences, Projected, Q8, Q8Rows, Recording, RecordingKey,
    Result, RopeTable, SampleRow, Solver, Target, Tensor, VendorProduct,
};

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
    /// Element type of hidden states; F32 so far, as a rounding to 16 bits before the one to 8 would move codes.
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
    /// As [`Backend::download`], these rows alone, one after the other.
    fn download_rows(&self, src: &Tensor<Self>, rows: &[u32], bytes: &mut [u8]) -> Result<()> {
        crate::layout::require_rows(src, rows, bytes)?;
        let each = src.cols * src.dtype.size();
        let mut all = vec![0; src.rows * each];
        self.download(src, &mut all)?;
        for (to, &row) in bytes.chunks_exact_mut(each.max(1)).zip(rows) {
            to.copy_from_slice(&all[row as usize * each..][..each]);
        }
        Ok(())
    }
    /// Waits for all queued work.
    fn sync(&self) -> Result<()>;
    /// By what its threads learn that others should run, if it computes on processors that others need.
    fn courtesy(&self) -> Option<Courtesy> {
        None
    }
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
    /// The kernel that [`Backend::gemm_w8a8`] takes for these operands, by name, for people who measure.
    fn gemm_w8a8_kernel(&self, _x: &Q8Rows<Self>, _w: &Self::Linear, _out: &Tensor<Self>) -> Result<String> {
        Ok("gemm_w8a8".into())
    }
    /// The product of `x` (codes, or floats) and each of `weights`, all of one type and size, by the library of the device's
    /// maker, for people who measure: scales and biases are left out. `None` if devices of this kind have no such library;
    /// an error that says why if it is not to be had here.
    fn vendor_product<'a>(
        &'a self,
        _x: &Tensor<Self>,
        _weights: &'a [Self::Linear],
    ) -> Result<Option<VendorProduct<'a>>> {
        Ok(None)
    }
    /// Adds the product of [`Backend::gemm_w8a8`] to `sum[t, n]`, as [`Backend::add`] would, if the device does so while it
    /// stores (`out` is then left alone), and returns true; otherwise writes it to `out` and returns false.
    fn gemm_w8a8_add(
        &self,
        x: &Q8Rows<Self>,
        w: &Self::Linear,
        sum: &mut Tensor<Self>,
        out: &mut Tensor<Self>,
    ) -> Result<bool> {
        let _ = sum;
        self.gemm_w8a8(x, w, out).map(|()| false)
    }
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
    /// Over a cache narrower than f32, q and the softmax's weights (times the values' scales) may be rounded to bf16, or
    /// to f16 over codes; sums are in f32.
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
    /// The next tokens of rows of `logits[r, v]` F32, which stay as they are: of each row by its number, how it is chosen.
    /// In the place of a token may be a number of [`SampleRow`]; `None` where this back end does not choose, or not by such
    /// rules.
    fn sample(&self, _logits: &Tensor<Self>, rows: &[(u32, &SampleRow)]) -> Result<Vec<Option<u32>>> {
        Ok(vec![None; rows.len()])
    }
    /// Queues the choice of a token at every row of `logits[r, v]` F32, which stay as they are, and does not wait: by these
    /// rules, one for each row, or the likeliest if there are none. Until the next choice, a token of a batch may be
    /// [`crate::CHOSEN`] and a row's number, for what was chosen there. False, and nothing is queued, if this back end does
    /// not choose ahead, or not by such rules.
    fn choose_ahead(&self, _logits: &Tensor<Self>, _rules: &[&SampleRow]) -> Result<bool> {
        Ok(false)
    }
    /// Waits for the first choice made ahead that was not read yet: as [`Backend::sample`] tells tokens.
    fn chosen_ahead(&self) -> Result<Vec<u32>> {
        Err(Error::unsupported("this back end chooses nothing ahead"))
    }
    /// Log-probabilities of tokens of rows of `logits[r, v]` F32, which stay as they are, and of the likeliest there. `None`
    /// where this back end leaves it to the host, or so many of the likeliest.
    fn likely(&self, _logits: &Tensor<Self>, asked: &[Asked]) -> Result<Vec<Option<Likely>>> {
        Ok(vec![None; asked.len()])
    }
    /// Calls `with(r, row)` for each row of `logits[r, v]` F32, on its threads and in any order, and returns true. False,
    /// and nothing is called, if rows do not lie in the host's memory.
    fn each_row(&self, _logits: &mut Tensor<Self>, _with: &(dyn Fn(usize, &mut [f32]) + Sync)) -> Result<bool> {
        Ok(false)
    }
    /// `logits[r, v]` F32 become natural-log probabilities, by row.
    fn log_softmax(&self, logits: &mut Tensor<Self>) -> Result<()>;
    /// What rows of `logits[r, v]` F32, which mean nothing afterwards, say of single tokens. Targets ascend by row.
    fn judge(&self, logits: &mut Tensor<Self>, targets: &[Target]) -> Result<Vec<Judged>> {
        crate::layout::require_targets(logits, targets)?;
        let likeliest = self.argmax(logits)?;
        self.log_softmax(logits)?;
        let mut values = vec![0f32; logits.rows * logits.cols];
        self.download(logits, bytemuck::cast_slice_mut(&mut values))?;
        let judged = |&Target { row, token }: &Target| {
            let (row, log_prob) = (row as usize, values[row as usize * logits.cols + token as usize]);
            Judged { log_prob, greedy: likeliest[row] == token }
        };
        Ok(targets.iter().map(judged).collect())
    }
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

    /// [`Backend::rope_store_kv`], then [`Backend::paged_attention_quantize`]. What `qkv` holds afterwards is not said.
    fn rope_attention_quantize(
        &self,
        qkv: &mut Tensor<Self>,
        rope: Option<&RopeTable<Self>>,
        shape: &AttentionShape,
        batch: &Self::Batch,
        kv: &mut KvLayer<Self>,
        to: Attended<'_, Self>,
    ) -> Result<()> {
        self.rope_store_kv(qkv, rope, shape, batch, kv)?;
        self.paged_attention_quantize(qkv, shape, batch, kv, to.scratch, to.out)
    }

    /// [`Backend::gemm_w8a8`] of queries, keys and values, then [`Backend::rope_attention_quantize`].
    fn gemm_rope_attention_quantize(
        &self,
        from: Projected<'_, Self>,
        rope: Option<&RopeTable<Self>>,
        shape: &AttentionShape,
        batch: &Self::Batch,
        kv: &mut KvLayer<Self>,
        to: Attended<'_, Self>,
    ) -> Result<()> {
        self.gemm_w8a8(from.x, from.w, from.qkv)?;
        self.rope_attention_quantize(from.qkv, rope, shape, batch, kv, to)
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
