//! A real checkpoint, whole and in shards, then damaged and hostile in many ways.
use planish_checkpoint::{shards::ModelFiles, source::TensorSource};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

const SINGLE: &str = "tests/data/llama";
const SHARDED: &str = "tests/data/llama_sharded";
const INDEX: &str = "model.safetensors.index.json";

fn copy(from: &str, to: &Path) -> PathBuf {
    let dir = to.join("model");
    fs::create_dir(&dir).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
    }
    dir
}

fn failure(dir: &Path) -> String {
    match ModelFiles::open(dir) {
        Ok(_) => panic!("{} was accepted", dir.display()),
        Err(e) => e.to_string(),
    }
}

/// A small xorshift, so that damage is spread and the same on every run.
fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

#[test]
fn shards_hold_the_same_model() {
    let one = ModelFiles::open(Path::new(SINGLE)).unwrap();
    let many = ModelFiles::open(Path::new(SHARDED)).unwrap();
    assert_eq!(one.names(), many.names());
    assert_eq!((one.files().count(), many.files().count()), (1, 3));
    assert_eq!(one.total_bytes(), many.total_bytes());
    for name in one.names() {
        let (a, b) = (one.tensor(&name).unwrap(), many.tensor(&name).unwrap());
        assert_eq!((a.dtype(), a.shape(), a.bytes()), (b.dtype(), b.shape(), b.bytes()), "{name}");
        let info = many.info(&name).unwrap();
        assert_eq!((info.dtype, info.shape.as_slice()), (a.dtype(), a.shape()));
        many.release(&name);
        assert_eq!(a.bytes(), many.tensor(&name).unwrap().bytes(), "bytes come back after release");
    }
    let q = one.tensor("model.layers.0.self_attn.q_proj.weight").unwrap();
    assert_eq!(q.shape(), [64, 64]);
    let error = one.tensor("model.layers.9.x").unwrap_err().to_string();
    assert_eq!(error, "tests/data/llama: tensor \"model.layers.9.x\": expected a tensor of this name, found none");
    many.release("no such tensor");
}

#[test]
fn every_truncation_is_refused() {
    let top = tempfile::tempdir().unwrap();
    let dir = copy(SINGLE, top.path());
    let path = dir.join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let mut seed = 1;
    for i in 0..200 {
        let length = if i < 20 { i } else { random(&mut seed) as usize % whole.len() };
        fs::write(&path, &whole[..length]).unwrap();
        let error = failure(&dir);
        assert!(error.contains("model.safetensors") && error.contains("expected"), "{length}: {error}");
    }
    fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
    assert!(failure(&dir).contains(&format!("expected {} bytes as the header says", whole.len())));
}

/// A flip in the header is refused, or changes only names, types of equal width or free text: never what is read where.
#[test]
fn header_flips_never_panic_or_leave_the_file() {
    let top = tempfile::tempdir().unwrap();
    let dir = copy(SINGLE, top.path());
    let path = dir.join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let total = ModelFiles::open(&dir).unwrap().total_bytes();
    let mut seed = 2;
    let mut refused = 0;
    for _ in 0..200 {
        let mut bytes = whole.clone();
        let bit = random(&mut seed) as usize % (header * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bytes).unwrap();
        match ModelFiles::open(&dir) {
            Ok(model) => {
                assert_eq!(model.total_bytes(), total);
                model.names().iter().for_each(|n| drop(model.tensor(n).map(|t| t.bytes().len())));
            }
            Err(e) => {
                assert!(e.to_string().contains("model.safetensors"), "{e}");
                refused += 1;
            }
        }
    }
    assert!(refused > 100, "only {refused} of 200 flips refused");
}

/// Values of `weight_map` that must be refused.
const HOSTILE: [&str; 43] = [
    "../model.safetensors",
    "../../etc/passwd",
    "/etc/passwd",
    "/model.safetensors",
    "a/b.safetensors",
    "./model.safetensors",
    "..",
    ".",
    "",
    " ",
    ".safetensors",
    "..safetensors",
    "a..safetensors",
    "model.safetensors/",
    "a\\b.safetensors",
    "..\\model.safetensors",
    "C:\\model.safetensors",
    "C:model.safetensors",
    "\\\\host\\share.safetensors",
    "model.safetensors\u{0}",
    "a\u{0}b.safetensors",
    "%2e%2e%2fmodel.safetensors",
    "%2e%2e/model.safetensors",
    "..%2fmodel.safetensors",
    "a%00.safetensors",
    "https://example.com/a.safetensors",
    "file:///etc/a.safetensors",
    "~/a.safetensors",
    "$HOME.safetensors",
    "a\nb.safetensors",
    "a b.safetensors",
    "\u{ff0e}\u{ff0e}\u{ff0f}a.safetensors",
    "a\u{202e}.safetensors",
    "model.bin",
    "model.safetensors.bin",
    "model.SAFETENSORS",
    "model",
    "-\u{7f}.safetensors",
    "model.safetensors?x=1",
    "model.safetensors#x",
    "*.safetensors",
    "a;b.safetensors",
    ".hidden.safetensors",
];

/// Each refusal names the entry.
#[test]
fn hostile_weight_map_values() {
    let top = tempfile::tempdir().unwrap();
    let dir = copy(SHARDED, top.path());
    fs::copy("tests/data/llama/model.safetensors", top.path().join("model.safetensors")).unwrap();
    let long = format!("{}.safetensors", "a".repeat(250));
    for value in HOSTILE.into_iter().chain([long.as_str()]) {
        let index = serde_json::json!({"metadata": {}, "weight_map": {"model.norm.weight": value}});
        fs::write(dir.join(INDEX), index.to_string()).unwrap();
        let error = failure(&dir);
        assert!(error.contains(INDEX) && error.contains("weight_map.\"model.norm.weight\""), "{value:?}: {error}");
        assert!(error.contains("one plain file name"), "{value:?}: {error}");
        assert!(!error.contains('\n') && !error.contains('\u{0}'), "{value:?}: {error}");
    }
    for (map, expected) in [
        ("7", "an object of tensors, found 7"),
        ("{}", "an object of tensors, found {}"),
        ("{\"a\": 7}", "found 7"),
        ("{\"a\": null}", "found null"),
        ("{\"a\": [\"b.safetensors\"]}", "weight_map.\"a\""),
        ("{\"a\": \"b.safetensors\", \"a\": \"c.safetensors\"}", "\"a\" twice"),
    ] {
        fs::write(dir.join(INDEX), format!("{{\"weight_map\": {map}}}")).unwrap();
        let error = failure(&dir);
        assert!(error.contains(INDEX) && error.contains(expected), "{map}: {error}");
    }
}

#[test]
fn things_that_are_no_file_are_refused() {
    let top = tempfile::tempdir().unwrap();
    let dir = copy(SHARDED, top.path());
    let shard = dir.join("model-00002-of-00003.safetensors");
    let outside = top.path().join("outside.safetensors");
    fs::rename(&shard, &outside).unwrap();
    let refused = |what: &str| {
        let error = failure(&dir);
        assert!(error.contains("model-00002-of-00003.safetensors") && error.contains(what), "{what}: {error}");
    };
    refused("cannot open");
    symlink(&outside, &shard).unwrap();
    refused("a link that leaves it");
    for target in ["/dev/zero", "/etc/hostname", "../outside.safetensors"] {
        fs::remove_file(&shard).unwrap();
        symlink(target, &shard).unwrap();
        refused("a link that leaves it");
    }
    fs::remove_file(&shard).unwrap();
    symlink("model-00002-of-00003.safetensors", &shard).unwrap();
    refused("cannot open");
    fs::remove_file(&shard).unwrap();
    fs::create_dir(&shard).unwrap();
    refused("a directory");
    fs::remove_dir(&shard).unwrap();
    assert!(Command::new("mkfifo").arg(&shard).status().unwrap().success());
    refused("a FIFO");
    fs::remove_file(&shard).unwrap();
    fs::write(&shard, "").unwrap();
    refused("0 bytes");
    fs::remove_file(&shard).unwrap();
    fs::rename(&outside, dir.join("renamed.safetensors")).unwrap();
    symlink("renamed.safetensors", &shard).unwrap();
    assert!(ModelFiles::open(&dir).is_ok(), "links inside the directory are fine");
}

#[test]
fn index_and_shards_must_agree() {
    let top = tempfile::tempdir().unwrap();
    let dir = copy(SHARDED, top.path());
    let index: serde_json::Value = serde_json::from_slice(&fs::read(dir.join(INDEX)).unwrap()).unwrap();
    let map: BTreeMap<String, String> = serde_json::from_value(index["weight_map"].clone()).unwrap();
    let write = |map: &BTreeMap<String, String>| {
        fs::write(dir.join(INDEX), serde_json::json!({"weight_map": map}).to_string()).unwrap();
    };
    let mut changed = map.clone();
    changed.insert("ghost.weight".into(), "model-00001-of-00003.safetensors".into());
    write(&changed);
    let error = failure(&dir);
    assert!(error.contains("model-00001-of-00003") && error.contains("tensor \"ghost.weight\""), "{error}");

    let mut changed = map.clone();
    changed.remove("model.norm.weight").unwrap();
    write(&changed);
    let error = failure(&dir);
    assert!(error.contains("tensor \"model.norm.weight\": expected an entry in weight_map"), "{error}");

    let mut changed = map.clone();
    let other = map.values().find(|f| **f != map["model.norm.weight"]).unwrap();
    changed.insert("model.norm.weight".into(), other.clone());
    write(&changed);
    assert!(failure(&dir).contains("tensor \"model.norm.weight\""));

    write(&map);
    let (a, b) = (dir.join("model-00001-of-00003.safetensors"), dir.join("model-00002-of-00003.safetensors"));
    fs::rename(&a, dir.join("t")).unwrap();
    fs::rename(&b, &a).unwrap();
    fs::rename(dir.join("t"), &b).unwrap();
    assert!(failure(&dir).contains("tensor "), "swapped shards");
}

#[test]
fn directories_without_weights_get_advice() {
    let top = tempfile::tempdir().unwrap();
    assert!(failure(&top.path().join("absent")).contains("cannot open"));
    for (file, advice) in [
        ("config.json", "found neither"),
        ("x.gguf", "GGUF"),
        ("pytorch_model.bin", "pickle"),
        (".planish-partial", "--resume"),
    ] {
        fs::write(top.path().join(file), "").unwrap();
        let error = failure(top.path());
        assert!(
            error.contains("model.safetensors or model.safetensors.index.json") && error.contains(advice),
            "{error}"
        );
    }
}
