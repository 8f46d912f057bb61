//! Damaged and lying models, bad calibration data and a full disk: one line that names the place, and nothing that loads.
mod program;

use program::tensors::File;
use program::{Output, Program, copy_of, data, golden, inspect, quantize, read_json, scratch, tiny};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn generate(model: &Path) -> Program {
    Program::new("generate --max-new-tokens 2 --input-ids 35").arg(model)
}

/// A copy of the tiny model with another `config.json`.
fn with_config(dir: &Path, change: impl FnOnce(&mut Value)) -> PathBuf {
    let model = copy_of(&tiny(), &dir.join("model"));
    let mut config = read_json(&model.join("config.json"));
    change(&mut config);
    std::fs::write(model.join("config.json"), config.to_string()).unwrap();
    model
}

/// A copy of the tiny model whose tensors were changed.
fn with_tensors(dir: &Path, change: impl FnOnce(&mut File)) -> PathBuf {
    let model = copy_of(&tiny(), &dir.join("model"));
    let path = model.join("model.safetensors");
    let mut file = File::open(&path);
    change(&mut file);
    file.save(&path);
    model
}

/// Quantizing with this calibration file; leaves no directory behind.
fn calibrated(dir: &Path, name: &str, text: &str) -> Output {
    let (path, out) = (dir.join(name), dir.join("out"));
    std::fs::write(&path, text).unwrap();
    let program = Program::new("quantize --calib-dataset").arg(&path).arg(tiny()).arg("--work-dir").arg(&out);
    let output = program.run();
    assert_eq!(out.exists(), output.code == 0, "a directory stays only when it is complete: {}", output.stderr);
    let _ = std::fs::remove_dir_all(&out);
    output
}

#[test]
fn truncated_files_are_named() {
    let dir = scratch();
    let model = copy_of(&tiny(), &dir.path().join("model"));
    let path = model.join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    for part in [0, 1, 7, 8, 9, 100, 1000, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..part]).unwrap();
        inspect(&model).run().fails(&["model.safetensors"]);
    }
    generate(&model).run().fails(&["model.safetensors"]);
    let out = dir.path().join("out");
    quantize(&model, &out).run().fails(&["model.safetensors"]);
    assert!(!out.exists());
}

#[test]
fn lying_headers_are_named() {
    let dir = scratch();
    let name = "model.layers.0.mlp.up_proj.weight";
    let lies: [(&str, Value); 6] = [
        ("shape", json!([256, 129])),
        ("shape", json!([u64::MAX, 2])),
        ("dtype", json!("F32")),
        ("dtype", json!("Q7")),
        ("data_offsets", json!([0, u64::MAX])),
        ("data_offsets", json!([10, 2])),
    ];
    for (field, lie) in lies {
        let model = with_tensors(dir.path(), |f| f.header[name][field] = lie.clone());
        inspect(&model).run().fails(&["model.safetensors", name]);
    }
    let model = with_tensors(dir.path(), |f| f.header["model.layers.0.mlp.up_proj.weight"] = Value::Null);
    inspect(&model).run().fails(&["model.safetensors"]);
    let path = model.join("model.safetensors");
    for length in [u64::MAX, 1 << 40, 3] {
        let mut bytes = std::fs::read(tiny().join("model.safetensors")).unwrap();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        inspect(&model).run().fails(&["model.safetensors"]);
    }
}

#[test]
fn flipped_bits_are_found_by_the_digests() {
    let dir = scratch();
    let out = dir.path().join("out");
    quantize(&tiny(), &out).words("--max-shard-size 200KB").run().ok();
    let files = program::contents(&out);
    let mut flips = 0;
    for (name, bytes) in files.iter().filter(|(n, _)| *n != "planish_digests.json") {
        for at in [0, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            std::fs::write(out.join(name), &flipped).unwrap();
            inspect(&out).words("--verify").run().fails(&[name]);
            flips += 1;
        }
        std::fs::write(out.join(name), bytes).unwrap();
    }
    assert!(flips >= 20, "{flips}");
    inspect(&out).words("--verify").run().ok();
    // A flipped weight is named by its tensor.
    let shard = "model-00002-of-00002.safetensors";
    let mut bytes = files[shard].clone();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(out.join(shard), bytes).unwrap();
    let line = inspect(&out).words("--verify").run().fails(&[shard]);
    assert!(line.contains("model."), "the tensor: {line}");
    std::fs::remove_file(out.join("planish_digests.json")).unwrap();
    inspect(&out).words("--verify").run().fails(&["planish_digests.json"]);
}

#[test]
fn verify_in_json_lists_the_problems() {
    let dir = scratch();
    let out = dir.path().join("out");
    quantize(&tiny(), &out).run().ok();
    std::fs::write(out.join("recipe.yaml"), "changed").unwrap();
    let output = inspect(&out).words("--verify --json").run();
    assert_eq!(output.code, 1);
    let document: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(document["verified"], json!(false));
    assert!(document["problems"][0].as_str().unwrap().contains("recipe.yaml"), "{document}");
    output.fails(&["recipe.yaml"]);
}

#[test]
fn shards_that_are_missing_or_elsewhere() {
    let dir = scratch();
    let model = copy_of(&golden("llama_sharded"), &dir.path().join("model"));
    inspect(&model).run().ok();
    let shard = "model-00002-of-00003.safetensors";
    let bytes = std::fs::read(model.join(shard)).unwrap();
    std::fs::remove_file(model.join(shard)).unwrap();
    inspect(&model).run().fails(&[shard]);
    generate(&model).run().fails(&[shard]);
    // The same bytes in reach of a path that leaves the directory.
    std::fs::write(dir.path().join("outside.safetensors"), &bytes).unwrap();
    let index = read_json(&model.join("model.safetensors.index.json"));
    let absolute = dir.path().join("outside.safetensors").display().to_string();
    for target in ["../outside.safetensors", absolute.as_str(), "./../outside.safetensors", ""] {
        let mut lying = index.clone();
        for file in lying["weight_map"].as_object_mut().unwrap().values_mut().filter(|f| *f == shard) {
            *file = json!(target);
        }
        std::fs::write(model.join("model.safetensors.index.json"), lying.to_string()).unwrap();
        inspect(&model).run().fails(&["model.safetensors.index.json"]);
    }
    std::fs::write(model.join("model.safetensors.index.json"), index.to_string()).unwrap();
    std::os::unix::fs::symlink("../outside.safetensors", model.join(shard)).unwrap();
    inspect(&model).run().fails(&[shard]);
    std::fs::write(model.join("model.safetensors.index.json"), "{").unwrap();
    inspect(&model).run().fails(&["model.safetensors.index.json"]);
}

#[test]
fn weights_that_are_no_numbers() {
    let dir = scratch();
    // Quiet NaN, infinity, minus infinity in bf16.
    let names =
        ["layers.1.mlp.up_proj.", "layers.0.self_attn.q_proj.", "norm.", "embed_tokens.", "layers.0.input_layernorm."];
    for (i, bits) in [0x7FC0u16, 0x7F80, 0xFF80, 0x7FC0, 0x7FC0].into_iter().enumerate() {
        let name = &format!("model.{}weight", names[i]);
        let model = with_tensors(dir.path(), |f| {
            let start = f.place(name).start + 2 * 35;
            f.data[start..start + 2].copy_from_slice(&bits.to_le_bytes());
        });
        for flags in ["", "--weights rtn --smooth off", "--quant-dtype fp8"] {
            let out = dir.path().join("out");
            quantize(&model, &out).words(flags).run().fails(&[name.trim_end_matches(".weight")]);
            assert_ne!(inspect(&out).run().code, 0, "nothing that loads");
            let _ = std::fs::remove_dir_all(&out);
        }
    }
}

/// A row of the embedding that no sample has: nothing but a look at the tensor itself finds it.
#[test]
fn weights_that_are_no_numbers_where_no_sample_looks() {
    let dir = scratch();
    let model = copy_of(&golden("llama3_rope_bias_untied"), &dir.path().join("model"));
    let (path, name) = (model.join("model.safetensors"), "model.embed_tokens.weight");
    let mut file = File::open(&path);
    assert_eq!(file.kind(name).0, "BF16");
    let end = file.place(name).end;
    file.data[end - 2..end].copy_from_slice(&0x7FC0u16.to_le_bytes());
    file.save(&path);
    let calibration = dir.path().join("few.json");
    std::fs::write(&calibration, json!(vec![(0..64).collect::<Vec<u32>>(); 8]).to_string()).unwrap();
    let out = dir.path().join("out");
    let program = Program::new("quantize --weights rtn --smooth off").arg(&model).arg("--work-dir").arg(&out);
    program.arg("--calib-dataset").arg(&calibration).run().fails(&[name, "NaN"]);
    assert_ne!(inspect(&out).run().code, 0, "nothing that loads");
}

#[test]
fn configurations_that_do_not_fit() {
    let dir = scratch();
    let model = with_config(dir.path(), |c| c["intermediate_size"] = json!(512));
    generate(&model).run().fails(&["mlp.", "256", "512"]);
    quantize(&model, &dir.path().join("out")).run().fails(&["mlp.", "256", "512"]);
    let model = with_config(dir.path(), |c| c["num_hidden_layers"] = json!(3));
    generate(&model).run().fails(&["model.layers.2."]);
    let model = with_config(dir.path(), |c| c["vocab_size"] = json!(1000));
    generate(&model).run().fails(&["embed_tokens"]);
    for (field, value) in [
        ("num_attention_heads", json!(0)),
        ("num_key_value_heads", json!(3)),
        ("num_hidden_layers", json!(-1)),
        ("num_hidden_layers", json!(1u64 << 60)),
        ("hidden_size", json!("many")),
        ("hidden_size", json!(1u64 << 60)),
        ("rms_norm_eps", json!("small")),
    ] {
        let model = with_config(dir.path(), |c| c[field] = value.clone());
        generate(&model).run().fails(&[field]);
    }
    assert!(!dir.path().join("out/config.json").exists());
    for text in ["", "{", "[]", "null"] {
        std::fs::write(model.join("config.json"), text).unwrap();
        generate(&model).run().fails(&["config.json"]);
    }
    std::fs::remove_file(model.join("config.json")).unwrap();
    generate(&model).run().fails(&["config.json"]);
    generate(dir.path()).run().fails(&["config.json"]);
}

#[test]
fn unknown_architectures_and_schemes() {
    let dir = scratch();
    let model = with_config(dir.path(), |c| c["architectures"] = json!(["MadeUpForCausalLM"]));
    let line = generate(&model).run().fails(&["MadeUpForCausalLM"]);
    assert!(line.contains("LlamaForCausalLM") || line.contains("Llama"), "what is known: {line}");
    for scheme in [
        json!({"quant_method": "made_up"}),
        json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}}),
        json!({"quant_method": "smooth_quant", "quant_dtype": "int3"}),
        json!({}),
        json!("int8"),
    ] {
        let model = with_config(dir.path(), |c| c["quantization_config"] = scheme.clone());
        generate(&model).run().fails(&["config.json", "quant"]);
        quantize(&model, &dir.path().join("out")).run().fails(&["quant"]);
    }
}

#[test]
fn weights_of_another_type_than_the_configuration_says() {
    let dir = scratch();
    let scheme = |name: &str| read_json(&golden(name).join("config.json"))["quantization_config"].clone();
    let name = "model.layers.0.self_attn.q_proj.weight";
    let model = with_config(dir.path(), |c| c["quantization_config"] = scheme("w8a8_rtn"));
    generate(&model).run().fails(&[name, "I8", "BF16"]);
    let out = dir.path().join("out");
    quantize(&tiny(), &out).run().ok();
    let path = out.join("config.json");
    let config = read_json(&path);
    let mut lying = config.clone();
    lying["quantization_config"] = scheme("fp8_dynamic");
    std::fs::write(&path, lying.to_string()).unwrap();
    generate(&out).run().fails(&[name, "F8_E4M3", "I8"]);
    lying.as_object_mut().unwrap().remove("quantization_config");
    std::fs::write(&path, lying.to_string()).unwrap();
    generate(&out).run().fails(&[name, "I8", "quantization"]);
    quantize(&out, &dir.path().join("again")).run().fails(&[name, "I8"]);
    std::fs::write(&path, config.to_string()).unwrap();
    let mut file = File::open(&out.join("model.safetensors"));
    let scale = name.replace("weight", "weight_scale");
    let place = file.place(&scale);
    file.data[place.start..place.start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    file.save(&out.join("model.safetensors"));
    generate(&out).run().fails(&[&scale]);
    file.header.as_object_mut().unwrap().shift_remove(&scale);
    file.save(&out.join("model.safetensors"));
    generate(&out).run().fails(&["model.safetensors"]);
}

#[test]
fn calibration_files_name_the_line() {
    let dir = scratch();
    let ids = |n: usize| format!("{{\"input_ids\": {:?}}}\n", (0..n).map(|i| i % 256).collect::<Vec<_>>());
    let good = ids(64);
    calibrated(dir.path(), "good.jsonl", &good.repeat(3)).ok();
    for (bad, found) in [
        ("{\"input_ids\": [1, 2\n", "JSON"),
        ("{\"input_ids\": [1, \"2\"]}\n", "input_ids"),
        ("{\"input_ids\": [1, 256]}\n", "256"),
        ("{\"input_ids\": [-1]}\n", "input_ids"),
        ("{\"input_ids\": []}\n", "input_ids"),
        ("{\"words\": \"x\"}\n", "words"),
        ("17\n", "17"),
        ("{\"text\": 5}\n", "text"),
        ("{\"text\": \"no tokenizer here\"}\n", "tokenizer.json"),
    ] {
        calibrated(dir.path(), "bad.jsonl", &format!("{good}\n{bad}{good}")).fails(&["bad.jsonl", "line 3", found]);
    }
    for text in ["", "\n\n", " "] {
        calibrated(dir.path(), "empty.jsonl", text).fails(&["empty.jsonl"]);
    }
    for text in ["", "[]", "{}", "[1, 2]", "{\"a\": 1}", "[[]]"] {
        calibrated(dir.path(), "bad.json", text).fails(&["bad.json"]);
    }
    calibrated(dir.path(), "short.jsonl", "{\"input_ids\": [7]}\n").fails(&["short.jsonl"]);
    calibrated(dir.path(), "words.txt", "some text\n").fails(&["words.txt", "tokenizer.json"]);
    calibrated(dir.path(), "data.arrow", "a,b\n").fails(&["data.arrow", ".jsonl"]);
    let out = dir.path().join("out");
    let program = Program::new("quantize --calib-dataset ./no_such.jsonl").arg(tiny()).arg("--work-dir").arg(&out);
    program.run().fails(&["no_such.jsonl"]);
    assert!(!out.exists());
    assert!(data("calibration.json").exists());
}

#[test]
fn broken_tokenizers_are_named() {
    let dir = scratch();
    let model = program::with_words(&tiny(), &dir.path().join("model"));
    for text in ["", "{}", "[]", "{\"model\": {\"type\": \"BPE\"}}"] {
        std::fs::write(model.join("tokenizer.json"), text).unwrap();
        generate(&model).run().fails(&["tokenizer.json"]);
    }
}

#[test]
fn gguf_files_that_are_none() {
    let dir = scratch();
    let path = dir.path().join("model.gguf");
    let mut lying = b"GGUF\x03\0\0\0".to_vec();
    lying.extend(u64::MAX.to_le_bytes());
    lying.extend(u64::MAX.to_le_bytes());
    for bytes in [b"".as_slice(), b"GGU", b"GGUF", b"not a model at all, but long enough", &lying] {
        std::fs::write(&path, bytes).unwrap();
        inspect(&path).run().fails(&["model.gguf"]);
        generate(&path).run().fails(&["model.gguf"]);
    }
}

#[test]
fn outputs_that_cannot_be_written() {
    let full = || std::fs::File::create("/dev/full").unwrap();
    let planish = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_planish"));
        command.args(args);
        command
    };
    let failed = planish(&["inspect", "no_such_model"]).env("HF_HUB_OFFLINE", "1").stderr(full()).status().unwrap();
    assert_eq!(failed.code(), Some(1), "what cannot be said does not change how it ends");
    let unheard = planish(&["check-env"]).stdout(full()).output().unwrap();
    let error = String::from_utf8(unheard.stderr).unwrap();
    assert_eq!(unheard.status.code(), Some(1), "{error}");
    assert!(error.starts_with("error: stdout: ") && error.lines().count() == 1, "{error}");
}

#[test]
fn a_full_disk_leaves_nothing_that_loads() {
    let dir = scratch();
    let small = dir.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
        .arg(&small)
        .stderr(std::process::Stdio::null())
        .status();
    if !mount.is_ok_and(|s| s.success()) {
        println!("skipped: no tmpfs");
        return;
    }
    let out = small.join("out");
    let output = quantize(&tiny(), &out).run();
    let left = inspect(&out).run();
    let unmounted = std::process::Command::new("umount").arg(&small).status().unwrap();
    assert!(unmounted.success());
    output.fails(&["out", "space"]);
    assert_eq!(left.code, 1, "{}", left.stdout);
}
