//! Matrix products on the first GPU: error against sums in f64 (INT8: equality), µs, TOP/s, GB/s, and the ratio to cuBLASLt in
//! the same run, where its library is found (INT8: sums without scales, of four bytes; FP8: one scale, to bf16; bf16 to f32).
//! `cargo bench -p planish-cuda --bench gemm -- [int8|fp8|float] [70|75|80|89|90] [t=TOKENS] [--short] [--tiles]
//! [--sustained]`; `--tiles`: beside the chosen tile those of sm_90a that are expected within 1.6 times its time; `--sustained`:
//! half a second each, so that the card reaches its limit of power, not bursts of some milliseconds. Weights rotate through
//! more memory than the second-level cache holds, so that every product reads them from memory.
use planish_cuda::{Cuda, Linear, Options};
use planish_tensor::{Activation, Backend, DType, FloatMath, HostTensor, LinearPart, Q8, Result, Tensor, q8};

/// n x k of Llama-3-8B: q+k+v, o, gate+up, down.
const SHAPES: [(usize, usize); 4] = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)];
const HEAD: (usize, usize) = (128_256, 4096);
const TOKENS: [usize; 10] = [1, 4, 16, 32, 64, 128, 256, 512, 2048, 8192];
/// Bytes that a rotation of weights takes at least: three times the cache of an H200.
const ROTATION: usize = 180 << 20;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In (-1, 1).
    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Bits of bf16 numbers between 2^-7 and 2 in magnitude.
    fn bf16s(&mut self, n: usize) -> Vec<u16> {
        let mut numbers = Vec::with_capacity(n + 3);
        while numbers.len() < n {
            let bits = self.next();
            numbers.extend([0, 16, 32, 48].map(|at| {
                let word = (bits >> at) as u16;
                (word & 0x83ff) | 0x3c00
            }));
        }
        numbers.truncate(n);
        numbers
    }

    /// Codes over the whole range, without NaN and infinity.
    fn codes(&mut self, kind: Q8, n: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..n.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(n);
        let (magnitude, last) = match kind {
            Q8::Int8 => return bytes,
            Q8::E4M3 => (0x7f, 0x7e),
            Q8::E5M2 => (0x7f, 0x7b),
        };
        bytes.iter_mut().for_each(|b| *b = (*b & 0x80) | (*b & magnitude).min(last));
        bytes
    }
}

fn widened(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// What was asked on the command line.
struct Asked {
    words: Vec<String>,
}

impl Asked {
    fn any_of(&self, all: &[&str], word: &str) -> bool {
        !all.iter().any(|w| self.words.iter().any(|a| a == w)) || self.words.iter().any(|a| a == word)
    }

    fn has(&self, word: &str) -> bool {
        self.words.iter().any(|a| a == word)
    }

    /// Microseconds of a round of products, and most of them.
    fn round(&self) -> (f64, usize) {
        if self.has("--sustained") { (100e3, usize::MAX) } else { (1500.0, 40) }
    }

    /// Numbers of tokens: those asked for, or all.
    fn tokens(&self) -> Vec<usize> {
        let asked: Vec<usize> =
            self.words.iter().filter_map(|w| w.strip_prefix("t=")).filter_map(|n| n.parse().ok()).collect();
        if asked.is_empty() { TOKENS.to_vec() } else { asked }
    }
}

fn main() -> Result<()> {
    let asked = Asked { words: std::env::args().skip(1).collect() };
    for arch in [90, 80, 75, 70, 89] {
        if !asked.any_of(&["70", "75", "80", "89", "90"], &arch.to_string()) {
            continue;
        }
        match Cuda::open(Options { kernels_of: Some(arch), ..Options::default() }) {
            Ok(cuda) => products(&cuda, &asked, arch)?,
            Err(error) => {
                println!("skipped: no device ({error})");
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The products of an architecture's kernels.
fn products(cuda: &Cuda, asked: &Asked, arch: u32) -> Result<()> {
    println!("{}", cuda.describe());
    let kinds: &[Q8] = match arch {
        89 => &[Q8::E4M3],
        90 => &[Q8::Int8, Q8::E4M3],
        _ => &[Q8::Int8],
    };
    for &kind in kinds {
        if asked.any_of(&["int8", "fp8", "float"], if kind == Q8::Int8 { "int8" } else { "fp8" }) {
            SHAPES.iter().try_for_each(|&shape| w8a8(cuda, asked, kind, shape))?;
            gated(cuda, asked, kind, SHAPES[2])?;
        }
    }
    if arch == 80 && asked.any_of(&["int8", "fp8", "float"], "float") {
        float(cuda, asked, DType::BF16, FloatMath::Bf16, HEAD, &[1, 4, 8, 16, 32, 64])?;
        float(cuda, asked, DType::BF16, FloatMath::F32, HEAD, &[1, 4, 16])?;
        for (dtype, math) in [(DType::BF16, FloatMath::Bf16), (DType::F32, FloatMath::F32)] {
            float(cuda, asked, dtype, math, (4096, 14336), &TOKENS)?;
        }
    }
    Ok(())
}

/// A kernel's figures at some numbers of tokens.
struct Row {
    kernel: String,
    text: String,
}

/// Microseconds: the median of several rounds, each of several products.
fn median(cuda: &Cuda, asked: &Asked, copies: usize, product: &mut dyn FnMut(usize) -> Result<()>) -> Result<f64> {
    product(0)?;
    let one = cuda.time(&mut || product(copies - 1))?;
    let (round, most) = asked.round();
    let each = ((round / one) as usize).clamp(1, most);
    let mut at = 0;
    let mut rounds = (0..5)
        .map(|_| {
            let round = cuda.time(&mut || {
                (0..each).try_for_each(|_| {
                    at += 1;
                    product(at % copies)
                })
            });
            round.map(|us| us / each as f64)
        })
        .collect::<Result<Vec<f64>>>()?;
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[rounds.len() / 2])
}

/// A product's sizes, its weight's bytes, and cuBLASLt's microseconds for it.
struct Product {
    t: usize,
    n: usize,
    k: usize,
    bytes: usize,
    theirs: Option<f64>,
}

/// Prints figures, or keeps them for a line; the error of cuBLASLt's own product is not looked at.
fn note(rows: &mut Vec<Row>, asked: &Asked, kernel: &str, p: &Product, us: f64, error: Option<f64>) {
    let tops = 2.0 * p.t as f64 * p.n as f64 * p.k as f64 / us / 1e6;
    let rate = p.bytes as f64 / us / 1e3;
    let ratio = p.theirs.map(|theirs| theirs / us);
    if !asked.has("--short") {
        let Product { t, n, k, .. } = p;
        let error = error.map_or_else(String::new, |e| format!(" error {e:.1e}"));
        let ratio = ratio.map_or_else(String::new, |r| format!(" {r:.2} x cuBLASLt"));
        println!("{kernel:<22} {t:>5} x {n} x {k}: {us:9.1} us {tops:8.1} TOP/s {rate:8.1} GB/s{error}{ratio}");
        return;
    }
    let wrong = error.filter(|e| *e >= 3e-2).map_or_else(String::new, |e| format!("(WRONG {e:.0e})"));
    let ratio = ratio.map_or_else(String::new, |r| format!("/{r:.2}x"));
    let figure = match p.t <= 64 {
        true => format!(" {}:{us:.1}us/{:.0}%{ratio}{wrong}", p.t, rate / 41.0),
        false => format!(" {}:{us:.0}us/{tops:.0}T{ratio}{wrong}", p.t),
    };
    match rows.iter_mut().find(|r| r.kernel == kernel) {
        Some(row) => row.text += &figure,
        None => rows.push(Row { kernel: kernel.to_owned(), text: figure }),
    }
}

/// cuBLASLt's microseconds for the same codes or numbers, noted as a row; nothing if it cannot be asked, and why.
fn theirs(
    cuda: &Cuda,
    asked: &Asked,
    rows: &mut Vec<Row>,
    x: &Tensor<Cuda>,
    weights: &[Linear],
    p: Product,
) -> Result<Product> {
    match cuda.vendor_product(x, weights) {
        Ok(Some(mut product)) => {
            let us = median(cuda, asked, weights.len(), &mut |i| (product.queue)(i))?;
            let p = Product { theirs: Some(us), ..p };
            note(rows, asked, "cuBLASLt", &p, us, None);
            Ok(p)
        }
        Ok(None) => Ok(p),
        Err(error) => {
            println!("no ratio: {error}");
            Ok(p)
        }
    }
}

fn close(rows: &[Row], n: usize, k: usize) {
    for row in rows {
        println!("{n}x{k} {}{}", row.kernel, row.text);
    }
}

fn copies(cuda: &Cuda, part: &LinearPart) -> Result<Vec<Linear>> {
    let one = cuda.load_linear(std::slice::from_ref(part))?;
    let more = (ROTATION / cuda.linear_shape(&one).bytes.max(1)).min(11);
    let rest = (0..more).map(|_| cuda.load_linear(std::slice::from_ref(part)));
    std::iter::once(Ok(one)).chain(rest).collect()
}

fn w8a8(cuda: &Cuda, asked: &Asked, kind: Q8, (n, k): (usize, usize)) -> Result<()> {
    let mut random = Random((n * k) as u64);
    let codes = random.codes(kind, n * k);
    let ws: Vec<f32> = (0..n).map(|_| 0.01 + random.float().abs()).collect();
    let weight = HostTensor::from_bytes(kind.dtype(), vec![n, k], codes.clone())?;
    let weights = copies(cuda, &LinearPart::channels(weight, ws.clone(), None))?;
    let mut rows = Vec::new();
    for t in asked.tokens() {
        let tokens = random.codes(kind, t * k);
        let xs: Vec<f32> = (0..t).map(|_| 0.01 + random.float().abs()).collect();
        let mut x = cuda.alloc_q8(kind, t, k)?;
        cuda.upload(&tokens, &mut x.codes)?;
        cuda.upload(&xs.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>(), &mut x.scales)?;
        let mut kernels = cuda.w8a8_kernels(&x, &weights[0])?;
        let sizes = Product { t, n, k, bytes: n * k, theirs: None };
        let sizes = theirs(cuda, asked, &mut rows, &x.codes, &weights, sizes)?;
        let few = [(1, "int8_few_1"), (4, "int8_few_4")].iter().find(|f| f.0 == t).map(|f| f.1);
        kernels.extend(few.filter(|f| kind == Q8::Int8 && !kernels.contains(f)));
        let term = |token: usize, row: usize| {
            let (a, b) = (&tokens[token * k..][..k], &codes[row * k..][..k]);
            let (sum, size) = dot(kind, a, b);
            let scales = f64::from(xs[token]) * f64::from(ws[row]);
            match kind {
                Q8::Int8 => (f64::from(q8::rescale(q8::dot(kind, a, b), xs[token], ws[row], 0.0)), 0.0),
                _ => (sum * scales, size * scales),
            }
        };
        // In bf16 too, which cuBLASLt stores FP8 products in.
        let narrow = Some((kernels[0], DType::BF16));
        for (kernel, dtype) in kernels.into_iter().map(|kernel| (kernel, DType::F32)).chain(narrow) {
            let mut out = poisoned(cuda, dtype, t, n)?;
            cuda.gemm_w8a8_by(kernel, &x, &weights[0], &mut out)?;
            let error = error(cuda, &out, &mut random, &term)?;
            let us = median(cuda, asked, weights.len(), &mut |i| cuda.gemm_w8a8_by(kernel, &x, &weights[i], &mut out))?;
            let name = if dtype == DType::F32 { kernel.to_owned() } else { format!("{kernel} to {dtype}") };
            note(&mut rows, asked, &name, &sizes, us, Some(error));
        }
        let tiles = if asked.has("--tiles") { cuda.hopper_tiles(&x, &weights[0])? } else { Vec::new() };
        let best = tiles.iter().map(|tile| tile.expected).fold(f64::INFINITY, f64::min);
        for tile in tiles.into_iter().filter(|tile| tile.expected < 1.6 * best) {
            let mut out = poisoned(cuda, DType::F32, t, n)?;
            cuda.gemm_w8a8_tile(&tile, &x, &weights[0], &mut out)?;
            let error = error(cuda, &out, &mut random, &term)?;
            let product = &mut |i: usize| cuda.gemm_w8a8_tile(&tile, &x, &weights[i], &mut out);
            let us = median(cuda, asked, weights.len(), product)?;
            note(&mut rows, asked, &format!("{} ({:.1})", tile.tile.name(), tile.expected), &sizes, us, Some(error));
        }
    }
    close(&rows, n, k);
    Ok(())
}

/// Sum of the products of two rows of codes, and of their magnitudes.
fn dot(kind: Q8, a: &[u8], b: &[u8]) -> (f64, f64) {
    let products = a.iter().zip(b).map(|(&a, &b)| f64::from(kind.decode(a)) * f64::from(kind.decode(b)));
    products.fold((0.0, 0.0), |(s, m), p| (s + p, m + p.abs()))
}

/// Gate and up of `n` rows in all, joined in the product's epilogue. Beside cuBLASLt's product, which joins nothing.
fn gated(cuda: &Cuda, asked: &Asked, kind: Q8, (n, k): (usize, usize)) -> Result<()> {
    const SCALES: [f32; 2] = [0.01, 0.001];
    let mut random = Random((n * k) as u64);
    let codes = [(); 2].map(|()| random.codes(kind, n / 2 * k));
    let part = |codes: &Vec<u8>| {
        let weight = HostTensor::from_bytes(kind.dtype(), vec![n / 2, k], codes.clone())?;
        Ok(LinearPart::channels(weight, vec![SCALES[1]; n / 2], None))
    };
    let weights = [cuda.load_gated(&[part(&codes[0])?, part(&codes[1])?])?];
    let mut rows = Vec::new();
    for t in asked.tokens() {
        let tokens = random.codes(kind, t * k);
        let mut x = cuda.alloc_q8(kind, t, k)?;
        cuda.upload(&tokens, &mut x.codes)?;
        cuda.upload(&SCALES[0].to_le_bytes().repeat(t), &mut x.scales)?;
        let sizes = Product { t, n, k, bytes: n * k, theirs: None };
        let sizes = theirs(cuda, asked, &mut rows, &x.codes, &weights, sizes)?;
        let joined = |token: usize, row: usize| {
            let scale = f64::from(SCALES[0]) * f64::from(SCALES[1]);
            let [gate, up] = [0, 1].map(|i| dot(kind, &tokens[token * k..][..k], &codes[i][row * k..][..k]));
            let (g, u) = (gate.0 * scale, up.0 * scale);
            // INT8 sums are exact; those of FP8 are judged beside the magnitudes of their terms.
            let size = if kind == Q8::Int8 { (g * u).abs() } else { gate.1 * up.1 * scale * scale };
            (g / (1.0 + (-g).exp()) * u, size)
        };
        for (dtype, name) in [(DType::F32, "joined"), (DType::BF16, "joined to bf16")] {
            let mut out = poisoned(cuda, dtype, t, n / 2)?;
            cuda.gemm_w8a8_gated(&x, &weights[0], Activation::Silu, &mut out)?;
            let error = error(cuda, &out, &mut random, &joined)?;
            let product = &mut |_| cuda.gemm_w8a8_gated(&x, &weights[0], Activation::Silu, &mut out);
            note(&mut rows, asked, name, &sizes, median(cuda, asked, 1, product)?, Some(error));
        }
    }
    close(&rows, n, k);
    Ok(())
}

fn poisoned(cuda: &Cuda, dtype: DType, t: usize, n: usize) -> Result<Tensor<Cuda>> {
    let mut out = cuda.alloc(dtype, t, n)?;
    cuda.upload(&[0xff].repeat(dtype.size() * t * n), &mut out)?;
    Ok(out)
}

/// The largest error of outputs drawn at random, relative to the sum of the terms' magnitudes (if that is 0: 0 or 1).
fn error(
    cuda: &Cuda,
    out: &Tensor<Cuda>,
    random: &mut Random,
    expected: &dyn Fn(usize, usize) -> (f64, f64),
) -> Result<f64> {
    let mut bytes = vec![0; out.dtype.size() * out.rows * out.cols];
    cuda.download(out, &mut bytes)?;
    let value = |i: usize| match out.dtype {
        DType::BF16 => widened(u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]])),
        _ => f32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]),
    };
    let written = (0..out.rows * out.cols).all(|i| !value(i).is_nan());
    let mut worst: f64 = if written { 0.0 } else { 1.0 };
    for _ in 0..300 {
        let (token, row) = (random.next() as usize % out.rows, random.next() as usize % out.cols);
        let (sum, size) = expected(token, row);
        let difference = (f64::from(value(token * out.cols + row)) - sum).abs();
        worst = worst.max(match size > 0.0 {
            true => difference / size,
            false => f64::from(u8::from(difference != 0.0)),
        });
    }
    Ok(worst)
}

fn float(
    cuda: &Cuda,
    asked: &Asked,
    dtype: DType,
    math: FloatMath,
    (n, k): (usize, usize),
    tokens: &[usize],
) -> Result<()> {
    let mut random = Random((n + k) as u64);
    let values = random.bf16s(n * k);
    let bytes = match dtype {
        DType::BF16 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        _ => values.iter().flat_map(|&v| widened(v).to_le_bytes()).collect::<Vec<u8>>(),
    };
    let weight = HostTensor::from_bytes(dtype, vec![n, k], bytes)?;
    let weights = copies(cuda, &LinearPart::float(weight, None))?;
    let mut rows = Vec::new();
    for &t in tokens {
        let inputs: Vec<f32> = random.bf16s(t * k).into_iter().map(widened).collect();
        let mut x = cuda.alloc(DType::F32, t, k)?;
        cuda.upload(&inputs.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>(), &mut x)?;
        let sizes = Product { t, n, k, bytes: n * k * dtype.size(), theirs: None };
        let sizes = theirs(cuda, asked, &mut rows, &x, &weights, sizes)?;
        for kernel in cuda.float_kernels(t, &weights[0], math) {
            let mut out = poisoned(cuda, DType::F32, t, n)?;
            cuda.gemm_float_by(kernel, &x, &weights[0], &mut out)?;
            let term = |token: usize, row: usize| {
                let (a, b) = (&inputs[token * k..][..k], &values[row * k..][..k]);
                let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(widened(b)));
                products.fold((0.0, 0.0), |(s, m), p| (s + p, m + p.abs()))
            };
            let error = error(cuda, &out, &mut random, &term)?;
            let us =
                median(cuda, asked, weights.len(), &mut |i| cuda.gemm_float_by(kernel, &x, &weights[i], &mut out))?;
            let kernel = format!("{kernel} {math:?}");
            note(&mut rows, asked, &kernel, &sizes, us, Some(error));
        }
    }
    close(&rows, n, k);
    Ok(())
}
