//! Fields of Python objects as Rust values: an error names the field, what was expected and what was found.
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBool;

/// The field of an object; `what` says in words what it may be.
pub fn field<T: for<'py> FromPyObjectOwned<'py>>(of: &Bound<'_, PyAny>, name: &str, what: &str) -> PyResult<T> {
    value(&of.getattr(name)?, name, what)
}

/// As [`field`], of a number: Python's `True` is none.
pub fn number<T: for<'py> FromPyObjectOwned<'py>>(of: &Bound<'_, PyAny>, name: &str, what: &str) -> PyResult<T> {
    let found = of.getattr(name)?;
    match found.is_instance_of::<PyBool>() {
        true => Err(wrong_type(name, what, &found)),
        false => value(&found, name, what),
    }
}

/// A value that is the argument of this name.
pub fn value<T: for<'py> FromPyObjectOwned<'py>>(found: &Bound<'_, PyAny>, name: &str, what: &str) -> PyResult<T> {
    found.extract::<T>().map_err(|error| {
        let error: PyErr = error.into();
        match error.is_instance_of::<PyTypeError>(found.py()) {
            true => wrong_type(name, what, found),
            false => PyValueError::new_err(format!("{name}: expected {what}, found {}", shown(found))),
        }
    })
}

fn wrong_type(name: &str, what: &str, found: &Bound<'_, PyAny>) -> PyErr {
    PyTypeError::new_err(format!("{name}: expected {what}, found {}", shown(found)))
}

/// A value in an error, short.
pub fn shown(found: &Bound<'_, PyAny>) -> String {
    let text = found.repr().map_or_else(|_| "a value without a name".into(), |text| text.to_string());
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
