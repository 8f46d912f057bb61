//! Defaults of the command line, recipes of llm-compressor, round trips and refusals.
use super::*;
use planish_checkpoint::scheme::{ActUnit, ScaleType, WeightStrategy};

fn typed(pairs: &[(&str, &str)]) -> QuantizeArgs {
    let mut args = QuantizeArgs::default();
    for (name, value) in pairs {
        let value = value.to_string();
        match *name {
            "quant-dtype" => args.quant_dtype = Some(value),
            "smooth" => args.smooth = Some(value),
            "weights" => args.weights = Some(value),
            "activations" => args.activations = Some(value),
            "clip" => args.clip = Some(value),
            "kv-scales" => args.kv_scales = Some(value),
            "format" => args.format = Some(value),
            "ignore" => args.ignore.push(value),
            "scheme" => args.scheme = Some(value),
            "lm-head" => args.lm_head = Some(value),
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

/// Every kind of group that can be said.
const GROUPS: &str = r#"
smooth_stage:
  run_type: oneshot
  smooth_modifiers:
    SmoothQuantModifier: {smoothing_strength: 0.8, start: -1, ignore: ["re:.*head"]}
quant_stage:
  quant_modifiers:
    GPTQModifier:
      targets: [Linear]
      ignore: [lm_head]
      actorder: weight
      config_groups:
        attention:
          targets: ["re:.*self_attn.*"]
          weights: {num_bits: 8, type: int, symmetric: true, strategy: channel, observer: minmax, actorder: null}
          input_activations: {num_bits: 8, type: int, symmetric: false, strategy: token, dynamic: true}
          output_activations: null
        first:
          targets: [model.layers.0.mlp.down_proj]
          weights: {type: float, strategy: block, block_structure: 128x64}
          input_activations: {type: float, group_size: 128, dynamic: true}
        mx:
          targets: ["re:.*up_proj"]
          weights: {type: float, group_size: 32, scale_dtype: torch.uint8}
          input_activations: {type: float, group_size: 32, dynamic: true, scale_dtype: torch.uint8}
        rest:
          weights: {type: float, strategy: tensor}
          input_activations: {type: float}
        FP8_DYNAMIC: ["re:.*gate_proj"]
"#;

#[test]
fn groups_by_name_pattern_and_class() {
    let recipe = decided(&[("recipe", GROUPS)]);
    let of = |name: &str| *recipe.scheme_of(name).unwrap();
    let first = of("model.layers.0.mlp.down_proj");
    assert_eq!(first.weights.strategy, WeightStrategy::Block { rows: 128, columns: 64 });
    assert_eq!(first.activations, ActQuant::Dynamic { unit: ActUnit::Group(128), symmetric: true });
    let attention = of("model.layers.3.self_attn.q_proj");
    assert_eq!(attention.weights.dtype, QuantType::Int8);
    assert_eq!(attention.activations, ActQuant::Dynamic { unit: ActUnit::Token, symmetric: false });
    assert_eq!(of("model.layers.1.mlp.up_proj").weights.scale, ScaleType::Exponent);
    assert_eq!(of("model.layers.1.mlp.down_proj").activations, ActQuant::Static { symmetric: true });
    assert_eq!(of("model.layers.1.mlp.gate_proj"), presets::dynamic(QuantType::Fp8E4M3));
    assert!(recipe.scheme_of("lm_head").is_none());
    assert!(!recipe.smooths("a", &["b"]) || recipe.mappings.is_none());
    let said = recipe.check_made().unwrap_err().to_string();
    assert!(said.contains("model.layers.0.mlp.down_proj") && said.contains("GPTQ is made for"), "{said}");
    decided(&[("recipe", GOLDEN)]).check_made().unwrap();
}

#[test]
fn presets_mean_what_llm_compressor_means() {
    let scheme = |name: &str| {
        let text = format!("a_stage: {{b_modifiers: {{QuantizationModifier: {{scheme: {name}}}}}}}");
        decided(&[("recipe", &text)]).groups[0].scheme
    };
    assert_eq!(scheme("W8A8"), presets::dynamic(QuantType::Int8));
    assert_eq!(scheme("int8"), presets::dynamic(QuantType::Int8));
    assert_eq!(scheme("FP8_DYNAMIC"), presets::dynamic(QuantType::Fp8E4M3));
    let fp8 = scheme("FP8");
    assert_eq!((fp8.weights.strategy, fp8.activations), (WeightStrategy::Tensor, ActQuant::Static { symmetric: true }));
    let block = scheme("FP8_BLOCK");
    assert_eq!(block.weights.strategy, WeightStrategy::Block { rows: 128, columns: 128 });
    assert_eq!(scheme("MXFP8").weights.scale, ScaleType::Exponent);
    let several = "a_stage: {b_modifiers: {QuantizationModifier: {scheme: {W8A8: [Linear], FP8: ['re:.*down_proj']}}}}";
    let several = decided(&[("recipe", several)]);
    assert_eq!(several.scheme_of("a.down_proj"), Some(&fp8));
    assert_eq!(several.scheme_of("a.up_proj"), Some(&presets::dynamic(QuantType::Int8)));
}

/// What the layout cannot hold is refused where the flags are read.
#[test]
fn layouts_have_limits() {
    let said = refused(&[("quant-dtype", "float8_e5m2")]);
    assert!(said.contains("compressed-tensors has no E5M2 weights"), "{said}");
    assert!(refused(&[("recipe", GROUPS), ("format", "lmdeploy")]).contains("--format lmdeploy"));
    let two = "a_stage: {b_modifiers: {QuantizationModifier: {scheme: {W8A8: [Linear], FP8_DYNAMIC: ['re:.*down']}}}}";
    assert!(refused(&[("recipe", two), ("format", "lmdeploy")]).contains("one scheme for all"));
    decided(&[("recipe", two)]).check_made().unwrap();
    let all = "a_stage: {b_modifiers: {QuantizationModifier: {scheme: W8A8}}}";
    assert!(refused(&[("recipe", all), ("format", "lmdeploy")]).contains("keeps the output projection in float"));
}

#[test]
fn defaults() {
    let int8 = decided(&[]);
    assert_eq!((int8.dtype(), int8.smooth, int8.weights), (Q8::Int8, Smooth::Alpha(0.8), WeightMethod::Gptq));
    assert_eq!((int8.calib_samples, int8.calib_seqlen, int8.seed), (512, 2048, 42));
    assert_eq!((int8.activations(), int8.format), (Activations::Dynamic, Format::CompressedTensors));
    assert!(int8.quantizes("model.layers.0.mlp.up_proj") && !int8.quantizes("lm_head"));
    assert!(int8.needs_calibration() && int8.smooths("norm", &["q"]));
    for (name, dtype) in [("fp8", Q8::E4M3), ("float8_e4m3fn", Q8::E4M3), ("float8_e5m2", Q8::E5M2)] {
        let fp8 = decided(&[("quant-dtype", name), ("format", "lmdeploy")]);
        assert_eq!((fp8.dtype(), fp8.smooth, fp8.weights), (dtype, Smooth::Off, WeightMethod::Rtn));
        assert!(!fp8.needs_calibration() && !fp8.smooths("norm", &["q"]));
    }
    let own = decided(&[("smooth", "auto"), ("weights", "rtn"), ("ignore", "re:.*down_proj")]);
    assert_eq!((own.smooth, own.weights), (Smooth::Auto, WeightMethod::Rtn));
    assert!(!own.quantizes("a.down_proj") && !own.quantizes("lm_head"));
}

/// What is made of groups that can be stored.
#[test]
fn made_and_not_made() {
    let group = |weights: &str, inputs: &str| {
        let text = format!(
            "a_stage: {{b_modifiers: {{QuantizationModifier: {{config_groups: {{g: {{targets: [Linear], \
             weights: {{{weights}}}, input_activations: {{{inputs}}}}}}}}}}}}}"
        );
        decided(&[("recipe", &text)]).check_made().map_err(|e| e.to_string())
    };
    let (token, float) = ("strategy: token, dynamic: true", "type: float, strategy: token, dynamic: true");
    let groups = "type: float, group_size: 64, dynamic: true";
    for (weights, inputs) in [
        ("strategy: channel", token),
        ("strategy: channel", "strategy: token, dynamic: true, symmetric: false"),
        ("strategy: channel", "strategy: tensor, symmetric: false"),
        ("strategy: tensor", token),
        ("type: float, strategy: tensor", "type: float, strategy: tensor"),
        ("type: float, strategy: block, block_structure: [128, 64]", groups),
        ("type: float, group_size: 64", groups),
        ("type: float, strategy: channel", groups),
    ] {
        group(weights, inputs).unwrap_or_else(|e| panic!("{weights}; {inputs}: {e}"));
    }
    for (weights, inputs, words) in [
        ("strategy: channel", "strategy: tensor, dynamic: true", "depend on whatever else"),
        ("type: float, strategy: channel", "type: float, strategy: tensor, symmetric: false", "no zero point"),
        ("type: float, strategy: block, block_structure: 128x128", groups, "as many columns"),
        ("type: float, strategy: block, block_structure: 128x128", float, "as many columns"),
        ("type: float, strategy: tensor", groups, "one scale for all"),
        ("type: float, group_size: 32, scale_dtype: torch.uint8", "type: float, group_size: 32, dynamic: true", "MX"),
    ] {
        let said = group(weights, inputs).unwrap_err();
        assert!(said.contains(words), "{weights}; {inputs}: {said}");
    }
}

#[test]
fn presets_and_heads_by_flags() {
    let block = decided(&[("scheme", "fp8_block")]);
    assert_eq!((block.dtype(), block.smooth, block.weights), (Q8::E4M3, Smooth::Off, WeightMethod::Rtn));
    assert_eq!(block.groups[0].scheme.weights.strategy, WeightStrategy::Block { rows: 128, columns: 128 });
    assert_eq!(decided(&[("scheme", "W8A8")]), decided(&[]));
    let same = decided(&[("lm-head", "int8"), ("ignore", "re:.*up_proj")]);
    assert!(same.groups.len() == 1 && same.quantizes("lm_head") && !same.quantizes("a.up_proj"));
    let other = decided(&[("lm-head", "fp8")]);
    assert_eq!(other.scheme_of("lm_head"), Some(&presets::dynamic(QuantType::Fp8E4M3)));
    assert_eq!(other.scheme_of("a.up_proj"), Some(&presets::dynamic(QuantType::Int8)));
    assert_eq!((other.dtypes(), decided(&[]).dtypes()), (vec![Q8::Int8, Q8::E4M3], vec![Q8::Int8]));
    assert_eq!(decided(&[("lm-head", "float")]), decided(&[]));
    // A family may call it otherwise.
    assert!(other.scheme_of_head("output").is_some() && decided(&[]).scheme_of_head("output").is_none());
    assert!(decided(&[("lm-head", "fp8")]).scheme_of_head("output") == other.scheme_of("lm_head"));
    for flags in [&[("lm-head", "fp8")][..], &[("lm-head", "int8")], &[("scheme", "FP8_BLOCK")], &[("scheme", "FP8")]] {
        let recipe = decided(flags);
        let text = recipe.to_yaml();
        let again = decided(&[("recipe", &text)]);
        assert_eq!(again, recipe, "{text}");
        again.check_made().unwrap();
        // The same flags are no contradiction.
        assert_eq!(decided(&[&[("recipe", text.as_str())], flags].concat()), recipe);
    }
    let said = refused(&[("recipe", GOLDEN), ("scheme", "FP8")]);
    assert!(said.starts_with("--scheme FP8 contradicts") && said.contains("scheme: W8A8"), "{said}");
    let said = refused(&[("recipe", GOLDEN), ("lm-head", "fp8")]);
    assert!(said.starts_with("--lm-head fp8 contradicts") && said.contains("ignores it"), "{said}");
}

#[test]
fn linears_move_to_fp8_by_name() {
    let mut recipe = decided(&[("ignore", "re:.*v_proj")]);
    let names = |list: &[&str]| list.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    recipe.put_in_fp8(&names(&["a.down_proj"])).unwrap();
    recipe.put_in_fp8(&names(&["b.gate_proj", "b.up_proj"])).unwrap();
    recipe.put_in_fp8(&names(&["a.v_proj"])).unwrap();
    let of = |name: &str| recipe.scheme_of(name).map(|s| s.weights.dtype);
    assert_eq!(recipe.groups.len(), 2);
    assert_eq!(
        ["a.down_proj", "b.up_proj", "a.up_proj"].map(of),
        [QuantType::Fp8E4M3, QuantType::Fp8E4M3, QuantType::Int8].map(Some)
    );
    assert_eq!(of("a.v_proj"), None);
    assert_eq!(decided(&[("recipe", &recipe.to_yaml())]), recipe);
    assert_eq!(decided(&[]).in_fp8().dtypes(), [Q8::E4M3]);
}

#[test]
fn reads_what_llm_compressor_writes() {
    let recipe = decided(&[("recipe", GOLDEN)]);
    assert_eq!((recipe.dtype(), recipe.smooth, recipe.weights), (Q8::Int8, Smooth::Alpha(0.8), WeightMethod::Gptq));
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
        &[("weights", "rtn"), ("smooth", "off"), ("clip", "on")],
        &[("quant-dtype", "fp8")],
        &[("activations", "static")],
        &[("quant-dtype", "fp8"), ("activations", "static")],
        &[("kv-scales", "fp8")],
        &[("scheme", "FP8_BLOCK"), ("kv-scales", "fp8")],
        &[("recipe", GOLDEN)],
        &[("recipe", GROUPS)],
    ] {
        let recipe = decided(flags);
        let text = recipe.to_yaml();
        assert_eq!(decided(&[("recipe", &text)]), recipe, "{flags:?}\n{text}");
    }
    let e5m2 = [("quant-dtype", "float8_e5m2"), ("weights", "gptq"), ("smooth", "0.5"), ("format", "lmdeploy")];
    let recipe = decided(&e5m2);
    assert_eq!(decided(&[("recipe", &recipe.to_yaml()), ("format", "lmdeploy")]), recipe);
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
        ("clip", "on", "weight_observer: the largest magnitude"),
        ("kv-scales", "fp8", "kv_cache_scheme: nothing"),
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
        ("AWQModifier: {}", "AWQModifier is llm-compressor's, but not supported here"),
        ("SmoothQuantModifer: {}", "modifier SmoothQuantModifer is not known; did you mean SmoothQuantModifier?"),
        ("GPTQModifier: {scheme: W4A16}", "W4A16 has not 8-bit weights and 8-bit activations"),
        ("GPTQModifier: {scheme: FP8DYNAMIC}", "scheme FP8DYNAMIC is not known; did you mean FP8_DYNAMIC?"),
        ("GPTQModifier: {scheme: bread}", "known are W8A8, INT8, FP8"),
        ("GPTQModifier: {shceme: W8A8}", "GPTQModifier: field shceme is not known; did you mean scheme?"),
        ("SmoothQuantModifier: {strength: 1}", "SmoothQuantModifier: field strength is not known"),
        ("QuantizationModifier: {scheme: W8A8, block_size: 128}", "field block_size is not known"),
        ("QuantizationModifier: {scheme: W8A8, weight_observer: mze}", "observer mze is not known; did you mean mse?"),
        ("QuantizationModifier: {scheme: W8A8, start: 3}", "QuantizationModifier.start: expected null or -1"),
        ("GPTQModifier: {}", "needs one of scheme and config_groups, found neither"),
        ("GPTQModifier: {scheme: W8A8, config_groups: {g: {}}}", "config_groups.g.weights: expected 8-bit weights"),
        ("GPTQModifier: {config_groups: {g: {weight: {}}}}", "field weight is not known; did you mean weights?"),
        ("GPTQModifier: {config_groups: {g: {weights: {bits: 8}}}}", "field bits is not known; did you mean num_bits?"),
        ("GPTQModifier: {config_groups: {g: {weights: {}}}}", "weight-only schemes are not made"),
        ("GPTQModifier: {config_groups: {g: {weights: {strategy: chanel}}}}", "did you mean channel?"),
        (
            "GPTQModifier: {config_groups: {g: {weights: {symmetric: false}, input_activations: {}}}}",
            "symmetric weights",
        ),
        ("GPTQModifier: {scheme: W8A8, kv_cache_scheme: {num_bits: 8}}", "GPTQModifier.kv_cache_scheme.type"),
        ("GPTQModifier: {scheme: W8A8, actorder: group}", "actorder: expected static"),
        (
            "GPTQModifier: {actorder: static, config_groups: {g: {weights: {actorder: false}, input_activations: {}}}}",
            "GPTQModifier.actorder: expected that of config_groups",
        ),
        (
            "GPTQModifier: {actorder: null, config_groups: {g: {weights: {actorder: weight}, input_activations: {}}}}",
            "GPTQModifier.actorder: expected that of config_groups",
        ),
        ("GPTQModifier: {scheme: W8A8, dampening_frac: 2}", "dampening_frac: expected a number above 0"),
        ("QuantizationModifier: {scheme: W8A8, ignore: ['re:(']}", "pattern re:("),
        ("SmoothQuantModifier: {smoothing_strength: 0.5}", "no GPTQModifier or QuantizationModifier"),
        ("SmoothQuantModifier: {smoothing_strength: 7}", "SmoothQuantModifier.smoothing_strength: expected"),
        ("QuantizationModifier: {scheme: W8A8}, SmoothQuantModifier: {}", "put it first"),
        ("QuantizationModifier: {scheme: W8A8}, GPTQModifier: {scheme: W8A8}", "second quantization"),
        ("QuantizationModifier: {config_groups: {g: {weights: {num_bits: 4}}}}", "config_groups.g.weights.num_bits"),
        (
            "QuantizationModifier: {config_groups: {g: {weights: {}, input_activations: {type: float}}}}",
            "that of the weights",
        ),
    ] {
        let said = modifiers(text);
        assert!(said.contains(words), "{text}: {said}");
    }
    assert!(refused(&[("recipe", "a: [")]).contains("not valid YAML"));
    assert!(refused(&[("recipe", "surprise: 1")]).contains("surprise is not supported"));
    assert!(refused(&[("recipe", "quant_stgae: {}")]).contains("did you mean quant_stage?"));
    assert!(refused(&[("recipe", "")]).contains("at the top"));
    assert_eq!(
        refused(&[("quant-dtype", "int4")]),
        "--quant-dtype: expected int8, fp8, float8_e4m3fn, float8_e5m2, found int4"
    );
    assert!(refused(&[("smooth", "nan")]).contains("auto or off"));
    let said = refused(&[("format", "lmdeploy"), ("activations", "static")]);
    assert!(said.contains("--format lmdeploy") && said.contains("static activations"), "{said}");
    let none = QuantizeArgs { calib_samples: Some(0), ..QuantizeArgs::default() };
    assert!(decide(&none).unwrap_err().to_string().contains("--calib-samples"));
}

#[test]
fn scales_of_keys_and_values() {
    assert_eq!(decided(&[]).kv_cache, None);
    let fp8 = decided(&[("quant-dtype", "fp8"), ("kv-scales", "fp8")]);
    assert_eq!((fp8.kv_cache, fp8.weights), (Some(QuantType::Fp8E4M3), WeightMethod::Rtn));
    assert!(fp8.needs_calibration() && !decided(&[("quant-dtype", "fp8")]).needs_calibration());
    for modifier in ["GPTQModifier", "QuantizationModifier"] {
        let text =
            format!("a_stage: {{b_modifiers: {{{modifier}: {{scheme: FP8_DYNAMIC, kv_cache_scheme: {}}}}}}}", kv::SAID);
        let recipe = decided(&[("recipe", &text), ("kv-scales", "fp8")]);
        assert_eq!(recipe.kv_cache, Some(QuantType::Fp8E4M3));
        let said = refused(&[("recipe", &text), ("kv-scales", "off")]);
        assert!(said.contains("kv_cache_scheme: scales of FP8 keys and values"), "{said}");
    }
    let said = refused(&[("format", "lmdeploy"), ("kv-scales", "fp8")]);
    assert!(said.contains("--kv-scales") && said.contains("no place for scales of keys"), "{said}");
    assert_eq!(refused(&[("kv-scales", "int8")]), "--kv-scales: expected fp8, off, found int8");
}

/// GPTQ's order may be said in a group.
#[test]
fn groups_say_the_order_of_columns() {
    let order = |weights: &str, own: &str| {
        let text = format!(
            "a_stage: {{b_modifiers: {{GPTQModifier: {{{own}config_groups: {{g: {{weights: {{strategy: channel{weights}}}, \
             input_activations: {{strategy: token, dynamic: true}}}}}}}}}}}}"
        );
        decided(&[("recipe", &text)]).act_order
    };
    assert!(order("", "") && order(", actorder: static", "") && order(", actorder: weight", "actorder: static, "));
    assert!(!order(", actorder: false", "") && !order(", actorder: false", "actorder: false, "));
    assert!(!order("", "actorder: null, ") && order(", actorder: null", ""));
}

#[test]
fn expressions_match_from_the_start() {
    let pattern = |text: &str| Pattern::new(text).unwrap();
    assert!(pattern("re:.*q_proj").matches("model.q_proj.inner"));
    assert!(!pattern("re:q_proj").matches("model.q_proj"));
    assert!(!pattern("re:a|b").matches("xb"));
    assert!(pattern("a.b").matches("a.b") && !pattern("a.b").matches("a.bc") && !pattern("a.b").matches("axb"));
}
