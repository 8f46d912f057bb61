//! Crashes and full disks, in process: a run is cut off at every tensor, at every block and at every single change to
//! the disk, then resumed; the files must be those of an uninterrupted run, byte for byte.
use super::*;
use crate::{STAGING, digests::verify, shards::ModelFiles, source::TensorSource};
use std::{collections::BTreeMap, io::Read};

type Tensor = (String, DType, Vec<usize>, Vec<u8>);

/// Three blocks of tensors with odd sizes, so that shards are cut inside blocks and alignment needs sorting, and a tail.
fn model() -> (Vec<Vec<Tensor>>, Vec<Tensor>) {
    let tensor = |name: String, dtype: DType, shape: &[usize]| {
        let bytes = shape.iter().product::<usize>() * dtype.size();
        let seed = name.bytes().map(usize::from).sum::<usize>();
        (name, dtype, shape.to_vec(), (0..bytes).map(|i| (i * 31 + seed) as u8).collect())
    };
    let blocks = (0..3).map(|i| {
        vec![
            tensor(format!("layers.{i}.q.weight"), DType::I8, &[7, 5]),
            tensor(format!("layers.{i}.q.weight_scale"), DType::BF16, &[7, 1]),
            tensor(format!("layers.{i}.norm.weight"), DType::F32, &[5]),
            tensor(format!("layers.{i}.down.weight"), DType::F8E4M3, &[3, 11]),
        ]
    });
    (blocks.collect(), vec![tensor("head.weight".into(), DType::BF16, &[9, 5])])
}

fn options(shard: u64) -> WriterOptions {
    WriterOptions { max_shard_size: shard, settings: settings("digest"), ..WriterOptions::default() }
}

fn settings(flags: &str) -> Settings {
    Settings::from([("flags".into(), flags.into())])
}

/// Writes the whole model, or what is missing of it, giving up after `adds` tensors.
fn run(disk: Disk, dir: &Path, options: WriterOptions, mut adds: usize) -> Result<Option<Digests>> {
    let (blocks, tail) = model();
    let mut w = CheckpointWriter::create_on(disk, dir, options)?;
    if let Some(mut state) = w.state()? {
        let mut bytes = Vec::new();
        state.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, state_after(w.completed_blocks() - 1), "the state is that of the last complete block");
    }
    w.add_file("tokenizer.json", b"{}")?;
    let mut add = |w: &mut CheckpointWriter, t: &Tensor| {
        if adds == 0 {
            return Ok(false);
        }
        adds -= 1;
        w.add(&t.0, t.1, &t.2, &t.3).map(|()| true)
    };
    for (i, block) in blocks.iter().enumerate().skip(w.completed_blocks()) {
        for t in block {
            if !add(&mut w, t)? {
                return Ok(None);
            }
        }
        w.save_state(i, |out| out.write_all(&state_after(i)))?;
        w.finish_block(i)?;
    }
    for t in &tail {
        if !add(&mut w, t)? {
            return Ok(None);
        }
    }
    w.add_file("config.json", b"{\"new\": 1}")?;
    w.finish().map(Some)
}

fn state_after(block: usize) -> Vec<u8> {
    vec![block as u8; 1000 + block]
}

fn complete(dir: &Path, shard: u64) -> BTreeMap<String, String> {
    run(Disk::default(), dir, options(shard), usize::MAX).unwrap().unwrap();
    files(dir)
}

/// Name and SHA-256 of every file but those of unfinished work.
fn files(dir: &Path) -> BTreeMap<String, String> {
    let names = entries(dir).unwrap().into_iter().filter(|n| n != STAGING);
    names.map(|n| (n.clone(), sha256(&fs::read(dir.join(n)).unwrap()))).collect()
}

fn failing_after(steps: u64) -> Disk {
    let disk = Disk::default();
    disk.steps_left.set(Some(steps));
    disk
}

#[test]
fn a_shard_is_cut_off_and_resumed_at_every_tensor() {
    let top = tempfile::tempdir().unwrap();
    for shard in [60, 120, 1 << 30] {
        let expected = complete(&top.path().join(format!("whole{shard}")), shard);
        for adds in 0..13 {
            let dir = top.path().join(format!("cut{shard}_{adds}"));
            assert_eq!(run(Disk::default(), &dir, options(shard), adds).unwrap(), None);
            assert!(ModelFiles::open(&dir).is_err(), "unfinished work must not load");
            // A torn write: garbage after what the journal knows, in data files and in the journal itself.
            for name in entries(&dir.join(STAGING)).unwrap() {
                if name.ends_with(".data") || name == "journal" {
                    let mut file = fs::OpenOptions::new().append(true).open(dir.join(STAGING).join(name)).unwrap();
                    file.write_all(b"0123456789 torn {").unwrap();
                }
            }
            fs::write(dir.join(STAGING).join("shard-00099.data"), "of a lost block").unwrap();
            let again = WriterOptions { resume: true, ..options(shard) };
            run(Disk::default(), &dir, again, usize::MAX).unwrap().unwrap();
            assert_eq!(files(&dir), expected, "{shard} {adds}");
        }
    }
}

/// Resumed twice, with a cut at every pair of places.
#[test]
fn two_cuts_are_as_good_as_one() {
    let top = tempfile::tempdir().unwrap();
    let expected = complete(&top.path().join("whole"), 60);
    for (first, second) in [(3, 2), (5, 0), (5, 6), (9, 1), (12, 0)] {
        let dir = top.path().join(format!("{first}_{second}"));
        let again = || WriterOptions { resume: true, ..options(60) };
        assert_eq!(run(Disk::default(), &dir, again(), first).unwrap(), None);
        assert_eq!(run(Disk::default(), &dir, again(), second).unwrap(), None);
        run(Disk::default(), &dir, again(), usize::MAX).unwrap().unwrap();
        assert_eq!(files(&dir), expected, "{first} {second}");
    }
}

/// The disk fails for good at its n-th change, for every n: a clean error that names a path, nothing loadable but a
/// complete checkpoint, and a resumed run that gives the right bytes.
#[test]
fn the_disk_fails_at_every_step() {
    let top = tempfile::tempdir().unwrap();
    let expected = complete(&top.path().join("whole"), 100);
    let mut steps = 0;
    loop {
        let dir = top.path().join(steps.to_string());
        match run(failing_after(steps), &dir, options(100), usize::MAX) {
            Ok(_) => break,
            Err(e) => {
                let text = e.to_string();
                assert!(matches!(e, Error::Io { .. }) && text.contains(&top.path().display().to_string()), "{text}");
                assert!(text.contains("cannot ") && text.contains("no storage space"), "{text}");
            }
        }
        if ModelFiles::open(&dir).is_ok() {
            assert_eq!(verify(&dir).unwrap(), [], "what loads is complete, step {steps}");
        }
        if recover(&dir).unwrap().is_none() && !dir.join("model.safetensors.index.json").exists() {
            let again = WriterOptions { resume: true, ..options(100) };
            run(Disk::default(), &dir, again, usize::MAX).unwrap().unwrap();
        }
        assert_eq!(files(&dir), expected, "step {steps}");
        steps += 1;
    }
    assert!(steps > 60, "only {steps} steps");
}

/// Replacing a model: at every moment the directory holds the old model, or nothing that loads, or the new model.
#[test]
fn overwriting_never_mixes_old_and_new() {
    let top = tempfile::tempdir().unwrap();
    let expected = complete(&top.path().join("whole"), 100);
    let old = |dir: &Path| {
        let mut w = CheckpointWriter::create(dir, options(40)).unwrap();
        for i in 0..4 {
            w.add(&format!("old.{i}"), DType::F32, &[8], &[i; 32]).unwrap();
        }
        w.add_file("config.json", b"{\"old\": 1}").unwrap();
        w.add_file("stale_tokenizer.json", b"{}").unwrap();
        w.finish().unwrap();
        fs::write(dir.join("README.md"), "not ours").unwrap();
        files(dir)
    };
    let (mut steps, mut kept, mut gone) = (0, 0, 0);
    loop {
        let dir = top.path().join(steps.to_string());
        let before = old(&dir);
        let replace = |resume| WriterOptions { overwrite: true, resume, ..options(100) };
        let done = run(failing_after(steps), &dir, replace(false), usize::MAX).is_ok();
        match ModelFiles::open(&dir) {
            Ok(model) if model.contains("old.0") => {
                assert_eq!(files(&dir), before, "the old model is intact, step {steps}");
                kept += 1;
            }
            Ok(_) => assert_eq!(verify(&dir).unwrap(), [], "step {steps}"),
            Err(_) => gone += 1,
        }
        if !done && recover(&dir).unwrap().is_none() && ModelFiles::open(&dir).is_ok_and(|m| m.contains("old.0")) {
            run(Disk::default(), &dir, replace(true), usize::MAX).unwrap().unwrap();
        }
        let mut now = files(&dir);
        assert_eq!(now.remove("README.md"), Some(sha256(b"not ours")), "a stranger's file stays");
        assert_eq!(now, expected, "step {steps}");
        if done {
            break;
        }
        steps += 1;
    }
    assert!(kept > 50 && gone > 5, "{kept} {gone}");
}

#[test]
fn damage_to_unfinished_work_is_found() {
    let top = tempfile::tempdir().unwrap();
    let again = || WriterOptions { resume: true, ..options(1 << 30) };
    let fresh = |name: &str| {
        let dir = top.path().join(name);
        assert_eq!(run(Disk::default(), &dir, options(1 << 30), 9).unwrap(), None);
        dir
    };
    let failure = |dir: &Path| run(Disk::default(), dir, again(), usize::MAX).unwrap_err().to_string();

    let dir = fresh("flipped data");
    let data = dir.join(STAGING).join("shard-00001.data");
    let mut bytes = fs::read(&data).unwrap();
    bytes[3] ^= 1;
    fs::write(&data, &bytes).unwrap();
    let error = failure(&dir);
    assert!(error.contains("shard-00001.data: tensor \"layers.0.q.weight\": expected sha256"), "{error}");

    let dir = fresh("short data");
    let data = dir.join(STAGING).join("shard-00001.data");
    fs::write(&data, &bytes[..20]).unwrap();
    assert!(failure(&dir).contains("at least the"), "{}", failure(&dir));

    let dir = fresh("damaged journal");
    let journal = dir.join(STAGING).join("journal");
    let mut text = fs::read(&journal).unwrap();
    let second = text.iter().position(|&b| b == b'\n').unwrap() + 100;
    text[second] ^= 1;
    fs::write(&journal, &text).unwrap();
    let error = failure(&dir);
    assert!(error.contains("journal: expected the record of block 0"), "{error}");

    // The line that says what the blocks are of: they are not thrown away for it.
    let dir = fresh("damaged settings");
    let journal = dir.join(STAGING).join("journal");
    let mut text = fs::read(&journal).unwrap();
    text[90] ^= 1;
    fs::write(&journal, &text).unwrap();
    let error = failure(&dir);
    assert!(error.contains("journal: expected the settings of a run") && error.contains("--overwrite"), "{error}");
    assert!(dir.join(STAGING).join("state-00001.bin").exists());

    let dir = fresh("damaged state");
    let state = dir.join(STAGING).join("state-00001.bin");
    let mut text = fs::read(&state).unwrap();
    text[500] ^= 1;
    fs::write(&state, &text).unwrap();
    let w = CheckpointWriter::create(&dir, again()).unwrap();
    let error = w.state().unwrap().unwrap().read_to_end(&mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("state-00001.bin: expected sha256"), "{error}");
    drop(w);
    fs::write(&state, "short").unwrap();
    assert!(CheckpointWriter::create(&dir, again()).unwrap().state().err().unwrap().to_string().contains("5 bytes"));
}

#[test]
fn after_a_failure_the_writer_refuses_to_go_on() {
    let top = tempfile::tempdir().unwrap();
    let mut w = CheckpointWriter::create(&top.path().join("m"), options(100)).unwrap();
    w.disk.steps_left.set(Some(1));
    assert!(w.add("a", DType::I8, &[4], &[1; 4]).unwrap_err().to_string().contains("shard-00001.data: cannot write"));
    w.disk.steps_left.set(None);
    assert!(w.add("b", DType::I8, &[4], &[1; 4]).unwrap_err().to_string().contains("a writer that has not failed"));
    assert!(w.finish().is_err());
}

/// A run that dies while finishing leaves complete shards with tensors of no recorded block; they must not survive.
#[test]
fn what_was_sealed_while_finishing_is_made_anew() {
    let top = tempfile::tempdir().unwrap();
    let mut steps = 0;
    loop {
        let dir = top.path().join(steps.to_string());
        let mut w = CheckpointWriter::create(&dir, options(1 << 30)).unwrap();
        w.add("a", DType::I8, &[4], &[1; 4]).unwrap();
        w.finish_block(0).unwrap();
        w.add("b", DType::I8, &[4], &[1; 4]).unwrap();
        w.disk.steps_left.set(Some(steps));
        if w.finish().is_ok() {
            break;
        }
        steps += 1;
        if recover(&dir).unwrap().is_some() || dir.join("model.safetensors").exists() {
            continue;
        }
        let mut w = CheckpointWriter::create(&dir, WriterOptions { resume: true, ..options(1 << 30) }).unwrap();
        w.add("b", DType::I8, &[4], &[2; 4]).unwrap();
        w.finish().unwrap();
        assert_eq!(ModelFiles::open(&dir).unwrap().tensor("b").unwrap().bytes(), [2; 4], "step {steps}");
        assert_eq!(verify(&dir).unwrap(), [], "step {steps}");
    }
    assert!(steps > 10);
}

/// A publication that was cut short is that of a run, and says of which.
#[test]
fn a_recovered_publication_tells_its_settings() {
    let top = tempfile::tempdir().unwrap();
    let (mut told, mut steps) = (0, 20);
    loop {
        let dir = top.path().join(steps.to_string());
        if run(failing_after(steps), &dir, options(100), usize::MAX).is_ok() {
            break;
        }
        if let Some(found) = recover(&dir).unwrap() {
            assert_eq!(found, settings("digest"), "step {steps}");
            told += 1;
        }
        steps += 1;
    }
    assert!(told > 5, "{told}");
}

/// A publication whose files are gone: an error, until it is to be replaced.
#[test]
fn a_publication_that_cannot_be_completed_is_given_up_by_overwriting() {
    let top = tempfile::tempdir().unwrap();
    let expected = complete(&top.path().join("whole"), 100);
    let dir = top.path().join("out");
    let staged = dir.join(STAGING);
    fs::create_dir_all(&staged).unwrap();
    let list = r#"{"remove": [], "moves": [["files/config.json", "config.json"]]}"#;
    for list in [list, "{torn"] {
        fs::create_dir_all(&staged).unwrap();
        fs::write(staged.join(publish::MARKER), list).unwrap();
        let resume = WriterOptions { resume: true, ..options(100) };
        assert!(run(Disk::default(), &dir, resume, usize::MAX).is_err() && recover(&dir).is_err(), "{list}");
        let overwrite = WriterOptions { overwrite: true, ..options(100) };
        run(Disk::default(), &dir, overwrite, usize::MAX).unwrap().unwrap();
        assert_eq!(files(&dir), expected, "{list}");
        assert!(!staged.exists(), "{list}");
    }
}

/// What another tool left beside its weights does not become part of the new model.
#[test]
fn overwriting_removes_the_tokenizer_and_template_of_another_model() {
    let top = tempfile::tempdir().unwrap();
    let expected = complete(&top.path().join("whole"), 100);
    let dir = top.path().join("out");
    fs::create_dir_all(&dir).unwrap();
    let theirs = ["chat_template.jinja", "tokenizer.model", "special_tokens_map.json", "generation_config.json"];
    for name in ["model.safetensors", "config.json", "tokenizer.json", "notes.txt"].iter().chain(&theirs) {
        fs::write(dir.join(name), "of another tool").unwrap();
    }
    run(Disk::default(), &dir, WriterOptions { overwrite: true, ..options(100) }, usize::MAX).unwrap().unwrap();
    let mut found = files(&dir);
    assert!(found.remove("notes.txt").is_some(), "a stranger's file stays");
    assert_eq!(found, expected);
}

#[test]
fn more_shards_than_a_reader_opens_are_refused() {
    let top = tempfile::tempdir().unwrap();
    let mut w = CheckpointWriter::create(&top.path().join("m"), options(1)).unwrap();
    w.add("a", DType::I8, &[1], &[1]).unwrap();
    w.current.as_mut().unwrap().number = MAX_SHARDS - 1;
    w.add("b", DType::I8, &[1], &[1]).unwrap();
    let error = w.add("c", DType::I8, &[1], &[1]).unwrap_err().to_string();
    assert!(error.contains("at most 10000 shards") && error.contains("--max-shard-size"), "{error}");
}
