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
