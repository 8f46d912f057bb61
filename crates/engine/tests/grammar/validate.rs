//! As much of JSON schema as the tests of grammars use.
use serde_json::Value;

/// Says how `value` breaks `schema`, whose references are into `root`.
pub fn valid(value: &Value, schema: &Value, root: &Value) -> Result<(), String> {
    let Some(rules) = schema.as_object() else {
        return if schema == &Value::Bool(false) { Err("nothing is allowed here".into()) } else { Ok(()) };
    };
    for (keyword, rule) in rules {
        if !holds(keyword, rule, value, schema, root)? {
            return Err(format!("{value} breaks {keyword}: {rule}"));
        }
    }
    Ok(())
}

fn holds(keyword: &str, rule: &Value, value: &Value, schema: &Value, root: &Value) -> Result<bool, String> {
    let count = |n: Option<usize>| n.zip(rule.as_u64().map(|n| n as usize));
    let number = value.as_f64().zip(rule.as_f64());
    Ok(match keyword {
        "type" => is_a(value, rule.as_str().unwrap()),
        "const" => value == rule,
        "enum" => rule.as_array().unwrap().contains(value),
        "anyOf" => rule.as_array().unwrap().iter().any(|one| valid(value, one, root).is_ok()),
        "$ref" => valid(value, root.pointer(&rule.as_str().unwrap()[1..]).unwrap(), root).is_ok(),
        "minimum" => number.is_none_or(|(x, limit)| x >= limit),
        "maximum" => number.is_none_or(|(x, limit)| x <= limit),
        "exclusiveMinimum" => number.is_none_or(|(x, limit)| x > limit),
        "exclusiveMaximum" => number.is_none_or(|(x, limit)| x < limit),
        "minLength" => count(value.as_str().map(|s| s.chars().count())).is_none_or(|(n, limit)| n >= limit),
        "maxLength" => count(value.as_str().map(|s| s.chars().count())).is_none_or(|(n, limit)| n <= limit),
        "minItems" => count(value.as_array().map(Vec::len)).is_none_or(|(n, limit)| n >= limit),
        "maxItems" => count(value.as_array().map(Vec::len)).is_none_or(|(n, limit)| n <= limit),
        "pattern" => value.as_str().is_none_or(is_code),
        "format" => value.as_str().is_none_or(is_date),
        "required" => rule.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some()),
        "properties" => {
            let mut members = rule.as_object().unwrap().iter().filter_map(|(name, s)| Some((value.get(name)?, s)));
            return members.try_for_each(|(member, s)| valid(member, s, root)).map(|()| true);
        }
        "additionalProperties" => {
            value.as_object().unwrap().keys().all(|name| schema["properties"].get(name).is_some())
        }
        "prefixItems" => {
            let mut pairs = value.as_array().unwrap().iter().zip(rule.as_array().unwrap());
            return pairs.try_for_each(|(item, s)| valid(item, s, root)).map(|()| true);
        }
        "items" => {
            let before = schema.get("prefixItems").map_or(0, |p| p.as_array().unwrap().len());
            let mut items = value.as_array().into_iter().flatten().skip(before);
            return items.try_for_each(|item| valid(item, rule, root)).map(|()| true);
        }
        "$defs" => true,
        other => return Err(format!("the tests do not know {other}")),
    })
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|x| x.fract() == 0.0),
        _ => false,
    }
}

/// The one pattern that is used: `^[A-Z]{2}-[0-9]{3}$`.
fn is_code(text: &str) -> bool {
    let b = text.as_bytes();
    b.len() == 6 && b[..2].iter().all(u8::is_ascii_uppercase) && b[2] == b'-' && b[3..].iter().all(u8::is_ascii_digit)
}

fn is_date(text: &str) -> bool {
    let parts: Vec<u32> = text.split('-').filter_map(|part| part.parse().ok()).collect();
    text.len() == 10 && parts.len() == 3 && (1..=12).contains(&parts[1]) && (1..=31).contains(&parts[2])
}
