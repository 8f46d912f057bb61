//! Streaming a model block by block keeps little of it resident. Alone in its process, since it reads its own size.
use planish_checkpoint::{
    shards::ModelFiles,
    source::TensorSource,
    writer::{CheckpointWriter, WriterOptions},
};
use planish_tensor::DType;
use std::fs;

const MIB: usize = 1 << 20;

/// Resident bytes of mapped files, from the system.
fn resident_file_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("RssFile:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn released_tensors_leave_the_resident_set() {
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("model");
    let mut w = CheckpointWriter::create(&dir, WriterOptions::default()).unwrap();
    let block = vec![1u8; 8 * MIB];
    for i in 0..8 {
        w.add(&format!("block.{i}"), DType::I8, &[8, MIB], &block).unwrap();
    }
    w.finish().unwrap();
    let model = ModelFiles::open(&dir).unwrap();
    let before = resident_file_bytes();
    let read = |name: &String| model.tensor(name).unwrap().bytes().iter().map(|&b| b as usize).sum::<usize>();
    for name in model.names() {
        assert_eq!(read(&name), 8 * MIB);
        model.release(&name);
        let grown = resident_file_bytes().saturating_sub(before);
        assert!(grown < 12 * MIB, "{grown} bytes resident after {name}");
    }
    model.names().iter().for_each(|n| assert_eq!(read(n), 8 * MIB));
    let grown = resident_file_bytes().saturating_sub(before);
    assert!(grown > 40 * MIB, "without release all of it stays: {grown}");
}
