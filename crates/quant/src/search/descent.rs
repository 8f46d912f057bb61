//! Factors channel by channel, by descent on what rounding errors are expected to be: independent and uniform.
//!
//! A token's step is its largest smoothed channel over 127, and every channel's error reaches the output through its
//! smoothed column: large factors of the largest channels make steps small, and large factors make columns large. A row
//! of the weights has its step from its largest smoothed weight, and its errors meet the smoothed inputs: the same with
//! the signs turned. Where the forces balance in every channel, the expected error is least.
use super::Group;
use super::measure::Measure;
use crate::grid;
use planish_tensor::Q8;

const STEPS: usize = 50;

/// Factors from `start`; those that are `fixed` stay.
pub(super) fn descend(group: &Group<'_>, measure: &Measure<'_>, start: &[f32], fixed: &[bool]) -> Vec<f32> {
    let model = Model::new(group, measure);
    let mut s: Vec<f64> = start.iter().map(|&s| f64::from(s)).collect();
    let mut best = (f64::INFINITY, s.clone());
    for step in 0..=STEPS {
        let forces = model.forces(&s);
        if forces.error < best.0 {
            best = (forces.error, s.clone());
        }
        let rate = 0.3 * (1.0 - step as f64 / (STEPS + 1) as f64);
        for (g, s) in s.iter_mut().enumerate().filter(|(g, _)| !fixed[*g]) {
            let ratio = (forces.up[g] / forces.down[g]).ln();
            if ratio.is_finite() {
                *s *= (rate * ratio.clamp(-1.0, 1.0)).exp();
            }
        }
    }
    best.1.into_iter().map(|s| s as f32).collect()
}

/// The expected error and what pulls each factor up or down.
struct Forces {
    error: f64,
    up: Vec<f64>,
    down: Vec<f64>,
}

struct Model<'a> {
    group: &'a Group<'a>,
    /// `[t]` what a token counts.
    tokens: Vec<f64>,
    /// What a linear's squared error counts.
    linears: Vec<f64>,
    /// `[k]` squared norms of the columns.
    columns: Vec<f64>,
    /// `[k]` squared inputs over the tokens.
    inputs: Vec<f64>,
}

impl<'a> Model<'a> {
    fn new(group: &'a Group<'a>, measure: &Measure<'_>) -> Model<'a> {
        let k = group.k;
        let most = |w: &Vec<f64>| w.iter().copied().fold(0.0, f64::max);
        let linears: Vec<f64> = measure.weights.iter().map(most).collect();
        let t = group.x.len() / k;
        let mean = |t: usize| {
            let each = measure.weights.iter().zip(&linears).filter(|(_, l)| **l > 0.0).map(|(w, l)| w[t] / l);
            each.sum::<f64>() / linears.len().max(1) as f64
        };
        let tokens: Vec<f64> = (0..t).map(mean).collect();
        let (mut columns, mut inputs) = (vec![0.0; k], vec![0.0; k]);
        for (w, linear) in group.weights.iter().zip(&linears) {
            for row in w.chunks_exact(k) {
                columns.iter_mut().zip(row).for_each(|(c, w)| *c += linear * f64::from(*w).powi(2));
            }
        }
        for (row, token) in group.x.chunks_exact(k).zip(&tokens) {
            inputs.iter_mut().zip(row).for_each(|(i, x)| *i += token * f64::from(*x).powi(2));
        }
        Model { group, tokens, linears, columns, inputs }
    }

    fn forces(&self, factors: &[f64]) -> Forces {
        let k = self.group.k;
        let s: Vec<f32> = self.group.factor_of.iter().map(|&g| factors[g] as f32).collect();
        let (mut up, mut down) = (vec![0.0; k], vec![0.0; k]);
        let mut error = self.of_activations(&s, &mut up, &mut down);
        error += self.of_weights(&s, &mut up, &mut down);
        let gather = |of: Vec<f64>| {
            let mut out = vec![0.0; factors.len()];
            of.iter().zip(self.group.factor_of).for_each(|(v, &g)| out[g] += v);
            out
        };
        Forces { error, up: gather(up), down: gather(down) }
    }

    fn of_activations(&self, s: &[f32], up: &mut [f64], down: &mut [f64]) -> f64 {
        let inverse: Vec<f32> = s.iter().map(|s| 1.0 / s).collect();
        let columns: Vec<f32> = self.columns.iter().zip(s).map(|(c, s)| (c * f64::from(s * s)) as f32).collect();
        let (mut reached, mut smoothed) = (vec![0.0f32; s.len()], vec![0.0f32; s.len()]);
        let mut error = 0.0;
        for (row, &token) in self.group.x.chunks_exact(s.len()).zip(&self.tokens) {
            let (most, largest) = largest(row, &inverse, &mut smoothed);
            let step = most / Q8::Int8.activation_range();
            let variance = step * step / 12.0;
            let (open, small) = lost(&smoothed, &columns, variance, token as f32, &mut reached);
            up[largest] += f64::from(open) * token;
            error += f64::from(open + small) * token;
        }
        for (down, (reached, column)) in down.iter_mut().zip(reached.iter().zip(&columns)) {
            *down += f64::from(*reached) * f64::from(*column);
        }
        error
    }

    fn of_weights(&self, s: &[f32], up: &mut [f64], down: &mut [f64]) -> f64 {
        let share = self.group.weight_share / 12.0;
        let inputs: Vec<f64> = self.inputs.iter().zip(s).map(|(i, s)| i / f64::from(s * s)).collect();
        let all: f64 = inputs.iter().sum();
        let (mut steps, mut smoothed) = (0.0, vec![0.0f32; s.len()]);
        for (w, linear) in self.group.weights.iter().zip(&self.linears) {
            for row in w.chunks_exact(s.len()) {
                let (most, largest) = largest(row, s, &mut smoothed);
                let step = linear * share * f64::from(most / Q8::Int8.weight_range()).powi(2);
                steps += step;
                down[largest] += step * all;
            }
        }
        up.iter_mut().zip(&inputs).for_each(|(up, input)| *up += steps * input);
        steps * all
    }
}

/// `out = row · by`, its largest magnitude, and where that is.
fn largest(row: &[f32], by: &[f32], out: &mut [f32]) -> (f32, usize) {
    grid::vectorised(
        #[inline(always)]
        || {
            let mut most = 0u32;
            for ((out, x), b) in out.iter_mut().zip(row).zip(by) {
                *out = x * b;
                most = most.max(out.to_bits() & 0x7fff_ffff);
            }
            let most = f32::from_bits(most);
            (most, out.iter().position(|v| v.abs() == most).unwrap_or(0))
        },
    )
}

/// Expected squared error of one token behind its columns: of the channels that are rounded, and of those so small that
/// they become zero, which costs themselves. `reached[j]` takes up what a rounded channel's column is multiplied by.
fn lost(smoothed: &[f32], columns: &[f32], variance: f32, token: f32, reached: &mut [f32]) -> (f32, f32) {
    grid::vectorised(
        #[inline(always)]
        || {
            let (mut open, mut small) = ([0.0f32; 16], [0.0f32; 16]);
            let add = |i: usize, j: usize, open: &mut [f32; 16], small: &mut [f32; 16], reached: &mut f32| {
                let square = smoothed[j] * smoothed[j];
                let rounded = if square > variance { variance } else { 0.0 };
                open[i] += rounded * columns[j];
                small[i] += (if square > variance { 0.0 } else { square }) * columns[j];
                *reached += rounded * token;
            };
            for (chunk, reached) in reached.chunks_mut(16).enumerate() {
                for (i, reached) in reached.iter_mut().enumerate() {
                    add(i, 16 * chunk + i, &mut open, &mut small, reached);
                }
            }
            (open.iter().sum(), small.iter().sum())
        },
    )
}
