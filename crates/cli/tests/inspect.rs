//! `planish inspect` reads index, configuration and headers, whatever lies behind them.
mod program;

use program::{golden, inspect, read_json, scratch};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::Write;
use std::path::Path;

// Hidden width, MLP width, vocabulary, width of k and v, layers: those of Llama 3 8B.
const H: usize = 4096;
const F: usize = 14336;
const V: usize = 128_256;
const KV: usize = 1024;
const LAYERS: usize = 32;

fn tensors() -> Vec<(String, Vec<usize>)> {
    let mut all: Vec<(String, Vec<usize>)> =
        vec![("model.embed_tokens.weight".into(), vec![V, H]), ("lm_head.weight".into(), vec![V, H])];
    all.push(("model.norm.weight".into(), vec![H]));
    for layer in 0..LAYERS {
        let mut add = |name: &str, shape| all.push((format!("model.layers.{layer}.{name}.weight"), shape));
        add("input_layernorm", vec![H]);
        add("post_attention_layernorm", vec![H]);
        for (name, n, k) in [("q", H, H), ("k", KV, H), ("v", KV, H), ("o", H, H)] {
            add(&format!("self_attn.{name}_proj"), vec![n, k]);
        }
        for (name, n, k) in [("gate", F, H), ("up", F, H), ("down", H, F)] {
            add(&format!("mlp.{name}_proj"), vec![n, k]);
        }
    }
    all
}

/// A shard whose tensors are a hole in the file; its length.
fn sparse_shard(path: &Path, tensors: &[(String, Vec<usize>)]) -> u64 {
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in tensors {
        let bytes = 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [end, end + bytes]}));
        end += bytes;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
    end as u64
}

#[test]
fn sixteen_gigabytes_of_nothing() {
    let dir = scratch();
    let mut config = read_json(&golden("llama").join("config.json"));
    let sizes = json!({
        "hidden_size": H, "intermediate_size": F, "vocab_size": V, "num_hidden_layers": LAYERS,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": false,
    });
    config.as_object_mut().unwrap().extend(sizes.as_object().unwrap().clone());
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let (mut map, mut total) = (Map::new(), 0);
    for (i, part) in tensors().chunks(80).enumerate() {
        let name = format!("model-{i}.safetensors");
        map.extend(part.iter().map(|(tensor, _)| (tensor.clone(), json!(name))));
        total += sparse_shard(&dir.path().join(&name), part);
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    std::fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let document = inspect(dir.path()).words("--json").run().json();
    assert_eq!(document["bytes"], json!(16_060_522_496_u64));
    assert_eq!(document["parameters"], json!(8_030_261_248_u64));
    assert_eq!(document["types"]["BF16"]["tensors"], json!(291));
}
