//! The container: what is read, and the known attacks that must be refused with a message.
use crate::builder::{Builder, array, parse, string};
use planish_checkpoint::gguf::{GgmlType, GgufArray, GgufError, GgufFile, GgufValue};

fn refusal(bytes: Vec<u8>) -> String {
    parse(bytes).expect_err("the file should be refused").to_string()
}

#[test]
fn every_value_type_is_read() {
    let nested = array(9, 2, &[array(0, 2, &[7, 8]), array(7, 1, &[1])].concat());
    for version in [2, 3] {
        let mut builder = Builder::new()
            .raw("u8", 0, &[200])
            .raw("i8", 1, &[0xFF])
            .raw("u16", 2, &[1, 2])
            .raw("i16", 3, &[0xFE, 0xFF])
            .u32("u32", 70_000)
            .raw("i32", 5, &(-5i32).to_le_bytes())
            .f32("f32", 1.5)
            .raw("bool", 7, &[1])
            .text("text", "größe")
            .texts("texts", &["", "x"])
            .raw("nested", 9, &nested)
            .raw("u64", 10, &u64::MAX.to_le_bytes())
            .raw("i64", 11, &i64::MIN.to_le_bytes())
            .raw("f64", 12, &0.1f64.to_le_bytes());
        builder.version = version;
        let file = parse(builder.build()).unwrap();
        assert_eq!(file.version(), version);
        let expected = [
            ("u8", GgufValue::U8(200)),
            ("i8", GgufValue::I8(-1)),
            ("u16", GgufValue::U16(0x201)),
            ("i16", GgufValue::I16(-2)),
            ("u32", GgufValue::U32(70_000)),
            ("i32", GgufValue::I32(-5)),
            ("f32", GgufValue::F32(1.5)),
            ("bool", GgufValue::Bool(true)),
            ("text", GgufValue::String("größe".into())),
            ("texts", GgufValue::Array(GgufArray::String(vec!["".into(), "x".into()]))),
            (
                "nested",
                GgufValue::Array(GgufArray::Array(vec![GgufArray::U8(vec![7, 8]), GgufArray::Bool(vec![true])])),
            ),
            ("u64", GgufValue::U64(u64::MAX)),
            ("i64", GgufValue::I64(i64::MIN)),
            ("f64", GgufValue::F64(0.1)),
        ];
        let found: Vec<_> = file.metadata().iter().map(|(k, v)| (k, v.clone())).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn tensors_keep_shape_type_and_data() {
    let mut builder = Builder::new().u32("general.alignment", 64);
    builder.alignment = 64;
    let builder = builder.f32_tensor("a", &[2, 3], &[1., 2., 3., 4., 5., 6.]).tensor("b", &[32], 8, vec![9; 34]);
    let file = parse(builder.build()).unwrap();
    let (a, b) = (file.tensor("a").unwrap(), file.tensor("b").unwrap());
    assert_eq!((a.ty, a.shape.as_slice(), a.range.start % 64), (GgmlType::F32, &[2, 3][..], 0));
    assert_eq!((b.ty, b.shape.as_slice(), b.range.start - a.range.start), (GgmlType::Q8_0, &[32][..], 64));
    assert_eq!(file.data(a)[20..], 6f32.to_le_bytes());
    assert_eq!(file.data(b), [9; 34]);
}

#[test]
fn other_files_and_versions_are_refused() {
    assert!(refusal(b"PK\x03\x04....".to_vec()).contains("magic"));
    assert!(refusal(vec![]).contains("magic"));
    for (version, found) in [(1u32, "version 1"), (4, "version 4"), (3u32.swap_bytes(), "a big-endian file")] {
        let mut builder = Builder::new();
        builder.version = version;
        assert!(refusal(builder.build()).contains(found));
    }
}

/// Counts are checked against what is left before anything is allocated.
#[test]
fn counts_beyond_the_file_are_refused() {
    let good = Builder::new().text("k", "v").build();
    for (offset, what) in [(8, "tensor count"), (16, "metadata count"), (24, "metadata key")] {
        for count in [u64::MAX, u64::MAX / 2, 1 << 62, 1 << 40, 1000] {
            let mut bytes = good.clone();
            bytes[offset..offset + 8].copy_from_slice(&count.to_le_bytes());
            let message = refusal(bytes);
            assert!(message.starts_with(what) && message.contains("left"), "{message}");
        }
    }
    let huge = string(b"")[..0].to_vec();
    for ty in 0..13 {
        let message = refusal(Builder::new().raw("list", 9, &array(ty, u64::MAX / 4, &huge)).build());
        assert!(message.starts_with("list: needs"), "{message}");
    }
    let message = refusal(Builder::new().raw("word", 8, &u64::MAX.to_le_bytes()).build());
    assert!(message.starts_with("word: needs 18446744073709551615 bytes"), "{message}");
}

#[test]
fn bad_values_are_refused() {
    let one = |ty, value: &[u8]| refusal(Builder::new().raw("key", ty, value).build());
    assert_eq!(one(7, &[2]), "key: expected a boolean, 0 or 1, found 2");
    assert_eq!(one(13, &[0]), "key: expected a value type from 0 to 12, found 13");
    assert_eq!(one(9, &array(99, 0, &[])), "key: expected a value type from 0 to 12, found 99");
    assert!(one(8, &string(b"a\xFFb")).contains("expected UTF-8 text, found an invalid byte at offset"));
    let deep = (0..9).fold(array(0, 0, &[]), |inner, _| array(9, 1, &inner));
    assert!(one(9, &deep).contains("nested at most"));
    assert!(refusal(Builder::new().u32("", 0).build()).contains("metadata key: expected 1 to 65535 bytes"));
    for alignment in [0, 3, 24, u32::MAX] {
        assert!(refusal(Builder::new().u32("general.alignment", alignment).build()).contains("a power of two"));
    }
}

#[test]
fn duplicates_are_refused() {
    let keys = Builder::new().u32("k", 1).u32("k", 1);
    assert!(matches!(parse(keys.build()), Err(GgufError::Duplicate { kind: "key", name }) if name == "k"));
    let tensors = Builder::new().f32_tensor("t", &[1], &[0.]).f32_tensor("t", &[1], &[0.]);
    assert!(matches!(parse(tensors.build()), Err(GgufError::Duplicate { kind: "tensor", name }) if name == "t"));
}

#[test]
fn unread_element_types_are_named() {
    let message = refusal(Builder::new().tensor("w", &[256], 10, vec![0; 84]).build());
    assert!(message.starts_with("tensor 'w': element type Q2_K (number 10) is not supported"), "{message}");
    let message = refusal(Builder::new().tensor("w", &[256], u32::MAX, vec![0; 84]).build());
    assert!(message.contains("'w': element type number 4294967295"), "{message}");
}

/// Sizes whose product, byte size or sum overflows, and shapes that ask for more than the file has.
#[test]
fn sizes_that_overflow_or_lie_are_refused() {
    let shaped = |shape: &[u64], ty| refusal(Builder::new().tensor("w", shape, ty, vec![0; 64]).build());
    assert_eq!(shaped(&[1 << 32, 1 << 32], 0), "tensor 'w': size overflows");
    assert_eq!(shaped(&[u64::MAX, u64::MAX, u64::MAX, u64::MAX], 0), "tensor 'w': size overflows");
    assert_eq!(shaped(&[1 << 62], 0), "tensor 'w': size overflows");
    assert!(shaped(&[1 << 60], 0).contains("64 are left"));
    assert!(shaped(&[17], 0).contains("needs 68 bytes"));
    assert!(shaped(&[0, 1 << 62], 0).contains("at least 1, found 0"));
    assert!(shaped(&[33], 8).contains("multiple of 32 elements for Q8_0, found 33"));
    assert!(shaped(&[1, 1, 1, 1, 1], 0).contains("at most 4 dimensions, found 5"));
}

#[test]
fn offsets_must_tile_the_data_section() {
    let at = |offset| {
        let mut builder = Builder::new().f32_tensor("a", &[8], &[1.0; 8]).f32_tensor("b", &[8], &[2.0; 8]);
        builder.tensors[1].offset = Some(offset);
        builder.build()
    };
    assert!(parse(at(32)).is_ok());
    assert_eq!(refusal(at(0)), "tensor 'b': expected data at offset 32, found 0 (an overlap)");
    assert_eq!(refusal(at(64)), "tensor 'b': expected data at offset 32, found 64 (a gap)");
    assert!(refusal(at(33)).contains("an offset that is a multiple of 32, found 33"));
    assert_eq!(refusal(at(u64::MAX - 31)), "tensor 'b': size overflows");
    assert!(refusal(at(1 << 50)).contains("a gap"));
}

#[test]
fn open_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let missing = GgufFile::open(&path).unwrap_err().to_string();
    assert!(missing.contains("m.gguf"), "{missing}");
    let bytes = Builder::new().f32_tensor("a", &[1], &[3.0]).build();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let short = GgufFile::open(&path).unwrap_err().to_string();
    assert!(short.contains("m.gguf: tensor 'a': needs 4 bytes") && short.ends_with("3 are left"), "{short}");
    std::fs::write(&path, &bytes).unwrap();
    let file = GgufFile::open(&path).unwrap();
    assert_eq!(file.data(&file.tensors()[0]), 3f32.to_le_bytes());
    assert!(GgufFile::open(dir.path()).unwrap_err().to_string().contains("regular file"));
}
