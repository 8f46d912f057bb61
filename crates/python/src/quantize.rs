//! `planish.quantize`: the order, read from keyword arguments that Python has checked by name, and its report as JSON.
use crate::engine::threads;
use crate::fields::{field, number, value};
use crate::generation::texts;
use crate::patience::patiently;
use planish::machine::Machine;
use planish::quantize::{Budget, Order, parse_size, read_recipe};
use planish_quant::recipe::QuantizeArgs;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBool;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const MAYBE_TEXT: &str = "a text, or None";
const MAYBE_COUNT: &str = "a number from 0 up, or None";

/// Quantizes what the object's fields say; the report as JSON.
#[pyfunction]
pub fn quantize(py: Python<'_>, given: &Bound<'_, PyAny>, talks: bool) -> PyResult<String> {
    let recipe: Option<PathBuf> = field(given, "recipe", "a path, or None")?;
    let order = Order {
        model: field::<PathBuf>(given, "model", "a path or a hub id")?.display().to_string(),
        work_dir: field(given, "work_dir", "a path")?,
        recipe: args(given)?,
        budget: budget(given)?,
        resume: field(given, "resume", "True or False")?,
        overwrite: field(given, "overwrite", "True or False")?,
        max_shard_size: size(given)?,
    };
    let stop = Arc::new(AtomicBool::new(false));
    let machine = Machine {
        device: field(given, "device", "a text")?,
        threads: threads(number(given, "threads", "a number from 1 up, or None")?)?,
        talks,
        stop: stop.clone(),
    };
    let work = move || {
        let text = recipe.as_deref().map(read_recipe).transpose()?;
        let order = Order { recipe: QuantizeArgs { recipe: text, ..order.recipe }, ..order };
        let done = planish::quantize::quantize(&machine, &order)?;
        Ok(done.document(&order.work_dir)?.to_string())
    };
    patiently(py, work, Some(&|| stop.store(true, Ordering::Relaxed)))
}

fn args(given: &Bound<'_, PyAny>) -> PyResult<QuantizeArgs> {
    let text = |name| field::<Option<String>>(given, name, MAYBE_TEXT);
    let dataset: Option<PathBuf> = field(given, "calib_dataset", "a path or the name of a data set, or None")?;
    Ok(QuantizeArgs {
        quant_dtype: text("quant_dtype")?,
        scheme: text("scheme")?,
        lm_head: text("lm_head")?,
        smooth: smooth(given)?,
        weights: text("weights")?,
        activations: text("activations")?,
        clip: switch(given, "clip")?,
        kv_scales: text("kv_scales")?,
        ignore: texts(given, "ignore")?,
        format: text("format")?,
        calib_dataset: dataset.map(|path| path.display().to_string()),
        calib_samples: number(given, "calib_samples", MAYBE_COUNT)?,
        calib_seqlen: number(given, "calib_seqlen", MAYBE_COUNT)?,
        seed: number(given, "seed", MAYBE_COUNT)?,
        recipe: None,
    })
}

/// A strength as a number, or a word.
fn smooth(given: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    let found = given.getattr("smooth")?;
    let is_switch = found.is_instance_of::<PyBool>();
    match found.extract::<f64>() {
        Ok(alpha) if !is_switch => Ok(Some(alpha.to_string())),
        _ => value(&found, "smooth", "a number from 0 to 1, 'auto', 'off' or None"),
    }
}

/// `True` and `False` are on and off.
fn switch(given: &Bound<'_, PyAny>, name: &str) -> PyResult<Option<String>> {
    let found = given.getattr(name)?;
    match found.extract::<bool>() {
        Ok(on) => Ok(Some(if on { "on" } else { "off" }.to_owned())),
        Err(_) => value(&found, name, "True, False, 'on', 'off' or None"),
    }
}

/// `KL=x`, `KL=x,fp8`, or the number alone.
fn budget(given: &Bound<'_, PyAny>) -> PyResult<Option<Budget>> {
    let found = given.getattr("budget")?;
    if found.is_none() {
        return Ok(None);
    }
    let text = match found.extract::<f64>() {
        Ok(number) => format!("KL={number}"),
        Err(_) => value(&found, "budget", "a number, 'KL=x' or 'KL=x,fp8'")?,
    };
    let wrong = |problem| PyValueError::new_err(format!("budget: {problem}, found {text:?}"));
    Budget::parse(&text).map(Some).map_err(wrong)
}

/// A number of bytes, or `5GB`.
fn size(given: &Bound<'_, PyAny>) -> PyResult<u64> {
    let found = given.getattr("max_shard_size")?;
    let text = match found.extract::<u64>() {
        Ok(bytes) => bytes.to_string(),
        Err(_) => value(&found, "max_shard_size", "a size such as '5GB', or a number of bytes")?,
    };
    parse_size(&text).map_err(|problem| PyValueError::new_err(format!("max_shard_size: {problem}, found {text:?}")))
}
