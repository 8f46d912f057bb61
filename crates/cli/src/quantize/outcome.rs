//! What a run says of itself: the report, the files beside the tensors.
use super::{Prepared, stored};
use anyhow::Result;
use planish_checkpoint::scheme::Scheme;
use planish_checkpoint::writer::CheckpointWriter;
use planish_model::Input;
use planish_quant::calibrate::check::SMOOTHING_KL_LIMIT;
use planish_quant::calibrate::run::{FEW_TOKENS, Outcome};
use planish_quant::recipe::{Activations, Format, Smooth, WeightMethod, dtype_name, q8};
use planish_quant::report::{Calibration, Report, SelfChecks, Settings, Totals};

/// The report of a finished run; the bytes written are filled in when it is saved.
pub fn report(name: &str, prepared: &Prepared, outcome: Outcome) -> Report {
    let Prepared { model, recipe, samples, held_back, .. } = prepared;
    let calibration = Calibration {
        source: samples.description.clone(),
        samples: samples.ids.len(),
        tokens: samples.tokens(),
        sha256: samples.sha256.clone(),
    };
    let mut warnings = Vec::new();
    if recipe.calib_dataset.is_none() && recipe.needs_calibration() {
        warnings.push("calibrated on the small sample inside the program; --calib-dataset takes your own text".into());
    }
    if recipe.smooth != Smooth::Off {
        let because = |(input, why): (Input, &str)| format!("no block's {} is smoothed: {why}", input.name());
        warnings.extend(model.plan.unsmoothed().into_iter().map(because));
    }
    for mapping in &prepared.idle_mappings {
        warnings
            .push(format!("the recipe's mapping {mapping} names no pair of this model, which is not smoothed by it"));
    }
    for targets in stored::idle_targets(&model.plan, recipe) {
        warnings.push(format!("the recipe's group of {targets} names no linear of this model"));
    }
    let mixed = stored::mixed_experts(&model.plan, recipe);
    if !mixed.is_empty() {
        warnings.push(format!(
            "{}: experts of one layer differ in scheme; vLLM takes the first expert's for all of them and loads the others \
             wrongly",
            mixed.join(", ")
        ));
    }
    for layer in outcome.layers.iter().filter(|l| !l.experts.on_all_tokens.is_empty()) {
        warnings.push(format!(
            "{}: experts {:?} were given fewer than {FEW_TOKENS} calibration tokens and are calibrated on all of them",
            layer.name, layer.experts.on_all_tokens
        ));
    }
    for linear in outcome.layers.iter().flat_map(|l| &l.linears) {
        if linear.fallback {
            warnings.push(format!("{}: GPTQ could not be used, rounded to nearest", linear.name));
        }
        if !linear.zero_rows.is_empty() {
            warnings.push(format!("{}: {} output channels are all zero", linear.name, linear.zero_rows.len()));
        }
    }
    Report {
        version: env!("CARGO_PKG_VERSION").into(),
        model: name.into(),
        settings: Settings {
            quant_dtype: recipe.dtypes().into_iter().map(dtype_name).collect::<Vec<_>>().join(", "),
            smooth: match recipe.smooth {
                Smooth::Alpha(alpha) => alpha.to_string(),
                Smooth::Auto => "auto".into(),
                Smooth::Off => "off".into(),
            },
            weights: if recipe.weights == WeightMethod::Gptq { "gptq" } else { "rtn" }.into(),
            activations: if recipe.activations() == Activations::Static { "static" } else { "dynamic" }.into(),
            kv_scales: recipe.kv_cache.map(|dtype| dtype_name(q8(dtype)).into()),
            ignore: recipe.ignore.iter().map(|p| p.text().to_owned()).collect(),
            format: if recipe.format == Format::Lmdeploy { "lmdeploy" } else { "compressed-tensors" }.into(),
            seed: recipe.seed,
        },
        calibration: recipe.needs_calibration().then_some(calibration),
        layers: outcome.layers,
        budget: None,
        self_checks: SelfChecks {
            smoothing_kl: outcome.smoothing.map(|d| d.mean),
            smoothing_kl_threshold: SMOOTHING_KL_LIMIT,
            quantized_kl_mean: Some(outcome.quantized.mean),
            quantized_kl_max: Some(outcome.quantized.max),
            top1_agreement: Some(outcome.quantized.top1),
            tokens: held_back.len(),
        },
        totals: Totals { bytes_before: model.bytes, bytes_after: 0 },
        warnings,
    }
}

/// Adds the files beside the tensors.
pub fn save(writer: &mut CheckpointWriter, prepared: &Prepared, scheme: &Scheme, mut report: Report) -> Result<Report> {
    let (model, recipe) = (&prepared.model, &prepared.recipe);
    report.totals.bytes_after = writer.tensor_bytes();
    for (name, bytes) in &model.companions {
        writer.add_file(name, bytes)?;
    }
    let config = match prepared.head() {
        // Its codes are a tensor of their own.
        Some(_) => model.config.with("tie_word_embeddings", false.into()),
        None => model.config.clone(),
    };
    writer.add_file("config.json", &config.to_json_with(Some(scheme.to_json())))?;
    writer.add_file("recipe.yaml", stored::spelled_out(&model.plan, recipe)?.to_yaml().as_bytes())?;
    writer.add_file("planish_report.json", report.to_json().as_bytes())?;
    writer.add_file("planish_report.html", planish_quant::html::render_html(&report).as_bytes())?;
    Ok(report)
}
