//! Reads the small safetensors fixtures of the golden tests.
use serde_json::Value;
use std::collections::BTreeMap;

/// A tensor of a fixture.
pub struct Tensor {
    /// Safetensors' name of the element type.
    pub dtype: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Little-endian elements.
    pub bytes: Vec<u8>,
}

impl Tensor {
    /// The values, widened to f32.
    pub fn f32(&self) -> Vec<f32> {
        match self.dtype.as_str() {
            "F32" => self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
            "BF16" => {
                self.bytes.chunks_exact(2).map(|b| f32::from_bits(u32::from_le_bytes([0, 0, b[0], b[1]]))).collect()
            }
            other => panic!("{other} is not a float"),
        }
    }
}

/// Every tensor of `tests/data/<file>`.
pub fn load(file: &str) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(format!("{}/tests/data/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let entries: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let mut out = BTreeMap::new();
    for (name, entry) in entries.into_iter().filter(|(name, _)| name != "__metadata__") {
        let numbers = |key: &str| -> Vec<usize> { serde_json::from_value(entry[key].clone()).unwrap() };
        let at = numbers("data_offsets");
        let bytes = bytes[8 + header + at[0]..8 + header + at[1]].to_vec();
        out.insert(name, Tensor { dtype: entry["dtype"].as_str().unwrap().into(), shape: numbers("shape"), bytes });
    }
    out
}
