//! `planish quantize`, killed: nothing that loads stays behind, and `--resume` ends in the same bytes.
mod program;

use program::{Program, assert_same_bytes, inspect, read_json, scratch, tiny};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The golden sequences over and over, so that a run takes long enough to be killed in the middle.
fn long_calibration(dir: &Path) -> PathBuf {
    let ids = read_json(&program::data("calibration.json"))["calibration_ids"].clone();
    let ids = ids.as_array().unwrap();
    let many: Vec<_> = (0..250).map(|i| ids[i % ids.len()].clone()).collect();
    let path = dir.join("long.json");
    std::fs::write(&path, json!({"calibration_ids": many}).to_string()).unwrap();
    path
}

fn quantize(calibration: &Path, out: &Path) -> Program {
    let program = Program::new("quantize --max-shard-size 100KB --threads 1 --calib-seqlen 64").arg(tiny());
    program.arg("--work-dir").arg(out).arg("--calib-dataset").arg(calibration)
}

/// Starts a run and kills it after a while; false when it was faster.
fn killed(program: Program, after: Duration) -> bool {
    let mut child = program.spawn();
    std::thread::sleep(after);
    child.kill().unwrap();
    !child.wait().unwrap().success()
}

/// Starts a run and kills it as soon as its journal has so many lines (the first is written before the first block);
/// false when it was faster.
fn killed_at(program: Program, out: &Path, lines: usize) -> bool {
    let mut child = program.spawn();
    while child.try_wait().unwrap().is_none() {
        let journal = staged(out).first().and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
        if journal.iter().filter(|&&b| b == b'\n').count() >= lines {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    !child.wait().unwrap().success() && !staged(out).is_empty()
}

#[test]
fn a_killed_run_leaves_nothing_that_loads_and_resumes_to_the_same_bytes() {
    let dir = scratch();
    let calibration = long_calibration(dir.path());
    let whole = dir.path().join("whole");
    let start = Instant::now();
    quantize(&calibration, &whole).run().ok();
    let full = start.elapsed();
    for i in 0..10 {
        let out = dir.path().join(format!("cut-{i}"));
        if killed(quantize(&calibration, &out), full * (2 * i + 1) / 20) {
            assert_whole_or_nothing(&calibration, &whole, &out);
        }
    }
}

#[test]
fn a_run_killed_after_each_block_resumes_to_the_same_bytes() {
    let dir = scratch();
    let calibration = long_calibration(dir.path());
    let whole = dir.path().join("whole");
    quantize(&calibration, &whole).run().ok();
    let mut continued = 0;
    for lines in [1, 2, 3] {
        let out = dir.path().join(format!("cut-{lines}"));
        continued += usize::from(killed_at(quantize(&calibration, &out), &out, lines));
        assert_whole_or_nothing(&calibration, &whole, &out);
    }
    assert!(continued > 0, "no run was killed in the middle");
}

/// The search of factors, the output projection and the scales of keys and values depend on states that a resumed run
/// takes up or makes again.
#[test]
fn searched_factors_a_quantized_head_and_scales_of_keys_resume_to_the_same_bytes() {
    let dir = scratch();
    let calibration = long_calibration(dir.path());
    let quantize = |out: &Path| quantize(&calibration, out).words("--smooth auto --lm-head int8 --kv-scales fp8");
    let whole = dir.path().join("whole");
    quantize(&whole).run().ok();
    let mut continued = 0;
    for lines in [2, 3] {
        let out = dir.path().join(format!("cut-{lines}"));
        if killed_at(quantize(&out), &out, lines) {
            inspect(&out).run().fails(&[]);
            quantize(&out).words("--resume").run().ok();
            continued += 1;
        }
        assert_same_bytes(&whole, &out);
    }
    assert!(continued > 0, "no run was killed in the middle");
}

/// Killed after the last rename it is complete, perhaps with an emptied folder still in it; otherwise it must not load.
/// Either way `--resume` ends in the whole.
#[track_caller]
fn assert_whole_or_nothing(calibration: &Path, whole: &Path, out: &Path) {
    let loaded = inspect(out).words("--verify").run();
    let complete = loaded.code == 0;
    if !complete {
        loaded.fails(&[]);
    }
    if !complete || out.join(".planish-partial").exists() {
        quantize(calibration, out).words("--resume").run().ok();
    }
    assert_same_bytes(whole, out);
}

#[test]
fn a_run_killed_again_and_again_arrives() {
    let dir = scratch();
    let calibration = long_calibration(dir.path());
    let (whole, out) = (dir.path().join("whole"), dir.path().join("out"));
    let start = Instant::now();
    quantize(&calibration, &whole).run().ok();
    let part = start.elapsed() * 2 / 3;
    for i in 0..6 {
        if !killed(quantize(&calibration, &out).words("--resume"), part * (i + 2) / 7) {
            break;
        }
    }
    assert_whole_or_nothing(&calibration, &whole, &out);
}

#[test]
fn unfinished_work_is_neither_mixed_nor_lost() {
    let dir = scratch();
    let calibration = long_calibration(dir.path());
    let (whole, out) = (dir.path().join("whole"), dir.path().join("out"));
    quantize(&calibration, &whole).run().ok();
    assert!(killed_at(quantize(&calibration, &out), &out, 2), "the run was over before it was killed");
    quantize(&calibration, &out).run().fails(&["out", "unfinished work", "--resume"]);
    for other in ["--smooth 0.5", "--weights rtn", "--quant-dtype fp8", "--calib-samples 100", "--kv-scales fp8"] {
        quantize(&calibration, &out).words("--resume").words(other).run().fails(&["out"]);
    }
    quantize(&calibration, &out).words("--resume").run().ok();
    assert_same_bytes(&whole, &out);
    let fresh = dir.path().join("fresh");
    quantize(&calibration, &fresh).words("--resume").run().ok();
    assert_same_bytes(&whole, &fresh);
}

#[test]
fn overwrite_starts_again_over_unfinished_work() {
    let dir = scratch();
    let calibration = long_calibration(dir.path());
    let (whole, out) = (dir.path().join("whole"), dir.path().join("out"));
    let start = Instant::now();
    quantize(&calibration, &whole).run().ok();
    killed(quantize(&calibration, &out).words("--weights rtn"), start.elapsed() / 2);
    quantize(&calibration, &out).words("--overwrite").run().ok();
    assert_same_bytes(&whole, &out);
}

#[test]
fn a_publication_cut_short_is_completed() {
    let dir = scratch();
    let (whole, out) = (dir.path().join("whole"), dir.path().join("out"));
    program::quantize(&tiny(), &whole).run().ok();
    program::copy_of(&whole, &out);
    // As it is when the list of renames is durable and two of them are not done yet.
    let staging = out.join(".planish-partial");
    std::fs::create_dir_all(staging.join("files")).unwrap();
    std::fs::rename(out.join("config.json"), staging.join("files/config.json")).unwrap();
    std::fs::rename(out.join("model.safetensors"), staging.join("shard-00001.safetensors")).unwrap();
    let moves = json!([["files/config.json", "config.json"], ["shard-00001.safetensors", "model.safetensors"]]);
    std::fs::write(staging.join("publish.json"), json!({"remove": [], "moves": moves}).to_string()).unwrap();
    inspect(&out).run().fails(&["config.json"]);
    let document = program::quantize(&tiny(), &out).words("--resume --json").run().json();
    assert_eq!(document["settings"]["weights"], "gptq");
    assert_same_bytes(&whole, &out);
}

#[test]
fn two_runs_do_not_share_a_directory() {
    let dir = scratch();
    let calibration = long_calibration(dir.path());
    let (whole, out) = (dir.path().join("whole"), dir.path().join("out"));
    quantize(&calibration, &whole).run().ok();
    let mut first = quantize(&calibration, &out).spawn();
    while staged(&out).is_empty() {
        assert!(first.try_wait().unwrap().is_none(), "the run was over before it was held");
        std::thread::sleep(Duration::from_millis(1));
    }
    let signal = |name: &str| {
        let status = Command::new("kill").args([name, &first.id().to_string()]).status().unwrap();
        assert!(status.success());
    };
    signal("-STOP");
    for flags in ["", "--resume", "--overwrite"] {
        quantize(&calibration, &out).words(flags).run().fails(&["out", "being written"]);
    }
    signal("-CONT");
    assert!(first.wait().unwrap().success());
    assert_same_bytes(&whole, &out);
}

/// Journals of unfinished work in a directory.
fn staged(out: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(out) else { return Vec::new() };
    entries.map(|e| e.unwrap().path().join("journal")).filter(|p| p.exists()).collect()
}
