//! The header parser against hostile headers, and against random ones judged by a second, slower reading.
use super::*;
use proptest::prelude::*;
use serde_json::Value;

fn file(header: &str, data: usize) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(header.as_bytes());
    out.resize(out.len() + data, 0);
    out
}

fn read(bytes: &[u8]) -> Result<Vec<Entry>> {
    parse(bytes, Path::new("m.safetensors"))
}

fn entry(name: &str, dtype: &str, shape: &str, from: u64, to: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
}

#[test]
fn a_composed_header_is_read_back() {
    let bytes = |n: &[(&str, DType, &[usize])]| {
        let data = n.iter().map(|t| t.2.iter().product::<usize>() * t.1.size()).sum::<usize>();
        let mut out = compose(n);
        assert_eq!(out.len() % 8, 0);
        out.resize(out.len() + data, 7);
        out
    };
    let tensors: [(&str, DType, &[usize]); 4] = [
        ("a\"é", DType::F32, &[2, 3]),
        ("scalar", DType::BF16, &[]),
        ("empty", DType::I8, &[0, 5]),
        ("b", DType::F8E4M3, &[7]),
    ];
    let read = read(&bytes(&tensors)).unwrap();
    for (entry, (name, dtype, shape)) in read.iter().zip(tensors.iter().copied()) {
        assert_eq!((entry.name.as_str(), entry.element, entry.shape.as_slice()), (name, Element::Known(dtype), shape));
    }
    assert_eq!(read[3].range.end - read[0].range.start, 24 + 2 + 7);
}

/// Each row: why it must be refused, header, bytes of data, and a piece of the message.
#[test]
fn inconsistent_headers_are_refused() {
    let a = entry("a", "F32", "[2]", 0, 8);
    let b = entry("b", "F32", "[2]", 8, 16);
    let rows: Vec<(&str, String, usize, &str)> = vec![
        ("duplicate name", format!("{{{a},{a}}}"), 8, "tensor \"a\" twice"),
        ("duplicate by escape", format!("{{{a},{}}}", b.replace("\"b\"", "\"\\u0061\"")), 16, "tensor \"a\" twice"),
        ("gap", format!("{{{a},{}}}", entry("b", "F32", "[2]", 9, 17)), 17, "tensor \"b\": expected offsets (8, 16)"),
        ("overlap", format!("{{{a},{}}}", entry("b", "F32", "[2]", 4, 12)), 12, "tensor \"b\""),
        ("same span twice", format!("{{{a},{}}}", entry("b", "F32", "[2]", 0, 8)), 8, "expected offsets (8, 16)"),
        ("hole at the start", format!("{{{b}}}"), 16, "tensor \"b\": expected offsets (0, 8)"),
        ("past the end", format!("{{{a}}}"), 7, "data within"),
        ("trailing bytes", format!("{{{a}}}"), 9, "bytes as the header says"),
        ("span too long", format!("{{{}}}", entry("a", "F32", "[2]", 0, 12)), 12, "(0, 12)"),
        ("span too short", format!("{{{}}}", entry("a", "F32", "[2]", 0, 4)), 4, "(0, 4)"),
        ("reversed span", format!("{{{}}}", entry("a", "F32", "[2]", 8, 0)), 8, "(8, 0)"),
        ("unknown type", format!("{{{}}}", entry("a", "F33", "[2]", 0, 8)), 8, "a known element type, found \"F33\""),
        ("overflowing shape", format!("{{{}}}", entry("a", "F32", "[4294967296,4294967296]", 0, 0)), 0, "shape"),
        ("overflow of bytes", format!("{{{}}}", entry("a", "F64", "[2305843009213693952]", 0, 0)), 0, "shape"),
        ("huge empty shape", format!("{{{}}}", entry("a", "I8", "[0,4611686018427387904]", 0, 0)), 0, "shape"),
        ("rank 9", format!("{{{}}}", entry("a", "I8", "[1,1,1,1,1,1,1,1,1]", 0, 1)), 1, "more than 8 numbers"),
        ("negative dimension", format!("{{{}}}", entry("a", "I8", "[-1]", 0, 1)), 1, "invalid value"),
        ("fractional dimension", format!("{{{}}}", entry("a", "I8", "[1.0]", 0, 1)), 1, "invalid type"),
        ("dimension above u64", format!("{{{}}}", entry("a", "I8", "[18446744073709551616]", 0, 1)), 1, "invalid type"),
        ("three offsets", r#"{"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1,1]}}"#.into(), 1, "more than 2"),
        ("one offset", r#"{"a":{"dtype":"I8","shape":[1],"data_offsets":[0]}}"#.into(), 1, "not two numbers"),
        ("no dtype", r#"{"a":{"shape":[1],"data_offsets":[0,1]}}"#.into(), 1, "no dtype"),
        ("no shape", r#"{"a":{"dtype":"I8","data_offsets":[0,1]}}"#.into(), 1, "no shape"),
        (
            "dtype twice",
            r#"{"a":{"dtype":"I8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}"#.into(),
            1,
            "dtype twice",
        ),
        ("unknown field", r#"{"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1],"x":0}}"#.into(), 1, "unknown field"),
        ("no object", "[1]".into(), 0, "no JSON object"),
        ("leading space", " {}".into(), 0, "no JSON object"),
        ("two objects", "{}{}".into(), 0, "trailing"),
        ("deep nesting", format!("{{\"a\":{}", "[".repeat(90_000)), 0, "invalid type"),
        ("metadata of numbers", r#"{"__metadata__":{"a":1}}"#.into(), 0, "invalid type"),
        ("metadata twice", r#"{"__metadata__":{},"__metadata__":{}}"#.into(), 0, "__metadata__ twice"),
        ("metadata key twice", r#"{"__metadata__":{"a":"","a":""}}"#.into(), 0, "twice"),
        ("long name", format!("{{{}}}", entry(&"n".repeat(1025), "I8", "[1]", 0, 1)), 1, "1025 bytes"),
        ("empty name", format!("{{{}}}", entry("", "I8", "[1]", 0, 1)), 1, "name \"\""),
        ("control character", format!("{{{}}}", entry("a\\n", "I8", "[1]", 0, 1)), 1, "name"),
    ];
    for (why, header, data, message) in rows {
        let error = read(&file(&header, data)).expect_err(why).to_string();
        assert!(error.starts_with("m.safetensors: ") && error.contains(message), "{why}: {error}");
        assert!(error.len() < 500, "{why}: {error}");
    }
    assert_eq!(read(&file(&format!("{{{b},{a}}}   "), 16)).unwrap().len(), 2, "order and padding are free");
}

#[test]
fn lengths_are_checked_before_anything_is_read() {
    for bytes in [&[][..], &[1, 2, 3], &u64::MAX.to_le_bytes(), &(1u64 << 63).to_le_bytes(), &1u64.to_le_bytes()] {
        assert!(read(bytes).is_err());
    }
    let mut long = vec![b' '; MAX_HEADER + 9];
    long[..8].copy_from_slice(&(MAX_HEADER as u64 + 1).to_le_bytes());
    long[8] = b'{';
    let error = read(&long).unwrap_err().to_string();
    assert!(error.contains("at most 25000000 bytes"), "{error}");
}

#[test]
fn tensors_are_counted_while_reading() {
    let rows = |n: usize| (0..n).map(|i| entry(&format!("t{i}"), "I8", "[0]", 0, 0)).collect::<Vec<_>>().join(",");
    assert_eq!(read(&file(&format!("{{{}}}", rows(MAX_TENSORS)), 0)).unwrap().len(), MAX_TENSORS);
    let error = read(&file(&format!("{{{}}}", rows(MAX_TENSORS + 1)), 0)).unwrap_err().to_string();
    assert!(error.contains("more than 200000 tensors"), "{error}");
}

/// Reads a header by the definition, with no thought for speed: every byte belongs to exactly one tensor.
fn consistent(header: &Value, data: u64) -> bool {
    let Some(tensors) = header.as_object() else { return false };
    let mut owners = vec![0u32; data as usize];
    for t in tensors.values() {
        let size = match t["dtype"].as_str() {
            Some("F32") => 4,
            Some("BF16") => 2,
            Some("I8" | "F8_E4M3" | "BOOL") => 1,
            _ => return false,
        };
        let count: u64 = t["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).product();
        let (from, to) = (t["data_offsets"][0].as_u64().unwrap(), t["data_offsets"][1].as_u64().unwrap());
        if from > to || to > data || to - from != count * size {
            return false;
        }
        owners[from as usize..to as usize].iter_mut().for_each(|o| *o += 1);
    }
    owners.iter().all(|&o| o == 1)
}

fn random_tensor() -> impl Strategy<Value = (String, Vec<u64>, i64, i64)> {
    let dtype = prop_oneof![
        10 => Just("F32"), 10 => Just("BF16"), 10 => Just("I8"), 5 => Just("F8_E4M3"), 5 => Just("BOOL"), 1 => Just("Q4"),
    ];
    // The last two shift the ends of an otherwise right span, rarely.
    let shift = || prop_oneof![24 => Just(0i64), 1 => -2i64..3];
    (dtype.prop_map(String::from), prop::collection::vec(0u64..4, 0..4), shift(), shift())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_headers_are_judged_as_by_the_definition(
        tensors in prop::collection::vec(random_tensor(), 0..6),
        extra in prop_oneof![12 => Just(0i64), 1 => -2i64..3],
    ) {
        let mut next = 0i64;
        let mut header = serde_json::Map::new();
        for (i, (dtype, shape, shift_from, shift_to)) in tensors.iter().enumerate() {
            let size = match dtype.as_str() { "F32" => 4, "BF16" => 2, _ => 1 };
            let end = next + shape.iter().product::<u64>() as i64 * size;
            let span = [(next + shift_from).max(0), (end + shift_to).max(0)];
            header.insert(format!("t{i}"), serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": span}));
            next = end;
        }
        let data = (next + extra).max(0) as usize;
        let header = Value::Object(header);
        let bytes = file(&header.to_string(), data);
        match read(&bytes) {
            Ok(entries) => {
                prop_assert!(consistent(&header, data as u64), "accepted {header} with {data} bytes");
                prop_assert!(entries.iter().all(|e| e.range.end <= bytes.len()));
            }
            // An empty tensor at an offset that splits another is refused by us and harmless by the definition.
            Err(_) => prop_assert!(
                !consistent(&header, data as u64) || tensors.iter().any(|t| t.1.contains(&0)),
                "refused {header} with {data} bytes"
            ),
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
    }

    #[test]
    fn arbitrary_json_never_panics(text in "[\\[\\]{}\":,a-e0-9.\\-_dtypeshap ]{0,120}", data in 0usize..16) {
        let _ = read(&file(&format!("{{{text}"), data));
        let _ = read(&file(&format!("{{\"a\":{{\"dtype\":\"I8\",\"shape\":[{text}],\"data_offsets\":[0,1]}}}}"), data));
    }

    #[test]
    fn a_damaged_header_never_panics_and_never_reads_outside(
        position in 0usize..400, byte in any::<u8>(), cut in 0usize..64,
    ) {
        let mut bytes = compose(&[("a", DType::F32, &[4, 4]), ("b.weight", DType::I8, &[9]), ("c", DType::BF16, &[2])]);
        let len = bytes.len() + 64 + 9 + 4;
        bytes.resize(len, 1);
        bytes[position % len] = byte;
        bytes.truncate(len - cut);
        if let Ok(entries) = read(&bytes) {
            prop_assert!(entries.iter().all(|e| e.range.start <= e.range.end && e.range.end <= bytes.len()));
            prop_assert_eq!(entries.last().map_or(bytes.len(), |e| e.range.end), bytes.len());
        }
    }
}
