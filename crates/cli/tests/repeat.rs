//! `planish quantize` again: the same bytes each time, recipes that lead back to them, and directories left alone.
mod program;

use program::{Program, assert_same_bytes, contents, copy_of, inspect, quantize, scratch, tiny};

#[test]
fn runs_and_threads_give_the_same_bytes() {
    let dir = scratch();
    for (name, flags) in [
        ("int8", "--smooth auto"),
        ("fp8", "--quant-dtype fp8 --smooth 0.5 --weights gptq"),
        ("rtn", "--weights rtn --clip on"),
    ] {
        let run = |threads: &str| {
            let out = dir.path().join(format!("{name}-{threads}"));
            quantize(&tiny(), &out).words(flags).words(&format!("--threads {}", &threads[..1])).run().ok();
            out
        };
        let first = run("1");
        for again in ["1-again", "2", "3"] {
            assert_same_bytes(&first, &run(again));
        }
    }
}

#[test]
fn shards_hold_the_same_tensors() {
    let dir = scratch();
    let (one, many) = (dir.path().join("one"), dir.path().join("many"));
    quantize(&tiny(), &one).run().ok();
    quantize(&tiny(), &many).words("--max-shard-size 100KB").run().ok();
    let index = program::read_json(&many.join("model.safetensors.index.json"));
    let whole = program::tensors::File::open(&one.join("model.safetensors"));
    assert_eq!(index["weight_map"].as_object().unwrap().len(), whole.names().len());
    let bytes: usize = whole.names().iter().map(|n| whole.bytes(n).len()).sum();
    assert_eq!(index["metadata"]["total_size"], serde_json::json!(bytes));
    for (name, file) in index["weight_map"].as_object().unwrap() {
        let shard = program::tensors::File::open(&many.join(file.as_str().unwrap()));
        assert_eq!(shard.kind(name), whole.kind(name), "{name}");
        assert_eq!(shard.bytes(name), whole.bytes(name), "{name}");
    }
    inspect(&many).words("--verify").run().ok();
    assert_eq!(program::answers(&one), program::answers(&many));
}

#[test]
fn the_saved_recipe_gives_the_same_model() {
    let dir = scratch();
    let settings = [
        ("default", "", ""),
        ("fp8", "--quant-dtype fp8", ""),
        ("searched", "--smooth auto --weights rtn --clip on", ""),
        ("kept", "--ignore re:.*down_proj --smooth 0.6", ""),
        ("lmdeploy", "--format lmdeploy --quant-dtype float8_e5m2", "--format lmdeploy"),
    ];
    for (name, flags, beside) in settings {
        let (first, second) = (dir.path().join(name), dir.path().join(format!("{name}-again")));
        quantize(&tiny(), &first).words(flags).run().ok();
        quantize(&tiny(), &second).words(beside).arg("--recipe").arg(first.join("recipe.yaml")).run().ok();
        assert_same_bytes(&first, &second);
    }
    let recipe = dir.path().join("default/recipe.yaml");
    let out = dir.path().join("contradiction");
    quantize(&tiny(), &out).words("--smooth 0.5 --recipe").arg(&recipe).run().fails(&["--smooth", "0.5", "0.8"]);
    assert!(!out.exists());
}

#[test]
fn an_existing_directory_is_left_alone() {
    let dir = scratch();
    let out = dir.path().join("out");
    quantize(&tiny(), &out).run().ok();
    let before = contents(&out);
    let refused =
        |flags: &str| quantize(&tiny(), &out).words(flags).run().fails(&["out", "--overwrite", "config.json"]);
    refused("--quant-dtype fp8");
    refused("--resume --smooth 0.3");
    assert_eq!(contents(&out), before);
    quantize(&tiny(), &out).words("--quant-dtype fp8 --overwrite --max-shard-size 100KB").run().ok();
    let now = contents(&out);
    assert!(!now.contains_key("model.safetensors"), "the old model is gone: {:?}", now.keys());
    assert!(now.contains_key("model.safetensors.index.json"));
    inspect(&out).words("--verify").run().ok();
    quantize(&tiny(), &out).words("--overwrite").run().ok();
    assert_eq!(contents(&out), before, "and back");
}

#[test]
fn a_failed_overwrite_leaves_the_old_model() {
    let dir = scratch();
    let out = dir.path().join("out");
    quantize(&tiny(), &out).run().ok();
    let before = contents(&out);
    let empty = dir.path().join("empty.jsonl");
    std::fs::write(&empty, "").unwrap();
    let program =
        Program::new("quantize --overwrite --calib-dataset").arg(&empty).arg(tiny()).arg("--work-dir").arg(&out);
    program.run().fails(&["empty.jsonl"]);
    assert_eq!(contents(&out), before);
}

#[test]
fn what_cannot_be_quantized_is_refused() {
    let dir = scratch();
    let out = dir.path().join("out");
    quantize(&program::golden("w8a8_rtn"), &out).run().fails(&["w8a8_rtn", "quantized already"]);
    let model = copy_of(&tiny(), &dir.path().join("model"));
    let before = contents(&model);
    for flags in ["", "--overwrite", "--resume"] {
        quantize(&model, &model).words(flags).run().fails(&["model", "another directory"]);
        quantize(&model, &model.join("../model/.")).words(flags).run().fails(&["another directory"]);
    }
    assert_eq!(contents(&model), before);
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    quantize(&tiny(), &file).run().fails(&["file", "a directory"]);
    assert!(!out.exists());
}

#[test]
fn flags_out_of_range_are_named() {
    let dir = scratch();
    let out = dir.path().join("out");
    for (flags, pieces) in [
        ("--smooth 2", ["--smooth", "2"]),
        ("--smooth NaN", ["--smooth", "NaN"]),
        ("--weights foo", ["--weights", "foo"]),
        ("--quant-dtype int4", ["--quant-dtype", "int4"]),
        ("--calib-samples 0", ["--calib-samples", "0"]),
        ("--calib-seqlen 0", ["--calib-seqlen", "0"]),
        ("--format gguf", ["--format", "gguf"]),
        ("--ignore re:(", ["re:(", "regular expression"]),
        ("--recipe no_such.yaml", ["--recipe", "no_such.yaml"]),
        ("--quant-dtype float8_e5m2", ["float8_e5m2", "--format lmdeploy"]),
        ("--device null", ["--device", "null"]),
    ] {
        quantize(&tiny(), &out).words(flags).run().fails(&pieces);
        assert!(!out.exists(), "{flags}");
    }
    for flags in ["--max-shard-size 5XB", "--device tpu"] {
        assert_eq!(quantize(&tiny(), &out).words(flags).run().code, 2, "{flags}");
        assert!(!out.exists(), "{flags}");
    }
}
