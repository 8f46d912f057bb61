//! The search against a plain computation of what it claims, with planted outliers, ties and hopeless input.
use super::*;
use planish_tensor::q8;

/// Deterministic numbers, roughly normal.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut random = crate::samples::SplitMix64::new(seed);
    let mut uniform = || (random.next_u64() >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
    (0..n).map(|_| (0..4).map(|_| uniform()).sum::<f32>()).collect()
}

struct Case {
    x: Vec<f32>,
    weights: Vec<Vec<f32>>,
    factor_of: Vec<usize>,
    act: Vec<f32>,
    columns: Vec<f32>,
}

const T: usize = 48;
const K: usize = 24;

/// Inputs whose channel 5 is 60 times the others', for two linears.
fn outlier() -> Case {
    let mut x = noise(T * K, 1);
    x.iter_mut().skip(5).step_by(K).for_each(|v| *v *= 60.0);
    case(x, vec![noise(10 * K, 2), noise(6 * K, 3)], (0..K).collect())
}

fn case(x: Vec<f32>, weights: Vec<Vec<f32>>, factor_of: Vec<usize>) -> Case {
    let count = factor_of.iter().max().map_or(0, |m| m + 1);
    let maxima = |rows: &[f32]| {
        let mut out = vec![0.0f32; count];
        rows.iter().enumerate().for_each(|(i, v)| out[factor_of[i % K]] = out[factor_of[i % K]].max(v.abs()));
        out
    };
    let (act, columns) = (maxima(&x), maxima(&weights.concat()));
    Case { x, weights, factor_of, act, columns }
}

impl Case {
    fn group(&self, kind: Q8, threads: usize) -> Group<'_> {
        Group {
            kind,
            k: K,
            x: &self.x,
            check: &[],
            weights: &self.weights,
            act_absmax: &self.act,
            weight_absmax: &self.columns,
            factor_of: &self.factor_of,
            weight_share: 1.0,
            threads,
        }
    }

    /// The error by the definition of W8A8, in plain loops.
    fn plain_error(&self, kind: Q8, s: &[f32]) -> f64 {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let by = |row: &[f32], f: &dyn Fn(f32, f32) -> f32| -> Vec<f32> {
            row.iter().enumerate().map(|(j, v)| f(*v, s[self.factor_of[j]])).collect()
        };
        let mut sum = 0.0;
        for w in &self.weights {
            let (mut lost, mut norms) = (vec![0.0; T], vec![0.0; T]);
            for row in w.chunks(K) {
                let mut codes = vec![0; K];
                let scale = q8::quantize_weight_row(kind, &by(row, &|w, s| w * s), &mut codes);
                let wq: Vec<f32> = codes.iter().map(|c| kind.decode(*c) * scale).collect();
                for (t, x) in self.x.chunks(K).enumerate() {
                    let scale = q8::quantize_activation_row(kind, &by(x, &|x, s| x / s), &mut codes);
                    let xq: Vec<f32> = codes.iter().map(|c| kind.decode(*c) * scale).collect();
                    let y = dot(x, row);
                    lost[t] += (dot(&xq, &wq) - y).powi(2);
                    norms[t] += y * y;
                }
            }
            let mut sorted = norms.clone();
            sorted.sort_by(f64::total_cmp);
            sum += lost.iter().zip(&norms).map(|(l, n)| l / n.max(sorted[T / 2])).sum::<f64>();
        }
        sum / (T * self.weights.len()) as f64
    }
}

#[test]
fn errors_are_those_of_the_definition() {
    let case = outlier();
    for kind in [Q8::Int8, Q8::E4M3] {
        let found = search(&case.group(kind, 1)).unwrap();
        for (claimed, s) in [(found.unsmoothed, &vec![1.0; K]), (found.error, &found.factors.s)] {
            let plain = case.plain_error(kind, s);
            assert!((claimed / plain - 1.0).abs() < 0.02, "{kind:?}: {claimed} {plain}");
        }
        for (alpha, error) in &found.tried {
            let s = smoothing_factors(&case.act, &case.columns, *alpha).unwrap().s;
            let plain = case.plain_error(kind, &s);
            assert!((error / plain - 1.0).abs() < 0.02, "{kind:?} {alpha}: {error} {plain}");
        }
    }
}

/// One token whose channel 9 is enormous: it decides that channel's maximum, and matters for no other token.
#[test]
fn outliers_are_smoothed_better_than_by_any_strength() {
    let Case { mut x, weights, factor_of, .. } = outlier();
    x[9] *= 3000.0;
    let found = search(&case(x, weights, factor_of).group(Q8::Int8, 1)).unwrap();
    let least = found.tried.iter().map(|(_, e)| *e).fold(f64::INFINITY, f64::min);
    assert!(found.error < 0.5 * found.unsmoothed, "{found:?}");
    assert!(found.refined > 0.0 && found.error < least, "{found:?}");
    assert!(found.alpha.is_some() && found.tried.len() >= 12, "{found:?}");
    let median = crate::report::Spread::of(&found.factors.s).median;
    assert!(found.factors.s[5] > 3.0 * median, "{:?}", found.factors.s);
}

#[test]
fn shared_factors_and_threads() {
    let mut tied = outlier();
    tied = case(tied.x, tied.weights, (0..K).map(|j| j % 12).collect());
    let one = search(&tied.group(Q8::Int8, 1)).unwrap();
    let many = search(&tied.group(Q8::Int8, 7)).unwrap();
    assert_eq!(one.factors, many.factors);
    assert_eq!((one.tried, one.error), (many.tried, many.error));
    assert_eq!(one.factors.s.len(), 12);
}

#[test]
fn silent_channels_keep_their_factor_and_zeros_are_no_trouble() {
    let mut case = outlier();
    case.x.iter_mut().skip(7).step_by(K).for_each(|v| *v = 0.0);
    case.x[..K].fill(0.0);
    case.act[7] = 0.0;
    let found = search(&case.group(Q8::Int8, 1)).unwrap();
    assert_eq!(found.factors.s[7], 1.0);
    assert_eq!(found.factors.dead_channels, [7]);
    assert!(found.error.is_finite() && found.factors.s.iter().all(|s| s.is_finite()));
    case.x.fill(0.0);
    assert!(search(&case.group(Q8::Int8, 1)).unwrap().error.is_finite());
    case.x.pop();
    assert!(search(&case.group(Q8::Int8, 1)).unwrap_err().to_string().contains("sampled inputs"));
}
