//! A loaded model: what `planish.Pipeline` holds.
use crate::errors::{Error, unlocked};
use crate::fields::{field, number};
use crate::generation::generation;
use crate::patience::{PAUSE, patiently};
use crate::prompt::{Prompt, encode};
use crate::stream::{Answered, Stream};
use planish::machine::MOST_THREADS;
use planish::notice::say;
use planish::pipeline::{KV_DTYPES, kv_dtype};
use planish::{Batch, Generation, Model, Pipeline, PipelineOptions};
use planish_devices::Opening;
use planish_engine::EngineOptions;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::sync::{Arc, RwLock};
use std::time::Instant;

const MAYBE_COUNT: &str = "a number from 1 up, or None";

/// A model that answers until it is closed.
#[pyclass(frozen, module = "planish._planish")]
pub struct Engine {
    pipeline: RwLock<Option<Arc<Pipeline>>>,
}

#[pymethods]
impl Engine {
    #[new]
    fn new(py: Python<'_>, model: String, config: &Bound<'_, PyAny>, talks: bool) -> PyResult<Engine> {
        let options = options(config)?;
        let open = move || {
            let pipeline = Pipeline::open(&Model::open(&model, talks)?, &options)?;
            if talks {
                pipeline.handle().info().notes.iter().for_each(|note| say(format_args!("note: {note}")));
            }
            Ok(pipeline)
        };
        let pipeline = patiently(py, open, None)?;
        Ok(Engine { pipeline: RwLock::new(Some(Arc::new(pipeline))) })
    }

    /// Answers prompts as one batch.
    fn run(&self, py: Python<'_>, prompts: Vec<Prompt>, configs: Vec<Bound<'_, PyAny>>) -> PyResult<Vec<Answered>> {
        let (pipeline, mut batch) = self.begin(py, prompts, &configs)?;
        while !batch.is_done() {
            unlocked(py, || {
                let start = Instant::now();
                while !batch.is_done() && start.elapsed() < PAUSE {
                    batch.step(PAUSE)?;
                }
                Ok(())
            })?;
            py.check_signals()?;
        }
        drop(pipeline);
        let n = configs.iter().map(|config| config.getattr("n")?.extract()).collect::<PyResult<Vec<usize>>>()?;
        let owners = n.iter().enumerate().flat_map(|(prompt, n)| std::iter::repeat_n(prompt, *n));
        Ok(owners.zip(batch.into_answers()).map(|(prompt, answer)| Answered::whole(prompt, answer)).collect())
    }

    /// The same, piece by piece.
    fn stream(&self, py: Python<'_>, prompts: Vec<Prompt>, configs: Vec<Bound<'_, PyAny>>) -> PyResult<Stream> {
        let (pipeline, batch) = self.begin(py, prompts, &configs)?;
        Ok(Stream::new(pipeline, batch))
    }

    /// Whether the model has a chat template.
    fn has_chat(&self) -> PyResult<bool> {
        Ok(self.get()?.words().is_some_and(|words| words.chat.is_some()))
    }

    /// What runs, and on what.
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let pipeline = self.get()?;
        let (info, dict) = (pipeline.handle().info(), PyDict::new(py));
        dict.set_item("architecture", info.plan.arch.name)?;
        dict.set_item("device", &info.device)?;
        dict.set_item("max_model_len", info.config.max_model_len)?;
        dict.set_item("max_batch", info.config.max_batch)?;
        let kv = KV_DTYPES.into_iter().find(|(_, dtype)| *dtype == Some(info.config.kv_dtype));
        dict.set_item("kv_dtype", kv.map(|(name, _)| name))?;
        dict.set_item("vocab_size", info.plan.vocab)?;
        dict.set_item("notes", &info.notes)?;
        Ok(dict)
    }

    /// Ends what is running, with an error for those who wait, and frees the model.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        unlocked(py, || {
            let open = self.pipeline.write().unwrap_or_else(|e| e.into_inner()).take();
            if let Some(pipeline) = open {
                pipeline.handle().shutdown(false);
                pipeline.handle().wait();
            }
            Ok(())
        })
    }
}

impl Engine {
    fn get(&self) -> PyResult<Arc<Pipeline>> {
        let open = self.pipeline.read().unwrap_or_else(|e| e.into_inner()).clone();
        open.ok_or_else(|| Error::new_err("the pipeline is closed"))
    }

    fn begin(
        &self,
        py: Python<'_>,
        prompts: Vec<Prompt>,
        configs: &[Bound<'_, PyAny>],
    ) -> PyResult<(Arc<Pipeline>, Batch)> {
        let generations = configs.iter().map(generation).collect::<PyResult<Vec<Generation>>>()?;
        let pipeline = self.get()?;
        let batch =
            unlocked(py, || Batch::start(&pipeline, encode(&pipeline, prompts)?.into_iter().zip(&generations)))?;
        Ok((pipeline, batch))
    }
}

/// Fails as opening a model would with these settings.
#[pyfunction]
pub fn check_engine(config: &Bound<'_, PyAny>) -> PyResult<()> {
    options(config).map(|_| ())
}

/// What an `EngineConfig` asks for.
fn options(config: &Bound<'_, PyAny>) -> PyResult<PipelineOptions> {
    let count = |name| number::<Option<usize>>(config, name, MAYBE_COUNT);
    let kv = one_of(config, "kv_dtype", &KV_DTYPES.map(|(name, _)| name))?;
    let head = one_of(config, "lm_head", &["auto", "int8"])?;
    let threads = threads(count("threads")?)?;
    Ok(PipelineOptions {
        device: Some(field(config, "device", "a text")?),
        opening: Opening { threads, batch_invariant: field(config, "batch_invariant", "True or False")? },
        engine: EngineOptions {
            max_model_len: count("max_model_len")?,
            max_batch: count("max_batch")?,
            kv_cache_memory: number(config, "kv_cache_memory", "a number of bytes, or None")?,
            kv_dtype: kv_dtype(&kv),
            prefix_cache: Some(field(config, "prefix_cache", "True or False")?),
            overlap: field(config, "overlap", "True, False or None")?,
            speculate: count("speculate")?,
            int8_head: head == "int8",
            offline: true,
            ..EngineOptions::default()
        },
    })
}

/// Threads that can be started.
pub fn threads(asked: Option<usize>) -> PyResult<Option<usize>> {
    match asked {
        Some(n) if !(1..=MOST_THREADS).contains(&n) => {
            Err(PyValueError::new_err(format!("threads: expected a number from 1 to {MOST_THREADS}, found {n}")))
        }
        asked => Ok(asked),
    }
}

fn one_of(config: &Bound<'_, PyAny>, name: &str, known: &[&str]) -> PyResult<String> {
    let found: String = field(config, name, "a text")?;
    match known.contains(&found.as_str()) {
        true => Ok(found),
        false => Err(PyValueError::new_err(format!("{name}: expected one of {}, found {found:?}", known.join(", ")))),
    }
}
