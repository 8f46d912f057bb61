//! `planish quantize`, killed: nothing that loads stays behind, and `--resume` ends in the same bytes.
mod program;

use program::{Program, assert_same_bytes, inspect, read_json, scratch, tiny};
use serde_json::{Value, json};
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
    quantize_model(&tiny(), calibration, out)
}

fn quantize_model(model: &Path, calibration: &Path, out: &Path) -> Program {
    let program = Program::new("quantize --max-shard-size 100KB --threads 1 --calib-seqlen 64").arg(model);
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
    for (other, reason) in [
        ("--smooth 0.5", "settings.recipe"),
        ("--weights rtn", "settings.recipe"),
        ("--quant-dtype fp8", "settings.recipe"),
        ("--calib-samples 100", "settings.calibration_samples"),
        ("--kv-scales fp8", "settings.recipe"),
        ("--budget KL=1000", "settings.held_back_tokens"),
    ] {
        quantize(&calibration, &out).words("--resume").words(other).run().fails(&["out", reason]);
    }
    quantize(&calibration, &out).words("--resume").run().ok();
    assert_same_bytes(&whole, &out);
    let fresh = dir.path().join("fresh");
    quantize(&calibration, &fresh).words("--resume").run().ok();
    assert_same_bytes(&whole, &fresh);
}

/// Blocks of one model must not be followed by those of another.
#[test]
fn a_run_is_not_continued_with_other_weights() {
    let dir = scratch();
    let calibration = long_calibration(dir.path());
    let (model, out) = (program::copy_of(&tiny(), &dir.path().join("model")), dir.path().join("out"));
    assert!(killed_at(quantize_model(&model, &calibration, &out), &out, 2), "the run was over before it was killed");
    let path = model.join("model.safetensors");
    let original = std::fs::read(&path).unwrap();
    let mut file = program::tensors::File::open(&path);
    // The sign of one weight of the last block: no name, type, shape or size tells.
    let last = file.place("model.layers.1.mlp.down_proj.weight").end - 1;
    file.data[last] ^= 0x80;
    file.save(&path);
    quantize_model(&model, &calibration, &out).words("--resume").run().fails(&["out", "settings.model_weights"]);
    std::fs::write(&path, original).unwrap();
    quantize_model(&model, &calibration, &out).words("--resume").run().ok();
    inspect(&out).words("--verify").run().ok();
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
    let moves = json!([["files/config.json", "config.json"], ["shard-00001.safetensors", "model.safetensors"]]);
    let list = json!({"remove": [], "moves": moves, "settings": settings(dir.path())});
    let cut = || {
        std::fs::create_dir_all(staging.join("files")).unwrap();
        std::fs::rename(out.join("config.json"), staging.join("files/config.json")).unwrap();
        std::fs::rename(out.join("model.safetensors"), staging.join("shard-00001.safetensors")).unwrap();
        std::fs::write(staging.join("publish.json"), list.to_string()).unwrap();
    };
    cut();
    inspect(&out).run().fails(&["config.json"]);
    let document = program::quantize(&tiny(), &out).words("--resume --json").run().json();
    assert_eq!(document["settings"]["weights"], "gptq");
    assert_same_bytes(&whole, &out);
    // Asked for something else, it is no answer.
    cut();
    let other = program::quantize(&tiny(), &out).words("--resume --weights rtn").run();
    other.fails(&["out", "recipe", "now in place", "--overwrite"]);
    assert_same_bytes(&whole, &out);
}

/// What a run of `program::quantize` on the tiny model writes down for those that resume it.
fn settings(dir: &Path) -> Value {
    let out = dir.join("begun");
    assert!(killed_at(program::quantize(&tiny(), &out), &out, 1), "the run was over before it was killed");
    let journal = std::fs::read_to_string(&staged(&out)[0]).unwrap();
    let first = journal.lines().next().unwrap().split_once(' ').unwrap().1.to_owned();
    serde_json::from_str::<Value>(&first).unwrap()["settings"].clone()
}

/// Files of a publication that were moved away are no reason to refuse a new run.
#[test]
fn a_publication_that_cannot_be_completed_is_overwritten() {
    let dir = scratch();
    let (whole, out) = (dir.path().join("whole"), dir.path().join("out"));
    program::quantize(&tiny(), &whole).run().ok();
    let staging = out.join(".planish-partial");
    std::fs::create_dir_all(&staging).unwrap();
    let list = json!({"remove": [], "moves": [["files/config.json", "config.json"]]});
    std::fs::write(staging.join("publish.json"), list.to_string()).unwrap();
    for flags in ["", "--resume"] {
        program::quantize(&tiny(), &out).words(flags).run().fails(&["config.json", "--overwrite"]);
    }
    program::quantize(&tiny(), &out).words("--overwrite").run().ok();
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
