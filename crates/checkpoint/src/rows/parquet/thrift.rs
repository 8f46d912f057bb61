//! Thrift's compact protocol: what parquet's descriptions of itself are written in. Read into a tree, fields by number.
use super::{Check, damaged};
use std::collections::BTreeMap;

/// Deepest nesting; parquet's own is below ten.
const MAX_DEPTH: usize = 32;

/// A value of the protocol. Doubles, maps and sets are passed over: nothing that is read here has them.
#[derive(Debug)]
pub(super) enum Thrift {
    Bool(bool),
    Int(i64),
    Bytes(Vec<u8>),
    List(Vec<Thrift>),
    Struct(BTreeMap<i16, Thrift>),
    Other,
}

impl Thrift {
    /// Reads a struct; the value and how many bytes it took.
    pub fn parse(bytes: &[u8]) -> Check<(Thrift, usize)> {
        let mut cursor = Cursor { bytes, at: 0 };
        let value = cursor.record(0)?;
        Ok((value, cursor.at))
    }

    /// A field of a struct.
    pub fn get(&self, id: i16) -> Option<&Thrift> {
        match self {
            Thrift::Struct(fields) => fields.get(&id),
            _ => None,
        }
    }

    /// A field that is a number.
    pub fn int(&self, id: i16) -> Option<i64> {
        match self.get(id) {
            Some(Thrift::Int(x)) => Some(*x),
            _ => None,
        }
    }

    /// A field that is a size: not negative.
    pub fn size(&self, id: i16) -> Check<usize> {
        match self.int(id).map(usize::try_from) {
            Some(Ok(size)) => Ok(size),
            _ => damaged("a size in the file's description of itself"),
        }
    }

    /// A field that is a list; empty without it.
    pub fn list(&self, id: i16) -> &[Thrift] {
        match self.get(id) {
            Some(Thrift::List(items)) => items,
            _ => &[],
        }
    }

    /// A field that is text.
    pub fn text(&self, id: i16) -> Check<String> {
        match self.get(id) {
            Some(Thrift::Bytes(bytes)) => Ok(String::from_utf8_lossy(bytes).into_owned()),
            _ => damaged("a name in the file's description of itself"),
        }
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn byte(&mut self) -> Check<u8> {
        let Some(&byte) = self.bytes.get(self.at) else { return damaged("more bytes of a description") };
        self.at += 1;
        Ok(byte)
    }

    fn skip(&mut self, n: usize) -> Check<()> {
        self.at = self.at.saturating_add(n);
        if self.at > self.bytes.len() { damaged("more bytes of a description") } else { Ok(()) }
    }

    fn varint(&mut self) -> Check<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= ((byte & 0x7F) as u64) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        damaged("a number of at most ten bytes")
    }

    fn zigzag(&mut self) -> Check<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn record(&mut self, depth: usize) -> Check<Thrift> {
        if depth > MAX_DEPTH {
            return damaged("a description of less depth");
        }
        let (mut fields, mut id) = (BTreeMap::new(), 0i16);
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Ok(Thrift::Struct(fields));
            }
            id = match head >> 4 {
                0 => self.zigzag()? as i16,
                delta => id.wrapping_add(delta as i16),
            };
            let value = match head & 15 {
                1 => Thrift::Bool(true),
                2 => Thrift::Bool(false),
                kind => self.value(kind, depth)?,
            };
            fields.insert(id, value);
        }
    }

    fn value(&mut self, kind: u8, depth: usize) -> Check<Thrift> {
        Ok(match kind {
            1 | 2 => Thrift::Bool(self.byte()? == 1),
            3 => Thrift::Int(self.byte()? as i8 as i64),
            4..=6 => Thrift::Int(self.zigzag()?),
            7 => {
                self.skip(8)?;
                Thrift::Other
            }
            8 => {
                let length = self.varint()? as usize;
                let start = self.at;
                self.skip(length)?;
                Thrift::Bytes(self.bytes[start..self.at].to_vec())
            }
            9 | 10 => self.list(depth)?,
            12 => self.record(depth + 1)?,
            _ => return damaged("a kind of value that parquet uses"),
        })
    }

    fn list(&mut self, depth: usize) -> Check<Thrift> {
        if depth > MAX_DEPTH {
            return damaged("a description of less depth");
        }
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => self.varint()? as usize,
            short => short as usize,
        };
        // Each item takes at least a byte: a list is never longer than what is left.
        if count > self.bytes.len() - self.at {
            return damaged("a list that fits its file");
        }
        let items = (0..count).map(|_| self.value(head & 15, depth + 1));
        Ok(Thrift::List(items.collect::<Check<_>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_every_kind() {
        // 1: true, 2: i32 -3, 3: "ab", 4: [1, 2], 20: {1: false}
        let bytes = [0x11, 0x15, 5, 0x18, 2, b'a', b'b', 0x19, 0x25, 2, 4, 0x0C, 40, 0x12, 0, 0, 99];
        let (value, used) = Thrift::parse(&bytes).unwrap();
        assert_eq!(used, bytes.len() - 1);
        assert!(matches!(value.get(1), Some(Thrift::Bool(true))));
        assert_eq!((value.int(2), value.text(3).unwrap().as_str()), (Some(-3), "ab"));
        assert!(matches!(value.list(4), [Thrift::Int(1), Thrift::Int(2)]));
        assert!(matches!(value.get(20).and_then(|v| v.get(1)), Some(Thrift::Bool(false))));
        assert!(value.size(2).is_err());
        for cut in 0..bytes.len() - 1 {
            assert!(Thrift::parse(&bytes[..cut]).is_err(), "{cut}");
        }
        assert!(Thrift::parse(&[0x19, 0xF5, 0xFF, 0xFF, 0xFF, 0x7F]).is_err());
    }

    /// Lists of lists, and structs in structs: the stack is not what ends them.
    #[test]
    fn depth_has_a_limit() {
        for nesting in [0x19, 0x1C] {
            let fault = Thrift::parse(&vec![nesting; 4 << 20]).unwrap_err();
            assert_eq!(fault.expected, "a description of less depth");
        }
    }
}
