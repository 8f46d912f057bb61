//! `planish check-env`: devices and what each can run.
use super::{check_device, human, print, print_json};
use crate::Global;
use anyhow::Result;
use planish_devices::{Device, Place};
use serde_json::json;

/// Runs the command.
pub fn run(global: &Global) -> Result<()> {
    let (mut devices, no_gpu) = planish_devices::devices();
    let asked: Place = global.device.parse()?;
    devices.retain(|device| asked.means(&device.name));
    if devices.is_empty() {
        // Says what is wrong with the name, or with the device.
        check_device(&global.device)?;
    }
    let driver = planish_devices::cuda_version();
    if global.json {
        let list: Vec<_> = devices
            .iter()
            .map(|d| {
                json!({"name": d.name, "description": d.description, "capability": d.capability,
                       "memory_free": d.memory.0, "memory_total": d.memory.1, "int8": d.int8, "fp8": d.fp8})
            })
            .collect();
        return print_json(&json!({
            "version": env!("CARGO_PKG_VERSION"), "cuda_driver": driver, "devices": list, "no_gpu": no_gpu,
        }));
    }
    let mut text = format!("planish {}\n", env!("CARGO_PKG_VERSION"));
    devices.iter().for_each(|device| text += &lines(device));
    match (driver, no_gpu) {
        (Some(version), None) => text += &format!("NVIDIA driver: CUDA {version}\n"),
        (_, Some(why)) => text += &format!("no GPU: {why}\n"),
        (None, None) => {}
    }
    print(&text)
}

fn lines(d: &Device) -> String {
    let (free, total) = (human(d.memory.0), human(d.memory.1));
    let Device { name, description, int8, fp8, .. } = d;
    format!("{name}: {description}\n  memory  {free} free of {total}\n  INT8    {int8}\n  FP8     {fp8}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_lines_for_its_memory_and_each_type() {
        let device = Device {
            name: "cuda:1".into(),
            description: "NVIDIA Test, sm_75, 40 multiprocessors".into(),
            capability: Some("7.5".into()),
            memory: (15_000_000_000, 16_000_000_000),
            int8: "mma m8n8k16".into(),
            fp8: "no: use INT8".into(),
        };
        let expected = "cuda:1: NVIDIA Test, sm_75, 40 multiprocessors\n  memory  15.00 GB free of 16.00 GB\n  \
                        INT8    mma m8n8k16\n  FP8     no: use INT8\n";
        assert_eq!(lines(&device), expected);
    }
}
