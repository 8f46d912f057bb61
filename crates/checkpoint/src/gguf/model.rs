//! A GGUF file as a Hugging Face model: names, shapes, row order, config. Values are widened on demand, none kept.
use super::dequant::dequantize;
use super::error::{GgufError, Result};
use super::file::{GgufFile, GgufTensor};
use super::hf_config;
use super::names::{self, Part};
use super::tokenizer::GgufTokenizer;
use super::types::GgmlType;
use planish_tensor::{DType, HostTensor, host::encode_f32};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// Element type in which a [`GgufModel`] hands out its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufDtype {
    /// Rounded to nearest even.
    Bf16,
    /// As dequantized.
    F32,
}

impl GgufDtype {
    fn dtype(self) -> DType {
        match self {
            GgufDtype::Bf16 => DType::BF16,
            GgufDtype::F32 => DType::F32,
        }
    }
}

/// A GGUF file seen as a Hugging Face checkpoint.
pub struct GgufModel {
    file: GgufFile,
    dtype: GgufDtype,
    /// Hugging Face name -> index in the file's table, and which part of that tensor.
    parts: BTreeMap<String, (usize, Part)>,
    config: Value,
    generation_config: Value,
    tokenizer: GgufTokenizer,
}

impl std::fmt::Debug for GgufModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GgufModel({:?}, {} tensors)", self.file, self.parts.len())
    }
}

impl GgufModel {
    /// Maps and checks the file at `path`; its tensors will come as `dtype`.
    ///
    /// # Errors
    /// As [`GgufModel::new`], with the path in front.
    pub fn open(path: impl AsRef<Path>, dtype: GgufDtype) -> Result<GgufModel> {
        let path = path.as_ref();
        let file = GgufFile::open(path)?;
        GgufModel::new(file, dtype)
            .map_err(|source| GgufError::InFile { path: path.to_owned(), source: Box::new(source) })
    }

    /// A view of `file`.
    ///
    /// # Errors
    /// An architecture, tensor name or rotary scaling without a Hugging Face counterpart; missing or contradictory
    /// metadata.
    pub fn new(file: GgufFile, dtype: GgufDtype) -> Result<GgufModel> {
        let meta = file.metadata();
        let name = meta.text("general.architecture")?.ok_or_else(|| GgufError::MissingKey {
            key: "general.architecture".to_owned(),
            expected: "the name of an architecture",
        })?;
        let arch = names::find(name)?;
        let dims = hf_config::dims(meta, arch.name)?;
        let mut parts = BTreeMap::new();
        for (i, tensor) in file.tensors().iter().enumerate() {
            for part in names::parts(arch, &dims, tensor)? {
                if let Some((_, old)) = parts.insert(part.name.clone(), (i, part)) {
                    return Err(GgufError::Duplicate { kind: "tensor", name: old.name });
                }
            }
        }
        let tokenizer = GgufTokenizer::read(meta)?;
        let divisors = file.tensor("rope_freqs.weight").map(|t| values(&file, t)).transpose()?;
        let torch_dtype = if dtype == GgufDtype::Bf16 { "bfloat16" } else { "float32" };
        let config = hf_config::config(&file, arch.name, &dims, &tokenizer, torch_dtype, divisors.as_deref())?;
        let generation_config = hf_config::generation_config(&tokenizer);
        Ok(GgufModel { file, dtype, parts, config, generation_config, tokenizer })
    }

    /// Hugging Face names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.keys().map(String::as_str)
    }

    /// True when there is a tensor of this Hugging Face name.
    pub fn contains(&self, name: &str) -> bool {
        self.parts.contains_key(name)
    }

    /// Dimensions of a tensor, outermost first, without reading it.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.parts.get(name).map(|(_, part)| part.shape.as_slice())
    }

    /// Reads a tensor: dequantized, rows in Hugging Face order, in this model's [`GgufDtype`].
    ///
    /// # Errors
    /// [`GgufError::MissingTensor`].
    pub fn tensor(&self, name: &str) -> Result<HostTensor> {
        let found = self.parts.get(name);
        let (i, part) = found.ok_or_else(|| GgufError::MissingTensor { name: name.to_owned() })?;
        let bytes = self.read(&self.file.tensors()[*i], part)?;
        Ok(HostTensor::from_bytes(self.dtype.dtype(), part.shape.clone(), bytes)?)
    }

    /// Type and shape of a tensor and its blocks as the file has them, which takes no reading of values.
    pub(crate) fn stored(&self, name: &str) -> Option<(GgmlType, &[usize], &[u8])> {
        let (i, part) = self.parts.get(name)?;
        let tensor = &self.file.tensors()[*i];
        Some((tensor.ty, &part.shape, self.blocks(tensor, part).0))
    }

    /// The `config.json`.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The `generation_config.json`.
    pub fn generation_config(&self) -> &Value {
        &self.generation_config
    }

    /// The tokenizer's raw fields.
    pub fn tokenizer(&self) -> &GgufTokenizer {
        &self.tokenizer
    }

    /// The file behind this view.
    pub fn file(&self) -> &GgufFile {
        &self.file
    }

    /// The blocks of a part, their rows, and bytes of a row.
    fn blocks(&self, tensor: &GgufTensor, part: &Part) -> (&[u8], Range<usize>, usize) {
        let columns = tensor.shape.last().copied().unwrap_or(1);
        let row_bytes = columns / tensor.ty.block_elements() * tensor.ty.block_bytes();
        let rows = part.elements.start / columns..part.elements.end / columns;
        (&self.file.data(tensor)[rows.start * row_bytes..rows.end * row_bytes], rows, row_bytes)
    }

    /// Dequantizes row by row, so that only one row is ever held in f32, and puts each row where it belongs.
    fn read(&self, tensor: &GgufTensor, part: &Part) -> Result<Vec<u8>> {
        let (dtype, ty) = (self.dtype.dtype(), tensor.ty);
        let columns = tensor.shape.last().copied().unwrap_or(1);
        let (data, rows, row_bytes) = self.blocks(tensor, part);
        if part.interleaved_heads.is_none() && is_stored_as(ty, dtype) {
            return Ok(data.to_vec());
        }
        let mut out = vec![0u8; part.elements.len() * dtype.size()];
        let mut row = vec![0f32; columns];
        for (r, blocks) in data.chunks_exact(row_bytes).enumerate() {
            dequantize(ty, blocks, &mut row)?;
            let (to, values) = match part.interleaved_heads {
                Some(heads) if part.shape.len() == 1 => (0, restore_elements(&row, heads)),
                Some(heads) => (restored_row(r, rows.len() / heads), row.clone()),
                None => (r, row.clone()),
            };
            let encoded = encode_f32(dtype, &values)?;
            out[to * encoded.len()..][..encoded.len()].copy_from_slice(&encoded);
        }
        Ok(out)
    }
}

/// Where row `r` belongs. In a head of `d` rows the file alternates the two halves that rotary embedding pairs up:
/// 0, d/2, 1, d/2 + 1, ...
fn restored_row(r: usize, d: usize) -> usize {
    let (head, i) = (r / d, r % d);
    head * d + i % 2 * (d / 2) + i / 2
}

/// As [`restored_row`], for a bias.
fn restore_elements(row: &[f32], heads: usize) -> Vec<f32> {
    let mut out = vec![0.0; row.len()];
    for (r, &x) in row.iter().enumerate() {
        out[restored_row(r, row.len() / heads)] = x;
    }
    out
}

fn is_stored_as(ty: GgmlType, dtype: DType) -> bool {
    matches!((ty, dtype), (GgmlType::F32, DType::F32) | (GgmlType::BF16, DType::BF16))
}

/// All values of a small tensor.
fn values(file: &GgufFile, tensor: &GgufTensor) -> Result<Vec<f32>> {
    let mut out = vec![0.0; tensor.shape.iter().product()];
    dequantize(tensor.ty, file.data(tensor), &mut out)?;
    Ok(out)
}
