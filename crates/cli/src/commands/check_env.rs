//! `planish check-env`: devices and what each can run.
use super::{human, print, print_json};
use crate::Global;
use anyhow::Result;
use serde_json::json;

/// Runs the command.
pub fn run(global: &Global) -> Result<()> {
    let (devices, no_gpu) = planish_devices::devices();
    if global.json {
        let list: Vec<_> = devices
            .iter()
            .map(|d| {
                json!({"name": d.name, "description": d.description, "memory_free": d.memory.0,
                       "memory_total": d.memory.1, "int8": d.int8, "fp8": d.fp8})
            })
            .collect();
        return print_json(&json!({"version": env!("CARGO_PKG_VERSION"), "devices": list, "no_gpu": no_gpu}));
    }
    let mut text = format!("planish {}\n", env!("CARGO_PKG_VERSION"));
    for d in devices {
        text += &format!(
            "{}: {}\n  memory  {} free of {}\n  INT8    {}\n  FP8     {}\n",
            d.name,
            d.description,
            human(d.memory.0),
            human(d.memory.1),
            d.int8,
            d.fp8
        );
    }
    if let Some(why) = no_gpu {
        text += &format!("no GPU: {why}\n");
    }
    print(&text)
}
