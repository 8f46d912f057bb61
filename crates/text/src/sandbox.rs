//! Runs a template that nobody has vouched for, within bounds of time and memory.
//!
//! The template engine counts instructions, but one instruction may copy or join any amount of
//! text. So after compiling, each instruction that makes a value is turned into a call of a
//! function here, which measures the operands first and charges the result to a budget.

use std::sync::Arc;

use minijinja::machinery::{CompiledTemplate, Instruction, Instructions, TemplateConfig, eval, make_string_output};
use minijinja::value::{Kwargs, Rest, Tuple, ValueOrKwargs};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};

use crate::budget::{Budget, MAX_MADE, MAX_TEXT};
use crate::source::{ONE, syntax};
use crate::{Result, TextError, clock, python};

/// Instructions of one run, unless long pieces of literal text lower it.
const MAX_STEPS: u64 = 1_000_000;
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

/// Checks that `source` (from [`crate::source::prepare`]) compiles.
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
    let syntax_config = syntax()?;
    let config = TemplateConfig { syntax_config, default_auto_escape: Arc::new(|_| AutoEscape::None) };
    let mut compiled = CompiledTemplate::new("chat_template", source, &config)
        .map_err(|error| TextError::TemplateSource(error.to_string()))?;
    guard(&mut compiled.instructions);
    compiled.blocks.values_mut().for_each(guard);
    Ok(compiled)
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
    env.add_global(ONE, 1);
    add_operators(&mut env, budget);
    for &(name, twin) in FILTERS {
        add(&mut env, budget, twin, move |budget, state, args| budget.filter(state, name, args));
    }
    let of_methods = budget.clone();
    env.set_unknown_method_callback(move |state, value, method, args| of_methods.method(state, value, method, args));
    let of_output = budget.clone();
    env.set_formatter(move |out, _, value| of_output.emit(out, value));
    add(&mut env, budget, "raise_exception", |budget, _, args| {
        Err(budget.refuse(args.first().map(Value::to_string).unwrap_or_default()))
    });
    env.add_function("strftime_now", move |format: String| {
        clock::strftime(&format, now).map_err(|directive| {
            let message = format!("strftime_now: {directive} is not known");
            Error::new(ErrorKind::InvalidOperation, message)
        })
    });
    env.add_filter("tojson", python::tojson);
    env
}

/// The functions that stand for instructions; no template can spell their names.
fn add_operators(env: &mut Environment<'static>, budget: &Arc<Budget>) {
    add(env, budget, "~", |budget, _, args| budget.concat(args));
    add(env, budget, "+", |budget, _, args| budget.add(args));
    add(env, budget, "*", |budget, _, args| budget.multiply(args));
    add(env, budget, "==", |budget, _, args| {
        budget.measure_all(args)?;
        Ok(Value::from(args[0] == args[1]))
    });
    add(env, budget, "!=", |budget, _, args| {
        budget.measure_all(args)?;
        Ok(Value::from(args[0] != args[1]))
    });
    add(env, budget, "in", |budget, state, args| {
        budget.measure_all(args)?;
        state.perform_test("in", args).map(Value::from)
    });
    add(env, budget, "[]", |budget, _, args| budget.keep(args, Value::from(args.to_vec())));
    add(env, budget, "()", |budget, _, args| budget.keep(args, Value::from(Tuple::from(args.to_vec()))));
    add(env, budget, "{}", |budget, _, args| {
        let pairs = args.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
        budget.keep(args, pairs.collect())
    });
    add(env, budget, "dict", |budget, _, args| {
        let (pairs, kwargs): (Option<Value>, Kwargs) = minijinja::value::from_args(args)?;
        budget.keep(args, minijinja::functions::dict(pairs, kwargs)?)
    });
}

fn add<F>(env: &mut Environment<'static>, budget: &Arc<Budget>, name: &'static str, f: F)
where
    F: Fn(&Budget, &mut State<'_, '_>, &[Value]) -> Result<Value, Error> + Send + Sync + 'static,
{
    let budget = budget.clone();
    env.add_function(name, move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
        f(&budget, state, &args.into_values())
    });
}
