//! Operations on rows: error beside the scalar reference, microseconds, bytes a second, and the share of what a copy inside
//! the device moves in the same run (cuBLASLt has nothing like them). Steps are recorded, so that launching is not
//! measured; wide ones go through buffers larger than the cache. `cargo bench -p planish-cuda --bench rows -- [TOKENS…]`: of the
//! Llama-3-8B shape for these numbers of tokens alone.
mod op;

use op::{CHECKED, Io, Op, difference, head, scalar};
use planish_cpu::Scalar;
use planish_cuda::{Cuda, Options};
use planish_tensor::{Asked, Backend, Batch, DType, FloatMath, HostTensor, Q8, Result, SampleRow, Tensor};
use std::time::Instant;

/// Sets of buffers that a measurement goes through.
const SETS: usize = 4;

fn main() -> Result<()> {
    let cuda = match Cuda::open(Options::default()) {
        Ok(cuda) => cuda,
        Err(error) => {
            println!("skipped: no device ({error})");
            return Ok(());
        }
    };
    println!("{}", cuda.describe());
    let bench = Bench { copy: 1.0, cuda };
    let copy = bench.copy()?;
    let bench = Bench { copy, ..bench };
    println!("copy of 256 MiB: {copy:.0} GB/s read and written");
    let asked: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    for &t in if asked.is_empty() { &[1, 16, 64, 256, 8192][..] } else { &asked } {
        bench.rows(t, 4096, 14336)?;
    }
    if !asked.is_empty() {
        return Ok(());
    }
    bench.rows(8192, 8192, 28672)?;
    bench.logits(1)?;
    bench.logits(256)?;
    for (t, k) in [(8192, 4096), (8192, 14336), (2048, 4096)] {
        bench.statistics(t, k)?;
    }
    Ok(())
}

/// Rows that are made; the device repeats them, as making and copying more would take long.
const FEW: usize = 256;

/// Which of them a row of `rows` is.
fn few_of(row: usize, rows: usize) -> usize {
    (row as u32).wrapping_mul(2_654_435_761) as usize % FEW.min(rows)
}

fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut float = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let even = ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * 3.0;
        f32::from_bits(even.to_bits() & 0xffff_0000)
    };
    (0..count).map(|_| float()).collect()
}

struct Bench {
    cuda: Cuda,
    /// GB/s of a copy.
    copy: f64,
}

impl Bench {
    /// Microseconds of one `run(set)`, the median of several replays of a recording.
    fn time(&self, bytes: usize, mut run: impl FnMut(usize) -> Result<()>) -> Result<f64> {
        for set in 0..SETS {
            run(set)?;
        }
        // About a millisecond each.
        let runs = (4_000_000_000 / bytes.max(1)).clamp(SETS, 200).next_multiple_of(SETS);
        let recording = self.cuda.record(&mut || (0..runs).try_for_each(|i| run(i % SETS)))?;
        let mut times = Vec::new();
        for _ in 0..9 {
            self.cuda.sync()?;
            let start = Instant::now();
            recording.replay()?;
            self.cuda.sync()?;
            times.push(start.elapsed().as_secs_f64() * 1e6 / runs as f64);
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }

    fn report(&self, name: &str, [t, cols]: [usize; 2], bytes: usize, us: f64, error: Option<f64>) {
        let rate = bytes as f64 / us / 1e3;
        let share = 100.0 * rate / self.copy;
        let error = error.map_or_else(String::new, |e| format!("  error {e:.1e}"));
        println!("{name:<32} {t:>5} x {cols:<6} {us:>9.2} us {rate:>7.0} GB/s {share:>4.0} % of a copy{error}");
    }

    fn io(&self, op: Op, t: usize, cols: usize, seed: u64) -> Result<Io<Cuda>> {
        let b = &self.cuda;
        Ok(Io {
            x: self.random(t, cols * op.factor(), seed)?,
            rounded: matches!(op, Op::QuantizeBf16(_)).then(|| self.rounded(t, cols, seed)).transpose()?,
            delta: self.random(t, cols, seed + 100)?,
            out: b.alloc(DType::F32, t, cols)?,
            codes: b.alloc_q8(op.kind().unwrap_or(Q8::Int8), t, cols)?,
        })
    }

    fn measure(&self, op: Op, t: usize, cols: usize) -> Result<()> {
        let weight = self.random(1, cols, 9)?;
        let mut sets = (0..SETS).map(|i| self.io(op, t, cols, i as u64 + 1)).collect::<Result<Vec<_>>>()?;
        let error = self.error(op, &weight, &mut sets[0])?;
        let bytes = op.bytes() * t * cols;
        let us = self.time(bytes, |i| op.run(&self.cuda, &weight, &mut sets[i]))?;
        self.report(&op.name(), [t, cols], bytes, us, Some(error));
        Ok(())
    }

    /// Runs it once, and compares the first rows with the reference's.
    fn error(&self, op: Op, weight: &Tensor<Cuda>, io: &mut Io<Cuda>) -> Result<f64> {
        let (b, cols) = (&self.cuda, io.out.cols);
        let (x, delta) = (head(b, &mut io.x)?, head(b, &mut io.delta)?);
        let rows = delta.len() / cols;
        let mut weights = vec![0.0f32; cols];
        b.download(weight, bytemuck::cast_slice_mut(&mut weights))?;
        op.run(b, weight, io)?;
        let found = op.result(b, io)?;
        let mut reference = Io {
            x: scalar(&x, cols * op.factor())?,
            rounded: None,
            delta: scalar(&delta, cols)?,
            out: Scalar.alloc(DType::F32, rows, cols)?,
            codes: Scalar.alloc_q8(op.kind().unwrap_or(Q8::Int8), rows, cols)?,
        };
        op.run(&Scalar, &scalar(&weights, cols)?, &mut reference)?;
        Ok(difference(&found, &op.result(&Scalar, &mut reference)?))
    }

    /// Random values, in as many sets as are gone through.
    fn sets(&self, rows: usize, cols: usize) -> Result<Vec<Tensor<Cuda>>> {
        (0..SETS).map(|set| self.random(rows, cols, set as u64 + 1)).collect()
    }

    /// Random values that bf16 has, too.
    fn random(&self, rows: usize, cols: usize, seed: u64) -> Result<Tensor<Cuda>> {
        let few = FEW.min(rows);
        let mut table = self.cuda.alloc(DType::F32, few, cols)?;
        self.cuda.upload(bytemuck::cast_slice(&values(few * cols, seed)), &mut table)?;
        let mut batch = Batch::fresh(&[rows], 16);
        batch.tokens = (0..rows).map(|row| few_of(row, rows) as u32).collect();
        let mut tensor = self.cuda.alloc(DType::F32, rows, cols)?;
        self.cuda.embed(&table, &self.cuda.upload_batch(&batch, rows.div_ceil(16))?, 1.0, &mut tensor)?;
        Ok(tensor)
    }

    /// The same in bf16.
    fn rounded(&self, rows: usize, cols: usize, seed: u64) -> Result<Tensor<Cuda>> {
        let table: Vec<u16> = values(FEW.min(rows) * cols, seed).iter().map(|v| (v.to_bits() >> 16) as u16).collect();
        let all: Vec<u16> = (0..rows).flat_map(|row| &table[few_of(row, rows) * cols..][..cols]).copied().collect();
        let mut tensor = self.cuda.alloc(DType::BF16, rows, cols)?;
        self.cuda.upload(bytemuck::cast_slice(&all), &mut tensor)?;
        Ok(tensor)
    }

    fn copy(&self) -> Result<f64> {
        let (rows, cols) = (4096, 16384);
        let x = self.sets(rows, cols)?;
        let mut to = (0..SETS).map(|_| self.cuda.alloc(DType::F32, rows, cols)).collect::<Result<Vec<_>>>()?;
        let bytes = 8 * rows * cols;
        let us = self.time(bytes, |i| self.cuda.copy(&x[i], &mut to[i]))?;
        Ok(bytes as f64 / us / 1e3)
    }

    fn rows(&self, t: usize, h: usize, f: usize) -> Result<()> {
        for op in [Op::Quantize(Q8::Int8), Op::Quantize(Q8::E4M3), Op::Norm, Op::Add] {
            self.measure(op, t, h)?;
        }
        for kind in [Q8::Int8, Q8::E4M3] {
            self.measure(Op::AddNormQuantize(kind), t, h)?;
            self.measure(Op::NormQuantize(kind), t, h)?;
        }
        self.measure(Op::QuantizeBf16(Q8::E4M3), t, h)?;
        self.embed(t, h)?;
        for op in [Op::Gated, Op::Quantize(Q8::Int8), Op::GatedQuantize(Q8::Int8), Op::GatedQuantize(Q8::E4M3)] {
            self.measure(op, t, f)?;
        }
        self.measure(Op::QuantizeBf16(Q8::E4M3), t, f)?;
        Ok(())
    }

    fn embed(&self, t: usize, h: usize) -> Result<()> {
        const VOCAB: usize = 32_000;
        let b = &self.cuda;
        // Ordinary numbers in bf16.
        let words = (0..VOCAB * h).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 16) as u16 & 0x83ff | 0x3c00);
        let values: Vec<u16> = words.collect();
        let table = b.load(&HostTensor::from_bytes(
            DType::BF16,
            vec![VOCAB, h],
            values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        )?)?;
        let mut batch = Batch::fresh(&[t], 16);
        batch.tokens = (0..t as u32).map(|i| i.wrapping_mul(2_654_435_761) % VOCAB as u32).collect();
        let on_device = b.upload_batch(&batch, t.div_ceil(16))?;
        let mut out = self.sets(t, h)?;
        b.embed(&table, &on_device, 1.0, &mut out[0])?;
        let found = head(b, &mut out[0])?;
        let row = |&token: &u32| &values[token as usize * h..][..h];
        let expected: Vec<f32> =
            batch.tokens.iter().take(CHECKED).flat_map(row).map(|&v| f32::from_bits(u32::from(v) << 16)).collect();
        let error = difference(&found, &expected);
        let us = self.time(6 * t * h, |i| b.embed(&table, &on_device, 1.0, &mut out[i]))?;
        self.report("embed bf16", [t, h], 6 * t * h, us, Some(error));
        Ok(())
    }

    fn logits(&self, rows: usize) -> Result<()> {
        let v = 128_256;
        let mut x = self.sets(rows, v)?;
        let first = head(&self.cuda, &mut x[0])?;
        let likeliest = Scalar.argmax(&scalar(&first, v)?)?;
        // Share of the first rows whose token is another.
        let others = |found: &[u32]| {
            let wrong = likeliest.iter().zip(found).filter(|(expected, found)| expected != found).count();
            wrong as f64 / likeliest.len() as f64
        };
        let error = others(&self.cuda.argmax(&x[0])?);
        // It waits for its result: not to be recorded.
        let start = Instant::now();
        for i in 0..100 {
            self.cuda.argmax(&x[i % SETS])?;
        }
        let us = start.elapsed().as_secs_f64() * 1e4;
        self.report("argmax, with its download", [rows, v], 4 * rows * v, us, Some(error));
        let wishes =
            |temperature, top_k, top_p| SampleRow { temperature, top_k, top_p, point: 0.4, ..SampleRow::GREEDY };
        for (name, wish) in [
            ("sample greedy", wishes(0.0, 0, 1.0)),
            ("sample temperature 1", wishes(1.0, 0, 1.0)),
            ("sample top-p 0.9", wishes(1.0, 0, 0.9)),
            ("sample top-k 50, top-p 0.9", wishes(1.0, 50, 0.9)),
        ] {
            let wishes: Vec<_> = (0..rows as u32).map(|row| (row, &wish)).collect();
            let mut times = Vec::new();
            // What is drawn is compared with the CPU's sampler in `crates/cli/tests/gpu_sampling.rs`.
            let chosen = if wish.temperature == 0.0 { self.cuda.sample(&x[0], &wishes)? } else { Vec::new() };
            let chosen: Option<Vec<u32>> = chosen.into_iter().collect();
            let error = chosen.filter(|found| !found.is_empty()).map(|found| others(&found));
            for i in 0..20 {
                let start = Instant::now();
                self.cuda.sample(&x[i % SETS], &wishes)?;
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
            times.sort_by(f64::total_cmp);
            self.report(name, [rows, v], 4 * rows * v, times[times.len() / 2], error);
        }
        for top in [0, 5, 20, 64] {
            self.likely(&x, &first, top)?;
        }
        drop(x);
        self.measure(Op::LogSoftmax, rows, v)
    }

    /// `first` are the logits of the first rows.
    fn likely(&self, x: &[Tensor<Cuda>], first: &[f32], top: usize) -> Result<()> {
        let (rows, v) = (x[0].rows, x[0].cols);
        let asked: Vec<_> = (0..rows as u32).map(|row| Asked { row, token: 7 * row, top }).collect();
        let log_prob = |(row, logits): (usize, &[f32])| {
            let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
            (f64::from(logits[7 * row]) - sum.ln()) as f32
        };
        let expected: Vec<f32> = first.chunks_exact(v).enumerate().map(log_prob).collect();
        let found = self.cuda.likely(&x[0], &asked)?.into_iter().take(expected.len());
        let found: Vec<f32> = found.map(|l| l.map_or(f32::NAN, |l| l.log_prob)).collect();
        let mut times = Vec::new();
        for i in 0..20 {
            let start = Instant::now();
            self.cuda.likely(&x[i % SETS], &asked)?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        times.sort_by(f64::total_cmp);
        let (name, us) = (format!("likely, {top} beside"), times[times.len() / 2]);
        self.report(&name, [rows, v], 4 * rows * v, us, Some(difference(&found, &expected)));
        Ok(())
    }

    fn statistics(&self, t: usize, k: usize) -> Result<()> {
        let x = self.sets(t, k)?;
        let mut values = vec![0.0f32; t * k];
        self.cuda.download(&x[0], bytemuck::cast_slice_mut(&mut values))?;
        let mut absmax = self.cuda.alloc(DType::F32, 1, k)?;
        self.cuda.observe_columns(&x[0], &mut absmax)?;
        let largest = |column: usize| values.iter().skip(column).step_by(k).fold(0.0f32, |m, v| m.max(v.abs()));
        let expected: Vec<f32> = (0..k).step_by(97).map(largest).collect();
        let found: Vec<f32> = head(&self.cuda, &mut absmax)?.into_iter().step_by(97).collect();
        let error = difference(&found, &expected);
        let us = self.time(4 * t * k, |i| self.cuda.observe_columns(&x[i], &mut absmax))?;
        self.report("observe_columns", [t, k], 4 * t * k, us, Some(error));
        for math in [FloatMath::F32, FloatMath::Bf16] {
            let mut gram = self.cuda.alloc(DType::F32, k, k)?;
            self.cuda.accumulate_gram(&x[0], math, &mut gram)?;
            let error = self.gram_error(&values, k, &gram)?;
            let operations = t as f64 * k as f64 * (k + 1) as f64;
            let us = self.time(1 << 30, |i| self.cuda.accumulate_gram(&x[i], math, &mut gram))?;
            let rate = operations / us / 1e6;
            println!(
                "accumulate_gram {math:?} {t} x {k}: {us:.0} us, {rate:.1} TFLOP/s of the lower triangle  error {error:.1e}"
            );
        }
        Ok(())
    }

    /// The largest error of some elements, beside the sums of their terms' magnitudes.
    fn gram_error(&self, x: &[f32], k: usize, gram: &Tensor<Cuda>) -> Result<f64> {
        let mut found = vec![0.0f32; k * k];
        self.cuda.download(gram, bytemuck::cast_slice_mut(&mut found))?;
        let mut worst = 0.0f64;
        for at in 0..64 {
            let i = (at * 7919 + 13) % k;
            let j = (at * 104_729) % (i + 1);
            let terms = x.chunks_exact(k).map(|row| f64::from(row[i]) * f64::from(row[j]));
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            worst = worst.max((f64::from(found[i * k + j]) - sum).abs() / size);
        }
        Ok(worst)
    }
}
