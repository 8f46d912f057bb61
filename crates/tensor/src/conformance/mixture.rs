//! Mixtures of experts: the router's choice, the chosen experts' MLPs, a shared expert's sum, and rows by number.
use super::case::{Case, Check, Judge, Output, activations, blank, put, read};
use super::data::Random;
use crate::mixture::{self, ExpertMath, ExpertRows, Routes, Routing, choose};
use crate::{Activation, Backend, DType, FloatMath, HostTensor, LinearPart, Q8, Result};

pub(super) fn cases(judge: &mut impl Judge, random: &mut Random, activations: DType) {
    for i in 0..24 {
        let (t, experts) = (random.rows(i), 1 + random.below(12));
        let routing = Routing { experts, chosen: 1 + random.below(experts), normalize: i % 2 == 0 };
        judge.hear(&Route { routing, logits: router_logits(random, t, experts) });
        judge.hear(&Mix::new(random, i, activations));
        let (t, h) = (random.rows(i), random.size());
        let (x, y) = (random.activations(t, h), random.activations(t, h));
        judge.hear(&AddGated { h, x, y, gates: random.floats(t).iter().map(|g| g * 9.0).collect() });
        let (t, h) = (1 + random.below(9), random.size());
        let rows = (0..random.rows(i)).map(|_| random.below(t) as u32).collect();
        judge.hear(&SelectRows { h, x: random.odd_activations(t, h), rows });
    }
}

/// Logits with ties, and rows with NaN and infinities.
fn router_logits(random: &mut Random, t: usize, experts: usize) -> Vec<f32> {
    let mut values: Vec<f32> = random.floats(t * experts).iter().map(|v| (v * 32.0).round() / 4.0).collect();
    for row in values.chunks_mut(experts) {
        let at = random.below(experts);
        match random.below(10) {
            0 => row[at] = f32::NAN,
            1 => row[at] = f32::NEG_INFINITY,
            2 => row.fill(-3.25),
            3 => row[at] += 200.0,
            _ => {}
        }
    }
    values
}

struct Route {
    routing: Routing,
    logits: Vec<f32>,
}

impl Case for Route {
    fn operation(&self) -> &'static str {
        "route"
    }

    fn describe(&self) -> String {
        format!("{} tokens, {:?}", self.logits.len() / self.routing.experts, self.routing)
    }

    fn run<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        let logits = put(b, DType::F32, self.routing.experts, &self.logits)?;
        let mut routes = Routes::new(b, logits.rows, &self.routing)?;
        mixture::route(b, &logits, &self.routing, &mut routes)?;
        Ok(vec![read(b, &mut routes.experts, Check::Equal)?, read(b, &mut routes.weights, Check::Relative)?])
    }
}

struct Mix {
    routing: Routing,
    logits: Vec<f32>,
    h: usize,
    f: usize,
    x: Vec<f32>,
    /// Gate, up and down of each expert.
    parts: Vec<[LinearPart; 3]>,
    how: ExpertMath,
    /// What may differ, as a share of the row's largest magnitude.
    share: f32,
}

impl Mix {
    fn new(random: &mut Random, i: usize, activations: DType) -> Mix {
        let (t, h, f, experts) = (random.rows(i), random.size(), random.size(), 1 + random.below(6));
        let kind = [None, Some(Q8::Int8), Some(Q8::E4M3), Some(Q8::Int8)][i % 4];
        // In the last of four, some experts are float and some 8-bit.
        let kinds: Vec<_> = (0..experts).map(|_| kind.filter(|_| i % 4 < 3 || random.below(2) == 0)).collect();
        let parts = kinds.iter().map(|&kind| [(f, h), (f, h), (h, f)].map(|(n, k)| part(random, kind, n, k)));
        let parts = parts.collect();
        let logits = random.floats(t * experts);
        let rounding = if activations == DType::F32 { 1e-4 } else { 1.0 / 16.0 };
        Mix {
            parts,
            routing: Routing { experts, chosen: 1 + random.below(experts), normalize: i.is_multiple_of(3) },
            logits,
            h,
            f,
            x: random.activations(t, h),
            how: ExpertMath { act: [Activation::Silu, Activation::GeluTanh][i / 4 % 2], math: FloatMath::F32 },
            // Gates that differ in the last place may end in neighbouring codes.
            share: rounding + kind.map_or(0.0, |kind| if kind == Q8::Int8 { 1.0 / 64.0 } else { 1.0 / 8.0 }),
        }
    }
}

fn part(random: &mut Random, kind: Option<Q8>, n: usize, k: usize) -> LinearPart {
    let scale = (k as f32).sqrt().recip();
    let Some(kind) = kind else {
        let weight: Vec<f32> = random.floats(n * k).iter().map(|w| w * scale).collect();
        let weight = HostTensor::from_f32(vec![n, k], &weight).expect("sizes fit");
        return LinearPart::float(weight, None);
    };
    let codes = random.codes(kind, n * k);
    let weight = HostTensor::from_bytes(kind.dtype(), vec![n, k], codes).expect("sizes fit");
    let scales = random.floats(n).iter().map(|s| s.abs() * scale / 128.0).collect();
    LinearPart::channels(weight, scales, None)
}

impl Case for Mix {
    fn operation(&self) -> &'static str {
        "mix"
    }

    fn describe(&self) -> String {
        let kinds: Vec<&HostTensor> = self.parts.iter().map(|p| &p[0].weight).collect();
        format!("x [{}, {}], {:?} of {kinds:?} {:?}", self.x.len() / self.h, self.h, self.routing, self.how)
    }

    fn multiplies(&self) -> Vec<Q8> {
        self.parts.iter().flatten().filter_map(|part| Q8::from_dtype(part.weight.dtype())).collect()
    }

    fn run<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        let (t, e, c) = (self.x.len() / self.h, self.routing.experts, self.routing.chosen);
        let (mut experts, mut weights) = (vec![0; t * c], vec![0.0; t * c]);
        for (i, logits) in self.logits.chunks(e).enumerate() {
            choose(logits, &self.routing, &mut experts[i * c..][..c], &mut weights[i * c..][..c]);
        }
        let mut routes = Routes::new(b, t, &self.routing)?;
        b.upload(bytemuck::cast_slice(&experts), &mut routes.experts)?;
        b.upload(bytemuck::cast_slice(&weights), &mut routes.weights)?;
        let packed = mixture::load(b, &self.parts)?;
        let mut scratch = ExpertRows::new(b, t * c, self.h, self.f)?;
        let mut out = blank(b, b.activation_dtype(), t, self.h)?;
        mixture::mix(b, &activations(b, self.h, &self.x)?, &routes, &packed, self.how, &mut scratch, &mut out)?;
        Ok(vec![read(b, &mut out, Check::Within(self.share))?])
    }
}

struct AddGated {
    h: usize,
    x: Vec<f32>,
    y: Vec<f32>,
    gates: Vec<f32>,
}

impl Case for AddGated {
    fn operation(&self) -> &'static str {
        "add_gated"
    }

    fn describe(&self) -> String {
        format!("x [{}, {}]", self.gates.len(), self.h)
    }

    fn run<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        let (mut x, y) = (activations(b, self.h, &self.x)?, activations(b, self.h, &self.y)?);
        mixture::add_gated(b, &mut x, &y, &put(b, DType::F32, 1, &self.gates)?)?;
        let magnitudes = self.x.iter().zip(&self.y).map(|(x, y)| x.abs() + y.abs()).collect();
        Ok(vec![read(b, &mut x, Check::Sum(magnitudes))?])
    }
}

struct SelectRows {
    h: usize,
    x: Vec<f32>,
    rows: Vec<u32>,
}

impl Case for SelectRows {
    fn operation(&self) -> &'static str {
        "select_rows"
    }

    fn describe(&self) -> String {
        format!("{} rows of [{}, {}]", self.rows.len(), self.x.len() / self.h, self.h)
    }

    fn run<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        let x = activations(b, self.h, &self.x)?;
        let mut out = blank(b, x.dtype, self.rows.len(), self.h)?;
        mixture::select_rows(b, &x, &self.rows, &mut out)?;
        Ok(vec![read(b, &mut out, Check::Equal)?])
    }
}
