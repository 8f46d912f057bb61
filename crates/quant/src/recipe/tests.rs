//! Defaults of the command line, recipes of llm-compressor, round trips and refusals.
use super::*;

fn typed(pairs: &[(&str, &str)]) -> QuantizeArgs {
    let mut args = QuantizeArgs::default();
    for (name, value) in pairs {
        let value = value.to_string();
        match *name {
            "quant-dtype" => args.quant_dtype = Some(value),
            "smooth" => args.smooth = Some(value),
            "weights" => args.weights = Some(value),
            "activations" => args.activations = Some(value),
            "format" => args.format = Some(value),
            "ignore" => args.ignore.push(value),
            "recipe" => args.recipe = Some(value),
            other => panic!("{other}"),
        }
    }
    args
}

fn decided(pairs: &[(&str, &str)]) -> Recipe {
    decide(&typed(pairs)).unwrap()
}

fn refused(pairs: &[(&str, &str)]) -> String {
    decide(&typed(pairs)).unwrap_err().to_string()
}

const GOLDEN: &str = include_str!("../../tests/data/w8a8_sq_gptq_f32/recipe.yaml");

#[test]
fn defaults() {
    let int8 = decided(&[]);
    assert_eq!((int8.dtype, int8.smooth, int8.weights), (Q8::Int8, Smooth::Alpha(0.8), WeightMethod::Gptq));
    assert_eq!((int8.calib_samples, int8.calib_seqlen, int8.seed), (512, 2048, 42));
    assert_eq!((int8.activations, int8.format), (Activations::Dynamic, Format::CompressedTensors));
    assert!(int8.quantizes("model.layers.0.mlp.up_proj") && !int8.quantizes("lm_head"));
    assert!(int8.needs_calibration() && int8.smooths("norm", &["q"]));
    for (name, dtype) in [("fp8", Q8::E4M3), ("float8_e4m3fn", Q8::E4M3), ("float8_e5m2", Q8::E5M2)] {
        let fp8 = decided(&[("quant-dtype", name)]);
        assert_eq!((fp8.dtype, fp8.smooth, fp8.weights), (dtype, Smooth::Off, WeightMethod::Rtn));
        assert!(!fp8.needs_calibration() && !fp8.smooths("norm", &["q"]));
    }
    let own = decided(&[("smooth", "auto"), ("weights", "rtn"), ("ignore", "re:.*down_proj")]);
    assert_eq!((own.smooth, own.weights), (Smooth::Auto, WeightMethod::Rtn));
    assert!(!own.quantizes("a.down_proj") && own.quantizes("lm_head"));
}

#[test]
fn reads_what_llm_compressor_writes() {
    let recipe = decided(&[("recipe", GOLDEN)]);
    assert_eq!((recipe.dtype, recipe.smooth, recipe.weights), (Q8::Int8, Smooth::Alpha(0.8), WeightMethod::Gptq));
    assert_eq!((recipe.block_size, recipe.damping, recipe.act_order), (128, 0.01, true));
    assert!(recipe.smooths("model.layers.0.input_layernorm", &["model.layers.0.self_attn.q_proj"]));
    assert!(!recipe.smooths("model.layers.0.mlp.up_proj", &["model.layers.0.mlp.down_proj"]));
    assert!(!recipe.quantizes("lm_head"));
    // The same flags are no contradiction.
    let same = decided(&[("recipe", GOLDEN), ("quant-dtype", "int8"), ("smooth", "0.80"), ("ignore", "lm_head")]);
    assert_eq!(same, recipe);
}

#[test]
fn what_is_written_is_read_back() {
    for flags in [
        &[][..],
        &[("smooth", "1")],
        &[("smooth", "auto"), ("ignore", "re:.*it's"), ("ignore", "lm_head")],
        &[("weights", "rtn"), ("smooth", "off")],
        &[("quant-dtype", "fp8")],
        &[("quant-dtype", "float8_e5m2"), ("weights", "gptq"), ("smooth", "0.5")],
        &[("activations", "static")],
        &[("quant-dtype", "fp8"), ("activations", "static")],
        &[("quant-dtype", "float8_e5m2"), ("activations", "static")],
        &[("recipe", GOLDEN)],
    ] {
        let recipe = decided(flags);
        let text = recipe.to_yaml();
        assert_eq!(decided(&[("recipe", &text)]), recipe, "{flags:?}\n{text}");
    }
    let expected = "default_stage:\n  default_modifiers:\n    SmoothQuantModifier:\n      smoothing_strength: 0.8\n      \
        ignore: []\n    GPTQModifier:\n      targets: [Linear]\n      scheme: W8A8\n      ignore: [lm_head]\n      \
        block_size: 128\n      dampening_frac: 0.01\n      actorder: static\n";
    assert_eq!(decided(&[]).to_yaml(), expected);
}

#[test]
fn contradictions_name_both_sides() {
    let said = refused(&[("recipe", GOLDEN), ("smooth", "0.5")]);
    assert_eq!(said, "--smooth 0.5 contradicts the recipe, which says smoothing_strength: 0.8; drop one of them");
    for (flag, value, words) in [
        ("quant-dtype", "fp8", "scheme: W8A8"),
        ("weights", "rtn", "modifier: GPTQModifier"),
        ("activations", "static", "scheme: W8A8"),
        ("ignore", "re:.*mlp.*", "ignore: [\"lm_head\"]"),
    ] {
        let said = refused(&[("recipe", GOLDEN), (flag, value)]);
        assert!(said.starts_with(&format!("--{flag} {value} contradicts")) && said.contains(words), "{said}");
    }
}

#[test]
fn refusals_name_the_place() {
    let modifiers = |text: &str| refused(&[("recipe", &format!("a_stage: {{b_modifiers: {{{text}}}}}"))]);
    for (text, words) in [
        ("AWQModifier: {}", "AWQModifier is not supported"),
        ("GPTQModifier: {scheme: W4A16}", "GPTQModifier.scheme: expected W8A8"),
        ("GPTQModifier: {}", "needs one of scheme and config_groups"),
        ("GPTQModifier: {scheme: W8A8, kv_cache_scheme: {num_bits: 8}}", "GPTQModifier.kv_cache_scheme"),
        ("GPTQModifier: {scheme: W8A8, actorder: group}", "actorder: expected static"),
        ("GPTQModifier: {scheme: W8A8, dampening_frac: 2}", "dampening_frac: expected a number above 0"),
        ("QuantizationModifier: {scheme: W8A8, ignore: ['re:(']}", "pattern re:("),
        ("SmoothQuantModifier: {smoothing_strength: 0.5}", "no GPTQModifier or QuantizationModifier"),
        ("SmoothQuantModifier: {smoothing_strength: 7}", "SmoothQuantModifier.smoothing_strength: expected"),
        ("QuantizationModifier: {scheme: W8A8}, SmoothQuantModifier: {}", "put it first"),
        ("QuantizationModifier: {scheme: W8A8}, GPTQModifier: {scheme: W8A8}", "second quantization"),
        ("QuantizationModifier: {config_groups: {g: {weights: {num_bits: 4}}}}", "config_groups.g.weights"),
    ] {
        let said = modifiers(text);
        assert!(said.contains(words), "{text}: {said}");
    }
    assert!(refused(&[("recipe", "a: [")]).contains("not valid YAML"));
    assert!(refused(&[("recipe", "surprise: 1")]).contains("surprise is not supported"));
    assert!(refused(&[("recipe", "")]).contains("at the top"));
    assert_eq!(
        refused(&[("quant-dtype", "int4")]),
        "--quant-dtype: expected int8, fp8, float8_e4m3fn, float8_e5m2, found int4"
    );
    assert!(refused(&[("smooth", "nan")]).contains("auto or off"));
    assert!(refused(&[("format", "lmdeploy"), ("activations", "static")]).contains("lmdeploy"));
    let none = QuantizeArgs { calib_samples: Some(0), ..QuantizeArgs::default() };
    assert!(decide(&none).unwrap_err().to_string().contains("--calib-samples"));
}

#[test]
fn expressions_match_from_the_start() {
    let pattern = |text: &str| Pattern::new(text).unwrap();
    assert!(pattern("re:.*q_proj").matches("model.q_proj.inner"));
    assert!(!pattern("re:q_proj").matches("model.q_proj"));
    assert!(!pattern("re:a|b").matches("xb"));
    assert!(pattern("a.b").matches("a.b") && !pattern("a.b").matches("a.bc") && !pattern("a.b").matches("axb"));
}
