//! `planish check-env`: devices and what each can run.
use super::{check_device, human, print, print_json};
use crate::Global;
use anyhow::Result;
use planish_devices::Device;
use serde_json::json;

/// Runs the command.
pub fn run(global: &Global) -> Result<()> {
    let (mut devices, no_gpu) = planish_devices::devices();
    devices.retain(|device| is_meant(&global.device, &device.name));
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

/// Whether `--device` means the device of this name; `auto` means all.
fn is_meant(asked: &str, name: &str) -> bool {
    let asked = asked.split_once('@').map_or(asked, |(place, _)| place);
    match asked {
        "auto" => true,
        "cuda" => name.starts_with("cuda:"),
        _ => name == asked,
    }
}

fn lines(d: &Device) -> String {
    let (free, total) = (human(d.memory.0), human(d.memory.1));
    let Device { name, description, int8, fp8, .. } = d;
    format!("{name}: {description}\n  memory  {free} free of {total}\n  INT8    {int8}\n  FP8     {fp8}\n")
}

#[cfg(test)]
mod tests {
    use super::is_meant;

    #[test]
    fn a_name_means_one_device_or_all_of_a_kind() {
        let meant = |asked: &str| ["cpu", "cuda:0", "cuda:1"].map(|name| is_meant(asked, name));
        assert_eq!(meant("auto"), [true; 3]);
        assert_eq!((meant("cpu"), meant("cuda")), ([true, false, false], [false, true, true]));
        assert_eq!((meant("cuda:1"), meant("cuda:1@80")), ([false, false, true], [false, false, true]));
        assert_eq!((meant("cuda:10"), meant("null")), ([false; 3], [false; 3]));
    }
}
