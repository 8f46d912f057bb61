//! Configurations of 21 tiny models as transformers 5 and transformers 4 spell them.
use planish_checkpoint::{
    config::Config,
    generation::GenerationDefaults,
    rope::{RopeConfig, RopeScaling},
};
use planish_tensor::DType;
use std::{
    fs,
    path::{Path, PathBuf},
};

fn folders() -> Vec<PathBuf> {
    let mut out: Vec<_> = fs::read_dir("tests/data/configs").unwrap().map(|e| e.unwrap().path()).collect();
    out.sort();
    out
}

fn read(path: &Path) -> Config {
    Config::from_json(&fs::read(path).unwrap(), path).unwrap()
}

fn rope(model: &str) -> RopeConfig {
    read(&Path::new("tests/data/configs").join(model).join("config.json")).rope().unwrap()
}

#[test]
fn both_spellings_say_the_same() {
    let mut pairs = 0;
    for dir in folders() {
        let new = read(&dir.join("config.json"));
        if !dir.join("config_v4.json").exists() {
            continue;
        }
        let old = read(&dir.join("config_v4.json"));
        let name = dir.display();
        assert_eq!(new.rope().unwrap(), old.rope().unwrap(), "{name}");
        for kind in ["full_attention", "sliding_attention"] {
            assert_eq!(new.rope_of(kind).unwrap(), old.rope_of(kind).unwrap(), "{name} {kind}");
        }
        assert_eq!(new.dtype().unwrap(), old.dtype().unwrap(), "{name}");
        assert!(new.dtype().unwrap().is_some(), "{name}");
        assert_eq!(new.architecture().unwrap(), old.architecture().unwrap(), "{name}");
        assert_eq!(new.model_type().unwrap(), old.model_type().unwrap(), "{name}");
        assert_eq!(new.eos_token_ids().unwrap(), old.eos_token_ids().unwrap(), "{name}");
        for field in ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"] {
            assert_eq!(new.usize(field).unwrap(), old.usize(field).unwrap(), "{name} {field}");
        }
        pairs += 1;
    }
    assert_eq!(pairs, 20);
}

#[test]
fn every_scaling_is_read() {
    assert_eq!(rope("llama"), RopeConfig { theta: 1e4, rotary_fraction: 1.0, scaling: RopeScaling::None });
    assert_eq!(rope("gpt_neox").rotary_fraction, 0.25);
    assert_eq!(rope("glm4").rotary_fraction, 0.5);
    assert_eq!(rope("internlm2").scaling, RopeScaling::Dynamic { factor: 2.0, original_max: 2048 });
    let llama3 = RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max: 32 };
    assert_eq!(rope("llama3_rope_bias_untied"), RopeConfig { theta: 5e5, rotary_fraction: 1.0, scaling: llama3 });
    let RopeScaling::LongRope { short_factor, long_factor, original_max, factor, attention_factor } =
        rope("phi3_longrope").scaling
    else {
        panic!("phi3 is longrope")
    };
    assert_eq!((short_factor.len(), long_factor[7], original_max, factor), (8, 4.5, 32, 4.0));
    assert_eq!(attention_factor, None);
    let gemma3 = read(Path::new("tests/data/configs/gemma3/config_v4.json"));
    assert_eq!(gemma3.rope().unwrap().scaling, RopeScaling::Linear { factor: 8.0 });
    let local = gemma3.rope_of("sliding_attention").unwrap();
    assert_eq!((local.theta, local.scaling), (1e4, RopeScaling::None));
}

#[test]
fn types_and_ends() {
    assert_eq!(read(Path::new("tests/data/configs/llama_f32/config.json")).dtype().unwrap(), Some(DType::F32));
    assert_eq!(read(Path::new("tests/data/configs/internlm2/config.json")).dtype().unwrap(), Some(DType::BF16));
    for dir in folders() {
        let path = dir.join("generation_config.json");
        if path.exists() {
            let g = GenerationDefaults::from_json(&fs::read(&path).unwrap(), &path).unwrap();
            assert_eq!(g.eos_token_ids, [2], "{}", path.display());
        }
    }
    let missing = GenerationDefaults::open(Path::new("tests/data/configs/internlm2")).unwrap();
    assert_eq!(missing, GenerationDefaults::default());
    assert_eq!(Config::open(Path::new("tests/data/llama")).unwrap().architecture().unwrap(), "LlamaForCausalLM");
}
