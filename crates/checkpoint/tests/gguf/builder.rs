//! Writes small GGUF files for the tests, right or wrong as asked.
use std::sync::Arc;

/// Metadata and tensors to be written in the order given.
pub struct Builder {
    pub version: u32,
    pub alignment: usize,
    pub keys: Vec<(String, Vec<u8>)>,
    pub tensors: Vec<Tensor>,
}

/// A tensor to be written; `offset` overrides the right one.
pub struct Tensor {
    pub name: String,
    /// Outermost first.
    pub shape: Vec<u64>,
    pub ty: u32,
    pub data: Vec<u8>,
    pub offset: Option<u64>,
}

impl Builder {
    pub fn new() -> Builder {
        Builder { version: 3, alignment: 32, keys: Vec::new(), tensors: Vec::new() }
    }

    /// The type number and the bytes of a value.
    pub fn raw(mut self, key: &str, ty: u32, value: &[u8]) -> Builder {
        let mut bytes = ty.to_le_bytes().to_vec();
        bytes.extend(value);
        self.keys.push((key.to_owned(), bytes));
        self
    }

    pub fn u32(self, key: &str, value: u32) -> Builder {
        self.raw(key, 4, &value.to_le_bytes())
    }

    pub fn f32(self, key: &str, value: f32) -> Builder {
        self.raw(key, 6, &value.to_le_bytes())
    }

    pub fn text(self, key: &str, value: &str) -> Builder {
        self.raw(key, 8, &string(value.as_bytes()))
    }

    pub fn texts(self, key: &str, values: &[&str]) -> Builder {
        let elements: Vec<u8> = values.iter().flat_map(|v| string(v.as_bytes())).collect();
        self.raw(key, 9, &array(8, values.len() as u64, &elements))
    }

    pub fn i32s(self, key: &str, values: &[i32]) -> Builder {
        let elements: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.raw(key, 9, &array(5, values.len() as u64, &elements))
    }

    pub fn tensor(mut self, name: &str, shape: &[u64], ty: u32, data: Vec<u8>) -> Builder {
        self.tensors.push(Tensor { name: name.to_owned(), shape: shape.to_vec(), ty, data, offset: None });
        self
    }

    pub fn f32_tensor(self, name: &str, shape: &[u64], values: &[f32]) -> Builder {
        self.tensor(name, shape, 0, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    pub fn build(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            out.extend(string(key.as_bytes()));
            out.extend(value);
        }
        let mut offset = 0u64;
        for t in &self.tensors {
            out.extend(string(t.name.as_bytes()));
            out.extend((t.shape.len() as u32).to_le_bytes());
            t.shape.iter().rev().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(t.ty.to_le_bytes());
            out.extend(t.offset.unwrap_or(offset).to_le_bytes());
            offset = (offset + t.data.len() as u64).next_multiple_of(self.alignment as u64);
        }
        for t in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend(&t.data);
        }
        out
    }
}

pub fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

pub fn array(ty: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&ty.to_le_bytes()[..], &count.to_le_bytes(), elements].concat()
}

/// Parses bytes as a file.
pub fn parse(bytes: Vec<u8>) -> Result<planish_checkpoint::gguf::GgufFile, planish_checkpoint::gguf::GgufError> {
    planish_checkpoint::gguf::GgufFile::parse(Arc::new(bytes))
}

/// Metadata of a tiny model: `arch`, one layer, 4 query and 2 KV heads of 4, hidden 16, four tokens.
pub fn tiny(arch: &str) -> Builder {
    let key = |name: &str| format!("{arch}.{name}");
    Builder::new()
        .text("general.architecture", arch)
        .u32(&key("block_count"), 1)
        .u32(&key("context_length"), 64)
        .u32(&key("embedding_length"), 16)
        .u32(&key("feed_forward_length"), 32)
        .u32(&key("attention.head_count"), 4)
        .u32(&key("attention.head_count_kv"), 2)
        .f32(&key("attention.layer_norm_rms_epsilon"), 1e-5)
        .f32(&key("rope.freq_base"), 10000.0)
        .text("tokenizer.ggml.model", "gpt2")
        .texts("tokenizer.ggml.tokens", &["a", "b", "ab", "<e>"])
        .i32s("tokenizer.ggml.token_type", &[1, 1, 1, 3])
        .texts("tokenizer.ggml.merges", &["a b"])
        .u32("tokenizer.ggml.eos_token_id", 3)
}

/// `n` distinct values that bf16 rounds, except for powers of two.
pub fn ramp(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i as f32 + 1.0) * 1.001).collect()
}

/// As [`tiny`], with every tensor of the layer in F32.
pub fn tiny_with_tensors(arch: &str) -> Builder {
    tiny(arch)
        .f32_tensor("token_embd.weight", &[4, 16], &ramp(64))
        .f32_tensor("blk.0.attn_norm.weight", &[16], &ramp(16))
        .f32_tensor("blk.0.attn_q.weight", &[16, 16], &ramp(256))
        .f32_tensor("blk.0.attn_k.weight", &[8, 16], &ramp(128))
        .f32_tensor("blk.0.attn_v.weight", &[8, 16], &ramp(128))
        .f32_tensor("blk.0.attn_output.weight", &[16, 16], &ramp(256))
        .f32_tensor("blk.0.ffn_norm.weight", &[16], &ramp(16))
        .f32_tensor("blk.0.ffn_gate.weight", &[32, 16], &ramp(512))
        .f32_tensor("blk.0.ffn_up.weight", &[32, 16], &ramp(512))
        .f32_tensor("blk.0.ffn_down.weight", &[16, 32], &ramp(512))
        .f32_tensor("output_norm.weight", &[16], &ramp(16))
}
