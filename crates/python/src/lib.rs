//! Planish in Python: the native half of the package, which `planish/*.py` gives its face. Everything goes through the
//! library `planish`, as the command of that name does.
#![forbid(unsafe_code)]

mod engine;
mod errors;
mod fields;
mod generation;
mod patience;
mod prompt;
mod quantize;
mod stream;

use pyo3::prelude::*;

/// Native half of `planish`: use the package.
#[pymodule]
fn _planish(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("Error", module.py().get_type::<errors::Error>())?;
    module.add_class::<engine::Engine>()?;
    module.add_class::<stream::Stream>()?;
    module.add_function(wrap_pyfunction!(generation::check_generation, module)?)?;
    module.add_function(wrap_pyfunction!(engine::check_engine, module)?)?;
    module.add_function(wrap_pyfunction!(quantize::quantize, module)?)
}
