//! The four streams of hidden states that walk through the blocks side by side, and how an unfinished run keeps them.
use super::hidden::{Hidden, Lane};
use super::run::Job;
use super::states::States;
use crate::error::{Error, Result};
use crate::report::LayerReport;
use planish_checkpoint::source::TensorSource;
use planish_model::Ends;
use planish_model::block::Block;
use planish_model::weights::HostBlock;
use planish_tensor::{Backend, DType, FloatMath, host::decode_f32};
use std::borrow::Cow;
use std::io::{Read, Write};

/// See the module.
pub struct Streams<B: Backend> {
    /// Calibration states, made by quantized blocks.
    pub calibration: States<B>,
    /// The held-back sequence through original, smoothed and quantized blocks.
    pub original: Hidden,
    /// See `original`.
    pub smoothed: Hidden,
    /// See `original`.
    pub quantized: Hidden,
}

/// What is kept after a block, taken from the streams so that another thread can write it.
pub struct Kept<'a> {
    json: Vec<u8>,
    /// Tokens whose calibration states are kept: all or none.
    tokens: usize,
    values: Vec<Cow<'a, [f32]>>,
}

impl<B: Backend> Streams<B> {
    /// Embeds everything.
    pub fn begin(lane: &mut Lane<'_, B>, ends: &Ends<B>, job: &Job<'_>) -> Result<Streams<B>> {
        Ok(Streams {
            calibration: lane.embed_all(ends, job.samples)?,
            original: lane.embed(ends, job.held_back)?,
            smoothed: lane.embed(ends, job.held_back)?,
            quantized: lane.embed(ends, job.held_back)?,
        })
    }

    /// What is kept after a block. A device runs through finished blocks faster than a disk takes the calibration
    /// states (17 GB for 8B and a million tokens), so that they are made again when a run is resumed.
    pub fn keep(&self, lane: &Lane<'_, B>, layers: &[LayerReport]) -> Result<Kept<'_>> {
        let json = serde_json::to_vec(layers).map_err(|e| Error::State(e.to_string()))?;
        let mut kept = Kept { json, tokens: 0, values: Vec::new() };
        if lane.solver.is_none() {
            kept.tokens = self.calibration.tokens();
            for chunk in &self.calibration.chunks {
                kept.values.push(chunk.values(lane.backend)?);
            }
        }
        kept.values.extend([&self.original, &self.smoothed, &self.quantized].map(|s| Cow::Borrowed(&s.values[..])));
        Ok(kept)
    }

    /// Takes up what was kept; `finished` are the tensors of the blocks that are complete.
    pub fn restore(
        lane: &mut Lane<'_, B>,
        ends: &Ends<B>,
        job: &Job<'_>,
        state: &mut dyn Read,
        layers: &mut Vec<LayerReport>,
        finished: &dyn TensorSource,
    ) -> Result<Streams<B>> {
        let broken = |e: std::io::Error| Error::State(e.to_string());
        let mut number = || {
            let mut bytes = [0; 8];
            state.read_exact(&mut bytes).map(|()| u64::from_le_bytes(bytes)).map_err(broken)
        };
        let (json_bytes, tokens) = (number()?, number()?);
        let mut json = Vec::new();
        state.take(json_bytes).read_to_end(&mut json).map_err(broken)?;
        *layers = serde_json::from_slice(&json).map_err(|e| Error::State(e.to_string()))?;
        let lengths: Vec<usize> = job.samples.iter().map(Vec::len).collect();
        let mut values = |count: usize| {
            let mut bytes = vec![0; count * 4];
            state.read_exact(&mut bytes).map_err(broken)?;
            Ok::<_, Error>(decode_f32(DType::F32, &bytes))
        };
        let calibration = match tokens as usize {
            0 => remake(lane, ends, job, layers.len(), finished)?,
            all if all == lengths.iter().sum::<usize>() => lane.place(&lengths, &mut values)?,
            other => return Err(Error::State(format!("it holds the states of {other} tokens"))),
        };
        let mut held_back = || Ok::<_, Error>(Hidden { values: values(job.held_back.len() * job.plan.hidden)? });
        let streams = Streams { calibration, original: held_back()?, smoothed: held_back()?, quantized: held_back()? };
        // Reading to the end checks the digest.
        std::io::copy(state, &mut std::io::sink()).map_err(broken)?;
        Ok(streams)
    }
}

/// Calibration states after the blocks that are complete.
fn remake<B: Backend>(
    lane: &mut Lane<'_, B>,
    ends: &Ends<B>,
    job: &Job<'_>,
    blocks: usize,
    finished: &dyn TensorSource,
) -> Result<States<B>> {
    let mut states = lane.embed_all(ends, job.samples)?;
    for layer in 0..blocks {
        let host = HostBlock::read(job.stored, finished, layer)?;
        let block = Block::load(lane.backend, job.plan, layer, &host)?;
        lane.advance_all(&block, FloatMath::Bf16, &mut states)?;
    }
    Ok(states)
}

impl Kept<'_> {
    /// The same apart from the streams.
    pub fn into_owned(self) -> Kept<'static> {
        let values = self.values.into_iter().map(|v| Cow::Owned(v.into_owned())).collect();
        Kept { json: self.json, tokens: self.tokens, values }
    }

    /// The outcomes so far as JSON behind lengths, then the streams as f32.
    pub fn write(&self, w: &mut dyn Write) -> std::io::Result<()> {
        w.write_all(&(self.json.len() as u64).to_le_bytes())?;
        w.write_all(&(self.tokens as u64).to_le_bytes())?;
        w.write_all(&self.json)?;
        for values in &self.values {
            for chunk in values.chunks(1 << 16) {
                let bytes: Vec<u8> = chunk.iter().flat_map(|v| v.to_le_bytes()).collect();
                w.write_all(&bytes)?;
            }
        }
        Ok(())
    }
}
