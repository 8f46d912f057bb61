//! What an engine may use: decided once, from what was asked and what the device has.
use crate::error::{Error, Result};
use planish_model::{KvPool, Plan, Workspace};
use planish_tensor::{Backend, DType, FloatMath, Memory, Preferences};

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
    /// In the overlapped loop, begin a step before the tokens of the one before are known here.
    pub run_ahead: Option<bool>,
    /// Most tokens to guess from repetitions in the text (n-gram prompt lookup); none unless told otherwise.
    pub speculate: Option<usize>,
    /// Quantize the output projection to INT8 while loading.
    pub int8_head: bool,
    /// Tokens in one step.
    pub step_tokens: Option<usize>,
    /// All requests are there from the start, and nobody waits for single tokens: unless `step_tokens` says otherwise, steps may
    /// be longer where the memory has room for them.
    pub offline: bool,
    /// Rows of logits in one step.
    pub step_rows: Option<usize>,
    /// Tokens in a page of the KV cache.
    pub page_size: Option<usize>,
    /// Unless `page_size` says otherwise, pages as small as the device has them for short texts that share beginnings.
    pub fine_pages: bool,
    /// Pages of the KV cache, whatever the memory says; then a request may be too long for the cache alone.
    pub kv_pages: Option<usize>,
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
    /// Pages of the KV cache. Memory of a page that was never used is not touched.
    pub pages: usize,
    /// Tokens in a page.
    pub page_size: usize,
    /// Element type of keys and values.
    pub kv_dtype: DType,
    /// How float products are computed.
    pub math: FloatMath,
    /// Whether pages of computed prefixes are kept for later requests.
    pub prefix_cache: bool,
    /// Whether a step is prepared while the one before runs.
    pub overlap: bool,
    /// Whether, in the overlapped loop, a step begins before the tokens of the one before are known here.
    pub run_ahead: bool,
    /// Whether the device chooses tokens where it can.
    pub sample: bool,
    /// Most tokens to guess in a step of one sequence; 0 for none.
    pub speculate: usize,
    /// Whether the output projection is quantized to INT8 while loading.
    pub int8_head: bool,
}

/// Most guesses for one sequence in a step: beyond that a wrong guess costs more than right ones save.
const MOST_DRAFTS: usize = 32;
/// Most of each count: slots are numbers of 32 bits, and more sequences or longer ones are a slip of the keyboard.
const MOST: usize = 1 << 30;
const MOST_SEQUENCES: usize = 1 << 16;
const LONGEST: usize = 1 << 24;
/// Buffers of longer steps than usual are at most this part of the free memory: the rest is for keys and values.
const LARGE_BUFFERS: u64 = 8;

impl EngineOptions {
    /// Decides for a loaded model of whose linears some are 8-bit, or none, and says in plain words what came out smaller than asked.
    /// Memory is never exceeded: the longest sequence shrinks to what fits, unless both were asked for.
    pub fn decide<B: Backend>(
        &self,
        plan: &Plan,
        eight_bit: bool,
        device: &Preferences,
        memory: Memory,
    ) -> Result<(EngineConfig, Vec<String>)> {
        self.validate()?;
        let mut notes: Vec<String> = self.beyond(plan)?.into_iter().collect();
        let (kv_dtype, math) = self.numbers(eight_bit);
        let page_size = self.page_size.unwrap_or(match self.fine_pages {
            true => device.fine_page_size,
            false => device.page_size,
        });
        let page_bytes = (page_size * KvPool::<B>::bytes_per_token(plan, kv_dtype)).max(1) as u64;
        let max_batch = self.max_batch.unwrap_or(device.max_batch);
        let step_rows = self.step_rows.unwrap_or(128.max(max_batch));
        let step_tokens = self.step_tokens(device, max_batch, |tokens| {
            Workspace::<B>::bytes(plan, tokens, step_rows) as u64 <= memory.free / LARGE_BUFFERS
        });
        let free = free_beside::<B>(plan, step_tokens, step_rows, memory)?;
        let budget = self.budget(free, device.kv_share)?;
        let fitting = (budget / page_bytes).min(u32::MAX as u64 / page_size as u64) as usize;
        let asked_len = self.max_model_len.unwrap_or(plan.max_positions);
        let (pages, max_model_len) = match self.kv_pages {
            Some(pages) => (pages, asked_len),
            None => self.fit(fitting, page_size, page_bytes, asked_len, max_batch, &mut notes)?,
        };
        let config = EngineConfig {
            max_model_len,
            max_batch,
            step_tokens,
            step_rows,
            pages,
            page_size,
            kv_dtype,
            math,
            prefix_cache: self.prefix_cache.unwrap_or(true),
            overlap: self.overlap.unwrap_or(device.overlap),
            run_ahead: self.run_ahead.unwrap_or(device.run_ahead),
            sample: device.sample,
            speculate: self.speculate.unwrap_or(0),
            int8_head: self.int8_head,
        };
        Ok((config, notes))
    }

    /// Tokens in one step; `fits` says whether there is plenty of room for the buffers of one.
    fn step_tokens(&self, device: &Preferences, max_batch: usize, fits: impl Fn(usize) -> bool) -> usize {
        let usual = device.step_tokens.max(max_batch);
        let mut longest = if self.offline { device.offline_step_tokens.max(usual) } else { usual };
        while longest > usual && !fits(longest) {
            longest = (longest / 2).max(usual);
        }
        self.step_tokens.unwrap_or(longest)
    }

    /// Element type of the KV cache and float arithmetic. A float model is the yardstick that others are compared with,
    /// so nothing of it is rounded; an 8-bit model has rounded its activations far more than bf16 does, so it takes the
    /// faster form.
    pub(crate) fn numbers(&self, eight_bit: bool) -> (DType, FloatMath) {
        let (kv_dtype, math) = match eight_bit {
            true => (DType::BF16, FloatMath::Bf16),
            false => (DType::F32, FloatMath::F32),
        };
        (self.kv_dtype.unwrap_or(kv_dtype), self.math.unwrap_or(math))
    }

    /// Longest sequence that a model is loaded for, before it is known what its weights leave: no longer than all of the
    /// memory could hold keys and values of. The sequences that are taken in the end are no longer than that.
    pub(crate) fn positions<B: Backend>(&self, plan: &Plan, eight_bit: bool, memory: Memory) -> Result<usize> {
        self.beyond(plan)?;
        let asked = self.max_model_len.unwrap_or(plan.max_positions);
        let token = KvPool::<B>::bytes_per_token(plan, self.numbers(eight_bit).0).max(1) as u64;
        let most = memory.total / token;
        Ok(if self.kv_pages.is_some() { asked } else { asked.min(most as usize).max(1) })
    }

    /// A note on sequences that are longer than the model was made for; an error where it has no positions for them.
    fn beyond(&self, plan: &Plan) -> Result<Option<String>> {
        let made_for = plan.max_positions;
        let Some(asked) = self.max_model_len.filter(|asked| *asked > made_for) else { return Ok(None) };
        if plan.arch.names.positions.is_some() {
            return Err(Error::Options(format!(
                "max_model_len: expected at most {made_for}, the positions that this model has learned, found {asked}"
            )));
        }
        let note = format!("the model was made for sequences of {made_for} tokens; what follows them may be worthless");
        Ok(Some(note))
    }

    /// Bytes for keys and values, where `free` are left.
    fn budget(&self, free: u64, share: f64) -> Result<u64> {
        match self.kv_cache_memory {
            Some(asked) if asked > free => Err(Error::Options(format!(
                "kv_cache_memory: expected at most {free} bytes, which are free beside weights and buffers, found {asked}"
            ))),
            Some(asked) => Ok(asked),
            None => Ok((free as f64 * share) as u64),
        }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let counts = [
            ("max_model_len", self.max_model_len, LONGEST),
            ("max_batch", self.max_batch, MOST_SEQUENCES),
            ("step_tokens", self.step_tokens, MOST),
            ("step_rows", self.step_rows, MOST),
            ("page_size", self.page_size, MOST),
            ("kv_pages", self.kv_pages, MOST),
        ];
        for (name, found, most) in counts {
            if let Some(found) = found.filter(|found| !(1..=most).contains(found)) {
                return Err(Error::Options(format!("{name}: expected a number from 1 to {most}, found {found}")));
            }
        }
        match self.speculate {
            Some(n) if n > MOST_DRAFTS => {
                Err(Error::Options(format!("speculate: expected at most {MOST_DRAFTS} tokens, found {n}")))
            }
            _ => Ok(()),
        }
    }

    /// Pages and longest sequence where `fitting` pages fit.
    fn fit(
        &self,
        fitting: usize,
        page_size: usize,
        page_bytes: u64,
        asked_len: usize,
        max_batch: usize,
        notes: &mut Vec<String>,
    ) -> Result<(usize, usize)> {
        let one = asked_len.div_ceil(page_size);
        // More than all sequences can fill is of use to the prefix cache only: taken if asked for, not by itself.
        let most = if self.kv_cache_memory.is_some() { fitting } else { one.saturating_mul(max_batch) };
        if fitting >= one {
            return Ok((fitting.min(most), asked_len));
        }
        let given = (fitting as u64).saturating_mul(page_bytes);
        let needed = (one as u64).saturating_mul(page_bytes);
        if let (Some(bytes), true) = (self.kv_cache_memory, self.max_model_len.is_some() || fitting == 0) {
            return Err(Error::Options(format!(
                "--kv-cache-memory: expected at least {needed} bytes for one sequence of {asked_len} tokens \
                 (--max-model-len), found {bytes}"
            )));
        }
        if fitting == 0 {
            return Err(Error::Options(format!(
                "the KV cache: expected at least {page_bytes} bytes of free memory for one page, found {given}"
            )));
        }
        let fits = fitting * page_size;
        notes.push(format!(
            "the longest sequence is {fits} tokens, not {asked_len}: that takes {needed} bytes of keys and values, and \
             {given} are there"
        ));
        Ok((fitting, fits))
    }
}

/// What the buffers of a step leave of the free memory.
fn free_beside<B: Backend>(plan: &Plan, step_tokens: usize, step_rows: usize, memory: Memory) -> Result<u64> {
    let needed = Workspace::<B>::bytes(plan, step_tokens, step_rows) as u64;
    memory.free.checked_sub(needed).ok_or_else(|| {
        Error::Options(format!(
            "the buffers of a step of {step_tokens} tokens and {step_rows} rows of logits: expected at least {needed} bytes of \
             free memory, found {}; a smaller --max-batch needs less",
            memory.free
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use planish_checkpoint::config::Config;
    use planish_cpu::Scalar;
    use std::path::Path;

    /// The rotary tables are made before the weights' share of the memory is known.
    #[test]
    fn a_model_is_loaded_for_no_longer_sequences_than_memory_holds() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/data/llama");
        let plan = Plan::new(&Config::open(&dir).unwrap()).unwrap();
        let positions = |options: &EngineOptions, total| {
            options.positions::<Scalar>(&plan, false, Memory { free: 0, total }).unwrap()
        };
        let d = EngineOptions::default();
        let token = KvPool::<Scalar>::bytes_per_token(&plan, DType::F32) as u64;
        assert_eq!((positions(&d, 1 << 40), positions(&d, 100 * token + 1)), (plan.max_positions, 100));
        let long = EngineOptions { max_model_len: Some(1 << 20), ..d.clone() };
        assert_eq!(
            (positions(&long, 1 << 40), positions(&long, 5000 * token), positions(&long, 0)),
            (1 << 20, 5000, 1)
        );
        assert_eq!(positions(&EngineOptions { kv_pages: Some(1), ..d }, 0), plan.max_positions);
    }
}
