//! What an engine may use: decided once, from what was asked and what the device has.
use planish_model::Plan;
use planish_tensor::{DType, FloatMath, Memory};

/// Settings, all optional; see the fields of [`EngineConfig`].
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Longest sequence.
    pub max_model_len: Option<usize>,
    /// Sequences running at once.
    pub max_batch: Option<usize>,
    /// Bytes for keys and values.
    pub kv_cache_memory: Option<u64>,
    /// Element type of keys and values.
    pub kv_dtype: Option<DType>,
    /// How float products are computed.
    pub math: Option<FloatMath>,
    /// Keep the pages of computed prefixes for later requests. On unless told otherwise.
    pub prefix_cache: Option<bool>,
    /// Prepare a step while the one before runs.
    pub overlap: Option<bool>,
    /// Most tokens to guess from repetitions in the text (n-gram prompt lookup); none unless told otherwise.
    pub speculate: Option<usize>,
    /// Quantize the output projection to INT8 while loading.
    pub int8_head: bool,
}

/// Decided settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EngineConfig {
    /// Longest sequence, prompt and answer together.
    pub max_model_len: usize,
    /// Sequences running at once.
    pub max_batch: usize,
    /// Tokens in one step.
    pub step_tokens: usize,
    /// Rows of logits in one step.
    pub step_rows: usize,
    /// Pages of the KV cache.
    pub pages: usize,
    /// Tokens in a page.
    pub page_size: usize,
    /// Element type of keys and values.
    pub kv_dtype: DType,
    /// How float products are computed.
    pub math: FloatMath,
}

/// Tokens in a page.
const PAGE_SIZE: usize = 16;
/// Part of the free memory that keys and values may take unless told otherwise.
const KV_SHARE: f64 = 0.4;

impl EngineOptions {
    /// Decides. The KV cache always holds at least one sequence of the longest length.
    pub fn decide(&self, plan: &Plan, memory: Memory) -> EngineConfig {
        let max_model_len = self.max_model_len.unwrap_or(plan.max_positions);
        let max_batch = self.max_batch.unwrap_or(64).max(1);
        let kv_dtype = self.kv_dtype.unwrap_or(DType::F32);
        let page_bytes = (PAGE_SIZE * kv_bytes(plan, kv_dtype)) as u64;
        let budget = self.kv_cache_memory.unwrap_or((memory.free as f64 * KV_SHARE) as u64);
        let one = max_model_len.div_ceil(PAGE_SIZE);
        let pages = ((budget / page_bytes) as usize).clamp(one, one * max_batch);
        EngineConfig {
            max_model_len,
            max_batch,
            step_tokens: 512.max(max_batch),
            step_rows: 128.max(max_batch),
            pages,
            page_size: PAGE_SIZE,
            kv_dtype,
            math: self.math.unwrap_or(FloatMath::F32),
        }
    }
}

/// Bytes of keys and values of one token.
pub fn kv_bytes(plan: &Plan, dtype: DType) -> usize {
    2 * plan.layers * plan.nkv * plan.d * dtype.size()
}
