//! `GenerationConfig` as the engine takes it.
use crate::errors::raised;
use crate::fields::{field, number, value};
use anyhow::{Context, Result, bail};
use planish::Generation;
use planish_engine::{GrammarSpec, Sampling};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

const COUNT: &str = "a number from 0 up";
const MAYBE_COUNT: &str = "a number from 0 up, or None";
const MAYBE_NUMBER: &str = "a number, or None";
const TEXTS: &str = "a list of texts, or None";

/// Fails as a run would with these settings.
#[pyfunction]
pub fn check_generation(config: &Bound<'_, PyAny>) -> PyResult<()> {
    let generation = generation(config)?;
    let checked = generation.sampling.validate().map_err(anyhow::Error::from);
    checked.map_err(|error| raised(&error))?;
    match generation.min_new_tokens > generation.max_new_tokens {
        true => Err(PyValueError::new_err(format!(
            "min_new_tokens: expected at most max_new_tokens, which is {}, found {}",
            generation.max_new_tokens, generation.min_new_tokens
        ))),
        false => Ok(()),
    }
}

/// What a `GenerationConfig` asks for.
pub fn generation(config: &Bound<'_, PyAny>) -> PyResult<Generation> {
    let format: Option<String> = config.call_method0("_format_json")?.extract()?;
    let grammar = format.as_deref().map(structure).transpose().map_err(|e| PyValueError::new_err(format!("{e:#}")))?;
    Ok(Generation {
        max_new_tokens: number(config, "max_new_tokens", COUNT)?,
        min_new_tokens: number::<Option<usize>>(config, "min_new_tokens", MAYBE_COUNT)?.unwrap_or(0),
        sampling: sampling(config)?,
        n: number(config, "n", "a number from 1 up")?,
        stop: texts(config, "stop_words")?,
        stop_ids: field::<Option<Vec<u32>>>(config, "stop_token_ids", "a list of token ids, or None")?
            .unwrap_or_default(),
        ignore_eos: field(config, "ignore_eos", "True or False")?,
        logprobs: number(config, "logprobs", MAYBE_COUNT)?,
        prompt_logprobs: number(config, "prompt_logprobs", MAYBE_COUNT)?,
        priority: number(config, "priority", "a whole number")?,
        cache_salt: field(config, "cache_salt", "a text, or None")?,
        grammar: grammar.flatten(),
    })
}

/// How tokens are chosen. As in LMDeploy, the defaults of sampling are temperature 0.8 and the 50 likeliest tokens.
fn sampling(config: &Bound<'_, PyAny>) -> PyResult<Sampling> {
    let optional = |name| number::<Option<f32>>(config, name, MAYBE_NUMBER);
    let (temperature, top_p, min_p) = (optional("temperature")?, optional("top_p")?, optional("min_p")?);
    let top_k: Option<usize> = number(config, "top_k", MAYBE_COUNT)?;
    let said = [("temperature", temperature.is_some_and(|t| t != 0.0)), ("top_p", top_p.is_some())]
        .into_iter()
        .chain([("min_p", min_p.is_some()), ("top_k", top_k.is_some())]);
    let said: Vec<&str> = said.filter(|(_, said)| *said).map(|(name, _)| name).collect();
    let sample = match field::<Option<bool>>(config, "do_sample", "True, False or None")? {
        Some(false) if !said.is_empty() => {
            let names = said.join(", ");
            return Err(PyValueError::new_err(format!("do_sample: expected True or None beside {names}, found False")));
        }
        Some(sample) => sample,
        None => !said.is_empty() && temperature != Some(0.0),
    };
    let seed: Option<u64> = number(config, "random_seed", MAYBE_COUNT)?;
    let plain = |name| number::<f32>(config, name, "a number");
    let base = Sampling {
        repetition_penalty: plain("repetition_penalty")?,
        presence_penalty: plain("presence_penalty")?,
        frequency_penalty: plain("frequency_penalty")?,
        logit_bias: bias(config)?,
        ..Sampling::default()
    };
    Ok(match sample {
        false => base,
        true => Sampling {
            temperature: temperature.unwrap_or(0.8),
            top_k: top_k.unwrap_or(50),
            top_p: top_p.unwrap_or(1.0),
            min_p: min_p.unwrap_or(0.0),
            // The keys of a hasher come from the system's random source.
            seed: seed.unwrap_or_else(|| RandomState::new().hash_one(0u8)),
            ..base
        },
    })
}

fn bias(config: &Bound<'_, PyAny>) -> PyResult<Vec<(u32, f32)>> {
    let map: Option<BTreeMap<u32, f32>> = field(config, "logit_bias", "a dict from token ids to numbers, or None")?;
    Ok(map.unwrap_or_default().into_iter().collect())
}

/// One text, or several.
pub fn texts(of: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<String>> {
    let found = of.getattr(name)?;
    match found.extract::<String>() {
        Ok(one) => Ok(vec![one]),
        Err(_) => Ok(value::<Option<Vec<String>>>(&found, name, TEXTS)?.unwrap_or_default()),
    }
}

/// A `response_format`, in LMDeploy's words or the server's.
fn structure(json: &str) -> Result<Option<GrammarSpec>> {
    let format: Value = serde_json::from_str(json).context("response_format")?;
    let kind = format["type"].as_str().unwrap_or_default();
    let allowed: &[&str] = match kind {
        "text" => return Ok(None),
        "json_object" => return Ok(Some(GrammarSpec::JsonObject)),
        "json_schema" => &["json_schema"],
        "regex_schema" | "regex" => &["regex_schema", "regex"],
        "grammar" => &["grammar"],
        _ => bail!(
            "response_format: expected type text, json_object, json_schema, regex_schema or grammar, found {}",
            format["type"]
        ),
    };
    let Some(found) = allowed.iter().map(|name| &format[*name]).find(|v| !v.is_null()) else {
        bail!("response_format: expected {} beside type {kind}, found none", allowed[0]);
    };
    if kind == "json_schema" {
        let schema = &found["schema"];
        if !schema.is_object() && !schema.is_boolean() {
            bail!("response_format.json_schema: expected {{\"schema\": …}}, found {found}");
        }
        return Ok(Some(GrammarSpec::JsonSchema(schema.to_string())));
    }
    let Some(text) = found.as_str() else { bail!("response_format.{}: expected a text, found {found}", allowed[0]) };
    Ok(Some(match kind {
        "grammar" => GrammarSpec::Lark(text.to_owned()),
        _ => GrammarSpec::Regex(text.to_owned()),
    }))
}
