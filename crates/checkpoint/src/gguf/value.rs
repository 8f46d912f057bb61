//! Metadata values: thirteen types, arrays included.
use super::cursor::Cursor;
use super::error::{GgufError, Result};

/// Arrays of arrays deeper than this are refused.
const MAX_DEPTH: usize = 4;

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the names say it all
pub enum GgufValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(GgufArray),
}

/// An array of values of one type.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the names say it all
pub enum GgufArray {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Vec<String>),
    Array(Vec<GgufArray>),
}

impl GgufValue {
    /// The value as an unsigned integer, if it is an integer and not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            GgufValue::U8(v) => Some(v.into()),
            GgufValue::U16(v) => Some(v.into()),
            GgufValue::U32(v) => Some(v.into()),
            GgufValue::U64(v) => Some(v),
            GgufValue::I8(v) => v.try_into().ok(),
            GgufValue::I16(v) => v.try_into().ok(),
            GgufValue::I32(v) => v.try_into().ok(),
            GgufValue::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    /// The value as a real number, if it is an F32 or F64.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            GgufValue::F32(v) => Some(v.into()),
            GgufValue::F64(v) => Some(v),
            _ => None,
        }
    }

    /// The value, if it is a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        if let GgufValue::Bool(v) = self { Some(*v) } else { None }
    }

    /// The value, if it is text.
    pub fn as_str(&self) -> Option<&str> {
        if let GgufValue::String(v) = self { Some(v) } else { None }
    }

    /// The value, if it is an array.
    pub fn as_array(&self) -> Option<&GgufArray> {
        if let GgufValue::Array(v) = self { Some(v) } else { None }
    }

    /// The name of the type, for errors.
    pub fn type_name(&self) -> &'static str {
        match self {
            GgufValue::U8(_) => "u8",
            GgufValue::I8(_) => "i8",
            GgufValue::U16(_) => "u16",
            GgufValue::I16(_) => "i16",
            GgufValue::U32(_) => "u32",
            GgufValue::I32(_) => "i32",
            GgufValue::U64(_) => "u64",
            GgufValue::I64(_) => "i64",
            GgufValue::F32(_) => "f32",
            GgufValue::F64(_) => "f64",
            GgufValue::Bool(_) => "bool",
            GgufValue::String(_) => "string",
            GgufValue::Array(_) => "array",
        }
    }

    /// Reads the type number and the value of `key`.
    pub(super) fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<GgufValue> {
        let kind = cursor.u32(key)?;
        Ok(match kind {
            0 => GgufValue::U8(u8::from_le_bytes(cursor.array(key)?)),
            1 => GgufValue::I8(i8::from_le_bytes(cursor.array(key)?)),
            2 => GgufValue::U16(u16::from_le_bytes(cursor.array(key)?)),
            3 => GgufValue::I16(i16::from_le_bytes(cursor.array(key)?)),
            4 => GgufValue::U32(cursor.u32(key)?),
            5 => GgufValue::I32(i32::from_le_bytes(cursor.array(key)?)),
            6 => GgufValue::F32(f32::from_le_bytes(cursor.array(key)?)),
            7 => GgufValue::Bool(read_bool(cursor, key)?),
            8 => GgufValue::String(cursor.string(key)?.to_owned()),
            9 => GgufValue::Array(GgufArray::read(cursor, key, 1)?),
            10 => GgufValue::U64(cursor.u64(key)?),
            11 => GgufValue::I64(i64::from_le_bytes(cursor.array(key)?)),
            12 => GgufValue::F64(f64::from_le_bytes(cursor.array(key)?)),
            other => return Err(unknown_type(key, other)),
        })
    }
}

impl GgufArray {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            GgufArray::U8(v) => v.len(),
            GgufArray::I8(v) => v.len(),
            GgufArray::U16(v) => v.len(),
            GgufArray::I16(v) => v.len(),
            GgufArray::U32(v) => v.len(),
            GgufArray::I32(v) => v.len(),
            GgufArray::U64(v) => v.len(),
            GgufArray::I64(v) => v.len(),
            GgufArray::F32(v) => v.len(),
            GgufArray::F64(v) => v.len(),
            GgufArray::Bool(v) => v.len(),
            GgufArray::String(v) => v.len(),
            GgufArray::Array(v) => v.len(),
        }
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element type number, count, elements.
    fn read(cursor: &mut Cursor<'_>, key: &str, depth: usize) -> Result<GgufArray> {
        let kind = cursor.u32(key)?;
        Ok(match kind {
            0 => GgufArray::U8(numbers(cursor, key, u8::from_le_bytes)?),
            1 => GgufArray::I8(numbers(cursor, key, i8::from_le_bytes)?),
            2 => GgufArray::U16(numbers(cursor, key, u16::from_le_bytes)?),
            3 => GgufArray::I16(numbers(cursor, key, i16::from_le_bytes)?),
            4 => GgufArray::U32(numbers(cursor, key, u32::from_le_bytes)?),
            5 => GgufArray::I32(numbers(cursor, key, i32::from_le_bytes)?),
            6 => GgufArray::F32(numbers(cursor, key, f32::from_le_bytes)?),
            7 => GgufArray::Bool(each(cursor, key, 1, |c| read_bool(c, key))?),
            // A string is at least its 8-byte length, an array its type and its count.
            8 => GgufArray::String(each(cursor, key, 8, |c| Ok(c.string(key)?.to_owned()))?),
            9 if depth < MAX_DEPTH => GgufArray::Array(each(cursor, key, 12, |c| GgufArray::read(c, key, depth + 1))?),
            9 => return Err(GgufError::malformed(key, format!("arrays nested at most {MAX_DEPTH} deep"), "more")),
            10 => GgufArray::U64(numbers(cursor, key, u64::from_le_bytes)?),
            11 => GgufArray::I64(numbers(cursor, key, i64::from_le_bytes)?),
            12 => GgufArray::F64(numbers(cursor, key, f64::from_le_bytes)?),
            other => return Err(unknown_type(key, other)),
        })
    }
}

fn numbers<T, const N: usize>(cursor: &mut Cursor<'_>, key: &str, decode: fn([u8; N]) -> T) -> Result<Vec<T>> {
    let count = cursor.count(N, key)?;
    let raw = cursor.take(count.checked_mul(N).ok_or_else(|| GgufError::overflow(key))?, key)?;
    Ok(raw.chunks_exact(N).map(|c| decode(std::array::from_fn(|i| c[i]))).collect())
}

fn each<T>(
    cursor: &mut Cursor<'_>,
    key: &str,
    min_bytes: usize,
    mut read: impl FnMut(&mut Cursor<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let count = cursor.count(min_bytes, key)?;
    let mut out = Vec::new(); // grows with what is really there
    for _ in 0..count {
        out.push(read(cursor)?);
    }
    Ok(out)
}

fn read_bool(cursor: &mut Cursor<'_>, key: &str) -> Result<bool> {
    match cursor.array::<1>(key)? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => Err(GgufError::malformed(key, "a boolean, 0 or 1", other)),
    }
}

fn unknown_type(key: &str, found: u32) -> GgufError {
    GgufError::malformed(key, "a value type from 0 to 12", found)
}
