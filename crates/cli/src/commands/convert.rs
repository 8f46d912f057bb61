//! `planish convert`: an 8-bit checkpoint in another layout, where that needs no calibration and changes no number.
use super::{human, print, print_json};
use crate::Global;
use anyhow::{Result, bail};
use clap::Args;
use planish::Model;
use planish::quantize::parse_size;
use planish_checkpoint::convert::Conversion;
use planish_checkpoint::scheme::QuantFormat;
use planish_checkpoint::writer::{CheckpointWriter, WriterOptions};
use serde_json::json;
use std::path::PathBuf;

/// Flags of the command.
#[derive(Args)]
pub struct Flags {
    /// Directory or hub id of a quantized model
    model: String,
    /// Layout to write: compressed-tensors or lmdeploy
    #[arg(long, value_parser = ["compressed-tensors", "lmdeploy"])]
    format: String,
    /// Where the checkpoint goes
    #[arg(long)]
    work_dir: PathBuf,
    /// Replace what is in --work-dir
    #[arg(long)]
    overwrite: bool,
    /// Size at which the next shard begins, such as 5GB
    #[arg(long, default_value = "5GB", value_parser = parse_size)]
    max_shard_size: u64,
}

/// Runs the command.
pub fn run(global: &Global, flags: &Flags) -> Result<()> {
    let model = Model::open(&flags.model, global.talks())?;
    let Some(scheme) = &model.scheme else {
        bail!("{}: expected a quantized model, found one in float; planish quantize makes one", model.path.display());
    };
    let to = match flags.format.as_str() {
        "lmdeploy" => QuantFormat::LmDeploy,
        _ => QuantFormat::CompressedTensors,
    };
    let (source, embedding) = (model.tensors.as_ref(), model.plan.arch.names.embed);
    // Everything is decided before anything is written.
    let conversion = Conversion::new(source, scheme, to, embedding, model.config.path())?;
    let mut writer = CheckpointWriter::create(
        &flags.work_dir,
        WriterOptions {
            max_shard_size: flags.max_shard_size,
            overwrite: flags.overwrite,
            input: Some(model.path.clone()),
            ..WriterOptions::default()
        },
    )?;
    for name in source.names() {
        let (name_there, tensor) = conversion.tensor(&name, source.tensor(&name)?)?;
        writer.add(&name_there, tensor.dtype(), tensor.shape(), tensor.bytes())?;
        source.release(&name);
    }
    for (name, bytes) in &model.companions {
        writer.add_file(name, bytes)?;
    }
    writer.add_file("config.json", &model.config.to_json_with(Some(conversion.scheme.to_json())))?;
    let bytes = writer.tensor_bytes();
    writer.finish()?;
    if global.json {
        let dir = flags.work_dir.display().to_string();
        return print_json(&json!({"work_dir": dir, "format": flags.format, "bytes": bytes}));
    }
    print(&format!("{}: {} in the layout of {}\n", flags.work_dir.display(), human(bytes), flags.format))
}
