//! Runs and bit-packed groups: how levels and dictionary indices are stored.
use super::{Check, damaged};

/// The next `count` numbers of `width` bits each from the hybrid of runs and bit-packed groups.
pub(super) fn hybrid(bytes: &[u8], width: u32, count: usize) -> Check<Vec<u32>> {
    if width == 0 {
        return Ok(vec![0; count]);
    }
    if width > 32 {
        return damaged("numbers of at most 32 bits");
    }
    let (mut out, mut at) = (Vec::new(), 0);
    while out.len() < count {
        let (head, used) = varint(&bytes[at..])?;
        at += used;
        let wanted = count - out.len();
        if head & 1 == 0 {
            let size = width.div_ceil(8) as usize;
            let Some(value) = bytes.get(at..at + size) else { return damaged("more bytes of a run") };
            let value = value.iter().rev().fold(0, |n, &b| n << 8 | b as u32);
            out.resize(out.len() + wanted.min(head as usize >> 1), value);
            at += size;
            if head == 0 {
                return damaged("a run of some length");
            }
        } else {
            let packed = (head as usize >> 1).saturating_mul(width as usize);
            let end = bytes.len().min(at.saturating_add(packed));
            let there = (end - at) * 8 / width as usize;
            let taken = wanted.min((head as usize >> 1) * 8);
            if taken > there {
                return damaged("more bytes of packed numbers");
            }
            unpack(&bytes[at..end], width, taken, &mut out);
            at = end;
        }
    }
    Ok(out)
}

fn unpack(bytes: &[u8], width: u32, count: usize, out: &mut Vec<u32>) {
    let mask = if width == 32 { u32::MAX } else { (1 << width) - 1 };
    let (mut window, mut bits, mut next) = (0u64, 0, bytes.iter());
    for _ in 0..count {
        while bits < width {
            window |= (*next.next().unwrap_or(&0) as u64) << bits;
            bits += 8;
        }
        out.push(window as u32 & mask);
        window >>= width;
        bits -= width;
    }
}

fn varint(bytes: &[u8]) -> Check<(u32, usize)> {
    let mut value = 0u32;
    for (i, &byte) in bytes.iter().take(5).enumerate() {
        value |= ((byte & 0x7F) as u32) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok((value, i + 1));
        }
    }
    damaged("the head of a run")
}

#[cfg(test)]
mod tests {
    use super::hybrid;

    #[test]
    fn runs_and_packed_groups() {
        // A run of three 5s, then eight packed numbers 0..8 of 3 bits.
        let bytes = [6, 5, 3, 0b1000_1000, 0b1100_0110, 0b1111_1010];
        assert_eq!(hybrid(&bytes, 3, 11).unwrap(), [5, 5, 5, 0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(hybrid(&bytes, 3, 5).unwrap(), [5, 5, 5, 0, 1]);
        assert_eq!(hybrid(&[], 0, 2).unwrap(), [0, 0]);
        assert!(hybrid(&bytes[..4], 3, 11).is_err() && hybrid(&[], 1, 1).is_err() && hybrid(&[0, 1], 1, 1).is_err());
    }
}
