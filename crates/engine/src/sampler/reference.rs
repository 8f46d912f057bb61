//! The sampler's rules in plain loops over full sorts in f64: what the fast one must agree with.
use super::{History, uniform};
use crate::grammar::Mask;
use crate::request::Sampling;

/// How near to a border two numbers are too close to tell apart in f32.
const CLOSE: f64 = 1e-6;

/// The token, and whether the choice hung on a border closer than [`CLOSE`].
#[derive(Debug)]
pub struct Choice {
    pub token: u32,
    pub close: bool,
}

/// The rules of [`super::choose`], for logits without NaN of which at least one is allowed.
pub fn choose(logits: &[f32], s: &Sampling, history: &History, banned: &[u32], mask: Option<&Mask>) -> Choice {
    let mut logits = logits.to_vec();
    for (id, x) in (0..).zip(&mut logits) {
        if banned.contains(&id) || mask.is_some_and(|mask| !mask.allows(id)) {
            *x = f32::NEG_INFINITY;
            continue;
        }
        let Some((_, count)) = history.seen().find(|seen| seen.0 == id) else { continue };
        *x = if *x > 0.0 { *x / s.repetition_penalty } else { *x * s.repetition_penalty };
        if count > 0 {
            *x -= count as f32 * s.frequency_penalty + s.presence_penalty;
        }
    }
    s.logit_bias.iter().for_each(|&(id, bias)| logits[id as usize] += bias);
    let mut ranked: Vec<(u32, f64)> = (0..).zip(&logits).map(|(id, &x)| (id, x as f64)).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if s.temperature < super::COLDEST {
        return Choice { token: ranked[0].0, close: false };
    }
    let max = ranked[0].1;
    ranked.iter_mut().for_each(|r| r.1 = ((r.1 - max) / s.temperature as f64).exp());
    let close = cut(&mut ranked, s);
    draw(ranked, uniform(s.seed, history.position() as u64), close)
}

/// Applies top-k, top-p and min-p to falling weights.
fn cut(ranked: &mut Vec<(u32, f64)>, s: &Sampling) -> bool {
    let mut close = false;
    if s.top_k > 0 && s.top_k < ranked.len() {
        close |= nearly_tied(ranked, s.top_k);
        ranked.truncate(s.top_k);
    }
    if s.top_p < 1.0 {
        let total: f64 = ranked.iter().map(|r| r.1).sum();
        let (mut before, mut kept) = (0.0, 0);
        while kept < ranked.len() && before < s.top_p as f64 * total {
            before += ranked[kept].1;
            kept += 1;
            close |= (before - s.top_p as f64 * total).abs() < CLOSE * total;
        }
        close |= kept < ranked.len() && nearly_tied(ranked, kept);
        ranked.truncate(kept);
    }
    if s.min_p > 0.0 {
        close |= ranked.iter().any(|r| r.1 < 1.0 && (r.1 - s.min_p as f64).abs() < CLOSE * r.1);
        ranked.retain(|r| r.1 >= s.min_p as f64);
    }
    close
}

/// Whether the weights on both sides of a cut differ, but so little that f32 may see them equal or swapped.
fn nearly_tied(ranked: &[(u32, f64)], cut: usize) -> bool {
    let (above, below) = (ranked[cut - 1].1, ranked[cut].1);
    above != below && above - below < CLOSE * below
}

fn draw(mut kept: Vec<(u32, f64)>, uniform: f64, mut close: bool) -> Choice {
    let total: f64 = kept.iter().map(|r| r.1).sum();
    kept.sort_by_key(|r| r.0);
    let mut left = uniform * total;
    let mut token = kept[0].0;
    for &(id, weight) in kept.iter().filter(|r| r.1 > 1e-37) {
        token = id;
        close |= (left - weight).abs() < CLOSE * total;
        if left < weight {
            break;
        }
        left -= weight;
    }
    Choice { token, close }
}
