//! `kv_cache_scheme` of a recipe: what it may say, which is one thing.
use super::arguments::{Arguments, arguments};
use super::modifiers::bad;
use crate::error::Result;
use planish_checkpoint::scheme::QuantType;
use serde_json::{Value, json};

/// The one scheme that is made, as recipes spell it.
pub(super) const SAID: &str = "{num_bits: 8, type: float, symmetric: true, strategy: tensor, dynamic: false}";

/// Type of the cache that a scheme describes.
///
/// # Errors
/// Names the field of whatever is not FP8 E4M3 with one stored scale for a layer's keys and one for its values.
pub(super) fn scheme(place: &str, value: &Value) -> Result<QuantType> {
    let wrong = |field: &str, expected: &str, found: Value| Err(bad(&format!("{place}.{field}"), expected, &found));
    // Before all else, as this one is known to that tool and to no other place of a recipe.
    if value["strategy"] == "attn_head" {
        return wrong("strategy", "tensor (one scale for all heads)", json!("attn_head"));
    }
    let said: Arguments = arguments(place, value)?;
    match said.dtype {
        QuantType::Fp8E4M3 => {}
        QuantType::Int8 => return wrong("type", "float (FP8 E4M3)", json!("int")),
        QuantType::Fp8E5M2 => return wrong("type", "float (FP8 E4M3)", json!("float8_e5m2")),
    }
    if said.strategy != "tensor" {
        return wrong("strategy", "tensor", said.strategy.into());
    }
    if said.dynamic {
        return wrong(
            "dynamic",
            "false, as there is nothing to store otherwise (--kv-dtype fp8 needs no scales)",
            json!(true),
        );
    }
    if !said.symmetric {
        return wrong("symmetric", "true", json!(false));
    }
    if said.clips {
        return wrong("observer", "static_minmax, minmax or memoryless_minmax", value["observer"].clone());
    }
    if said.exponents {
        return wrong("scale_dtype", "none, a float number", value["scale_dtype"].clone());
    }
    Ok(said.dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_scheme_and_refusals_by_field() {
        let read = |text: &str| scheme("M.kv_cache_scheme", &serde_saphyr::from_str(text).unwrap());
        let golden = "{actorder: null, block_structure: null, dynamic: false, group_size: null, num_bits: 8, observer: null, \
            observer_kwargs: {}, scale_dtype: null, strategy: tensor, symmetric: true, type: float, zp_dtype: null}";
        for text in [SAID, golden, "{type: float}", "{type: float, observer: static_minmax}"] {
            assert_eq!(read(text).unwrap(), QuantType::Fp8E4M3, "{text}");
        }
        for (text, words) in [
            ("{num_bits: 4, type: float}", ".num_bits: expected 8, found 4"),
            ("{num_bits: 8}", ".type: expected float (FP8 E4M3), found \"int\""),
            ("{type: int}", ".type: expected float"),
            ("{type: float8_e5m2}", ".type: expected float"),
            ("{type: float, strategy: attn_head}", ".strategy: expected tensor"),
            ("{type: float, strategy: channel}", ".strategy: expected tensor, found \"channel\""),
            (
                "{type: float, strategy: tensor, group_size: 64}",
                ".group_size: expected none with strategy tensor, found 64",
            ),
            (
                "{type: float, block_structure: 2x2}",
                ".block_structure: expected none with strategy tensor, found \"2x2\"",
            ),
            ("{type: float, dynamic: true}", ".dynamic: expected false"),
            ("{type: float, dynamic: local}", ".dynamic: expected true or false"),
            ("{type: float, symmetric: false}", ".symmetric: expected true, found false"),
            ("{type: float, observer: mse}", ".observer: expected static_minmax"),
            ("{type: float, scale_dtype: torch.uint8}", ".scale_dtype: expected none"),
            ("{typ: float}", "field typ is not known; did you mean type?"),
            ("fp8", "M.kv_cache_scheme: expected a mapping"),
        ] {
            let said = read(text).unwrap_err().to_string();
            assert!(said.starts_with("recipe: M.kv_cache_scheme") && said.contains(words), "{text}: {said}");
        }
    }
}
