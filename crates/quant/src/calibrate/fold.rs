//! SmoothQuant on one block's host weights: factors from statistics, folded so that the function stays the same.
//!
//! A factor `s` multiplies the columns of every reader and divides what feeds them. What feeds them may be saved in
//! 16 bits: then the factor is taken from the value that the file can hold, so that the fold stays exact.
use crate::error::Result;
use crate::report::GroupReport;
use crate::smooth::{column_absmax, divide_rows, expand_groups, scale_columns, smoothing_factors, tie_groups};
use planish_model::weights::HostBlock;
use planish_model::{Absorber, Input, Plan, Role};
use planish_tensor::{DType, HostTensor};

/// A block's weights in f32, to be changed.
pub struct FloatBlock {
    /// `[h]` norm before attention, as applied.
    pub attention_norm: Vec<f32>,
    /// `[h]` norm before the MLP, as applied.
    pub mlp_norm: Vec<f32>,
    /// `[n, k]` in the order of [`Role::ALL`].
    pub weights: Vec<Vec<f32>>,
    /// `[n]` biases.
    pub biases: Vec<Option<Vec<f32>>>,
}

/// What smoothing one input did.
#[derive(Clone, Debug)]
pub struct Smoothing {
    /// Which input.
    pub input: Input,
    /// `[k]` factors that the columns were multiplied by.
    pub s: Vec<f32>,
    /// Its entry in the report.
    pub report: GroupReport,
}

impl FloatBlock {
    /// Widens a block.
    pub fn new(host: &HostBlock) -> FloatBlock {
        FloatBlock {
            attention_norm: host.attention_norm.clone(),
            mlp_norm: host.mlp_norm.clone(),
            weights: host.linears.iter().map(|l| l.weight.to_f32()).collect(),
            biases: host.linears.iter().map(|l| l.bias.clone()).collect(),
        }
    }

    /// Smooths one input; `absmax[k]` are its channels' largest magnitudes. `stored` is the type in which norms are saved.
    pub fn smooth(
        &mut self,
        plan: &Plan,
        input: Input,
        absmax: &[f32],
        alpha: f64,
        stored: DType,
        layer: usize,
    ) -> Result<Smoothing> {
        let k = plan.input_width(input);
        let mut columns = vec![0.0f32; k];
        for &role in input.readers() {
            let (n, _) = plan.linear_size(role);
            for (m, c) in columns.iter_mut().zip(column_absmax(&self.weights[role as usize], n, k)?) {
                *m = m.max(c);
            }
        }
        let tied = input == Input::AttentionOutput;
        let tie = |v: &[f32]| if tied { tie_groups(v, plan.nq, plan.nkv, plan.d) } else { Ok(v.to_vec()) };
        let mut factors = smoothing_factors(&tie(absmax)?, &tie(&columns)?, alpha)?;
        let exact = self.absorb(plan, input.absorber(), factors.s, stored)?;
        let s = if tied { expand_groups(&exact, plan.nq, plan.nkv, plan.d)? } else { exact };
        factors.s = s.clone();
        for &role in input.readers() {
            scale_columns(&mut self.weights[role as usize], k, &s)?;
        }
        let balance: Vec<String> = input.readers().iter().map(|&r| plan.linear_name(layer, r)).collect();
        let balance: Vec<&str> = balance.iter().map(String::as_str).collect();
        let report = GroupReport::new(&absorber_name(plan, layer, input), &balance, alpha, absmax, &factors);
        Ok(Smoothing { input, s, report })
    }

    /// Divides the absorber by `s`; returns the factors by which it really shrank.
    fn absorb(&mut self, plan: &Plan, absorber: Absorber, s: Vec<f32>, stored: DType) -> Result<Vec<f32>> {
        let norm = match absorber {
            Absorber::AttentionNorm => &mut self.attention_norm,
            Absorber::MlpNorm => &mut self.mlp_norm,
            Absorber::Rows(role) => {
                let (n, k) = plan.linear_size(role);
                divide_rows(&mut self.weights[role as usize], n, k, &s)?;
                if let Some(bias) = &mut self.biases[role as usize] {
                    divide_rows(bias, n, 1, &s)?;
                }
                return Ok(s);
            }
        };
        let offset = plan.arch.norm_offset;
        let wanted: Vec<f32> = norm.iter().zip(&s).map(|(w, s)| w / s - offset).collect();
        let held: Vec<f32> = HostTensor::from_f32_as(stored, vec![wanted.len()], &wanted)?.to_f32();
        let mut exact = vec![1.0; s.len()];
        for ((w, held), exact) in norm.iter_mut().zip(held).zip(&mut exact) {
            let new = held + offset;
            // A weight of zero silences its channel: it stays as it is.
            if *w != 0.0 && new != 0.0 {
                *exact = *w / new;
                *w = new;
            }
        }
        Ok(exact)
    }

    /// The block as float linears, for running it.
    pub fn to_host(&self, plan: &Plan) -> Result<HostBlock> {
        let part = |role: Role| {
            let (n, k) = plan.linear_size(role);
            let weight = HostTensor::from_f32(vec![n, k], &self.weights[role as usize])?;
            Ok(planish_tensor::LinearPart { weight, scales: None, bias: self.biases[role as usize].clone() })
        };
        let linears: Vec<_> = Role::ALL.map(part).into_iter().collect::<Result<_>>()?;
        Ok(HostBlock {
            attention_norm: self.attention_norm.clone(),
            mlp_norm: self.mlp_norm.clone(),
            linears: linears.try_into().expect("seven roles"),
        })
    }
}

/// Module name of what takes up 1/s.
pub fn absorber_name(plan: &Plan, layer: usize, input: Input) -> String {
    let norm = |name: &str| plan.block_prefix(layer) + name.trim_end_matches(".weight");
    match input.absorber() {
        Absorber::AttentionNorm => norm(plan.arch.names.attention_norm),
        Absorber::MlpNorm => norm(plan.arch.names.mlp_norm),
        Absorber::Rows(role) => plan.linear_name(layer, role),
    }
}
