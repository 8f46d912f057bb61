//! What the writer makes, what it refuses, and that every flipped bit of the result is found.
use planish_checkpoint::{
    config::Config,
    digests::{DIGESTS, Digests, verify},
    journal::Settings,
    read_model_file,
    shards::ModelFiles,
    source::TensorSource,
    writer::{CheckpointWriter, WriterOptions},
};
use planish_tensor::DType;
use std::{
    fs,
    path::{Path, PathBuf},
};

const INDEX: &str = "model.safetensors.index.json";

/// Settings of one thing, or of none.
fn named(flags: &str) -> Settings {
    (!flags.is_empty()).then(|| ("flags".to_owned(), flags.to_owned())).into_iter().collect()
}

fn sized(max_shard_size: u64) -> WriterOptions {
    WriterOptions { max_shard_size, ..WriterOptions::default() }
}

/// Copies the test model through reader and writer.
fn rewrite(dir: &Path, max_shard_size: u64) -> Digests {
    let source = Path::new("tests/data/llama");
    let model = ModelFiles::open(source).unwrap();
    let mut w = CheckpointWriter::create(dir, sized(max_shard_size)).unwrap();
    for (i, name) in model.names().iter().enumerate() {
        let t = model.tensor(name).unwrap();
        w.add(name, t.dtype(), t.shape(), t.bytes()).unwrap();
        if i % 4 == 3 {
            w.finish_block(i / 4).unwrap();
        }
    }
    w.add_file("config.json", &Config::open(source).unwrap().to_json_with(None)).unwrap();
    w.add_file("generation_config.json", &read_model_file(source, "generation_config.json").unwrap()).unwrap();
    w.finish().unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn failure(dir: &Path, options: WriterOptions) -> String {
    match CheckpointWriter::create(dir, options) {
        Ok(_) => panic!("{} was accepted", dir.display()),
        Err(e) => e.to_string(),
    }
}

fn same_tensors(dir: &Path) {
    let (a, b) = (ModelFiles::open(Path::new("tests/data/llama")).unwrap(), ModelFiles::open(dir).unwrap());
    assert_eq!(a.names(), b.names());
    for name in a.names() {
        let (x, y) = (a.tensor(&name).unwrap(), b.tensor(&name).unwrap());
        assert_eq!((x.dtype(), x.shape(), x.bytes()), (y.dtype(), y.shape(), y.bytes()), "{name}");
    }
}

#[test]
fn one_shard_has_no_index() {
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("a/b/out");
    let digests = rewrite(&dir, 5_000_000_000);
    assert_eq!(names(&dir), ["config.json", "generation_config.json", "model.safetensors", DIGESTS]);
    same_tensors(&dir);
    assert_eq!(Digests::open(&dir).unwrap().unwrap(), digests);
    assert_eq!(verify(&dir).unwrap(), []);
    assert_eq!(digests.tensors.len(), ModelFiles::open(&dir).unwrap().names().len());
    let json = |p: &Path| serde_json::from_slice::<serde_json::Value>(&fs::read(p).unwrap()).unwrap();
    let (ours, theirs) = (json(&dir.join("config.json")), json(Path::new("tests/data/llama/config.json")));
    assert_eq!(ours.to_string(), theirs.to_string(), "same fields in the same order");
}

#[test]
fn shards_are_cut_at_the_size_and_indexed_as_transformers_does() {
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("out");
    rewrite(&dir, 60_000);
    same_tensors(&dir);
    assert_eq!(verify(&dir).unwrap(), []);
    let shards: Vec<String> = names(&dir).into_iter().filter(|n| n.ends_with(".safetensors")).collect();
    let n = shards.len();
    assert!(n > 3);
    for (i, shard) in shards.iter().enumerate() {
        assert_eq!(*shard, format!("model-{:05}-of-{n:05}.safetensors", i + 1));
        assert!(fs::metadata(dir.join(shard)).unwrap().len() < 60_000 + 4096);
    }
    let index: serde_json::Value = serde_json::from_slice(&fs::read(dir.join(INDEX)).unwrap()).unwrap();
    let model = ModelFiles::open(&dir).unwrap();
    assert_eq!(index["metadata"]["total_size"], model.total_bytes());
    assert_eq!(index["metadata"]["total_parameters"], model.total_bytes() / 2, "bf16");
    let listed: Vec<&String> = index["weight_map"].as_object().unwrap().keys().collect();
    assert!(listed.is_sorted());
    let again = top.path().join("again");
    rewrite(&again, 60_000);
    for name in names(&dir) {
        assert_eq!(fs::read(dir.join(&name)).unwrap(), fs::read(again.join(&name)).unwrap(), "{name}");
    }
}

/// Readers map tensors in place, so each must start at a multiple of its element size, whatever came before it.
#[test]
fn tensors_are_aligned_and_complete_whatever_their_order() {
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("out");
    let mut w = CheckpointWriter::create(&dir, sized(1 << 30)).unwrap();
    let rows: [(&str, DType, &[usize]); 6] = [
        ("a", DType::I8, &[3]),
        ("b", DType::F32, &[]),
        ("c", DType::F8E5M2, &[5]),
        ("d", DType::BF16, &[3, 1]),
        ("e", DType::I64, &[1]),
        ("f", DType::F32, &[0, 4]),
    ];
    for (i, (name, dtype, shape)) in rows.iter().enumerate() {
        let bytes = vec![i as u8; shape.iter().product::<usize>() * dtype.size()];
        w.add(name, *dtype, shape, &bytes).unwrap();
    }
    w.finish().unwrap();
    let file = fs::read(dir.join("model.safetensors")).unwrap();
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    assert_eq!(length % 8, 0);
    let header: serde_json::Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    assert_eq!(header["__metadata__"]["format"], "pt");
    let model = ModelFiles::open(&dir).unwrap();
    for (i, (name, dtype, shape)) in rows.iter().enumerate() {
        let start = header[name]["data_offsets"][0].as_u64().unwrap() as usize;
        assert_eq!(start % dtype.size(), 0, "{name}");
        let t = model.tensor(name).unwrap();
        assert_eq!((t.dtype(), t.shape()), (*dtype, *shape));
        assert!(t.bytes().iter().all(|&b| b == i as u8));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let top = tempfile::tempdir().unwrap();
    let mut count = 0;
    let mut add = |name: &str, shape: &[usize], bytes: usize| {
        count += 1;
        let mut w = CheckpointWriter::create(&top.path().join(count.to_string()), sized(100)).unwrap();
        w.add("first", DType::I8, &[1], &[0]).unwrap();
        w.add(name, DType::BF16, shape, &vec![0; bytes]).map_err(|e| e.to_string())
    };
    assert_eq!(add("ok", &[2, 3], 12), Ok(()));
    for (name, shape, bytes, message) in [
        ("first", &[1][..], 2, "tensor \"first\": expected a new name"),
        ("short", &[2, 3], 11, "tensor \"short\": expected bytes for BF16 [2, 3], found 11 bytes"),
        ("long", &[2, 3], 13, "found 13 bytes"),
        ("huge", &[usize::MAX, 2], 4, "found 4 bytes"),
        ("rank", &[1; 9], 2, "found 2 bytes"),
        ("", &[1], 2, "a printable name"),
        ("a\nb", &[1], 2, "a printable name"),
        ("__metadata__", &[1], 2, "a printable name"),
    ] {
        let error = add(name, shape, bytes).unwrap_err();
        assert!(error.contains(message), "{name:?}: {error}");
    }
    for name in ["../x", "a/b", "", ".hidden", "model.safetensors", "x.safetensors", INDEX, DIGESTS, "a\0b"] {
        count_file(top.path(), name);
    }
    let mut w = CheckpointWriter::create(&top.path().join("order"), sized(100)).unwrap();
    assert!(w.finish_block(1).unwrap_err().to_string().contains("expected block 0, found block 1"));
    let w = CheckpointWriter::create(&top.path().join("none"), sized(100)).unwrap();
    assert!(w.finish().unwrap_err().to_string().contains("at least one tensor"));
}

fn count_file(top: &Path, name: &str) {
    let dir = tempfile::tempdir_in(top).unwrap();
    let mut w = CheckpointWriter::create(dir.path(), sized(100)).unwrap();
    assert!(w.add_file(name, b"x").is_err(), "{name:?}");
}

#[test]
fn directories_in_use_are_refused() {
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("out");
    let mut w = CheckpointWriter::create(&dir, sized(100)).unwrap();
    assert!(failure(&dir, sized(100)).contains("no other process"));
    w.add("a", DType::I8, &[1], &[1]).unwrap();
    w.finish_block(0).unwrap();
    drop(w);
    assert!(failure(&dir, sized(100)).contains("unfinished work"));
    let resume = |settings: &str, size| WriterOptions { resume: true, settings: named(settings), ..sized(size) };
    let error = failure(&dir, resume("other", 100));
    assert!(error.contains("journal: field settings.flags: expected nothing"), "{error}");
    assert!(error.ends_with("found other"), "{error}");
    assert!(failure(&dir, resume("", 101)).contains("field max_shard_size: expected 100"));
    let w = CheckpointWriter::create(&dir, resume("", 100)).unwrap();
    assert!(w.completed_blocks() == 1 && w.contains("a") && !w.contains("b"));
    w.finish().unwrap();
    assert!(failure(&dir, sized(100)).contains("an empty directory, or --overwrite"));
    assert!(failure(&dir, resume("", 100)).contains("an empty directory, or --overwrite"));
    assert_eq!(names(&dir), ["model.safetensors", DIGESTS], "a refused run leaves nothing behind");

    let input = Some(dir.clone());
    let error = failure(&top.path().join("./out"), WriterOptions { overwrite: true, input, ..sized(100) });
    assert!(error.contains("another directory than the input's"), "{error}");
    fs::write(top.path().join("file"), "").unwrap();
    assert!(failure(&top.path().join("file"), sized(100)).contains("expected a directory, or nothing, found a file"));

    let mut w = CheckpointWriter::create(&dir, WriterOptions { overwrite: true, ..sized(100) }).unwrap();
    assert!(!w.contains("a"), "overwrite starts afresh");
    assert!(ModelFiles::open(&dir).unwrap().contains("a"), "the old model stands while the new one is made");
    w.add("b", DType::I8, &[1], &[1]).unwrap();
    w.finish().unwrap();
    assert_eq!(ModelFiles::open(&dir).unwrap().names(), ["b"]);
}

/// 200 flipped bits in tensors, and others in headers, JSON files and the digests themselves: all are found, and those
/// in tensors name the tensor.
#[test]
fn every_flipped_bit_is_found() {
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("out");
    rewrite(&dir, 60_000);
    let mut seed = 3u64;
    let mut random = move |n: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as usize % n
    };
    let all: Vec<PathBuf> = names(&dir).into_iter().map(|n| dir.join(n)).collect();
    let shards: Vec<&PathBuf> = all.iter().filter(|p| p.extension().unwrap() == "safetensors").collect();
    for i in 0..400 {
        let (path, in_tensor) =
            if i < 200 { (shards[random(shards.len())], true) } else { (&all[random(all.len())], false) };
        let whole = fs::read(path).unwrap();
        let header = if in_tensor { 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize } else { 0 };
        let at = header + random(whole.len() - header);
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << random(8);
        fs::write(path, &bytes).unwrap();
        let problems = verify(&dir).unwrap();
        assert_eq!(problems.len(), 1, "{} byte {at}: {problems:?}", path.display());
        assert_eq!(problems[0].file, *path);
        assert!(!in_tensor || problems[0].tensor.is_some(), "{}", problems[0]);
        assert!(problems[0].to_string().contains("expected "), "{}", problems[0]);
        fs::write(path, &whole).unwrap();
    }
    assert_eq!(verify(&dir).unwrap(), []);
}

#[test]
fn missing_short_and_foreign_files_are_found() {
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("out");
    rewrite(&dir, 60_000);
    let shard = dir.join("model-00002-of-00005.safetensors");
    let whole = fs::read(&shard).unwrap();
    fs::write(&shard, &whole[..whole.len() - 1]).unwrap();
    assert!(verify(&dir).unwrap()[0].to_string().contains(&format!("expected {} bytes", whole.len())));
    fs::remove_file(&shard).unwrap();
    assert!(verify(&dir).unwrap()[0].to_string().contains("expected a readable file"));
    fs::write(&shard, &whole).unwrap();
    fs::write(dir.join("model.safetensors"), &whole).unwrap();
    let problems = verify(&dir).unwrap();
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].to_string().ends_with("model.safetensors: expected only files with a digest, found one without")
    );
    fs::remove_file(dir.join(DIGESTS)).unwrap();
    assert!(verify(&dir).unwrap_err().to_string().contains(DIGESTS));
    assert_eq!(Digests::open(&dir).unwrap(), None);
}

/// Work that fails before its first block is complete leaves nothing behind; after it, what a resumed run needs.
#[test]
fn failed_work_stays_only_where_it_can_be_resumed() {
    let root = tempfile::tempdir().unwrap();
    let (made, found) = (root.path().join("made"), root.path().join("found"));
    fs::create_dir(&found).unwrap();
    for dir in [&made, &found] {
        let mut w = CheckpointWriter::create(dir, sized(1 << 20)).unwrap();
        w.add("a", DType::I8, &[4], &[1; 4]).unwrap();
        w.give_up();
    }
    assert!(!made.exists() && names(&found).is_empty());
    let mut w = CheckpointWriter::create(&made, sized(1 << 20)).unwrap();
    w.add("a", DType::I8, &[4], &[1; 4]).unwrap();
    w.finish_block(0).unwrap();
    w.give_up();
    assert!(failure(&made, sized(1 << 20)).contains("unfinished work"));
    let resumed = CheckpointWriter::create(&made, WriterOptions { resume: true, ..sized(1 << 20) }).unwrap();
    assert_eq!(resumed.completed_blocks(), 1);
}
