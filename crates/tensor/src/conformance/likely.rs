//! Log-probabilities of single tokens and of the likeliest, and single rows brought to the host.
use super::case::{Case, Check, Judge, Output, put};
use super::data::Random;
use super::rows::vocabulary;
use crate::{Asked, Backend, DType, Error, Result};

/// Log-probabilities asked of rows of logits.
struct LikelyCase {
    cols: usize,
    x: Vec<f32>,
    asked: Vec<Asked>,
}

/// Rows of a matrix that are to come.
struct RowsCase {
    cols: usize,
    rows: Vec<u32>,
}

pub(super) fn cases(judge: &mut impl Judge) {
    let mut random = Random::new(DType::F32);
    for cols in [1, 3, 64, 257, 4095, 4096, 4097, 12_289, 128_256] {
        let mut x = vocabulary(&mut random, cols);
        // Two NaN, of either sign; more of one value than are asked for, in all parts of a row.
        (x[6 * cols], x[6 * cols + cols / 2]) = (f32::NAN, -f32::NAN);
        x[7 * cols..8 * cols].iter_mut().for_each(|x| *x = (*x / 8.0).round());
        for top in [0, 1, 20, 64] {
            let of_row =
                |row: usize| [0, cols / 2, cols - 1].map(|at| Asked { row: row as u32, token: at as u32, top });
            let mut asked: Vec<Asked> = (0..9).flat_map(of_row).collect();
            // In any order, of lengths that differ, and some rows not at all.
            asked.retain(|a| a.row != 5);
            asked.reverse();
            asked.iter_mut().step_by(4).for_each(|a| a.top = top.min(3));
            judge.hear(&LikelyCase { cols, x: x.clone(), asked });
        }
    }
    for rows in [vec![], vec![3], vec![0, 1, 2, 5, 7, 8], vec![8, 2, 2, 3]] {
        judge.hear(&RowsCase { cols: 1 + random.below(200), rows });
    }
}

impl Case for LikelyCase {
    fn operation(&self) -> &'static str {
        "likely"
    }

    fn describe(&self) -> String {
        let top = self.asked.iter().map(|a| a.top).max().unwrap_or(0);
        format!("x [{}, {}], {} tokens and the likeliest {top}", self.x.len() / self.cols, self.cols, self.asked.len())
    }

    fn may_be_left(&self) -> bool {
        true
    }

    fn run<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        let logits = put(b, DType::F32, self.cols, &self.x)?;
        let left = || Error::unsupported("left to the host");
        let found = b.likely(&logits, &self.asked)?.into_iter().map(|found| found.ok_or_else(left));
        let found = found.collect::<Result<Vec<_>>>()?;
        // As `judge` is compared: relative to the largest magnitude of the row of log-probabilities.
        let largest = |asked: &Asked| {
            let row = &self.x[asked.row as usize * self.cols..][..self.cols];
            let largest = row.iter().filter(|x| x.is_finite()).fold(1f32, |m, x| m.max(x.abs()));
            2.0 * largest + (self.cols as f32).ln()
        };
        let (mut ids, mut log_probs, mut magnitudes) = (Vec::new(), Vec::new(), Vec::new());
        for (asked, found) in self.asked.iter().zip(found) {
            ids.extend(found.top.iter().map(|(id, _)| *id as f32).chain([-1.0]));
            log_probs.extend([found.log_prob].into_iter().chain(found.top.iter().map(|(_, log_prob)| *log_prob)));
            magnitudes.resize(log_probs.len(), largest(asked));
        }
        let column = |values: Vec<f32>, check: Check| Output { cols: 1, dtype: DType::F32, values, check };
        Ok(vec![column(ids, Check::Equal), column(log_probs, Check::Sum(magnitudes)), self.untouched(b, &logits)?])
    }
}

impl LikelyCase {
    /// The logits stay as they are.
    fn untouched<B: Backend>(&self, b: &B, logits: &crate::Tensor<B>) -> Result<Output> {
        let mut values = vec![0f32; self.x.len()];
        b.download(logits, bytemuck::cast_slice_mut(&mut values))?;
        Ok(Output { cols: self.cols, dtype: DType::F32, values, check: Check::Equal })
    }
}

impl Case for RowsCase {
    fn operation(&self) -> &'static str {
        "download_rows"
    }

    fn describe(&self) -> String {
        format!("rows {:?} of width {}", self.rows, self.cols)
    }

    fn run<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        let all: Vec<f32> = (0..9 * self.cols).map(|i| i as f32).collect();
        let x = put(b, DType::F32, self.cols, &all)?;
        let mut values = vec![0f32; self.rows.len() * self.cols];
        b.download_rows(&x, &self.rows, bytemuck::cast_slice_mut(&mut values))?;
        let past = b.download_rows(&x, &[9], bytemuck::cast_slice_mut(&mut vec![0f32; self.cols]));
        let refused =
            Output { cols: 1, dtype: DType::F32, values: vec![past.is_err() as u8 as f32], check: Check::Equal };
        Ok(vec![Output { cols: self.cols, dtype: DType::F32, values, check: Check::Equal }, refused])
    }
}
