//! Dequantization, bit for bit, against values made by the `gguf` Python package (see tests/data/gguf).
use planish_checkpoint::gguf::{GgmlType, dequantize};

const FIXTURE: &[u8] = include_bytes!("../data/gguf/blocks.bin");

#[test]
fn every_block_format_matches_the_reference_bit_for_bit() {
    let mut rest = FIXTURE;
    let mut seen = Vec::new();
    while !rest.is_empty() {
        let (id, blocks) = (take_u32(&mut rest), take_u32(&mut rest) as usize);
        let ty = GgmlType::from_id(id).expect("a supported type");
        let raw = take(&mut rest, blocks * ty.block_bytes());
        let expected = take(&mut rest, blocks * ty.block_elements() * 4);
        let mut found = vec![0f32; blocks * ty.block_elements()];
        dequantize(ty, raw, &mut found).unwrap();
        for (i, (f, e)) in found.iter().zip(expected.chunks_exact(4)).enumerate() {
            let e = f32::from_le_bytes(e.try_into().unwrap());
            assert_eq!(f.to_bits(), e.to_bits(), "{ty} element {i}: {f} instead of {e}");
        }
        seen.push(ty);
    }
    seen.sort_by_key(|t| t.id());
    let mut all = GgmlType::ALL.to_vec();
    all.sort_by_key(|t| t.id());
    assert_eq!(seen, all);
}

#[test]
fn a_part_of_a_block_is_refused() {
    let error = dequantize(GgmlType::Q8_0, &[0; 33], &mut [0.0; 32]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Q8_0 data: expected 32 elements in blocks of 32 elements and 34 bytes, found 33 bytes"
    );
    assert!(dequantize(GgmlType::Q4_K, &[0; 144], &mut [0.0; 255]).is_err());
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> &'a [u8] {
    let (head, tail) = rest.split_at(n);
    *rest = tail;
    head
}

fn take_u32(rest: &mut &[u8]) -> u32 {
    u32::from_le_bytes(take(rest, 4).try_into().unwrap())
}
