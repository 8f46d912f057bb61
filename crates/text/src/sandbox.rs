//! Runs a template that nobody has vouched for, within bounds of time and memory.
//!
//! The template engine counts instructions, but one instruction may copy or join any amount of
//! text. So after compiling, each instruction that makes a value is turned into a call of a
//! function here, which measures the operands first and charges the result to a budget.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use minijinja::machinery::{CompiledTemplate, Instruction, Instructions, TemplateConfig, eval, make_string_output};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Tuple, ValueKind, ValueOrKwargs};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Expression, State, Value, context};

use crate::python::{self, JsonStyle};
use crate::{Result, TextError, clock, methods};

/// Longest template source, in bytes.
const MAX_SOURCE: usize = 1 << 20;
/// Operators in one tag, and `elif` branches in all: both nest in the compiler.
const MAX_CHAIN: usize = 512;
/// Instructions of one run, unless long pieces of literal text lower it.
const MAX_STEPS: u64 = 1_000_000;
/// Bytes of all values made, and again of all literal text put out, in one run.
const MAX_MADE: u64 = 256 << 20;
/// Bytes looked at in one run.
const MAX_WORK: u64 = 2 << 30;
/// Bytes of one text, and of the result.
const MAX_TEXT: u64 = 16 << 20;
/// Elements of one list, counting those of the lists within.
const MAX_NODES: u64 = 1_000_000;
/// Nesting of values.
const MAX_DEPTH: usize = 64;
/// Nesting of macro calls and blocks.
const MAX_CALLS: usize = 128;

/// Each filter of the engine and the name of its guarded twin, which no template can spell.
macro_rules! filters {
    ($($name:literal),* $(,)?) => { &[$(($name, concat!("|", $name))),*] };
}
const FILTERS: &[(&str, &str)] = filters![
    "safe",
    "escape",
    "e",
    "lower",
    "upper",
    "title",
    "capitalize",
    "replace",
    "length",
    "count",
    "dictsort",
    "items",
    "reverse",
    "trim",
    "join",
    "split",
    "lines",
    "default",
    "d",
    "round",
    "abs",
    "int",
    "float",
    "attr",
    "first",
    "last",
    "min",
    "max",
    "sort",
    "list",
    "string",
    "bool",
    "batch",
    "slice",
    "sum",
    "indent",
    "select",
    "reject",
    "selectattr",
    "rejectattr",
    "map",
    "groupby",
    "unique",
    "chain",
    "zip",
    "format",
    "tojson",
];

/// Checks that `source` compiles.
pub(crate) fn check(source: &str) -> Result<()> {
    compile(source).map(|_| ())
}

/// Runs the template over the variables of `root`; `now` is in seconds since 1970 (UTC).
pub(crate) fn render(source: &str, root: Value, now: u64) -> Result<String> {
    let compiled = compile(source)?;
    let budget = Arc::new(Budget::default());
    let mut env = environment(&budget, now);
    env.set_fuel(Some(steps(&compiled)));
    let mut text = String::new();
    let done = eval(
        &env,
        &compiled.instructions,
        root,
        &compiled.blocks,
        &mut make_string_output(&mut text),
        AutoEscape::None,
    )
    .map(|_| ());
    match done {
        Ok(()) if text.len() as u64 > MAX_TEXT => Err(TextError::TemplateLimit(format!("{MAX_TEXT} bytes of output"))),
        Ok(()) => Ok(text),
        Err(error) => Err(budget.explain(error)),
    }
}

fn compile(source: &str) -> Result<CompiledTemplate<'_>> {
    if source.len() > MAX_SOURCE {
        let found = source.len();
        return Err(TextError::TemplateSource(format!("expected at most {MAX_SOURCE} bytes, found {found}")));
    }
    check_chains(source)?;
    let mut syntax = SyntaxConfig::builder();
    // As Hugging Face sets up Jinja.
    let syntax_config = syntax.trim_blocks(true).lstrip_blocks(true).build();
    let syntax_config = syntax_config.map_err(|error| TextError::TemplateSource(error.to_string()))?;
    let config = TemplateConfig { syntax_config, default_auto_escape: Arc::new(|_| AutoEscape::None) };
    let mut compiled = CompiledTemplate::new("chat_template", source, &config)
        .map_err(|error| TextError::TemplateSource(error.to_string()))?;
    guard(&mut compiled.instructions);
    compiled.blocks.values_mut().for_each(guard);
    Ok(compiled)
}

/// The engine bounds nested brackets and blocks itself, but not chains such as `a + a + ...`,
/// whose tree is as deep as they are long.
fn check_chains(source: &str) -> Result<()> {
    let too_long = |what: &str| TextError::TemplateSource(format!("expected at most {MAX_CHAIN} {what}"));
    if source.matches("elif").count() > MAX_CHAIN {
        return Err(too_long("elif branches"));
    }
    let mut rest = source;
    while let Some(open) = rest.find('{') {
        rest = &rest[open + 1..];
        if !rest.starts_with(['{', '%']) {
            continue;
        }
        let (operators, length) = count_operators(&rest[1..]);
        if operators > MAX_CHAIN {
            return Err(too_long("operators in one tag"));
        }
        rest = &rest[1 + length..];
    }
    Ok(())
}

/// Operators of the tag that `text` begins inside of, not counting those in quotes, and its length.
fn count_operators(text: &str) -> (usize, usize) {
    let bytes = text.as_bytes();
    let (mut count, mut at) = (0, 0);
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'"' | b'\'') => {
                at += 1;
                while at < bytes.len() && bytes[at] != quote {
                    at += 1 + usize::from(bytes[at] == b'\\');
                }
            }
            b'}' if matches!(at.checked_sub(1).map(|before| bytes[before]), Some(b'}' | b'%')) => {
                return (count, at + 1);
            }
            b'+' | b'-' | b'~' | b'*' | b'/' | b'%' | b'|' | b'.' | b'[' | b'(' | b'=' | b'<' | b'>' => count += 1,
            // The words: and, or, not, is, if, in.
            b' ' | b'\n' | b'\t' if bytes.get(at + 1).is_some_and(|next| b"aoni".contains(next)) => count += 1,
            _ => {}
        }
        at += 1;
    }
    (count, text.len().min(at))
}

/// Replaces, one for one, the instructions that make or compare values.
fn guard(code: &mut Instructions<'_>) {
    let mut at = 0;
    while let Some(instruction) = code.get_mut(at) {
        let call = |name: &'static str, count: usize| {
            u16::try_from(count).ok().map(|count| Instruction::CallFunction(name, Some(count)))
        };
        let guarded = match instruction {
            Instruction::StringConcat => call("~", 2),
            Instruction::Add => call("+", 2),
            Instruction::Mul => call("*", 2),
            Instruction::Eq => call("==", 2),
            Instruction::Ne => call("!=", 2),
            Instruction::In => call("in", 2),
            Instruction::BuildList(Some(count)) => call("[]", *count),
            Instruction::BuildTuple(Some(count)) => call("()", *count),
            Instruction::BuildMap(pairs) => call("{}", pairs.saturating_mul(2)),
            Instruction::ApplyFilter(name, count, _) => {
                let twin = FILTERS.iter().find(|(plain, _)| plain == name);
                twin.map(|&(_, twin)| Instruction::CallFunction(twin, *count))
            }
            _ => None,
        };
        if let Some(guarded) = guarded {
            *instruction = guarded;
        }
        at += 1;
    }
}

/// Literal text is not charged to the budget; fewer steps bound it where pieces of it are long.
fn steps(compiled: &CompiledTemplate<'_>) -> u64 {
    let literal = |code: &Instructions<'_>| {
        (0..).map_while(|at| code.get(at)).fold(0, |most, instruction| match instruction {
            Instruction::EmitRaw(text) => most.max(text.len() as u64),
            _ => most,
        })
    };
    let longest = compiled.blocks.values().map(literal).fold(literal(&compiled.instructions), u64::max);
    MAX_STEPS.min(3 * MAX_MADE / longest.max(1)).max(1)
}

fn environment(budget: &Arc<Budget>, now: u64) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_recursion_limit(MAX_CALLS);
    env.remove_global("debug");
    env.remove_filter("pprint");
    let of = |f: fn(&Budget, &mut State<'_, '_>, &[Value]) -> Result<Value, Error>| {
        let budget = budget.clone();
        move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| f(&budget, state, &args.into_values())
    };
    env.add_function("~", of(|budget, _, args| budget.concat(args)));
    env.add_function("+", of(|budget, _, args| budget.add(args)));
    env.add_function("*", of(|budget, _, args| budget.multiply(args)));
    env.add_function("==", of(|budget, _, args| budget.measure_all(args).map(|_| Value::from(args[0] == args[1]))));
    env.add_function("!=", of(|budget, _, args| budget.measure_all(args).map(|_| Value::from(args[0] != args[1]))));
    env.add_function(
        "in",
        of(|budget, state, args| {
            budget.measure_all(args)?;
            state.perform_test("in", args).map(Value::from)
        }),
    );
    env.add_function("[]", of(|budget, _, args| budget.keep(args, Value::from(args.to_vec()))));
    env.add_function("()", of(|budget, _, args| budget.keep(args, Value::from(Tuple::from(args.to_vec())))));
    env.add_function(
        "{}",
        of(|budget, _, args| {
            budget.keep(args, args.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
        }),
    );
    env.add_function(
        "dict",
        of(|budget, _, args| {
            let (pairs, kwargs): (Option<Value>, Kwargs) = minijinja::value::from_args(args)?;
            budget.measure_all(args)?;
            budget.charge_value(minijinja::functions::dict(pairs, kwargs)?)
        }),
    );
    for &(name, twin) in FILTERS {
        let budget = budget.clone();
        env.add_function(twin, move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
            budget.filter(state, name, &args.into_values())
        });
    }
    let of_methods = budget.clone();
    env.set_unknown_method_callback(move |state, value, method, args| of_methods.method(state, value, method, args));
    let of_output = budget.clone();
    env.set_formatter(move |out, _, value| of_output.emit(out, value));
    let of_refusal = budget.clone();
    env.add_function("raise_exception", move |message: String| -> Result<Value, Error> {
        Err(of_refusal.refuse(message))
    });
    env.add_function("strftime_now", move |format: String| {
        clock::strftime(&format, now).map_err(|directive| {
            Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {directive} is not known"))
        })
    });
    env.add_filter("tojson", tojson);
    env
}

/// `tojson` as Hugging Face defines it: Python's `json.dumps`, with nothing escaped for HTML.
fn tojson(value: Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let between = if indent.is_some() { "," } else { ", " };
    let (item_separator, key_separator) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(other) => {
            let message = format!("tojson: separators: expected 2 texts, found {}", other.len());
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
        None => (between.to_owned(), ": ".to_owned()),
    };
    let style = JsonStyle {
        indent: indent.map(|indent| indent.min(1024)),
        item_separator,
        key_separator,
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    let mut out = Capped::default();
    match python::write_json(&mut out, &value, &style, 0) {
        _ if out.full => Err(over(format!("{MAX_TEXT} bytes of JSON"))),
        Ok(()) => Ok(Value::from(out.text)),
        Err(error) => Err(error),
    }
}

/// What one run has used so far.
#[derive(Default)]
pub(crate) struct Budget {
    made: AtomicU64,
    work: AtomicU64,
    refused: Mutex<Option<String>>,
}

impl Budget {
    fn concat(&self, args: &[Value]) -> Result<Value, Error> {
        let mut out = Capped::default();
        for value in args {
            self.measure(value)?;
            self.write(&mut out, value)?;
        }
        self.charge_value(Value::from(out.text))
    }

    fn add(&self, args: &[Value]) -> Result<Value, Error> {
        static ADD: LazyLock<Expression<'static, 'static>> = LazyLock::new(|| arithmetic("a + b"));
        let [a, b] = args else {
            return Err(Error::from(ErrorKind::MissingArgument));
        };
        if !a.is_number() || !b.is_number() {
            let sizes = self.measure_all(args)?;
            text_fits(sizes)?;
            let count = a.len().unwrap_or(0) as u64 + b.len().unwrap_or(0) as u64;
            if a.as_str().is_none() && count > MAX_NODES {
                return Err(over(format!("{MAX_NODES} elements of a list")));
            }
        }
        self.charge_value(ADD.eval(context! { a, b })?)
    }

    fn multiply(&self, args: &[Value]) -> Result<Value, Error> {
        static MULTIPLY: LazyLock<Expression<'static, 'static>> = LazyLock::new(|| arithmetic("a * b"));
        let [a, b] = args else {
            return Err(Error::from(ErrorKind::MissingArgument));
        };
        let times = |value: &Value, by: &Value| match by.as_usize() {
            Some(by) if !value.is_number() => {
                text_fits(self.measure(value)?.saturating_mul(by as u64))?;
                let count = (value.len().unwrap_or(0) as u64).saturating_mul(by as u64);
                if value.as_str().is_none() && count > MAX_NODES {
                    Err(over(format!("{MAX_NODES} elements of a list")))
                } else {
                    Ok(())
                }
            }
            _ => Ok(()),
        };
        times(a, b)?;
        times(b, a)?;
        self.charge_value(MULTIPLY.eval(context! { a, b })?)
    }

    fn filter(&self, state: &mut State<'_, '_>, name: &'static str, args: &[Value]) -> Result<Value, Error> {
        methods::check_growth(name, args, self.measure_all(args)?)?;
        match (name, args) {
            ("string", [value]) => self.concat(std::slice::from_ref(value)),
            _ => self.charge_value(state.apply_filter(name, args)?),
        }
    }

    fn method(&self, state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
        let mut all = vec![value.clone()];
        all.extend_from_slice(args);
        // A method of the joiner has the list second; for the filter it is the other way round.
        if method == "join" {
            all.swap(0, 1.min(args.len()));
        }
        methods::check_growth(method, &all, self.measure_all(&all)?)?;
        self.charge_value(methods::call(state, value, method, args)?)
    }

    fn emit(&self, out: &mut minijinja::Output<'_>, value: &Value) -> Result<(), Error> {
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
    fn keep(&self, items: &[Value], made: Value) -> Result<Value, Error> {
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

    fn measure_all(&self, values: &[Value]) -> Result<u64, Error> {
        values.iter().try_fold(0u64, |sum, value| Ok(sum.saturating_add(self.measure(value)?)))
    }

    /// About the bytes of `value` written out; an error if it is too large or too deep to walk.
    fn measure(&self, value: &Value) -> Result<u64, Error> {
        let mut nodes = 0;
        let bytes = self.walk(value, 0, &mut nodes)?;
        if self.work.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > MAX_WORK {
            return Err(over("its time".to_owned()));
        }
        Ok(bytes)
    }

    fn walk(&self, value: &Value, depth: usize, nodes: &mut u64) -> Result<u64, Error> {
        *nodes += 1;
        if *nodes > MAX_NODES || depth > MAX_DEPTH {
            let what = if depth > MAX_DEPTH { "levels of nesting" } else { "elements of a list" };
            let limit = if depth > MAX_DEPTH { MAX_DEPTH as u64 } else { MAX_NODES };
            return Err(over(format!("{limit} {what}")));
        }
        let mut bytes = 8;
        match value.kind() {
            ValueKind::String => bytes += value.as_str().map_or(0, str::len) as u64,
            // What has no length may be readable only once.
            ValueKind::Seq | ValueKind::Iterable if value.len().is_some() => {
                for item in value.try_iter()? {
                    bytes += self.walk(&item, depth + 1, nodes)?;
                }
            }
            ValueKind::Map => {
                for key in value.try_iter()? {
                    bytes += self.walk(&key, depth + 1, nodes)?;
                    bytes += self.walk(&value.get_item(&key)?, depth + 1, nodes)?;
                }
            }
            _ => {}
        }
        Ok(bytes)
    }

    fn refuse(&self, message: String) -> Error {
        let error = Error::new(ErrorKind::InvalidOperation, message.clone());
        if let Ok(mut refused) = self.refused.lock() {
            *refused = Some(message);
        }
        error
    }

    fn explain(&self, error: Error) -> TextError {
        if let Some(message) = self.refused.lock().ok().and_then(|mut refused| refused.take()) {
            return TextError::TemplateRefused(message);
        }
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(at) = cause {
            if at.downcast_ref::<Error>().is_some_and(|error| error.kind() == ErrorKind::OutOfFuel) {
                return TextError::TemplateLimit(at.to_string());
            }
            cause = at.source();
        }
        TextError::TemplateRender(error.to_string())
    }
}

/// Text that refuses to grow beyond [`MAX_TEXT`].
#[derive(Default)]
struct Capped {
    text: String,
    full: bool,
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

pub(crate) fn text_fits(bytes: u64) -> Result<(), Error> {
    if bytes > MAX_TEXT { Err(over(format!("{MAX_TEXT} bytes of a text"))) } else { Ok(()) }
}

fn over(what: String) -> Error {
    Error::new(ErrorKind::OutOfFuel, what)
}
