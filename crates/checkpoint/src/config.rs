//! `config.json`, read field by field: architecture declarations ask, this file checks types and bounds.
use crate::{
    Error, Result,
    entry::Root,
    json,
    rope::{self, RopeConfig},
};
use planish_tensor::DType;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Integers from a configuration stay below this.
pub const MAX_DIMENSION: u64 = 1 << 31;

/// A model's `config.json`: every field in its order, and checked access to them.
/// A field that is `null` counts as absent.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    path: PathBuf,
    /// Dotted prefix for messages, when this is a nested object.
    prefix: String,
    fields: Map<String, Value>,
}

impl Config {
    /// Reads the text of a `config.json`; `path` is for messages.
    pub fn from_json(bytes: &[u8], path: &Path) -> Result<Config> {
        Ok(Config { path: path.into(), prefix: String::new(), fields: json::parse_object(bytes, path)? })
    }

    /// Reads `config.json` of a model directory (at most 16 MiB).
    pub fn open(dir: &Path) -> Result<Config> {
        let (bytes, path) = Root::open(dir)?.read("config.json", 16 << 20)?;
        Config::from_json(&bytes, &path)
    }

    /// The file, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every field as it was read, in its order.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// `architectures[0]`, such as `LlamaForCausalLM`.
    pub fn architecture(&self) -> Result<&str> {
        let expected = "a list with one class name";
        match self.get("architectures") {
            Some(Value::Array(list)) => match list.first() {
                Some(Value::String(name)) => Ok(name),
                _ => Err(self.wrong("architectures", expected)),
            },
            _ => Err(self.wrong("architectures", expected)),
        }
    }

    /// `model_type`, such as `llama`.
    pub fn model_type(&self) -> Result<&str> {
        self.str("model_type")
    }

    /// A nested object, such as `text_config`.
    pub fn section(&self, field: &str) -> Result<Option<Config>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Config {
                path: self.path.clone(),
                prefix: format!("{}{field}.", self.prefix),
                fields: fields.clone(),
            })),
            Some(_) => Err(self.wrong(field, "an object")),
        }
    }

    /// A dimension: an integer from 1 to 2^31 - 1.
    pub fn usize(&self, field: &str) -> Result<usize> {
        self.opt_usize(field)?.ok_or_else(|| self.wrong(field, "a positive integer below 2^31"))
    }

    /// A dimension that may be absent.
    pub fn opt_usize(&self, field: &str) -> Result<Option<usize>> {
        match self.opt_count(field)? {
            Some(0) => Err(self.wrong(field, "a positive integer below 2^31")),
            other => Ok(other),
        }
    }

    /// A count that may be absent or 0.
    pub fn opt_count(&self, field: &str) -> Result<Option<usize>> {
        let expected = "an integer from 0 to 2^31 - 1";
        self.get(field).map(|v| count_of(v).ok_or_else(|| self.wrong(field, expected))).transpose()
    }

    /// A finite number.
    pub fn f64(&self, field: &str) -> Result<f64> {
        self.opt_f64(field)?.ok_or_else(|| self.wrong(field, "a finite number"))
    }

    /// A finite number that may be absent.
    pub fn opt_f64(&self, field: &str) -> Result<Option<f64>> {
        let finite = |v: &Value| v.as_f64().filter(|x| x.is_finite());
        self.get(field).map(|v| finite(v).ok_or_else(|| self.wrong(field, "a finite number"))).transpose()
    }

    /// A truth value.
    pub fn bool(&self, field: &str) -> Result<bool> {
        self.opt_bool(field)?.ok_or_else(|| self.wrong(field, "true or false"))
    }

    /// A truth value that may be absent.
    pub fn opt_bool(&self, field: &str) -> Result<Option<bool>> {
        self.get(field).map(|v| v.as_bool().ok_or_else(|| self.wrong(field, "true or false"))).transpose()
    }

    /// A string.
    pub fn str(&self, field: &str) -> Result<&str> {
        self.opt_str(field)?.ok_or_else(|| self.wrong(field, "a string"))
    }

    /// A string that may be absent.
    pub fn opt_str(&self, field: &str) -> Result<Option<&str>> {
        self.get(field).map(|v| v.as_str().ok_or_else(|| self.wrong(field, "a string"))).transpose()
    }

    /// A list of integers from 0 to 2^31 - 1, such as `no_rope_layers`; `None` when absent.
    pub fn opt_counts(&self, field: &str) -> Result<Option<Vec<usize>>> {
        self.list(field, "a list of integers from 0 to 2^31 - 1", count_of)
    }

    /// A list of strings, such as `layer_types`; `None` when absent.
    pub fn opt_strings(&self, field: &str) -> Result<Option<Vec<String>>> {
        self.list(field, "a list of strings", |v| v.as_str().map(String::from))
    }

    /// A list of finite numbers; `None` when absent.
    pub fn opt_f64s(&self, field: &str) -> Result<Option<Vec<f64>>> {
        self.list(field, "a list of finite numbers", |v| v.as_f64().filter(|x| x.is_finite()))
    }

    /// Type of the float weights: `dtype`, or `torch_dtype` as transformers 4 wrote it.
    pub fn dtype(&self) -> Result<Option<DType>> {
        for field in ["dtype", "torch_dtype"] {
            if let Some(name) = self.opt_str(field)? {
                let known = match name.strip_prefix("torch.").unwrap_or(name) {
                    "float32" | "float" => DType::F32,
                    "float16" | "half" => DType::F16,
                    "bfloat16" => DType::BF16,
                    _ => return Err(self.wrong(field, "float32, float16 or bfloat16")),
                };
                return Ok(Some(known));
            }
        }
        Ok(None)
    }

    /// `eos_token_id`: one id or a list of them; empty when absent.
    pub fn eos_token_ids(&self) -> Result<Vec<u32>> {
        self.token_ids("eos_token_id")
    }

    /// A token id; `None` when absent or negative (some writers say -1 for none).
    pub fn token_id(&self, field: &str) -> Result<Option<u32>> {
        Ok(self.token_ids(field)?.first().copied())
    }

    /// Rotary embedding of the model, or of its `full_attention` layers where kinds differ.
    pub fn rope(&self) -> Result<RopeConfig> {
        rope::read(self, "full_attention")
    }

    /// Rotary embedding of the layers of this type, such as `sliding_attention`.
    pub fn rope_of(&self, layer_type: &str) -> Result<RopeConfig> {
        rope::read(self, layer_type)
    }

    /// The text of this configuration with `quantization_config` replaced by `quantization` (or removed).
    pub fn to_json_with(&self, quantization: Option<Value>) -> Vec<u8> {
        let mut fields = self.fields.clone();
        fields.shift_remove("compression_config");
        fields.shift_remove("quantization_config");
        if let Some(value) = quantization {
            fields.insert("quantization_config".into(), value);
        }
        json::pretty(&Value::Object(fields))
    }

    /// The same with one field set.
    pub fn with(&self, field: &str, value: Value) -> Config {
        let mut out = self.clone();
        out.fields.insert(field.into(), value);
        out
    }

    /// The error that `field` is not `expected`; shows what is there.
    pub fn wrong(&self, field: &str, expected: &str) -> Error {
        let found = self.fields.get(field).map_or("nothing".into(), json::shown);
        Error::field(&self.path, format!("{}{field}", self.prefix), expected, found)
    }

    pub(crate) fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|v| !v.is_null())
    }

    /// The nested object of this name, if the field is one.
    pub(crate) fn section_if_object(&self, field: &str) -> Option<Config> {
        self.get(field)?.as_object()?;
        self.section(field).ok().flatten()
    }

    fn list<T>(&self, field: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<Vec<T>>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Array(items)) if items.len() <= 1 << 20 => {
                items.iter().map(read).collect::<Option<_>>().map(Some).ok_or_else(|| self.wrong(field, expected))
            }
            Some(_) => Err(self.wrong(field, expected)),
        }
    }

    fn token_ids(&self, field: &str) -> Result<Vec<u32>> {
        let items = match self.get(field) {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items.as_slice(),
            Some(one) => std::slice::from_ref(one),
        };
        let mut ids = Vec::new();
        for item in items {
            match item.as_i64() {
                Some(id) if id < 0 => {}
                Some(id) if (id as u64) < MAX_DIMENSION => ids.push(id as u32),
                _ => return Err(self.wrong(field, "a token id or a list of them")),
            }
        }
        Ok(ids)
    }
}

fn count_of(value: &Value) -> Option<usize> {
    value.as_u64().filter(|&n| n < MAX_DIMENSION).map(|n| n as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::from_json(text.as_bytes(), Path::new("dir/config.json")).unwrap()
    }

    #[test]
    fn bounds_and_types_name_file_field_expected_and_found() {
        let c = config(r#"{"a": 0, "b": 2147483648, "c": -1, "d": "x", "e": 1.5, "f": null, "g": [1, "y"], "h": 7}"#);
        assert_eq!(c.usize("h").unwrap(), 7);
        assert_eq!(c.opt_count("a").unwrap(), Some(0));
        assert_eq!(c.opt_usize("f").unwrap(), None);
        for field in ["a", "b", "c", "d", "e", "f", "g", "missing"] {
            let error = c.usize(field).unwrap_err().to_string();
            assert!(error.starts_with(&format!("dir/config.json: field {field}: expected ")), "{error}");
        }
        let error = c.usize("b").unwrap_err().to_string();
        assert_eq!(error, "dir/config.json: field b: expected an integer from 0 to 2^31 - 1, found 2147483648");
        assert!(c.bool("h").is_err() && c.str("h").is_err() && c.f64("d").is_err() && c.opt_counts("g").is_err());
        assert!(c.architecture().is_err() && c.model_type().is_err());
    }

    #[test]
    fn token_ids_are_one_or_many() {
        let c = config(r#"{"eos_token_id": [128001, 128009], "pad_token_id": -1, "bos_token_id": 1}"#);
        assert_eq!(c.eos_token_ids().unwrap(), [128001, 128009]);
        assert_eq!((c.token_id("pad_token_id").unwrap(), c.token_id("bos_token_id").unwrap()), (None, Some(1)));
        assert!(config(r#"{"eos_token_id": "x"}"#).eos_token_ids().is_err());
    }

    #[test]
    fn sections_keep_their_place_in_messages() {
        let c = config(r#"{"text_config": {"hidden_size": "big"}}"#);
        let error = c.section("text_config").unwrap().unwrap().usize("hidden_size").unwrap_err().to_string();
        assert!(error.contains("field text_config.hidden_size:"), "{error}");
    }

    #[test]
    fn rewriting_keeps_order_and_replaces_only_the_scheme() {
        let c = config(r#"{"z": 1, "quantization_config": {"old": 1}, "a": {"y": 1.5, "b": []}}"#);
        let text = String::from_utf8(c.to_json_with(Some(serde_json::json!({"new": 2})))).unwrap();
        assert_eq!(
            text,
            "{\n  \"z\": 1,\n  \"a\": {\n    \"y\": 1.5,\n    \"b\": []\n  },\n  \"quantization_config\": {\n    \
             \"new\": 2\n  }\n}\n"
        );
    }
}
