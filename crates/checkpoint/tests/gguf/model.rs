//! The Hugging Face view of a GGUF: names, row order, rounding, config, tokenizer.
use crate::builder::{Builder, array, parse, ramp, tiny, tiny_with_tensors};
use half::bf16;
use planish_checkpoint::gguf::{GgufDtype, GgufModel, GgufSource};
use planish_checkpoint::source::TensorSource;
use planish_tensor::DType;
use serde_json::{Value, json};

fn model(builder: &Builder, dtype: GgufDtype) -> GgufModel {
    GgufModel::new(parse(builder.build()).unwrap(), dtype).unwrap()
}

fn refusal(builder: Builder) -> String {
    GgufModel::new(parse(builder.build()).unwrap(), GgufDtype::F32).expect_err("should be refused").to_string()
}

/// Row order in a head of four: the file has the pairs (0, 2) and (1, 3) side by side.
const FILE_ROW: [usize; 4] = [0, 2, 1, 3];

#[test]
fn names_shapes_and_row_order_are_restored() {
    let builder = tiny_with_tensors("llama").f32_tensor("blk.0.attn_q.bias", &[16], &ramp(16)).f32_tensor(
        "blk.0.attn_v.bias",
        &[8],
        &ramp(8),
    );
    let model = model(&builder, GgufDtype::F32);
    let layer = "model.layers.0.";
    let mut expected = vec!["model.embed_tokens.weight".to_owned(), "model.norm.weight".to_owned()];
    for part in [
        "input_layernorm.weight",
        "self_attn.q_proj.weight",
        "self_attn.q_proj.bias",
        "self_attn.k_proj.weight",
        "self_attn.v_proj.weight",
        "self_attn.v_proj.bias",
        "self_attn.o_proj.weight",
        "post_attention_layernorm.weight",
        "mlp.gate_proj.weight",
        "mlp.up_proj.weight",
        "mlp.down_proj.weight",
    ] {
        expected.push(format!("{layer}{part}"));
    }
    expected.sort();
    assert_eq!(model.names().collect::<Vec<_>>(), expected);
    assert!(model.contains("model.norm.weight") && !model.contains("lm_head.weight"));
    assert_eq!(model.shape("model.layers.0.mlp.down_proj.weight"), Some(&[16, 32][..]));

    for (part, rows) in [("q_proj", 16), ("k_proj", 8)] {
        let w = model.tensor(&format!("{layer}self_attn.{part}.weight")).unwrap();
        assert_eq!((w.shape(), w.dtype()), (&[rows, 16][..], DType::F32));
        let (w, source) = (w.to_f32(), ramp(rows * 16));
        for r in 0..rows {
            let from = r / 4 * 4 + FILE_ROW[r % 4];
            assert_eq!(w[r * 16..][..16], source[from * 16..][..16], "{part} row {r}");
        }
    }
    let bias = model.tensor("model.layers.0.self_attn.q_proj.bias").unwrap().to_f32();
    assert_eq!(bias, (0..16).map(|r| ramp(16)[r / 4 * 4 + FILE_ROW[r % 4]]).collect::<Vec<_>>());
    assert_eq!(model.tensor("model.layers.0.self_attn.v_proj.weight").unwrap().to_f32(), ramp(128));
    let missing = model.tensor("lm_head.weight").unwrap_err().to_string();
    assert_eq!(missing, "no tensor 'lm_head.weight' in this GGUF model");
}

#[test]
fn qwen_rows_stay_where_they_are() {
    let builder = tiny_with_tensors("qwen3").f32_tensor("blk.0.attn_q_norm.weight", &[4], &ramp(4)).f32_tensor(
        "output.weight",
        &[4, 16],
        &ramp(64),
    );
    let model = model(&builder, GgufDtype::F32);
    assert_eq!(model.tensor("model.layers.0.self_attn.q_proj.weight").unwrap().to_f32(), ramp(256));
    assert_eq!(model.tensor("model.layers.0.self_attn.q_norm.weight").unwrap().to_f32(), ramp(4));
    assert_eq!(model.tensor("lm_head.weight").unwrap().to_f32(), ramp(64));
    assert_eq!(model.config()["tie_word_embeddings"], false);
    assert_eq!(model.config()["architectures"], json!(["Qwen3ForCausalLM"]));
}

#[test]
fn bf16_is_rounded_to_nearest_even_and_blocks_are_widened() {
    let block = [&half::f16::from_f32(0.3).to_le_bytes()[..], &[5u8; 32]].concat();
    let builder = tiny_with_tensors("llama").tensor("output.weight", &[1, 32], 8, block);
    let model = model(&builder, GgufDtype::Bf16);
    let q = model.tensor("lm_head.weight").unwrap();
    assert_eq!(q.dtype(), DType::BF16);
    let expected = bf16::from_f32(half::f16::from_f32(0.3).to_f32() * 5.0);
    assert!(q.bytes().chunks_exact(2).all(|b| b == expected.to_le_bytes()));
    let norm = model.tensor("model.norm.weight").unwrap();
    let rounded: Vec<f32> = ramp(16).iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
    assert_ne!(rounded, ramp(16));
    assert_eq!(norm.to_f32(), rounded);
    assert_eq!(model.config()["torch_dtype"], "bfloat16");
}

#[test]
fn the_config_says_what_the_metadata_says() {
    let builder = tiny_with_tensors("llama")
        .u32("tokenizer.ggml.bos_token_id", 2)
        .u32("tokenizer.ggml.eot_token_id", 1)
        .u32("tokenizer.ggml.padding_token_id", 3)
        .raw("tokenizer.ggml.add_bos_token", 7, &[0])
        .text("tokenizer.chat_template", "{{ messages }}");
    let model = model(&builder, GgufDtype::F32);
    let expected = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "vocab_size": 4,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": null,
        "attention_bias": false, "mlp_bias": false, "attention_dropout": 0.0, "tie_word_embeddings": true,
        "torch_dtype": "float32", "use_cache": true, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 3,
    });
    assert_eq!(model.config(), &expected);
    assert_eq!(model.generation_config(), &json!({"bos_token_id": 2, "eos_token_id": [3, 1], "pad_token_id": 3}));
    let t = model.tokenizer();
    assert_eq!((t.model.as_str(), t.pre.as_str(), t.tokens.len()), ("gpt2", "default", 4));
    assert_eq!((t.token_types.as_slice(), t.merges.as_slice()), (&[1, 1, 1, 3][..], &["a b".to_owned()][..]));
    assert_eq!((t.bos_id, t.eos_id, t.eot_id, t.unk_id, t.pad_id), (Some(2), Some(3), Some(1), None, Some(3)));
    assert_eq!((t.add_bos, t.chat_template.as_deref()), (Some(false), Some("{{ messages }}")));
}

/// Divisors written out independently: theta 500000, head size 16, factor 8. Wavelengths below 2048 keep 1, above 8192
/// get 8; position 4 of 8 lies between, at 2 pi sqrt(500000) = 4442.88, where smooth = (8192/4442.88 - 1)/3 = 0.281283.
const LLAMA3_DIVISORS: [f32; 8] = [1.0, 1.0, 1.0, 1.0, 2.69453, 8.0, 8.0, 8.0];

fn with_divisors(divisors: &[f32]) -> Builder {
    tiny_with_tensors("llama").f32_tensor("rope_freqs.weight", &[divisors.len() as u64], divisors)
}

#[test]
fn llama3_rope_is_recognised_by_its_divisors() {
    let mut builder = with_divisors(&LLAMA3_DIVISORS);
    let theta = builder.keys.iter_mut().find(|(k, _)| k == "llama.rope.freq_base").unwrap();
    theta.1[4..].copy_from_slice(&500000f32.to_le_bytes());
    let found = model(&builder, GgufDtype::F32);
    let expected = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192});
    assert_eq!(found.config()["rope_scaling"], expected);
    assert!(!found.contains("rope_freqs.weight"));

    assert_eq!(model(&with_divisors(&[1.0; 8]), GgufDtype::F32).config()["rope_scaling"], Value::Null);
    for bad in [[1.0, 1.0, 1.0, 1.0, 3.5, 8.0, 8.0, 8.0], [f32::NAN; 8], [f32::INFINITY; 8], [-1.0; 8]] {
        assert!(refusal(with_divisors(&bad)).contains("rope_freqs.weight: expected the divisors of Llama 3"));
    }
}

#[test]
fn declared_rope_scaling_is_kept() {
    let scaled = |kind: &str| {
        tiny_with_tensors("qwen2").text("qwen2.rope.scaling.type", kind).f32("qwen2.rope.scaling.factor", 4.0)
    };
    let yarn = scaled("yarn").u32("qwen2.rope.scaling.original_context_length", 32);
    let expected = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32});
    assert_eq!(model(&yarn, GgufDtype::F32).config()["rope_scaling"], expected);
    let linear = model(&scaled("linear"), GgufDtype::F32);
    assert_eq!(linear.config()["rope_scaling"], json!({"rope_type": "linear", "factor": 4.0}));
    assert!(refusal(scaled("twisted")).contains("'twisted' is not read from GGUF; supported: none, linear, yarn"));
}

#[test]
fn stacked_experts_become_single_tensors() {
    let builder = tiny_with_tensors("llama")
        .u32("llama.expert_count", 2)
        .u32("llama.expert_used_count", 1)
        .f32_tensor("blk.0.ffn_gate_inp.weight", &[2, 16], &ramp(32))
        .f32_tensor("blk.0.ffn_gate_exps.weight", &[2, 3, 4], &ramp(24));
    let found = model(&builder, GgufDtype::F32);
    let second = found.tensor("model.layers.0.block_sparse_moe.experts.1.w1.weight").unwrap();
    assert_eq!((second.shape(), second.to_f32()), (&[3, 4][..], ramp(24)[12..].to_vec()));
    assert_eq!(found.config()["model_type"], "mixtral");
    assert_eq!(found.config()["num_local_experts"], 2);
    // What tells tensors apart is their own part of the file, as it is stored.
    let source = GgufSource { model: found, path: "x.gguf".into() };
    let ends = |e| source.ends(&format!("model.layers.0.block_sparse_moe.experts.{e}.w1.weight")).unwrap();
    let stored: Vec<u8> = ramp(24)[12..].iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(
        (ends(1).dtype, ends(1).shape, ends(1).first, ends(1).last),
        ("F32".into(), vec![3, 4], stored.clone(), stored)
    );
    assert!(ends(0) != ends(1) && source.ends("no").is_err());
    let wrong = builder.f32_tensor("blk.0.ffn_up_exps.weight", &[3, 1, 1], &ramp(3));
    assert!(refusal(wrong).contains("'blk.0.ffn_up_exps.weight': expected the 2 experts of expert_count, found 3"));
}

#[test]
fn what_cannot_be_shown_is_refused() {
    let extra = |name: &str, shape: &[u64]| {
        let n: u64 = shape.iter().product();
        refusal(tiny_with_tensors("llama").f32_tensor(name, shape, &ramp(n as usize)))
    };
    assert!(extra("blk.1.attn_q.weight", &[16, 16]).contains("a layer below the 1 of block_count, found 1"));
    assert!(extra("blk.00.attn_v.weight", &[1]).contains("no known part of a 'llama' model"));
    assert!(extra("blk.0.attn_sinks.weight", &[1]).contains("tensor 'blk.0.attn_sinks.weight': no known part"));
    assert!(extra("blk.0.attn_q.bias", &[15]).contains("rows for 4 heads of an even size, found 15"));
    assert!(extra("blk.0.attn_k.bias", &[]).contains("rows for 2 heads"));
    assert!(refusal(tiny("bert")).contains("'bert' is not read from GGUF; supported: llama, granite, qwen2"));
    assert!(refusal(tiny("llama")).contains("token_embd.weight"));
    assert!(refusal(Builder::new()).contains("'general.architecture' is missing"));
    let id = tiny_with_tensors("llama").u32("tokenizer.ggml.bos_token_id", 4);
    assert_eq!(refusal(id), "tokenizer.ggml.bos_token_id: expected a token id below 4, found 4");
    let scores = tiny_with_tensors("llama").raw("tokenizer.ggml.scores", 9, &array(6, 1, &[0; 4]));
    assert_eq!(refusal(scores), "tokenizer.ggml.scores: expected 4 entries, one per token, found 1");
}

#[test]
fn contradictory_metadata_is_refused() {
    let replaced = |key: &str, value: u32| {
        let mut builder = tiny_with_tensors("llama");
        let entry = builder.keys.iter_mut().find(|(k, _)| k == key).unwrap();
        entry.1 = [&4u32.to_le_bytes()[..], &value.to_le_bytes()].concat();
        refusal(builder)
    };
    assert!(replaced("llama.attention.head_count", 0).contains("head_count: expected at least 1, found 0"));
    assert!(replaced("llama.attention.head_count", 3).contains("heads"));
    assert!(replaced("llama.rope.freq_base", 5).contains("freq_base: expected a finite real number, found U32(5)"));
    let mut builder = tiny_with_tensors("llama");
    builder.keys.retain(|(k, _)| k != "llama.context_length");
    assert!(refusal(builder).contains("'llama.context_length' is missing"));
}
