//! A mixture of experts, decided: how many, how wide, in which layers, and what its tensors are called.
use crate::arch::{Mixture, Mlp, Role, Sparse};
use crate::error::Result;
use crate::plan::flag;
use planish_checkpoint::config::Config;
use planish_tensor::mixture::Routing;

/// The experts of a model.
#[derive(Clone, Debug)]
pub struct ExpertPlan {
    /// Their number, and how they are chosen.
    pub routing: Routing,
    /// Width of an expert's MLP.
    pub width: usize,
    /// Width of the shared expert's MLP, if there is one.
    pub shared_width: Option<usize>,
    /// `[layers]` which of them are mixtures.
    pub layers: Vec<bool>,
}

impl ExpertPlan {
    /// Decides everything, or says which field stands in the way.
    pub fn new(mixture: &Mixture, config: &Config, layers: usize) -> Result<ExpertPlan> {
        let mut field = mixture.count[0];
        for name in mixture.count {
            if config.opt_usize(name)?.is_some() {
                field = name;
                break;
            }
        }
        let experts = config.usize(field)?;
        if u16::try_from(experts).is_err() {
            return Err(config.wrong(field, "at most 65535 experts").into());
        }
        let chosen = config.usize(mixture.chosen)?;
        if chosen > experts {
            return Err(config.wrong(mixture.chosen, &format!("at most the {experts} experts of {field}")).into());
        }
        Ok(ExpertPlan {
            routing: Routing { experts, chosen, normalize: flag(mixture.normalize, config)? },
            width: config.usize(mixture.width)?,
            shared_width: mixture.shared.as_ref().map(|shared| config.usize(shared.width)).transpose()?,
            layers: sparse_layers(mixture.layers, config, layers)?,
        })
    }

    /// The experts' numbers.
    pub fn numbers(&self) -> impl Iterator<Item = u16> + use<> {
        0..self.routing.experts as u16
    }
}

fn sparse_layers(rule: Sparse, config: &Config, layers: usize) -> Result<Vec<bool>> {
    if rule == Sparse::All {
        return Ok(vec![true; layers]);
    }
    let step = config.opt_usize("decoder_sparse_step")?.unwrap_or(1);
    let dense = config.opt_counts("mlp_only_layers")?.unwrap_or_default();
    Ok((0..layers).map(|layer| (layer + 1) % step == 0 && !dense.contains(&layer)).collect())
}

impl Mixture {
    /// Module of a linear of the mixture, after the block's prefix; empty for others.
    pub fn module(&self, role: Role) -> String {
        let (mlp, part) = match role {
            Role::Router => return self.router.to_owned(),
            Role::SharedGate => return self.shared.as_ref().map_or(String::new(), |s| s.gate.to_owned()),
            Role::Gate(mlp) => (mlp, 0),
            Role::Up(mlp) => (mlp, 1),
            Role::Down(mlp) => (mlp, 2),
            Role::Q | Role::K | Role::V | Role::O => return String::new(),
        };
        match mlp {
            Mlp::Expert(e) => self.experts[part].replace("{}", &e.to_string()),
            Mlp::Shared => self.shared.as_ref().map_or(String::new(), |s| s.linears[part].to_owned()),
            Mlp::Dense => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use std::path::Path;

    /// The tiny Qwen2-MoE with some fields changed.
    fn plan(changes: &[(&str, &str)]) -> Result<Plan> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/qwen2_moe/config.json");
        let mut text = std::fs::read_to_string(&path).unwrap();
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        Plan::new(&Config::from_json(text.as_bytes(), Path::new("dir/config.json"))?)
    }

    #[test]
    fn dense_layers_are_those_between_steps_and_those_listed() {
        let changes = [
            ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 6"),
            ("\"decoder_sparse_step\": 1", "\"decoder_sparse_step\": 2"),
            ("\"mlp_only_layers\": []", "\"mlp_only_layers\": [3]"),
        ];
        let plan = plan(&changes).unwrap();
        let sparse: Vec<usize> = (0..6).filter(|&layer| plan.mixture(layer).is_some()).collect();
        assert_eq!(sparse, [1, 5]);
        assert!(plan.has_dense_layers());
        assert!(plan.roles(3).contains(&Role::Gate(Mlp::Dense)) && !plan.roles(3).contains(&Role::Router));
        assert_eq!(plan.mlp_width(Mlp::Dense), 96);
    }

    #[test]
    fn names_weights_and_readers() {
        let plan = plan(&[]).unwrap();
        let name = |role| plan.linear_name(1, role);
        assert_eq!(name(Role::Up(Mlp::Expert(3))), "model.layers.1.mlp.experts.3.up_proj");
        assert_eq!(name(Role::Down(Mlp::Shared)), "model.layers.1.mlp.shared_expert.down_proj");
        assert_eq!(name(Role::SharedGate), "model.layers.1.mlp.shared_expert_gate");
        let (all, active) = plan.block_weights(0);
        assert_eq!(all - active, 2 * 3 * 32 * 64);
        for layer in 0..plan.layers {
            let readers: usize = plan.inputs(layer).iter().map(|&input| plan.readers(layer, input).len()).sum();
            assert_eq!(readers, plan.roles(layer).len());
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        let refusal = |from, to| plan(&[(from, to)]).unwrap_err().to_string();
        let error = refusal("\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 5");
        let expected =
            "dir/config.json: field num_experts_per_tok: expected at most the 4 experts of num_experts, found 5";
        assert_eq!(error, expected);
        assert!(refusal("\"num_experts\": 4,", "").contains("field num_experts: expected"));
        assert!(refusal("\"num_experts\": 4", "\"num_experts\": 70000").contains("at most 65535 experts"));
        assert!(refusal("\"mlp_only_layers\": []", "\"mlp_only_layers\": \"x\"").contains("mlp_only_layers"));
    }

    #[test]
    fn quantized_routers_are_refused() {
        let (plan, kind) = (plan(&[]).unwrap(), planish_tensor::DType::I8);
        let source = crate::dummy::DummySource::new(&plan, Some(kind), 1, "config.json".into());
        // A tensor of codes of the router's shape, under the router's name.
        struct Other<'a>(&'a crate::dummy::DummySource, String, planish_tensor::HostTensor);
        impl planish_checkpoint::source::TensorSource for Other<'_> {
            fn names(&self) -> Vec<String> {
                self.0.names()
            }
            fn contains(&self, _: &str) -> bool {
                true
            }
            fn tensor(&self, name: &str) -> planish_checkpoint::Result<planish_tensor::HostTensor> {
                match name.strip_prefix(&self.1) {
                    Some(".weight") => Ok(self.2.clone()),
                    Some(_) => Ok(planish_tensor::HostTensor::from_f32(vec![1], &[1.0]).unwrap()),
                    None => self.0.tensor(name),
                }
            }
            fn release(&self, _: &str) {}
        }
        let codes = planish_tensor::HostTensor::from_bytes(kind, vec![4, 64], vec![1; 256]).unwrap();
        let other = Other(&source, plan.linear_name(0, Role::Router), codes);
        let error = crate::weights::HostBlock::read(&plan, &other, 0).unwrap_err().to_string();
        assert!(error.contains("mlp.gate.weight") && error.contains("routers run in float"), "{error}");
    }
}
