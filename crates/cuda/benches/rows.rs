//! Operations on rows: microseconds, bytes a second, and the share of what a copy inside the device moves in the same
//! run. Steps are recorded, so that launching is not measured; wide ones go through buffers larger than the cache.
use planish_cuda::{Cuda, Options};
use planish_tensor::{Activation, Asked, Backend, Batch, DType, FloatMath, Q8, Q8Rows, Result, SampleRow, Tensor};
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
    for t in [1, 16, 64, 256, 8192] {
        bench.rows(t, 4096, 14336)?;
    }
    bench.rows(8192, 8192, 28672)?;
    bench.logits(1)?;
    bench.logits(256)?;
    for (t, k) in [(8192, 4096), (8192, 14336), (2048, 4096)] {
        bench.statistics(t, k)?;
    }
    Ok(())
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

    fn report(&self, name: &str, t: usize, cols: usize, bytes: usize, us: f64) {
        let rate = bytes as f64 / us / 1e3;
        let share = 100.0 * rate / self.copy;
        println!("{name:<28} {t:>5} x {cols:<6} {us:>9.2} us {rate:>7.0} GB/s {share:>4.0} % of a copy");
    }

    fn measure(
        &self,
        name: &str,
        (t, cols): (usize, usize),
        bytes: usize,
        run: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let us = self.time(bytes, run)?;
        self.report(name, t, cols, bytes, us);
        Ok(())
    }

    /// Random values, in as many sets as are gone through.
    fn sets(&self, rows: usize, cols: usize) -> Result<Vec<Tensor<Cuda>>> {
        (0..SETS).map(|set| self.random(rows, cols, set as u64 + 1)).collect()
    }

    fn random(&self, rows: usize, cols: usize, seed: u64) -> Result<Tensor<Cuda>> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut float = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * 3.0
        };
        // A few rows, which the device repeats: making and copying more would take long.
        let few = rows.min(256);
        let values: Vec<f32> = (0..few * cols).map(|_| float()).collect();
        let mut table = self.cuda.alloc(DType::F32, few, cols)?;
        self.cuda.upload(bytemuck::cast_slice(&values), &mut table)?;
        let mut batch = Batch::fresh(&[rows], 16);
        batch.tokens = (0..rows as u32).map(|i| i.wrapping_mul(2_654_435_761) % few as u32).collect();
        let mut tensor = self.cuda.alloc(DType::F32, rows, cols)?;
        self.cuda.embed(&table, &self.cuda.upload_batch(&batch, rows.div_ceil(16))?, 1.0, &mut tensor)?;
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

    fn codes(&self, kind: Q8, t: usize, cols: usize) -> Result<Vec<Q8Rows<Cuda>>> {
        (0..SETS).map(|_| self.cuda.alloc_q8(kind, t, cols)).collect()
    }

    fn rows(&self, t: usize, h: usize, f: usize) -> Result<()> {
        let b = &self.cuda;
        let (mut x, delta, weight) = (self.sets(t, h)?, self.sets(t, h)?, self.random(1, h, 9)?);
        let mut out = self.sets(t, h)?;
        let (mut int8, mut fp8) = (self.codes(Q8::Int8, t, h)?, self.codes(Q8::E4M3, t, h)?);
        let n = t * h;
        self.measure("quantize_rows int8", (t, h), 5 * n, |i| b.quantize_rows(&x[i], &mut int8[i]))?;
        self.measure("quantize_rows e4m3", (t, h), 5 * n, |i| b.quantize_rows(&x[i], &mut fp8[i]))?;
        self.measure("rms_norm", (t, h), 8 * n, |i| b.rms_norm(&x[i], &weight, 1e-5, &mut out[i]))?;
        self.measure("add", (t, h), 12 * n, |i| b.add(&mut x[i], &delta[i]))?;
        self.measure("add_rms_norm_quantize int8", (t, h), 13 * n, |i| {
            b.add_rms_norm_quantize(&mut x[i], Some(&delta[i]), &weight, 1e-5, &mut out[i], &mut int8[i])
        })?;
        self.measure("add_rms_norm_quantize e4m3", (t, h), 13 * n, |i| {
            b.add_rms_norm_quantize(&mut x[i], Some(&delta[i]), &weight, 1e-5, &mut out[i], &mut fp8[i])
        })?;
        let mut batch = Batch::fresh(&[t], 16);
        batch.tokens = (0..t as u32).map(|i| i.wrapping_mul(2_654_435_761) % 32_000).collect();
        let batch = b.upload_batch(&batch, t.div_ceil(16))?;
        let table = b.alloc(DType::BF16, 32_000, h)?;
        self.measure("embed bf16", (t, h), 6 * n, |i| b.embed(&table, &batch, 1.0, &mut out[i]))?;
        drop((x, delta, out));
        let gate_up = self.sets(t, 2 * f)?;
        let mut scratch = b.alloc(DType::F32, t, f)?;
        let (mut int8, mut fp8) = (self.codes(Q8::Int8, t, f)?, self.codes(Q8::E4M3, t, f)?);
        let n = t * f;
        let act = Activation::Silu;
        self.measure("gated", (t, f), 12 * n, |i| b.gated(&gate_up[i], act, &mut scratch))?;
        let inner = self.sets(t, f)?;
        self.measure("quantize_rows int8", (t, f), 5 * n, |i| b.quantize_rows(&inner[i], &mut int8[i]))?;
        self.measure("gated_quantize int8", (t, f), 9 * n, |i| {
            b.gated_quantize(&gate_up[i], act, &mut scratch, &mut int8[i])
        })?;
        self.measure("gated_quantize e4m3", (t, f), 9 * n, |i| {
            b.gated_quantize(&gate_up[i], act, &mut scratch, &mut fp8[i])
        })
    }

    fn logits(&self, rows: usize) -> Result<()> {
        let v = 128_256;
        let mut x = self.sets(rows, v)?;
        // It waits for its result: not to be recorded.
        let start = Instant::now();
        for i in 0..100 {
            self.cuda.argmax(&x[i % SETS])?;
        }
        let us = start.elapsed().as_secs_f64() * 1e4;
        self.report("argmax, with its download", rows, v, 4 * rows * v, us);
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
            for i in 0..20 {
                let start = Instant::now();
                self.cuda.sample(&x[i % SETS], &wishes)?;
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
            times.sort_by(f64::total_cmp);
            self.report(name, rows, v, 4 * rows * v, times[times.len() / 2]);
        }
        for top in [0, 5, 20, 64] {
            let asked: Vec<_> = (0..rows as u32).map(|row| Asked { row, token: 7 * row, top }).collect();
            let mut times = Vec::new();
            for i in 0..20 {
                let start = Instant::now();
                self.cuda.likely(&x[i % SETS], &asked)?;
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
            times.sort_by(f64::total_cmp);
            self.report(&format!("likely, {top} beside"), rows, v, 4 * rows * v, times[times.len() / 2]);
        }
        self.measure("log_softmax", (rows, v), 8 * rows * v, |i| self.cuda.log_softmax(&mut x[i]))
    }

    fn statistics(&self, t: usize, k: usize) -> Result<()> {
        let x = self.sets(t, k)?;
        let mut absmax = self.cuda.alloc(DType::F32, 1, k)?;
        self.measure("observe_columns", (t, k), 4 * t * k, |i| self.cuda.observe_columns(&x[i], &mut absmax))?;
        let mut gram = self.cuda.alloc(DType::F32, k, k)?;
        for math in [FloatMath::F32, FloatMath::Bf16] {
            let operations = t as f64 * k as f64 * (k + 1) as f64;
            let us = self.time(1 << 30, |i| self.cuda.accumulate_gram(&x[i], math, &mut gram))?;
            let rate = operations / us / 1e6;
            println!("accumulate_gram {math:?} {t} x {k}: {us:.0} us, {rate:.1} TFLOP/s of the lower triangle");
        }
        Ok(())
    }
}
