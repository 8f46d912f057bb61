//! Operations on rows: look-ups, norms, quantizing, gates, sums, logits and column maxima.
use super::case::{Case, Check, Judge, Output, activations, blank, put, read};
use super::data::Random;
use crate::{Activation, Backend, Batch, DType, HostTensor, Q8, Result, Target};

/// An operation and what it takes besides `x`.
enum Op {
    Embed { table: HostTensor, tokens: Vec<u32>, scale: f32 },
    AddPositions { table: HostTensor, offset: usize },
    RmsNorm { weight: Vec<f32>, eps: f32 },
    RmsNormStretches { weight: Vec<f32>, first: usize, count: usize },
    LayerNorm { weight: Vec<f32>, bias: Vec<f32> },
    Activate(Activation),
    Softcap(f32),
    QuantizeRows(Q8),
    Gated(Activation),
    Add(Vec<f32>),
    GatherRows(Vec<u32>),
    Argmax,
    LogSoftmax,
    Judge(Vec<Target>),
    ObserveColumns(Vec<f32>),
}

struct RowCase {
    op: Op,
    /// Width of `x`.
    cols: usize,
    x: Vec<f32>,
}

pub(super) fn cases(judge: &mut impl Judge, random: &mut Random) {
    for i in 0..24 {
        embed(judge, random, i);
        let (rows, cols) = (random.rows(i), random.size());
        let mut hear = |op: Op, x: Vec<f32>| judge.hear(&RowCase { op, cols, x });
        let eps = [1e-5, 1e-6][i % 2];
        hear(Op::RmsNorm { weight: random.floats(cols), eps }, random.odd_activations(rows, cols));
        hear(Op::QuantizeRows(Q8::ALL[i % 3]), random.odd_activations(rows, cols));
        hear(Op::Add(random.odd_activations(rows, cols)), random.odd_activations(rows, cols));
        hear(Op::ObserveColumns(random.floats(cols)), random.odd_activations(rows, cols));
        let wanted = if rows == 0 { Vec::new() } else { some_rows(random, rows) };
        hear(Op::GatherRows(wanted), random.odd_activations(rows, cols));
        hear(Op::Argmax, logits(random, rows, cols));
        hear(Op::LogSoftmax, logits(random, rows, cols));
        hear(Op::Judge(targets(random, rows, cols)), logits(random, rows, cols));
        let act = [Activation::Silu, Activation::GeluTanh][i % 2];
        let gate_up = random.odd_activations(rows, 2 * cols);
        judge.hear(&RowCase { op: Op::Gated(act), cols: 2 * cols, x: gate_up });
        other_networks(judge, random, i);
    }
    // Rows as wide as those of a large model: sums of many terms.
    for cols in [4099, 14336] {
        let x = random.activations(3, cols);
        judge.hear(&RowCase { op: Op::RmsNorm { weight: random.floats(cols), eps: 1e-5 }, cols, x });
        let x = random.activations(3, cols);
        judge.hear(&RowCase { op: Op::QuantizeRows(Q8::Int8), cols, x });
        let x = random.activations(3, cols);
        judge.hear(&RowCase { op: Op::LayerNorm { weight: random.floats(cols), bias: random.floats(cols) }, cols, x });
        let x = logits(random, 3, cols);
        judge.hear(&RowCase { op: Op::LogSoftmax, cols, x });
    }
    vocabularies(judge, &mut Random::new(DType::F32));
}

/// Several targets of a row, others without any, of rows as wide as vocabularies are.
fn vocabularies(judge: &mut impl Judge, random: &mut Random) {
    for cols in [257, 4095, 4096, 4097, 12_289, 128_256] {
        let x = vocabulary(random, cols);
        let of_row = |row: usize, random: &mut Random| {
            let likely = [cols / 2, cols - 1, cols / 3, cols - 2, 0, cols / 5, random.below(cols)];
            let asked = if row == 6 { &[][..] } else { &likely[..] };
            asked.iter().map(move |&token| Target { row: row as u32, token: token as u32 }).collect::<Vec<_>>()
        };
        let targets = (0..8).flat_map(|row| of_row(row, random)).collect();
        judge.hear(&RowCase { op: Op::Judge(targets), cols, x: x.clone() });
        let last = vec![Target { row: 8, token: 1 }; 2];
        judge.hear(&RowCase { op: Op::Judge(last), cols, x });
    }
}

/// Nine rows of logits. Two of the first share the largest, in two parts of the row; that of the second is 0 with either
/// sign; then one with NaN, one with infinity, and one of negative infinities alone.
pub(super) fn vocabulary(random: &mut Random, cols: usize) -> Vec<f32> {
    let mut x: Vec<f32> = random.floats(9 * cols).iter().map(|v| (v * 64.0).round() / 4.0).collect();
    (x[cols - 1], x[cols / 2]) = (30.0, 30.0);
    x[cols..2 * cols].iter_mut().for_each(|x| *x = -x.abs());
    x[cols + cols / 2] = 0.0;
    x[3 * cols - 1] = f32::NAN;
    x[3 * cols + cols / 5] = f32::INFINITY;
    x[4 * cols..5 * cols].fill(f32::NEG_INFINITY);
    x
}

/// What some families do otherwise: means taken off, norms inside a row, plain MLPs, caps, learned positions.
fn other_networks(judge: &mut impl Judge, random: &mut Random, i: usize) {
    let (rows, cols) = (random.rows(i), random.size());
    let mut hear = |op: Op, x: Vec<f32>| judge.hear(&RowCase { op, cols, x });
    let op = Op::LayerNorm { weight: random.floats(cols), bias: random.floats(cols) };
    hear(op, random.odd_activations(rows, cols));
    let width = 1 + random.below(cols);
    let count = 1 + random.below(cols / width);
    let first = random.below(cols - count * width + 1);
    let op = Op::RmsNormStretches { weight: random.floats(width), first, count };
    hear(op, random.odd_activations(rows, cols));
    hear(Op::Activate(Activation::ALL[i % 4]), random.odd_activations(rows, cols));
    hear(Op::Softcap([30.0, 0.5][i % 2]), logits(random, rows, cols));
    let table = random.weight([DType::F32, DType::BF16, DType::F16][i % 3], rows + 2 + i % 2, cols);
    hear(Op::AddPositions { table, offset: 2 * (i % 2) }, random.activations(rows, cols));
}

fn embed(judge: &mut impl Judge, random: &mut Random, i: usize) {
    let (rows, cols, vocabulary) = (random.rows(i), random.size(), random.size());
    let table = random.weight([DType::F32, DType::BF16, DType::F16][i % 3], vocabulary, cols);
    let tokens = (0..rows).map(|_| random.below(vocabulary) as u32).collect();
    let scale = [1.0, 24.0][i / 3 % 2];
    judge.hear(&RowCase { op: Op::Embed { table, tokens, scale }, cols, x: vec![0.0; rows * cols] });
}

/// Some of `0..rows`, ascending; the last always.
fn some_rows(random: &mut Random, rows: usize) -> Vec<u32> {
    (0..rows as u32).filter(|&r| r as usize + 1 == rows || random.below(2) == 0).collect()
}

/// Up to three tokens of some rows.
fn targets(random: &mut Random, rows: usize, cols: usize) -> Vec<Target> {
    let of = |row: u32, random: &mut Random| {
        (0..random.below(4))
            .map(|_| random.below(cols) as u32)
            .map(move |token| Target { row, token })
            .collect::<Vec<_>>()
    };
    (0..rows as u32).flat_map(|row| of(row, random)).collect()
}

/// Logits with ties; rows with NaN, and with some or only negative infinities.
fn logits(random: &mut Random, rows: usize, cols: usize) -> Vec<f32> {
    let mut values: Vec<f32> = random.floats(rows * cols).iter().map(|v| (v * 64.0).round() / 4.0).collect();
    for row in values.chunks_mut(cols) {
        let at = random.below(cols);
        match random.below(10) {
            0 => row[at] = f32::NAN,
            1 => row[at] = f32::NEG_INFINITY,
            2 => row.fill(-3.25),
            3 => row[..at].fill(f32::NEG_INFINITY),
            4 => row[at] += 200.0,
            _ => {}
        }
    }
    values
}

impl Case for RowCase {
    fn operation(&self) -> &'static str {
        match self.op {
            Op::Embed { .. } => "embed",
            Op::AddPositions { .. } => "add_positions",
            Op::RmsNorm { .. } => "rms_norm",
            Op::RmsNormStretches { .. } => "rms_norm_stretches",
            Op::LayerNorm { .. } => "layer_norm",
            Op::Activate(_) => "activate",
            Op::Softcap(_) => "softcap",
            Op::QuantizeRows(_) => "quantize_rows",
            Op::Gated(_) => "gated",
            Op::Add(_) => "add",
            Op::GatherRows(_) => "gather_rows",
            Op::Argmax => "argmax",
            Op::LogSoftmax => "log_softmax",
            Op::Judge(_) => "judge",
            Op::ObserveColumns(_) => "observe_columns",
        }
    }

    fn describe(&self) -> String {
        let detail = match &self.op {
            Op::Embed { table, scale, .. } => format!(" {table:?} scale {scale}"),
            Op::RmsNorm { eps, .. } => format!(" eps {eps}"),
            Op::RmsNormStretches { weight, first, count } => format!(" {count} of {} from {first}", weight.len()),
            Op::AddPositions { table, offset } => format!(" {table:?} from {offset}"),
            Op::Softcap(cap) => format!(" {cap}"),
            Op::QuantizeRows(kind) => format!(" {kind:?}"),
            Op::Activate(act) | Op::Gated(act) => format!(" {act:?}"),
            Op::GatherRows(rows) => format!(" {} rows", rows.len()),
            Op::Judge(targets) => format!(" {} tokens", targets.len()),
            _ => String::new(),
        };
        format!("x [{}, {}]{detail}", self.rows(), self.cols)
    }

    fn run<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        match &self.op {
            Op::Embed { table, tokens, scale } => self.embed(b, table, tokens, *scale),
            Op::AddPositions { table, offset } => self.add_positions(b, table, *offset),
            Op::LayerNorm { .. } | Op::RmsNormStretches { .. } => self.norm(b),
            Op::GatherRows(wanted) => self.gather(b, wanted),
            Op::Argmax => self.argmax(b),
            Op::Judge(targets) => self.judge(b, targets),
            Op::QuantizeRows(kind) => self.quantize(b, *kind),
            _ => self.arithmetic(b),
        }
    }
}

impl RowCase {
    fn rows(&self) -> usize {
        self.x.len() / self.cols
    }

    /// `|gate| |up|`: a gate's value is a part of it.
    fn gate_magnitudes(&self) -> Vec<f32> {
        let row = |row: &[f32]| {
            let (gate, up) = row.split_at(self.cols / 2);
            gate.iter().zip(up).map(|(a, b)| (a * b).abs()).collect::<Vec<f32>>()
        };
        self.x.chunks(self.cols).flat_map(row).collect()
    }

    fn embed<B: Backend>(&self, b: &B, table: &HostTensor, tokens: &[u32], scale: f32) -> Result<Vec<Output>> {
        let mut batch = Batch::fresh(&[tokens.len()], 16);
        batch.tokens = tokens.to_vec();
        let batch = b.upload_batch(&batch, 16)?;
        let mut out = blank(b, b.activation_dtype(), tokens.len(), self.cols)?;
        b.embed(&b.load(table)?, &batch, scale, &mut out)?;
        Ok(vec![read(b, &mut out, Check::Equal)?])
    }

    /// Positions of two sequences.
    fn add_positions<B: Backend>(&self, b: &B, table: &HostTensor, offset: usize) -> Result<Vec<Output>> {
        let first = self.rows() / 3;
        let mut batch = Batch::fresh(&[first, self.rows() - first], 16);
        batch.tokens = vec![0; self.rows()];
        let batch = b.upload_batch(&batch, 16)?;
        let mut x = activations(b, self.cols, &self.x)?;
        b.add_positions(&b.load(table)?, &batch, offset, &mut x)?;
        Ok(vec![read(b, &mut x, Check::Equal)?])
    }

    fn norm<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        let mut x = activations(b, self.cols, &self.x)?;
        match &self.op {
            Op::RmsNormStretches { weight, first, count } => {
                let weight = put(b, DType::F32, weight.len(), weight)?;
                b.rms_norm_stretches(&mut x, *first, *count, &weight, 1e-6)?;
                Ok(vec![read(b, &mut x, Check::Relative)?])
            }
            Op::LayerNorm { weight, bias } => {
                let mut out = blank(b, x.dtype, x.rows, self.cols)?;
                let [weight, bias] = [weight, bias].map(|v| put(b, DType::F32, self.cols, v));
                b.layer_norm(&x, &weight?, &bias?, 1e-5, &mut out)?;
                Ok(vec![read(b, &mut out, Check::Relative)?])
            }
            _ => unreachable!("no norm"),
        }
    }

    fn gather<B: Backend>(&self, b: &B, wanted: &[u32]) -> Result<Vec<Output>> {
        let mut batch = Batch::fresh(&[self.rows()], 16);
        batch.tokens = vec![0; self.rows()];
        batch.logit_rows = wanted.to_vec();
        let batch = b.upload_batch(&batch, 16)?;
        let mut out = blank(b, b.activation_dtype(), wanted.len(), self.cols)?;
        b.gather_rows(&activations(b, self.cols, &self.x)?, &batch, &mut out)?;
        Ok(vec![read(b, &mut out, Check::Equal)?])
    }

    fn argmax<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        let found = b.argmax(&put(b, DType::F32, self.cols, &self.x)?)?;
        let values = found.iter().map(|&i| if i == u32::MAX { -1.0 } else { i as f32 }).collect();
        Ok(vec![Output { cols: 1, dtype: DType::F32, values, check: Check::Equal }])
    }

    /// Relative to the largest magnitude of the rows of log-probabilities, as `log_softmax` is: of these a part is seen.
    fn judge<B: Backend>(&self, b: &B, targets: &[Target]) -> Result<Vec<Output>> {
        let found = b.judge(&mut put(b, DType::F32, self.cols, &self.x)?, targets)?;
        let column = |values: Vec<f32>, check: Check| Output { cols: 1, dtype: DType::F32, values, check };
        let largest = |row: u32| {
            self.x[row as usize * self.cols..][..self.cols]
                .iter()
                .filter(|x| x.is_finite())
                .fold(1f32, |m, x| m.max(x.abs()))
        };
        let magnitudes = targets.iter().map(|t| 2.0 * largest(t.row) + (self.cols as f32).ln()).collect();
        let greedy = found.iter().map(|j| j.greedy as u8 as f32).collect();
        let log_probs = found.iter().map(|j| j.log_prob).collect();
        Ok(vec![column(log_probs, Check::Sum(magnitudes)), column(greedy, Check::Equal)])
    }

    fn quantize<B: Backend>(&self, b: &B, kind: Q8) -> Result<Vec<Output>> {
        let mut out = b.alloc_q8(kind, self.rows(), self.cols)?;
        b.quantize_rows(&activations(b, self.cols, &self.x)?, &mut out)?;
        Ok(vec![read(b, &mut out.codes, Check::Equal)?, read(b, &mut out.scales, Check::Equal)?])
    }

    fn arithmetic<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        if matches!(self.op, Op::LogSoftmax) {
            let mut x = put(b, DType::F32, self.cols, &self.x)?;
            b.log_softmax(&mut x)?;
            return Ok(vec![read(b, &mut x, Check::Relative)?]);
        }
        if let Op::Softcap(cap) = self.op {
            let mut x = put(b, DType::F32, self.cols, &self.x)?;
            b.softcap(&mut x, cap)?;
            return Ok(vec![read(b, &mut x, Check::Relative)?]);
        }
        let mut x = activations(b, self.cols, &self.x)?;
        match &self.op {
            Op::Activate(act) => {
                let mut out = blank(b, x.dtype, x.rows, self.cols)?;
                b.activate(&x, *act, &mut out)?;
                // Subnormal values are rounded to few bits.
                let magnitudes = self.x.iter().map(|x| x.abs().max(1e-30)).collect();
                Ok(vec![read(b, &mut out, Check::Sum(magnitudes))?])
            }
            Op::Add(y) => {
                b.add(&mut x, &activations(b, self.cols, y)?)?;
                Ok(vec![read(b, &mut x, Check::Equal)?])
            }
            Op::ObserveColumns(absmax) => {
                let absmax: Vec<f32> = absmax.iter().map(|v| v.abs()).collect();
                let mut absmax = put(b, DType::F32, self.cols, &absmax)?;
                b.observe_columns(&x, &mut absmax)?;
                Ok(vec![read(b, &mut absmax, Check::Equal)?])
            }
            Op::Gated(act) => {
                let mut out = blank(b, x.dtype, x.rows, self.cols / 2)?;
                b.gated(&x, *act, &mut out)?;
                Ok(vec![read(b, &mut out, Check::Sum(self.gate_magnitudes()))?])
            }
            Op::RmsNorm { weight, eps } => {
                let mut out = blank(b, x.dtype, x.rows, self.cols)?;
                b.rms_norm(&x, &put(b, DType::F32, self.cols, weight)?, *eps, &mut out)?;
                Ok(vec![read(b, &mut out, Check::Relative)?])
            }
            _ => unreachable!("has a function of its own"),
        }
    }
}
