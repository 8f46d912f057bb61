//! Times the kernels beside the machine's own limits, measured in the same run:
//! `cargo bench -p planish-cpu --bench kernels -- [w8a8|grouped|pack|rowwise|threads …] [--threads N] [--isa NAME] [--kind TYPE]`,
//! for the products also `[--shapes 960x576,…] [--tokens 1,8,…]`.
//! Every figure is the best of many: other work on the machine can only add time.
use planish_cpu::isa::Isa;
use planish_cpu::threads::Threads;
use planish_tensor::Q8;
use std::time::{Duration, Instant};

mod limits;
mod pool;
mod rowwise;
mod w8a8;

/// What to measure with.
pub struct Setting {
    /// Kernel family.
    pub isa: Isa,
    /// The only 8-bit type to measure.
    pub kind: Option<Q8>,
    /// Thread pool.
    pub threads: Threads,
    /// Multiply-and-add operations a second that the registers allow, all threads, times two.
    pub peak_int8: f64,
    /// Bytes a second read from memory, all threads.
    pub read: f64,
    /// The only shapes (n, k) of products to measure.
    pub shapes: Vec<(usize, usize)>,
    /// The only numbers of tokens to measure.
    pub tokens: Vec<usize>,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let value = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1));
    let count = value("--threads").and_then(|n| n.parse().ok()).unwrap_or(1);
    let isa = value("--isa").and_then(|n| Isa::available().into_iter().find(|i| i.name() == n)).unwrap_or(Isa::best());
    let groups: Vec<&str> = args.iter().map(String::as_str).filter(|a| !a.starts_with('-')).collect();
    let wants = |name: &str| {
        let named = ["w8a8", "grouped", "pack", "rowwise", "threads"];
        groups.contains(&name) || !groups.iter().any(|g| named.contains(g))
    };
    let threads = Threads::new(count);
    let (peak_int8, read) = (limits::int8_peak(&threads, isa), limits::read_bandwidth(&threads));
    println!(
        "{} with {count} thread(s); int8 peak {:.0} GOP/s, read {:.1} GB/s",
        isa.name(),
        peak_int8 / 1e9,
        read / 1e9
    );
    let kind = value("--kind").and_then(|n| Q8::ALL.into_iter().find(|k| format!("{k:?}").eq_ignore_ascii_case(n)));
    let list = |name: &str| value(name).map_or(Vec::new(), |v| v.split(',').map(String::from).collect::<Vec<_>>());
    let number = |text: &str| text.parse::<usize>().expect("sizes are numbers");
    let shape = |text: &String| text.split_once('x').map(|(n, k)| (number(n), number(k))).expect("shapes are NxK");
    let shapes = list("--shapes").iter().map(shape).collect();
    let tokens = list("--tokens").iter().map(|t| number(t)).collect();
    let setting = Setting { isa, kind, threads, peak_int8, read, shapes, tokens };
    if wants("w8a8") {
        w8a8::products(&setting);
    }
    if wants("grouped") {
        w8a8::grouped(&setting);
    }
    if wants("pack") {
        w8a8::packing(&setting);
    }
    if wants("rowwise") {
        rowwise::rows(&setting);
    }
    if wants("threads") {
        pool::latency(&setting);
    }
}

/// Seconds of the fastest call within some tenths of a second.
pub fn best(mut call: impl FnMut()) -> f64 {
    call();
    let start = Instant::now();
    let mut best = f64::MAX;
    let mut calls = 0;
    while calls < 5 || (start.elapsed() < Duration::from_millis(250) && calls < 100_000) {
        let begin = Instant::now();
        call();
        best = best.min(begin.elapsed().as_secs_f64());
        calls += 1;
    }
    best
}

/// A line of a table: columns of fixed width.
pub fn line(cells: &[String]) {
    println!("{}", cells.iter().map(|c| format!("{c:>12}")).collect::<Vec<_>>().join(" "));
}

/// Well spread bytes.
pub fn bytes(len: usize, mut seed: u64) -> Vec<u8> {
    (0..len)
        .map(|_| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 56) as u8
        })
        .collect()
}

/// Well spread numbers in [-1, 1).
pub fn floats(len: usize, seed: u64) -> Vec<f32> {
    bytes(2 * len, seed).as_chunks::<2>().0.iter().map(|&b| i16::from_le_bytes(b) as f32 / 32768.0).collect()
}
