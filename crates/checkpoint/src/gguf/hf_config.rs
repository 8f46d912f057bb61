//! The `config.json` and `generation_config.json` that a Hugging Face copy of the model would have.
use super::error::{GgufError, Result};
use super::factors::rope_scaling;
use super::file::GgufFile;
use super::metadata::Metadata;
use super::names::Dims;
use super::tokenizer::GgufTokenizer;
use serde_json::{Map, Value, json};

const EPSILON: &str = "attention.layer_norm_rms_epsilon";
const FFN: &str = "feed_forward_length";
const MAX_EXPERTS: u64 = 4096;

/// Numbers that both the names and the config need.
pub(super) fn dims(meta: &Metadata, arch: &str) -> Result<Dims> {
    let key = |name: &str| format!("{arch}.{name}");
    let heads = positive(&key("attention.head_count"), meta.integer_of_all_layers(&key("attention.head_count"))?)?;
    let kv_heads = match meta.integer_of_all_layers(&key("attention.head_count_kv"))? {
        None => heads,
        found => positive(&key("attention.head_count_kv"), found)?,
    };
    Ok(Dims {
        layers: positive(&key("block_count"), meta.integer(&key("block_count"))?)?,
        heads,
        kv_heads,
        experts: match meta.integer(&key("expert_count"))?.unwrap_or(0) {
            // Each expert costs a few names, whatever its size.
            n if n > MAX_EXPERTS => {
                return Err(GgufError::malformed(key("expert_count"), format!("at most {MAX_EXPERTS}"), n));
            }
            n => n as usize,
        },
    })
}

/// The config. `divisors` are the values of `rope_freqs.weight`.
pub(super) fn config(
    file: &GgufFile,
    arch: &str,
    dims: &Dims,
    tokenizer: &GgufTokenizer,
    torch_dtype: &str,
    divisors: Option<&[f32]>,
) -> Result<Value> {
    let meta = file.metadata();
    let key = |name: &str| format!("{arch}.{name}");
    let hidden = meta.required_integer(&key("embedding_length"))?;
    let d = head_dim(meta, arch, hidden, dims)?;
    let theta = meta.real(&key("rope.freq_base"))?.unwrap_or(10_000.0);
    let eps = present(meta.real(&key(EPSILON))?, &key(EPSILON))?;
    let ffn = present(meta.integer_of_all_layers(&key(FFN))?, &key(FFN))?;
    let mut out = json!({
        "architectures": [], "model_type": "", "hidden_act": "silu",
        "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": dims.layers,
        "num_attention_heads": dims.heads, "num_key_value_heads": dims.kv_heads, "head_dim": d,
        "vocab_size": vocabulary(file)?,
        "max_position_embeddings": meta.required_integer(&key("context_length"))?,
        "rms_norm_eps": six_digits(eps), "rope_theta": theta,
        "rope_scaling": rope_scaling(meta, arch, theta, divisors)?,
        "attention_bias": file.tensor("blk.0.attn_q.bias").is_some(),
        "attention_dropout": 0.0,
        "tie_word_embeddings": file.tensor("output.weight").is_none(),
        "torch_dtype": torch_dtype, "use_cache": true,
        "bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id,
    });
    if let Some(rotary) = meta.integer(&key("rope.dimension_count"))?.filter(|&rotary| rotary != d) {
        out["partial_rotary_factor"] = (rotary as f64 / d as f64).into();
    }
    let (class, model_type, extra) = family(file, arch, dims)?;
    out["architectures"] = json!([class]);
    out["model_type"] = model_type.into();
    if let Value::Object(fields) = &mut out {
        fields.extend(extra);
    }
    Ok(out)
}

/// The generation config: ids only, all the ends of a turn among them.
pub(super) fn generation_config(tokenizer: &GgufTokenizer) -> Value {
    let eos = match (tokenizer.eos_id, tokenizer.eot_id) {
        (Some(eos), Some(eot)) => json!([eos, eot]),
        (eos, eot) => json!(eos.or(eot)),
    };
    let all =
        [("bos_token_id", json!(tokenizer.bos_id)), ("eos_token_id", eos), ("pad_token_id", json!(tokenizer.pad_id))];
    Value::Object(all.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.to_owned(), v)).collect())
}

/// Class, `model_type` and the fields that only this family has.
fn family(file: &GgufFile, arch: &str, dims: &Dims) -> Result<(&'static str, &'static str, Map<String, Value>)> {
    let meta = file.metadata();
    let key = |name: &str| format!("{arch}.{name}");
    let mut extra = Map::new();
    let mut set = |name: &str, value: Value| extra.insert(name.to_owned(), value);
    let window = meta.integer(&key("attention.sliding_window"))?.filter(|&w| w > 0);
    let names = match arch {
        "llama" if dims.experts > 0 => {
            set("num_local_experts", dims.experts.into());
            set("num_experts_per_tok", meta.required_integer(&key("expert_used_count"))?.into());
            set("sliding_window", json!(window));
            ("MixtralForCausalLM", "mixtral")
        }
        "llama" if window.is_some() => {
            set("sliding_window", json!(window));
            ("MistralForCausalLM", "mistral")
        }
        "llama" => {
            set("mlp_bias", file.tensor("blk.0.ffn_gate.bias").is_some().into());
            ("LlamaForCausalLM", "llama")
        }
        "granite" => {
            for (from, to) in GRANITE {
                let found = present(meta.real(&key(from))?, &key(from))?;
                set(to, six_digits(found).into());
            }
            set("mlp_bias", file.tensor("blk.0.ffn_gate.bias").is_some().into());
            ("GraniteForCausalLM", "granite")
        }
        "qwen2" | "qwen3" => {
            set("use_sliding_window", false.into());
            if arch == "qwen2" { ("Qwen2ForCausalLM", "qwen2") } else { ("Qwen3ForCausalLM", "qwen3") }
        }
        _ => qwen_experts(meta, arch, dims, &mut set)?,
    };
    Ok((names.0, names.1, extra))
}

/// Granite's multipliers: the key here, the field there.
const GRANITE: [(&str, &str); 4] = [
    ("attention.scale", "attention_multiplier"),
    ("embedding_scale", "embedding_multiplier"),
    ("residual_scale", "residual_multiplier"),
    ("logit_scale", "logits_scaling"),
];

fn qwen_experts(
    meta: &Metadata,
    arch: &str,
    dims: &Dims,
    set: &mut impl FnMut(&str, Value) -> Option<Value>,
) -> Result<(&'static str, &'static str)> {
    let key = |name: &str| format!("{arch}.{name}");
    set("use_sliding_window", false.into());
    set("num_experts", dims.experts.into());
    set("num_experts_per_tok", meta.required_integer(&key("expert_used_count"))?.into());
    set("moe_intermediate_size", meta.required_integer(&key("expert_feed_forward_length"))?.into());
    set("decoder_sparse_step", 1.into());
    set("mlp_only_layers", json!([]));
    // The file does not say; these are the fixed choices of the published models.
    set("norm_topk_prob", (arch == "qwen3moe").into());
    if arch == "qwen3moe" {
        return Ok(("Qwen3MoeForCausalLM", "qwen3_moe"));
    }
    let shared = meta.required_integer(&key("expert_shared_feed_forward_length"))?;
    set("shared_expert_intermediate_size", shared.into());
    Ok(("Qwen2MoeForCausalLM", "qwen2_moe"))
}

fn head_dim(meta: &Metadata, arch: &str, hidden: u64, dims: &Dims) -> Result<u64> {
    let (key, value) = (format!("{arch}.attention.key_length"), format!("{arch}.attention.value_length"));
    let d = match meta.integer(&key)? {
        Some(d) => d,
        None if hidden.is_multiple_of(dims.heads as u64) => hidden / dims.heads as u64,
        None => {
            let expected = format!("a multiple of the {} heads", dims.heads);
            return Err(GgufError::malformed(format!("{arch}.embedding_length"), expected, hidden));
        }
    };
    match meta.integer(&value)? {
        Some(v) if v != d => Err(GgufError::malformed(value, format!("the {d} of keys"), v)),
        _ if d == 0 => Err(GgufError::malformed(key, "at least 1", 0)),
        _ => Ok(d),
    }
}

/// Rows of the embedding, which may be more than the tokenizer has tokens.
fn vocabulary(file: &GgufFile) -> Result<usize> {
    let embedding = file.tensor("token_embd.weight").filter(|t| t.shape.len() == 2);
    Ok(embedding.ok_or_else(|| GgufError::MissingTensor { name: "token_embd.weight".into() })?.shape[0])
}

fn present<T>(found: Option<T>, key: &str) -> Result<T> {
    found.ok_or_else(|| GgufError::MissingKey { key: key.to_owned(), expected: "a number" })
}

fn positive(key: &str, found: Option<u64>) -> Result<usize> {
    match found {
        Some(0) => Err(GgufError::malformed(key, "at least 1", 0)),
        Some(n) => usize::try_from(n).map_err(|_| GgufError::overflow(key)),
        None => Err(GgufError::MissingKey { key: key.to_owned(), expected: "a positive integer" }),
    }
}

/// Takes the f32 noise off a number that was typed in decimal: 9.99999974e-6 is 1e-5.
fn six_digits(x: f64) -> f64 {
    format!("{x:.5e}").parse().unwrap_or(x)
}
