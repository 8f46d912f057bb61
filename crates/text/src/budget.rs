//! What one run of a template may use, and the operations that could use much.
//!
//! Operands are measured before an operation, results are charged after it.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, Expression, State, Value, context};

use crate::{TextError, methods, python};

/// Bytes of all values made in one run.
pub(crate) const MAX_MADE: u64 = 256 << 20;
/// Bytes of one text, and of the result.
pub(crate) const MAX_TEXT: u64 = 16 << 20;
/// Bytes looked at in one run.
const MAX_WORK: u64 = 1 << 30;
/// What looking at one value costs besides its bytes.
const NODE_WORK: u64 = 64;
/// Elements of one list, counting those of the lists within.
const MAX_NODES: u64 = 1_000_000;
/// Nesting of values.
const MAX_DEPTH: usize = 64;

/// What one run has used so far.
#[derive(Default)]
pub(crate) struct Budget {
    made: AtomicU64,
    work: AtomicU64,
    refused: Mutex<Option<String>>,
}

impl Budget {
    pub(crate) fn concat(&self, args: &[Value]) -> Result<Value, Error> {
        let mut out = Capped::default();
        for value in args {
            self.measure(value)?;
            self.write(&mut out, value)?;
        }
        self.charge_value(Value::from(out.text))
    }

    pub(crate) fn add(&self, args: &[Value]) -> Result<Value, Error> {
        static ADD: LazyLock<Expression<'static, 'static>> = LazyLock::new(|| arithmetic("a + b"));
        let [a, b] = args else {
            return Err(Error::from(ErrorKind::MissingArgument));
        };
        // Lists are joined without a look inside: what is in them was measured when it was made.
        list_fits(count(a).saturating_add(count(b)))?;
        text_fits(a.as_str().map_or(0, str::len) as u64 + b.as_str().map_or(0, str::len) as u64)?;
        self.charge_value(ADD.eval(context! { a, b })?)
    }

    pub(crate) fn multiply(&self, args: &[Value]) -> Result<Value, Error> {
        static MULTIPLY: LazyLock<Expression<'static, 'static>> = LazyLock::new(|| arithmetic("a * b"));
        let [a, b] = args else {
            return Err(Error::from(ErrorKind::MissingArgument));
        };
        let times = |value: &Value, by: &Value| match by.as_usize() {
            Some(by) if !value.is_number() => {
                list_fits(count(value).saturating_mul(by as u64))?;
                text_fits(self.measure(value)?.saturating_mul(by as u64))
            }
            _ => Ok(()),
        };
        times(a, b)?;
        times(b, a)?;
        self.charge_value(MULTIPLY.eval(context! { a, b })?)
    }

    pub(crate) fn filter(&self, state: &mut State<'_, '_>, name: &'static str, args: &[Value]) -> Result<Value, Error> {
        methods::check_growth(name, args, self.measure_all(args)?)?;
        match (name, args) {
            ("string", [value]) => self.concat(std::slice::from_ref(value)),
            _ => self.charge_value(state.apply_filter(name, args)?),
        }
    }

    pub(crate) fn method(
        &self,
        state: &mut State<'_, '_>,
        value: &Value,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        let mut all = vec![value.clone()];
        all.extend_from_slice(args);
        // A method of the joiner has the list second; for the filter it is the other way round.
        if method == "join" {
            all.swap(0, 1.min(args.len()));
        }
        methods::check_growth(method, &all, self.measure_all(&all)?)?;
        self.charge_value(methods::call(state, value, method, args)?)
    }

    pub(crate) fn emit(&self, out: &mut minijinja::Output<'_>, value: &Value) -> Result<(), Error> {
        match value.as_str() {
            Some(text) => {
                self.charge(text.len() as u64)?;
                Ok(out.write_str(text)?)
            }
            None => {
                self.measure(value)?;
                let mut text = Capped::default();
                self.write(&mut text, value)?;
                self.charge(text.text.len() as u64)?;
                Ok(out.write_str(&text.text)?)
            }
        }
    }

    /// Charges what a new list or map holds; its texts too, which may be new.
    pub(crate) fn keep(&self, items: &[Value], made: Value) -> Result<Value, Error> {
        self.measure_all(items)?;
        let texts: u64 = items.iter().filter_map(Value::as_str).map(|text| text.len() as u64).sum();
        self.charge(texts)?;
        self.charge_value(made)
    }

    fn write(&self, out: &mut Capped, value: &Value) -> Result<(), Error> {
        match python::write_str(out, value) {
            _ if out.full => Err(over(format!("{MAX_TEXT} bytes of a text"))),
            done => Ok(done?),
        }
    }

    fn charge_value(&self, value: Value) -> Result<Value, Error> {
        match value.as_str() {
            Some(text) => {
                text_fits(text.len() as u64)?;
                self.charge(text.len() as u64)?;
            }
            None if value.kind() == ValueKind::Number => {}
            None => self.charge(32 + 32 * value.len().unwrap_or(0) as u64)?,
        }
        Ok(value)
    }

    fn charge(&self, bytes: u64) -> Result<(), Error> {
        if self.made.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > MAX_MADE {
            return Err(over(format!("{MAX_MADE} bytes of values")));
        }
        Ok(())
    }

    pub(crate) fn measure_all(&self, values: &[Value]) -> Result<u64, Error> {
        values.iter().try_fold(0u64, |sum, value| Ok(sum.saturating_add(self.measure(value)?)))
    }

    /// About the bytes of `value` written out; an error if it is too large or too deep to walk.
    fn measure(&self, value: &Value) -> Result<u64, Error> {
        let mut nodes = 0;
        let bytes = Self::walk(value, 0, &mut nodes)?;
        let work = bytes.saturating_add(nodes * NODE_WORK);
        if self.work.fetch_add(work, Ordering::Relaxed).saturating_add(work) > MAX_WORK {
            return Err(over("its time".to_owned()));
        }
        Ok(bytes)
    }

    fn walk(value: &Value, depth: usize, nodes: &mut u64) -> Result<u64, Error> {
        *nodes += 1;
        list_fits(*nodes)?;
        if depth > MAX_DEPTH {
            return Err(over(format!("{MAX_DEPTH} levels of nesting")));
        }
        let mut bytes = 8;
        match value.kind() {
            ValueKind::String => bytes += value.as_str().map_or(0, str::len) as u64,
            // What has no length may be readable only once.
            ValueKind::Seq | ValueKind::Iterable if value.len().is_some() => {
                for item in value.try_iter()? {
                    bytes += Self::walk(&item, depth + 1, nodes)?;
                }
            }
            ValueKind::Map => {
                for key in value.try_iter()? {
                    bytes += Self::walk(&key, depth + 1, nodes)?;
                    bytes += Self::walk(&value.get_item(&key)?, depth + 1, nodes)?;
                }
            }
            _ => {}
        }
        Ok(bytes)
    }

    pub(crate) fn refuse(&self, message: String) -> Error {
        let error = Error::new(ErrorKind::InvalidOperation, message.clone());
        if let Ok(mut refused) = self.refused.lock() {
            *refused = Some(message);
        }
        error
    }

    pub(crate) fn explain(&self, error: Error) -> TextError {
        if let Some(message) = self.refused.lock().ok().and_then(|mut refused| refused.take()) {
            return TextError::TemplateRefused(message);
        }
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(at) = cause {
            if at.downcast_ref::<Error>().is_some_and(|error| error.kind() == ErrorKind::OutOfFuel) {
                let detail = at.downcast_ref::<Error>().and_then(Error::detail);
                return TextError::TemplateLimit(detail.unwrap_or("number of steps").to_owned());
            }
            cause = at.source();
        }
        TextError::TemplateRender(error.to_string())
    }
}

/// Text that refuses to grow beyond [`MAX_TEXT`].
#[derive(Default)]
pub(crate) struct Capped {
    pub(crate) text: String,
    pub(crate) full: bool,
}

impl Write for Capped {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        if (self.text.len() + piece.len()) as u64 > MAX_TEXT {
            self.full = true;
            return Err(fmt::Error);
        }
        self.text.push_str(piece);
        Ok(())
    }
}

/// The engine's own arithmetic, outside any template.
fn arithmetic(source: &'static str) -> Expression<'static, 'static> {
    static ENGINE: LazyLock<Environment<'static>> = LazyLock::new(Environment::empty);
    ENGINE.compile_expression(source).expect("a constant expression compiles")
}

/// Elements, if it is a list.
fn count(value: &Value) -> u64 {
    if value.as_str().is_some() { 0 } else { value.len().unwrap_or(0) as u64 }
}

fn list_fits(elements: u64) -> Result<(), Error> {
    if elements > MAX_NODES {
        return Err(over(format!("{MAX_NODES} elements of a list")));
    }
    Ok(())
}

pub(crate) fn text_fits(bytes: u64) -> Result<(), Error> {
    if bytes > MAX_TEXT { Err(over(format!("{MAX_TEXT} bytes of a text"))) } else { Ok(()) }
}

pub(crate) fn over(what: String) -> Error {
    Error::new(ErrorKind::OutOfFuel, what)
}
