//! Python's methods of texts, and how large the results of methods and filters may get.

use minijinja::value::{Tuple, ValueKind, from_args};
use minijinja::{Error, State, Value};

use crate::budget::text_fits;

/// Calls a method that templates expect of Python's `str`, `dict` and `list`.
pub(crate) fn call(state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args);
    };
    let one = || from_args::<(&str,)>(args).map(|(argument,)| argument);
    match method {
        "removeprefix" => Ok(Value::from(text.strip_prefix(one()?).unwrap_or(text))),
        "removesuffix" => Ok(Value::from(text.strip_suffix(one()?).unwrap_or(text))),
        "partition" => {
            let separator = one()?;
            let parts = text.split_once(separator).map_or([text, "", ""], |(before, after)| [before, separator, after]);
            Ok(Value::from(Tuple::from(parts.map(Value::from).to_vec())))
        }
        "rpartition" => {
            let separator = one()?;
            let parts =
                text.rsplit_once(separator).map_or(["", "", text], |(before, after)| [before, separator, after]);
            Ok(Value::from(Tuple::from(parts.map(Value::from).to_vec())))
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// Refuses a filter or method whose result may be much larger than `args`, the first of which is
/// the value itself and which together are `bytes` long.
pub(crate) fn check_growth(name: &str, args: &[Value], bytes: u64) -> Result<(), Error> {
    text_fits(bytes)?;
    let Some(value) = args.first() else {
        return Ok(());
    };
    let text = |index: usize| args.get(index).and_then(Value::as_str).unwrap_or_default();
    let lines = |text: &str| text.matches('\n').count() as u64 + 1;
    let grown = match name {
        "replace" => {
            let count = if text(1).is_empty() { text(0).len() + 1 } else { text(0).matches(text(1)).count() };
            (count as u64).saturating_mul(text(2).len() as u64)
        }
        "join" => (value.len().unwrap_or(0) as u64).saturating_mul(text(1).len() as u64),
        "indent" => lines(text(0)).saturating_mul(largest(args)),
        "tojson" | "batch" | "slice" => largest(args),
        "format" => {
            let pattern = text(0);
            let fields = pattern.matches(['%', '{']).count() as u64;
            fields.saturating_mul(largest(args).max(widest(pattern)).saturating_add(bytes))
        }
        _ => 0,
    };
    text_fits(grown)
}

/// The largest integer among the arguments after the first, named ones too.
fn largest(args: &[Value]) -> u64 {
    let of = |value: &Value| value.as_usize().unwrap_or(0) as u64;
    let named = |value: &Value| match value.kind() {
        ValueKind::Map => {
            let keys = value.try_iter().into_iter().flatten();
            keys.filter_map(|key| value.get_item(&key).ok()).map(|value| of(&value)).max().unwrap_or(0)
        }
        _ => of(value),
    };
    args.iter().skip(1).map(named).max().unwrap_or(0)
}

/// The largest number in a format: a width may be asked for.
fn widest(pattern: &str) -> u64 {
    let digits = pattern.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    digits.map(|digits| digits.parse().unwrap_or(u64::MAX)).max().unwrap_or(0)
}
