//! Recipes, the search of factors and scales, budgets and shares, through the real program.
mod program;

use program::{Program, answers, assert_same_bytes, data, inspect, quantize, read_json, scratch, tiny};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn linears(report: &Value) -> Vec<&Value> {
    report["layers"].as_array().unwrap().iter().flat_map(|l| l["linears"].as_array().unwrap()).collect()
}

fn kl(report: &Value) -> f64 {
    report["self_checks"]["quantized_kl_mean"].as_f64().unwrap()
}

fn sensitivity() -> Program {
    Program::new("sensitivity").arg(tiny()).arg("--calib-dataset").arg(data("calibration.json"))
}

#[test]
fn a_recipe_of_llm_compressor_is_what_the_flags_say() {
    let dir = scratch();
    let (recipe, flags) = (dir.path().join("recipe"), dir.path().join("flags"));
    let text = "one_stage:\n  a_modifiers:\n    SmoothQuantModifier: {smoothing_strength: 0.8, mappings: null}\n\
        two_stage:\n  b_modifiers:\n    GPTQModifier: {scheme: W8A8, targets: Linear, ignore: [lm_head]}\n";
    let file = dir.path().join("recipe.yaml");
    std::fs::write(&file, text).unwrap();
    quantize(&tiny(), &recipe).arg("--recipe").arg(&file).run().ok();
    quantize(&tiny(), &flags).run().ok();
    assert_same_bytes(&recipe, &flags);
    // Its own pairs: two norms in each layer, and nothing between linears.
    let own = dir.path().join("own");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../quant/tests/data/w8a8_sq_gptq_f32/recipe.yaml");
    let document = quantize(&tiny(), &own).words("--json --recipe").arg(golden).run().json();
    for layer in document["layers"].as_array().unwrap() {
        let smoothed = layer["smoothing"].as_array().unwrap();
        assert_eq!(smoothed.len(), 2, "{smoothed:?}");
        assert!(smoothed.iter().all(|s| s["smooth"].as_str().unwrap().ends_with("layernorm")));
    }
}

#[test]
fn recipes_that_cannot_be_followed_are_refused_before_any_work() {
    let dir = scratch();
    let (file, out) = (dir.path().join("recipe.yaml"), dir.path().join("out"));
    for (modifiers, flags, pieces) in [
        ("GPTQModifer: {scheme: W8A8}", "", ["GPTQModifer", "did you mean GPTQModifier?"]),
        ("GPTQModifier: {scheme: W8AA8}", "", ["W8AA8", "did you mean W8A8?"]),
        ("GPTQModifier: {scheme: W8A8, targts: x}", "", ["targts", "did you mean targets?"]),
        ("GPTQModifier: {scheme: W4A16}", "", ["W4A16", "8-bit activations"]),
        ("QuantizationModifier: {scheme: FP8_E5M2_DYNAMIC}", "", ["E5M2", "--format lmdeploy"]),
        ("QuantizationModifier: {scheme: MXFP8}", "--format lmdeploy", ["--format lmdeploy", "groups of 32"]),
        ("QuantizationModifier: {scheme: {W8A8: [a], FP8_DYNAMIC: [b]}}", "--format lmdeploy", ["one scheme", "b"]),
        ("GPTQModifier: {scheme: W8A8}", "--weights rtn", ["--weights rtn contradicts", "GPTQModifier"]),
    ] {
        std::fs::write(&file, format!("a_stage: {{b_modifiers: {{{modifiers}}}}}")).unwrap();
        quantize(&tiny(), &out).words(flags).arg("--recipe").arg(&file).run().fails(&pieces);
        assert!(!out.exists(), "{modifiers}");
    }
}

/// A smoothing that would smooth nothing is no smoothing: llm-compressor refuses it too.
#[test]
fn mappings_that_name_nothing_are_refused() {
    let dir = scratch();
    let (file, out) = (dir.path().join("recipe.yaml"), dir.path().join("out"));
    let run = |model: &Path, mappings: &str| {
        let smooth = format!("SmoothQuantModifier: {{smoothing_strength: 0.8, mappings: {mappings}}}");
        let text = format!(
            "a_stage: {{b_modifiers: {{{smooth}, QuantizationModifier: {{scheme: W8A8, ignore: [lm_head]}}}}}}"
        );
        std::fs::write(&file, text).unwrap();
        quantize(model, &out).words("--json --overwrite --recipe").arg(&file).run()
    };
    for wrong in
        ["[[['re:.*qkv_proj'], 're:.*input_layernorm']]", "[[['re:.*q_proj', 're:.*k_proj'], 're:.*input_layernorm']]"]
    {
        let own = "[[model.layers.0.self_attn.q_proj, model.layers.0.self_attn.k_proj, model.layers.0.self_attn.v_proj], \
            model.layers.0.input_layernorm]";
        run(&tiny(), wrong).fails(&["SmoothQuantModifier.mappings", "_proj], re:.*input_layernorm]", own]);
        assert!(!out.exists());
    }
    // llm-compressor's lists for these classes, of which some name more than there is.
    let attention = "[['re:.*q_proj', 're:.*k_proj', 're:.*v_proj'], 're:.*input_layernorm']";
    let all = format!("[{attention}, [['re:.*gate_proj', 're:.*up_proj'], 're:.*post_attention_layernorm']]");
    let packed =
        "[[['re:.*qkv_proj'], 're:.*input_layernorm'], [['re:.*gate_up_proj'], 're:.*post_attention_layernorm']]";
    for (model, list, smoothed, idle) in [
        ("llama", all.as_str(), 2, false),
        ("qwen2", &all, 2, false),
        ("gemma3", &all, 1, true),
        ("phi3_longrope", packed, 2, false),
        ("mixtral", &format!("[{attention}]"), 1, false),
        ("mixtral", &all, 1, true),
        ("qwen3_moe", &format!("[{attention}]"), 1, false),
    ] {
        let document = run(&program::golden(model), list).json();
        let found = document["layers"][0]["smoothing"].as_array().unwrap().len();
        assert_eq!(found, smoothed, "{model} {list}: {}", document["layers"][0]["smoothing"]);
        let warnings = document["warnings"].to_string();
        assert_eq!(warnings.contains("names no pair of this model"), idle, "{model}: {warnings}");
    }
}

#[test]
fn searched_factors_are_reported_and_run() {
    let dir = scratch();
    let out = dir.path().join("out");
    let document = quantize(&tiny(), &out).words("--smooth auto --json").run().json();
    assert_eq!(document["settings"]["smooth"], "auto");
    let groups: Vec<&Value> =
        document["layers"].as_array().unwrap().iter().flat_map(|l| l["smoothing"].as_array().unwrap()).collect();
    assert_eq!(groups.len(), 8);
    for group in groups {
        let search = &group["search"];
        let number = |key: &str| search[key].as_f64().unwrap();
        assert!(number("error") > 0.0 && number("error") <= number("unsmoothed"), "{group}");
        assert!((0.0..=1.0).contains(&number("refined")) && search["tried"].as_array().unwrap().len() >= 12, "{group}");
    }
    assert!(document["self_checks"]["smoothing_kl"].as_f64().unwrap() < 1e-5);
    inspect(&out).words("--verify").run().ok();
    answers(&out);
}

#[test]
fn clipped_scales_lower_the_loss() {
    let dir = scratch();
    let out = dir.path().join("out");
    let document = quantize(&tiny(), &out).words("--weights rtn --smooth off --clip on --json").run().json();
    let mut clipped = 0;
    for linear in linears(&document) {
        clipped += linear["clipped_rows"].as_u64().unwrap();
        let (loss, full) = (linear["proxy_loss"].as_f64().unwrap(), linear["rtn_proxy_loss"].as_f64().unwrap());
        assert!(loss > 0.0 && loss <= full, "{linear}");
    }
    assert!(clipped > 0);
    answers(&out);
    let said = quantize(&tiny(), &dir.path().join("no")).words("--clip maybe").run();
    said.fails(&["--clip", "on, off", "maybe"]);
}

#[test]
fn a_budget_holds_and_says_what_it_cost() {
    let dir = scratch();
    let run = |name: &str, flags: &str| {
        let out = dir.path().join(name);
        let document = quantize(&tiny(), &out).words("--weights rtn --smooth off --json").words(flags).run().json();
        (out, document)
    };
    let (all, plain) = run("all", "");
    let target = kl(&plain) / 2.0;
    let (out, document) = run("half", &format!("--budget KL={target}"));
    let budget = &document["budget"];
    let number = |key: &str| budget[key].as_f64().unwrap();
    assert!(number("kl") + number("standard_error") <= target, "{budget}");
    assert_eq!(kl(&document), number("kl"), "what is written is what was measured");
    let kept = budget["kept"].as_array().unwrap();
    assert!(!kept.is_empty() && kept.len() < 14, "{budget}");
    let ignored = &read_json(&out.join("config.json"))["quantization_config"]["ignore"];
    assert!(kept.iter().all(|name| ignored.as_array().unwrap().contains(name)), "{ignored}");
    let size = |dir: &Path| program::tensors::File::open(&dir.join("model.safetensors")).data.len() as u64;
    assert_eq!(budget["bytes"].as_u64().unwrap(), size(&out) - size(&all));
    let attempts = budget["attempts"].as_array().unwrap();
    assert!(attempts.len() >= 2 && attempts[0]["bytes"] == json!(0), "{budget}");
    answers(&out);
    // The recipe alone gives the same tensors.
    let again = dir.path().join("again");
    quantize(&tiny(), &again).arg("--recipe").arg(out.join("recipe.yaml")).run().ok();
    let bytes = |dir: &Path| std::fs::read(dir.join("model.safetensors")).unwrap();
    assert!(bytes(&out) == bytes(&again));
    // Plenty costs nothing.
    let (_, document) = run("plenty", "--budget KL=100");
    assert_eq!([&document["budget"]["kept"], &document["budget"]["bytes"]], [&json!([]), &json!(0)]);
    for wrong in ["0.1", "KL=0", "KL=x", "PPL=1"] {
        let out = dir.path().join("no");
        assert_eq!(quantize(&tiny(), &out).words("--budget").arg(wrong).run().code, 2, "{wrong}");
    }
    quantize(&tiny(), &out).words("--budget KL=1").run().fails(&["half", "--overwrite"]);
}

/// The tiny model with two channels of an MLP's input 256 times as large and their weights as much smaller: the same
/// function, and INT8's one step for a token is too wide for all others.
fn with_outliers(to: &Path) -> PathBuf {
    program::copy_of(&tiny(), to);
    let path = to.join("model.safetensors");
    let mut file = program::tensors::File::open(&path);
    // A power of two is added to the exponent of BF16.
    let mut shift = |name: &str, at: usize, by: i32| {
        let start = file.place(name).start + 2 * at;
        let bits = u16::from_le_bytes([file.data[start], file.data[start + 1]]);
        let exponent = i32::from(bits >> 7 & 255);
        if exponent + by > 0 {
            let bits = (bits & 0x807f) | ((exponent + by) as u16) << 7;
            file.data[start..start + 2].copy_from_slice(&bits.to_le_bytes());
        }
    };
    for channel in [3, 70] {
        shift("model.layers.1.post_attention_layernorm.weight", channel, 8);
        for (row, linear) in (0..256).flat_map(|row| [(row, "gate_proj"), (row, "up_proj")]) {
            shift(&format!("model.layers.1.mlp.{linear}.weight"), row * 128 + channel, -8);
        }
    }
    file.save(&path);
    to.to_owned()
}

/// Linears that lose less in FP8 go there before any stays in float, which costs no bytes.
#[test]
fn a_budget_may_take_fp8() {
    let dir = scratch();
    let model = with_outliers(&dir.path().join("model"));
    let run = |name: &str, flags: &str| {
        let out = dir.path().join(name);
        let document = quantize(&model, &out).words("--weights rtn --smooth off --json").words(flags).run().json();
        (out, document)
    };
    let (_, plain) = run("all", "");
    let target = kl(&plain) / 2.0;
    let (_, floats) = run("floats", &format!("--budget KL={target}"));
    let (out, document) = run("fp8", &format!("--budget KL={target},fp8"));
    let (budget, without) = (&document["budget"], &floats["budget"]);
    let fp8 = budget["fp8"].as_array().unwrap_or_else(|| panic!("{budget}"));
    assert!(fp8.contains(&json!("model.layers.1.mlp.up_proj")) && without["fp8"].is_null(), "{budget} {without}");
    assert!(budget["kl"].as_f64().unwrap() + budget["standard_error"].as_f64().unwrap() <= target, "{budget}");
    assert_eq!(kl(&document), budget["kl"].as_f64().unwrap(), "what is written is what was measured");
    assert!(budget["bytes"].as_u64() < without["bytes"].as_u64(), "{budget} {without}");
    let file = program::tensors::File::open(&out.join("model.safetensors"));
    for name in fp8 {
        assert_eq!(file.kind(&format!("{}.weight", name.as_str().unwrap())).0, "F8_E4M3", "{name}");
        assert!(!budget["kept"].as_array().unwrap().contains(name));
    }
    answers(&out);
    let again = dir.path().join("again");
    quantize(&model, &again).arg("--recipe").arg(out.join("recipe.yaml")).run().ok();
    assert!(
        std::fs::read(again.join("model.safetensors")).unwrap()
            == std::fs::read(out.join("model.safetensors")).unwrap()
    );
    for (flags, piece) in [("--quant-dtype fp8", "INT8"), ("--format lmdeploy", "one 8-bit type")] {
        let no = dir.path().join("no");
        quantize(&model, &no).words("--budget KL=0.1,fp8").words(flags).run().fails(&["--budget", piece]);
        assert!(!no.exists());
    }
}

/// The output projection has a share like a layer's. Of a tied model it costs bytes to have it in 8 bits, so that it is the
/// first that a budget takes back.
#[test]
fn the_output_projection_has_a_share() {
    let dir = scratch();
    let document = sensitivity().words("--json --lm-head int8 --tokens 64").run().json();
    let layers = document["layers"].as_array().unwrap();
    assert_eq!((layers.len(), &layers[2]["name"]), (3, &json!("lm_head")));
    let (share, group) = (layers[2]["kl"].as_f64().unwrap(), &layers[2]["groups"][0]);
    assert!(share > 0.0 && share < 0.05, "{share}");
    assert_eq!((&group["linears"], &group["weights"]), (&json!(["lm_head"]), &json!(256 * 128)));
    let run = |name: &str, flags: &str| {
        let out = dir.path().join(name);
        (quantize(&tiny(), &out).words("--lm-head int8 --json").words(flags).run().json(), out)
    };
    let (all, whole) = run("all", "");
    let (document, out) = run("less", &format!("--budget KL={}", 0.999 * kl(&all)));
    let kept = document["budget"]["kept"].as_array().unwrap();
    assert!(kept.contains(&json!("lm_head")) && kept.len() < 15, "{}", document["budget"]);
    let tensors = |dir: &Path| program::tensors::File::open(&dir.join("model.safetensors")).names();
    assert!(
        tensors(&whole).contains(&"lm_head.weight_scale".into()) && !tensors(&out).contains(&"lm_head.weight".into())
    );
    let config = read_json(&out.join("config.json"));
    assert_eq!(config["tie_word_embeddings"], json!(true));
    assert!(config["quantization_config"]["ignore"].as_array().unwrap().contains(&json!("lm_head")));
    answers(&out);
}

#[test]
fn shares_add_up_and_are_drawn() {
    let dir = scratch();
    let page = dir.path().join("page.html");
    let document = sensitivity().words("--json --tokens 64 --html").arg(&page).run().json();
    assert_eq!(document["tokens"], json!(64));
    let layers = document["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 2);
    let sum = |of: &[Value], key: &str| of.iter().map(|l| l[key].as_f64().unwrap()).sum::<f64>();
    assert!((sum(layers, "share") - 1.0).abs() < 1e-9);
    assert!((sum(layers, "kl") / document["kl_sum"].as_f64().unwrap() - 1.0).abs() < 1e-9);
    for layer in layers {
        let groups = layer["groups"].as_array().unwrap();
        assert_eq!(groups.len(), 4);
        assert!((sum(groups, "kl") / layer["kl"].as_f64().unwrap() - 1.0).abs() < 1e-9, "{layer}");
        assert!(groups.iter().all(|g| g["kl"].as_f64().unwrap() > 0.0), "{layer}");
    }
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("<svg") && html.contains("model.layers.1") && html.contains("down_proj"));
    let table = sensitivity().run().ok().stdout;
    assert!(table.contains("model.layers.0") && table.contains('█') && table.contains('%'), "{table}");
    // What stays in float has no share.
    let document = sensitivity().words("--json --ignore re:.*layers.0.*").run().json();
    assert_eq!(document["layers"].as_array().unwrap().len(), 1);
    sensitivity().words("--ignore re:.*").run().fails(&["--ignore", "stay in float"]);
    sensitivity().words("--tokens 0").run().fails(&["--tokens"]);
    sensitivity().words("--smooth 3").run().fails(&["--smooth"]);
}
