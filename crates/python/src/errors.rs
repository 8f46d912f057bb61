//! Failures as Python's exceptions: `ValueError` for an argument, `planish.Error` for all that only a run can find, with
//! the line that the command prints. A panic is a failure like others.
use anyhow::anyhow;
use planish::line::one_line;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

pyo3::create_exception!(
    planish,
    Error,
    PyRuntimeError,
    "A model that cannot be read, quantized or run; says why in one line."
);

/// What a failure of the library is in Python.
pub fn raised(error: &anyhow::Error) -> PyErr {
    let line = one_line(error);
    match error.chain().any(is_of_arguments) {
        true => PyValueError::new_err(in_pythons_words(&line)),
        false => Error::new_err(line),
    }
}

/// Does work without the interpreter's lock.
pub fn unlocked<T: Send>(py: Python<'_>, work: impl FnOnce() -> anyhow::Result<T> + Send) -> PyResult<T> {
    let done = py.detach(|| catch_unwind(AssertUnwindSafe(work)));
    done.unwrap_or_else(|panic| Err(panicked(&*panic))).map_err(|error| raised(&error))
}

/// What a panic said.
pub fn panicked(payload: &(dyn Any + Send)) -> anyhow::Error {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    anyhow!("this should not happen: {}", text.unwrap_or("a panic without a message"))
}

/// Whether the caller should have said something else.
fn is_of_arguments(cause: &(dyn std::error::Error + 'static)) -> bool {
    use planish_engine::Error as Engine;
    use planish_quant::Error as Quant;
    use planish_text::TextError as Text;
    match (cause.downcast_ref(), cause.downcast_ref(), cause.downcast_ref(), cause.downcast_ref()) {
        (Some(engine), ..) => matches!(engine, Engine::Request(_) | Engine::Options(_) | Engine::Grammar(_)),
        (_, Some(quant), ..) => {
            matches!(quant, Quant::Flag { .. } | Quant::Contradiction { .. } | Quant::Setting { .. })
        }
        (_, _, Some(text), _) => {
            matches!(text, Text::ChatInput { .. } | Text::TemplateRefused(_) | Text::EmptyStop(_) | Text::Encode { .. })
        }
        (.., Some(device)) => {
            matches!(device, planish_devices::Error::Unknown(_) | planish_devices::Error::Several(..))
        }
        _ => false,
    }
}

/// `--kv-dtype` is `kv_dtype` here.
fn in_pythons_words(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("--") {
        let after = &rest[at + 2..];
        let length = after.find(|c: char| !c.is_ascii_lowercase() && c != '-').unwrap_or(after.len());
        let begins = rest[..at].chars().next_back().is_none_or(|c| c == ' ' || c == '(');
        out += &rest[..at];
        match begins && length > 1 {
            true => out += &after[..length].replace('-', "_"),
            false => {
                out += "--";
                out += &after[..length];
            }
        }
        rest = &after[length..];
    }
    out + rest
}
