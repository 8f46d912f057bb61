//! A mutated file is read or refused; it never panics, and what is read stays readable.
use crate::builder::{parse, tiny_with_tensors};
use planish_checkpoint::gguf::{GgufDtype, GgufModel};
use proptest::prelude::*;

/// Reads everything there is to read.
fn exercise(bytes: Vec<u8>) {
    let Ok(file) = parse(bytes) else { return };
    for tensor in file.tensors() {
        assert_eq!(
            file.data(tensor).len(),
            tensor.shape.iter().product::<usize>() / tensor.ty.block_elements() * tensor.ty.block_bytes()
        );
    }
    let Ok(model) = GgufModel::new(file, GgufDtype::Bf16) else { return };
    for name in model.names() {
        model.tensor(name).unwrap();
    }
}

fn valid() -> Vec<u8> {
    tiny_with_tensors("llama").tensor("blk.0.attn_q.bias", &[16], 1, vec![0; 32]).build()
}

/// Where the data section starts: mutations before it matter most.
fn header_len() -> usize {
    parse(valid()).unwrap().tensors()[0].range.start
}

#[test]
fn every_truncation_is_refused() {
    let bytes = valid();
    for len in (0..header_len()).chain((header_len()..bytes.len()).step_by(97)) {
        assert!(parse(bytes[..len].to_vec()).is_err(), "{len} of {} bytes", bytes.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bit_flips_do_not_panic(flips in prop::collection::vec((0..header_len(), 0u8..8), 1..6)) {
        let mut bytes = valid();
        for (at, bit) in flips {
            bytes[at] ^= 1 << bit;
        }
        exercise(bytes);
    }

    #[test]
    fn overwritten_words_do_not_panic(at in 4..header_len() - 8, word in prop_oneof![
        Just(0u64), Just(1), Just(u64::MAX), Just(1 << 63), Just(u64::MAX - 31), 0u64..64, any::<u64>(),
    ]) {
        let mut bytes = valid();
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        exercise(bytes);
    }

    #[test]
    fn spliced_files_do_not_panic(from in 0..header_len(), to in 0..header_len(), len in 1usize..200) {
        let mut bytes = valid();
        let piece = bytes[from..(from + len).min(bytes.len())].to_vec();
        bytes.splice(to..to, piece);
        exercise(bytes);
    }

    #[test]
    fn noise_does_not_panic(tail in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(tail);
        exercise(bytes);
    }
}
