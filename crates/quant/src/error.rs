//! What can go wrong while a model is changed: every message names the place, the expected and the found.

/// The crate's error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An array has the wrong number of elements for its shape.
    #[error("{what}: expected {expected} elements, found {found}")]
    Length {
        /// Which array.
        what: &'static str,
        /// Elements that its shape asks for.
        expected: usize,
        /// Elements that were given.
        found: usize,
    },
    /// A weight is NaN or infinite.
    #[error("weight row {row}, column {column} is {value}; a finite number is needed")]
    Weight {
        /// Output channel.
        row: usize,
        /// Input channel.
        column: usize,
        /// The value that was found.
        value: f32,
    },
    /// A statistic of an input channel is negative, NaN or infinite.
    #[error("{what} of channel {channel} is {value}; a finite number of at least 0 is needed")]
    Statistic {
        /// Which statistic.
        what: &'static str,
        /// Input channel.
        channel: usize,
        /// The value that was found.
        value: f32,
    },
    /// A setting is out of its range.
    #[error("{name}: expected {expected}, found {found}")]
    Setting {
        /// The setting, as the user types it.
        name: String,
        /// What is accepted.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A flag's value is not known.
    #[error("{flag}: {problem}")]
    Flag {
        /// The flag.
        flag: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A flag and the recipe say different things.
    #[error("{flag} {flag_value} contradicts the recipe, which says {recipe_field}: {recipe_value}; drop one of them")]
    Contradiction {
        /// The flag, for example `--weights`.
        flag: &'static str,
        /// Its value.
        flag_value: String,
        /// The field of the recipe.
        recipe_field: String,
        /// Its value.
        recipe_value: String,
    },
    /// A recipe that is not valid, or asks for what is not supported.
    #[error("recipe: {0}")]
    Recipe(String),
    /// A tensor of the model cannot be quantized.
    #[error("tensor {tensor}: {source}")]
    Tensor {
        /// Its name in the files.
        tensor: String,
        /// Why.
        source: Box<Error>,
    },
    /// After smoothing, the float model is no longer the same function.
    #[error("smoothing changed the model: {place}: expected at most {limit:e}, found {found:e}")]
    NotTheSame {
        /// Layer or measure.
        place: String,
        /// What is accepted.
        limit: f64,
        /// What was measured.
        found: f64,
    },
    /// The saved state of an unfinished run cannot be used.
    #[error("the state of the unfinished run: {0}; start again with --overwrite")]
    State(String),
    /// The model could not be read or run.
    #[error(transparent)]
    Model(#[from] planish_model::Error),
    /// A file could not be read or written.
    #[error(transparent)]
    Checkpoint(#[from] planish_checkpoint::Error),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] planish_tensor::Error),
    /// A device has too little memory for a block and what is known of its inputs.
    #[error("a block does not fit: {0}; --weights rtn keeps no Gram matrices, and --device cpu uses the host's memory")]
    Memory(planish_tensor::Error),
    /// The caller wants no more of a run; what is written can be resumed.
    #[error("interrupted")]
    Interrupted,
    /// A calibration file that cannot be used.
    #[error("{}", Place(.path, *.line, .problem))]
    Samples {
        /// The file, or the name of the built-in sample.
        path: String,
        /// Line of the file (from 1), or 0 when the whole file is meant.
        line: usize,
        /// What was expected and what was found.
        problem: String,
    },
}

impl Error {
    /// The same, with what could help if memory ran out.
    pub fn with_what_helps(self) -> Error {
        use planish_tensor::Error::OutOfMemory;
        match self {
            Error::Device(full @ OutOfMemory { .. })
            | Error::Model(planish_model::Error::Tensor(full @ OutOfMemory { .. })) => Error::Memory(full),
            other => other,
        }
    }
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Checks the number of elements of an array against its shape.
pub(crate) fn check_len(what: &'static str, found: usize, shape: &[usize]) -> Result<()> {
    let expected = shape.iter().try_fold(1usize, |a, &b| a.checked_mul(b)).unwrap_or(usize::MAX);
    if found == expected { Ok(()) } else { Err(Error::Length { what, expected, found }) }
}

struct Place<'a>(&'a str, usize, &'a str);

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.1 {
            0 => write!(f, "{}: {}", self.0, self.2),
            line => write!(f, "{}, line {line}: {}", self.0, self.2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_runs_out_is_named_with_what_helps() {
        let full =
            || planish_tensor::Error::OutOfMemory { what: "a weight on the GPU".into(), needed: 9, available: 3 };
        for error in [Error::from(full()), Error::from(planish_model::Error::Tensor(full()))] {
            let text = error.with_what_helps().to_string();
            assert!(text.contains("a weight on the GPU needs 9 bytes, 3 are free"), "{text}");
            assert!(text.contains("--weights rtn") && text.contains("--device cpu"), "{text}");
        }
        let broken = Error::from(planish_tensor::Error::Device("fell off the bus".into())).with_what_helps();
        assert_eq!(broken.to_string(), "fell off the bus");
    }
}
