//! Snappy's raw format (google/snappy, format_description.txt): literals and copies of what was written before.
use super::{Check, damaged};

/// The uncompressed bytes, which must be `size`.
pub(super) fn unpack(bytes: &[u8], size: usize) -> Check<Vec<u8>> {
    let (length, mut at) = stated_length(bytes)?;
    // A copy of two bytes makes at most 64: no file of this length can hold more.
    if length != size || size / 64 > bytes.len() {
        return damaged("a compressed page of the stated size");
    }
    let mut out = Vec::with_capacity(size);
    while let Some(&tag) = bytes.get(at) {
        at += 1;
        let (extra, long) = match tag & 3 {
            0 if tag >> 2 >= 60 => ((tag >> 2) as usize - 59, true),
            0 => (0, false),
            1 => (1, false),
            2 => (2, false),
            _ => (4, false),
        };
        let Some(number) = bytes.get(at..at + extra) else { return damaged("more bytes of a compressed page") };
        let number = number.iter().rev().fold(0usize, |n, &b| n << 8 | b as usize);
        at += extra;
        match tag & 3 {
            0 => {
                let count = if long { number + 1 } else { (tag >> 2) as usize + 1 };
                let Some(literal) = bytes.get(at..at.saturating_add(count)) else {
                    return damaged("more bytes of a compressed page");
                };
                out.extend_from_slice(literal);
                at += count;
            }
            1 => copy(&mut out, (tag as usize & 0xE0) << 3 | number, (tag as usize >> 2 & 7) + 4)?,
            _ => copy(&mut out, number, (tag as usize >> 2) + 1)?,
        }
        if out.len() > size {
            return damaged("a compressed page of the stated size");
        }
    }
    if out.len() == size { Ok(out) } else { damaged("a compressed page of the stated size") }
}

/// The length that the bytes begin with, and where they go on.
fn stated_length(bytes: &[u8]) -> Check<(usize, usize)> {
    let mut length = 0usize;
    for (i, &byte) in bytes.iter().take(5).enumerate() {
        length |= ((byte & 0x7F) as usize) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok((length, i + 1));
        }
    }
    damaged("the length of a compressed page")
}

/// Repeats `count` bytes from `offset` before the end; they may overlap what is being written.
fn copy(out: &mut Vec<u8>, offset: usize, count: usize) -> Check<()> {
    let Some(start) = out.len().checked_sub(offset).filter(|_| offset > 0) else {
        return damaged("a copy of what is there");
    };
    for i in start..start + count {
        out.push(out[i]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::unpack;

    #[test]
    fn literals_and_overlapping_copies() {
        // "ab", then 6 bytes from 2 back, then "c".
        let packed = [9, 1 << 2, b'a', b'b', 2 << 2 | 1, 2, 0, b'c'];
        assert_eq!(unpack(&packed, 9).unwrap(), b"abababab".iter().chain(b"c").copied().collect::<Vec<_>>());
        assert!(unpack(&packed, 8).is_err() && unpack(&packed[..6], 9).is_err());
        assert!(unpack(&[4, 2 << 2 | 1, 2], 4).is_err(), "a copy from before the beginning");
        let long: Vec<u8> = [100, 60 << 2, 99].into_iter().chain(0..100).collect();
        assert_eq!(unpack(&long, 100).unwrap(), (0..100).collect::<Vec<u8>>());
    }
}
