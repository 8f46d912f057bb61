//! Scales of keys and values for an 8-bit cache: of each layer the largest magnitude that the block makes of the
//! calibration, as it is saved - its weights quantized, its values divided by whatever smoothing divides them by.
use super::hidden::Lane;
use super::run::Job;
use super::states::States;
use crate::error::{Error, Result};
use crate::recipe::q8;
use planish_model::Role;
use planish_model::block::Block;
use planish_model::quantized::kv_scale_names;
use planish_tensor::{Backend, DType, FloatMath, HostTensor};

/// Type of stored scales, that of llm-compressor.
const STORED: DType = DType::BF16;

/// Runs a block, as it is saved, over the calibration states, if it is `wanted` further on or for scales of keys and
/// values; those scales as they are stored.
pub(super) fn advance<B: Backend>(
    lane: &mut Lane<'_, B>,
    job: &Job<'_>,
    layer: usize,
    block: &Block<B>,
    states: &mut States<B>,
    wanted: bool,
) -> Result<Vec<(String, HostTensor)>> {
    let Some(dtype) = job.stored.scheme.as_ref().and_then(|scheme| scheme.kv_cache()) else {
        if wanted {
            lane.advance_all(block, FloatMath::Bf16, states)?;
        }
        return Ok(Vec::new());
    };
    let names = kv_scale_names(&job.plan.linear_name(layer, Role::K));
    if states.tokens() == 0 {
        let problem = "needs calibration data, found no token";
        return Err(Error::Recipe(format!("kv_cache_scheme (--kv-scales): {}: {problem}", names[0])));
    }
    let largest = lane.advance_all_for_kv(block, FloatMath::Bf16, states, &job.plan.attention(layer))?;
    let scale = |(name, largest): (String, f32)| {
        if !largest.is_finite() {
            let problem = format!("expected finite keys and values in the calibration, found {largest}");
            return Err(Error::Recipe(format!("kv_cache_scheme (--kv-scales): {name}: {problem}")));
        }
        Ok((name, HostTensor::from_f32_as(STORED, vec![1], &[q8(dtype).weight_scale(largest)])?))
    };
    names.into_iter().zip(largest).map(scale).collect()
}
