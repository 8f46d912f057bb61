//! What a grammar may cost. A caller writes grammars, so each limit stands between it and the machine.
use crate::error::{Error, Result};
use llguidance::api::ParserLimits;
use serde_json::Value;
use std::time::Duration;

/// Longest text of a grammar, in bytes.
pub const MAX_TEXT: usize = 64 << 10;
/// Deepest nesting of a schema's values, or of brackets in a regular expression or Lark grammar.
pub const MAX_DEPTH: usize = 64;
/// Largest count of repetitions in `{m,n}`, `maxLength`, `minItems` and their kin.
pub const MAX_REPEAT: u64 = 10_000;
/// Longest time for a compilation. llguidance's own limits end most in a tenth of it; the rest is for a busy machine.
pub const COMPILE_TIME: Duration = Duration::from_secs(3);
/// Time that masks of a text may take, and so much more for each of its tokens. Others in the batch wait for a mask that is
/// late: usual ones take well below a millisecond, those of an ambiguous grammar may take half a second each.
const TEXT_TIME: Duration = Duration::from_secs(2);
const TOKEN_TIME: Duration = Duration::from_millis(20);
/// Keywords of JSON schema whose value is a count.
const COUNTS: [&str; 6] = ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"];

/// llguidance's own limits. At its stated speeds a mask costs at most about 15 ms of lexer and 3 ms of parser, and a
/// grammar's lexer at most about 100 MB.
pub fn parser_limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_lexer_states: 50_000,
        max_grammar_size: 200_000,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}

/// Whether the masks of a text have taken more time than its tokens allow.
pub fn is_slow(spent: Duration, tokens: usize) -> bool {
    let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
    spent > TEXT_TIME.saturating_add(TOKEN_TIME.saturating_mul(tokens))
}

/// Refuses a text that is too long.
pub fn check_size(kind: &str, text: &str) -> Result<()> {
    match text.len() > MAX_TEXT {
        true => Err(Error::Grammar(format!("{kind}: expected at most {MAX_TEXT} bytes, found {}", text.len()))),
        false => Ok(()),
    }
}

/// Refuses a schema that is nested too deeply or counts too high. `at` is the JSON pointer of `value`.
pub fn check_schema(value: &Value, at: &str, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::Grammar(format!("JSON schema: nested deeper than {MAX_DEPTH} at {at}")));
    }
    match value {
        Value::Object(members) => members.iter().try_for_each(|(key, member)| {
            let at = format!("{at}/{key}");
            check_keyword(key, member, &at)?;
            check_schema(member, &at, depth + 1)
        }),
        Value::Array(items) => {
            items.iter().enumerate().try_for_each(|(i, item)| check_schema(item, &format!("{at}/{i}"), depth + 1))
        }
        _ => Ok(()),
    }
}

fn check_keyword(key: &str, value: &Value, at: &str) -> Result<()> {
    match value {
        Value::Number(number) if COUNTS.contains(&key) => {
            match number.as_f64().is_some_and(|n| n > MAX_REPEAT as f64) {
                true => {
                    Err(Error::Grammar(format!("JSON schema: expected at most {MAX_REPEAT} at {at}, found {number}")))
                }
                false => Ok(()),
            }
        }
        Value::String(pattern) if key == "pattern" => check_pattern("JSON schema", pattern, at),
        _ => Ok(()),
    }
}

/// Refuses a regular expression or Lark grammar whose brackets nest too deeply or whose `{m,n}` count too high. `at`
/// tells where it stands, empty for a whole grammar.
pub fn check_pattern(kind: &str, text: &str, at: &str) -> Result<()> {
    let at = if at.is_empty() { String::new() } else { format!(" at {at}") };
    let (mut depth, mut bytes) = (0usize, text.bytes().enumerate());
    while let Some((i, byte)) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b'{' | b'~' => check_repeat(kind, &text.as_bytes()[i + 1..], i, &at)?,
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(Error::Grammar(format!("{kind}: brackets nested deeper than {MAX_DEPTH}{at}, byte {i}")));
        }
    }
    Ok(())
}

/// Checks the numbers right after a `{` (or Lark's `~`).
fn check_repeat(kind: &str, after: &[u8], place: usize, at: &str) -> Result<()> {
    let counts = after.iter().take_while(|b| b.is_ascii_digit() || b", .".contains(b));
    let counts: String = counts.map(|&b| b as char).collect();
    for number in counts.split(|c: char| !c.is_ascii_digit()).filter(|number| !number.is_empty()) {
        if number.parse::<u64>().map_or(true, |n| n > MAX_REPEAT) {
            return Err(Error::Grammar(format!(
                "{kind}: expected at most {MAX_REPEAT} repetitions{at}, found {number} at byte {place}"
            )));
        }
    }
    Ok(())
}
