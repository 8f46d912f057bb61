//! Values of a page as JSON.
use super::{Check, Fault, damaged, levels};
use serde_json::{Number, Value};

/// The values of a page, without its nulls.
pub(super) struct Values<'a> {
    pub bytes: &'a [u8],
    pub encoding: i64,
    pub physical: i64,
}

const PLAIN: i64 = 0;
const RLE: i64 = 3;
const BOOLEAN: i64 = 0;

impl Values<'_> {
    /// The first `count`.
    pub fn read(&self, count: usize, dictionary: &[Value], column: &str) -> Check<Vec<Value>> {
        match self.encoding {
            PLAIN => plain(self.bytes, self.physical, count),
            2 | 8 => {
                let Some((&width, indices)) = self.bytes.split_first() else {
                    return if count == 0 { Ok(Vec::new()) } else { damaged("indices of a dictionary") };
                };
                let indices = levels::hybrid(indices, width.into(), count)?;
                let value = |i: u32| dictionary.get(i as usize).cloned();
                let found: Option<Vec<Value>> = indices.into_iter().map(value).collect();
                found.map_or_else(|| damaged("indices of the dictionary"), Ok)
            }
            RLE if self.physical == BOOLEAN => {
                let bits = levels::hybrid(self.bytes.get(4..).unwrap_or_default(), 1, count)?;
                Ok(bits.into_iter().map(|b| Value::Bool(b == 1)).collect())
            }
            other => {
                let found = format!("encoding {other} in column {column}");
                Err(Fault::new("plain or dictionary encoding", found))
            }
        }
    }
}

/// `count` values one after the other.
pub(super) fn plain(bytes: &[u8], physical: i64, count: usize) -> Check<Vec<Value>> {
    let mut values = Vec::with_capacity(count.min(bytes.len().saturating_mul(8)));
    let short = || Fault::new("more bytes of a page", "a damaged file");
    match physical {
        BOOLEAN => {
            for i in 0..count {
                let byte = bytes.get(i / 8).ok_or_else(short)?;
                values.push(Value::Bool(byte >> (i % 8) & 1 == 1));
            }
        }
        1 | 4 => {
            for four in bytes.chunks_exact(4).take(count) {
                let four = [four[0], four[1], four[2], four[3]];
                values.push(match physical {
                    1 => i32::from_le_bytes(four).into(),
                    _ => float(f32::from_le_bytes(four).into()),
                });
            }
        }
        2 | 5 => {
            for eight in bytes.chunks_exact(8).take(count) {
                let eight: [u8; 8] = eight.try_into().unwrap_or_default();
                values.push(match physical {
                    2 => i64::from_le_bytes(eight).into(),
                    _ => float(f64::from_le_bytes(eight)),
                });
            }
        }
        6 => texts(bytes, count, &mut values)?,
        _ => return Err(Fault::new("truth values, numbers or texts", "a column of another type")),
    }
    if values.len() == count { Ok(values) } else { Err(short()) }
}

fn float(x: f64) -> Value {
    Number::from_f64(x).map_or(Value::Null, Value::Number)
}

fn texts(bytes: &[u8], count: usize, values: &mut Vec<Value>) -> Check<()> {
    let mut rest = bytes;
    for _ in 0..count {
        let Some((length, after)) = rest.split_first_chunk::<4>() else { return damaged("the length of a text") };
        let length = u32::from_le_bytes(*length) as usize;
        let Some(text) = after.get(..length) else { return damaged("a text in its page") };
        let text = std::str::from_utf8(text).map_err(|_| Fault::new("texts in UTF-8", "a column of other bytes"))?;
        values.push(text.into());
        rest = &after[length..];
    }
    Ok(())
}
