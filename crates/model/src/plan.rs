//! From a declaration and a configuration to a decided plan: every size, bias and window of one model.
mod decide;
mod tensors;

pub use tensors::Stored;

use crate::arch::{Absorber, Arch, Flag, Input, Mlp, Place, Role};
use crate::archs;
use crate::error::{Error, Result};
use crate::experts::ExpertPlan;
use crate::quantized;
use planish_checkpoint::{config::Config, rope::RopeConfig, scheme::Scheme};
use planish_tensor::{Activation, AttentionShape, Grid};
use std::sync::Arc;

/// One model, decided.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The declaration.
    pub arch: &'static Arch,
    /// Hidden width `h`.
    pub hidden: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Vocabulary `v`.
    pub vocab: usize,
    /// MLP width `f`.
    pub ffn: usize,
    /// Query heads.
    pub nq: usize,
    /// Key and value heads.
    pub nkv: usize,
    /// Head width.
    pub d: usize,
    /// Added to the mean square in a norm of hidden states.
    pub eps: f32,
    /// Added to the mean square in a norm of queries or keys.
    pub head_eps: f32,
    /// Factor on embeddings.
    pub embed_scale: f32,
    /// Factor on q·k.
    pub score_scale: f32,
    /// Cap of the attention scores.
    pub score_cap: Option<f32>,
    /// Factor on logits.
    pub logit_scale: f32,
    /// Cap of the logits.
    pub logit_cap: Option<f32>,
    /// Attention and MLP read the same hidden state.
    pub parallel: bool,
    /// The MLP's nonlinearity.
    pub activation: Activation,
    /// The output projection is the embedding.
    pub tied: bool,
    /// Positions that the model was made for.
    pub max_positions: usize,
    /// The rules of rotation.
    pub ropes: Vec<RopeConfig>,
    /// `[layers]` which rule a layer follows; `None` rotates nothing.
    pub layer_ropes: Vec<Option<usize>>,
    /// `[layers]` sliding windows.
    pub windows: Vec<Option<u32>>,
    /// The experts of the layers that are mixtures.
    pub experts: Option<ExpertPlan>,
    /// How its weights are stored, if they are quantized.
    pub scheme: Option<Arc<Scheme>>,
    biases: [bool; 3],
}

impl Plan {
    /// Decides everything, or says which field stands in the way.
    pub fn new(config: &Config) -> Result<Plan> {
        let class = config.architecture()?;
        let arch = archs::find(class).ok_or_else(|| {
            Error::Unsupported(format!(
                "{}: field architectures: expected one of {}, found {class}",
                config.path().display(),
                archs::known_classes()
            ))
        })?;
        decide::check_musts(arch, config)?;
        let hidden = config.usize("hidden_size")?;
        let nq = config.usize("num_attention_heads")?;
        let nkv = config.opt_usize("num_key_value_heads")?.unwrap_or(nq);
        let d = config.opt_usize("head_dim")?.unwrap_or(hidden / nq);
        if nq % nkv != 0 || d == 0 {
            return Err(config.wrong("num_key_value_heads", "a divisor of num_attention_heads").into());
        }
        let layers = config.usize("num_hidden_layers")?;
        let scheme = Scheme::from_config(config)?;
        scheme.as_ref().map_or(Ok(()), |scheme| quantized::check(scheme, config.path()))?;
        let windows = decide::windows(arch.window, config, layers)?;
        let (ropes, layer_ropes) = decide::ropes(arch.rope, config, &windows)?;
        let factors = decide::Factors::new(arch, config, hidden, d)?;
        Ok(Plan {
            arch,
            hidden,
            layers,
            vocab: config.usize("vocab_size")?,
            ffn: config.usize(arch.fields.ffn)?,
            nq,
            nkv,
            d,
            eps: factors.eps,
            head_eps: factors.head_eps,
            embed_scale: factors.embeddings,
            score_scale: factors.scores,
            score_cap: factors.score_cap,
            logit_scale: factors.logits,
            logit_cap: factors.logit_cap,
            parallel: flag(arch.parallel, config)?,
            activation: decide::activation(arch, config)?,
            tied: config.opt_bool("tie_word_embeddings")?.unwrap_or(arch.tied),
            max_positions: config.usize("max_position_embeddings")?,
            ropes,
            layer_ropes,
            windows,
            experts: arch.mixture.map(|mixture| ExpertPlan::new(mixture, config, layers)).transpose()?,
            scheme: scheme.map(Arc::new),
            biases: [flag(arch.qkv_bias, config)?, flag(arch.o_bias, config)?, flag(arch.mlp_bias, config)?],
        })
    }

    /// The experts of a layer, if it is a mixture.
    pub fn mixture(&self, layer: usize) -> Option<&ExpertPlan> {
        self.experts.as_ref().filter(|experts| experts.layers[layer])
    }

    /// Whether any layer has one MLP instead of a mixture.
    pub fn has_dense_layers(&self) -> bool {
        self.experts.as_ref().is_none_or(|experts| experts.layers.contains(&false))
    }

    /// The linears of a block, in the order in which they are stored.
    pub fn roles(&self, layer: usize) -> Vec<Role> {
        let mlp = |mlp| [Role::Gate(mlp), Role::Up(mlp), Role::Down(mlp)];
        let mut roles = vec![Role::Q, Role::K, Role::V, Role::O];
        let Some(experts) = self.mixture(layer) else {
            roles.extend(mlp(Mlp::Dense).into_iter().skip(!self.arch.gated as usize));
            return roles;
        };
        roles.push(Role::Router);
        if experts.shared_width.is_some() {
            roles.push(Role::SharedGate);
            roles.extend(mlp(Mlp::Shared));
        }
        roles.extend(experts.numbers().flat_map(|e| mlp(Mlp::Expert(e))));
        roles
    }

    /// The distinct inputs of a block's linears.
    pub fn inputs(&self, layer: usize) -> Vec<Input> {
        let mut inputs: Vec<Input> = Vec::new();
        for input in self.roles(layer).into_iter().map(Role::input) {
            if !inputs.contains(&input) {
                inputs.push(input);
            }
        }
        inputs
    }

    /// The linears of a block that read an input.
    pub fn readers(&self, layer: usize, input: Input) -> Vec<Role> {
        self.roles(layer).into_iter().filter(|role| role.input() == input).collect()
    }

    /// Width of an MLP.
    pub fn mlp_width(&self, mlp: Mlp) -> usize {
        let experts = self.experts.as_ref();
        match mlp {
            Mlp::Dense => self.ffn,
            Mlp::Shared => experts.and_then(|e| e.shared_width).unwrap_or(0),
            Mlp::Expert(_) => experts.map_or(0, |e| e.width),
        }
    }

    /// Output and input channels of a linear.
    pub fn linear_size(&self, role: Role) -> (usize, usize) {
        let n = match role {
            Role::Q => self.nq * self.d,
            Role::K | Role::V => self.nkv * self.d,
            Role::Gate(mlp) | Role::Up(mlp) => self.mlp_width(mlp),
            Role::O | Role::Down(_) => self.hidden,
            Role::Router => self.experts.as_ref().map_or(0, |e| e.routing.experts),
            Role::SharedGate => 1,
        };
        (n, self.input_width(role.input()))
    }

    /// Width of a linear's input.
    pub fn input_width(&self, input: Input) -> usize {
        match input {
            Input::AttentionNorm | Input::MlpNorm | Input::Routed(_) => self.hidden,
            Input::AttentionOutput => self.nq * self.d,
            Input::MlpInner(mlp) => self.mlp_width(mlp),
        }
    }

    /// Whether a linear has a bias.
    pub fn has_bias(&self, role: Role) -> bool {
        match role {
            Role::Q | Role::K | Role::V => self.biases[0],
            Role::O => self.biases[1],
            Role::Gate(Mlp::Dense) | Role::Up(Mlp::Dense) | Role::Down(Mlp::Dense) => self.biases[2],
            Role::Router | Role::SharedGate | Role::Gate(_) | Role::Up(_) | Role::Down(_) => false,
        }
    }

    /// Sizes and rules of a layer's attention.
    pub fn attention(&self, layer: usize) -> AttentionShape {
        AttentionShape {
            nq: self.nq,
            nkv: self.nkv,
            d: self.d,
            scale: self.score_scale,
            window: self.windows[layer],
            softcap: self.score_cap,
        }
    }

    /// The same model with its weights stored by this scheme.
    pub fn stored_by(&self, scheme: Scheme) -> Plan {
        Plan { scheme: Some(Arc::new(scheme)), ..self.clone() }
    }

    /// The grids that inputs may have, for sizing buffers; the usual one first.
    pub fn grids(&self) -> Vec<Grid> {
        [Grid::Token].into_iter().chain(self.scheme.iter().flat_map(|scheme| quantized::grids(scheme))).collect()
    }

    /// The grid of the output projection's input as it runs: behind a norm that the factor on logits is part of.
    pub fn head_grid(&self, stored: Grid) -> Grid {
        match stored {
            Grid::Static { scale, zero } => Grid::Static { scale: scale * self.logit_scale, zero },
            other => other,
        }
    }

    /// Prefix of a block's tensor names.
    pub fn block_prefix(&self, layer: usize) -> String {
        self.arch.names.block.replace("{}", &layer.to_string())
    }

    /// Name of the module that holds a linear (its weight is this and `.weight`).
    pub fn linear_name(&self, layer: usize, role: Role) -> String {
        let module = self.arch.names.modules.iter().find(|m| m.roles.contains(&role)).map(|m| m.name.to_owned());
        let in_block = module.or_else(|| self.arch.mixture.map(|m| m.module(role))).unwrap_or_default();
        self.block_prefix(layer) + &in_block
    }

    /// A name of a linear for people, which tells it from others in its module.
    pub fn linear_label(&self, layer: usize, role: Role) -> String {
        let shared = self.arch.names.modules.iter().any(|m| m.roles.len() > 1 && m.roles.contains(&role));
        let part = match role {
            Role::Q => "q",
            Role::K => "k",
            Role::V => "v",
            Role::Gate(_) => "gate",
            _ => "up",
        };
        self.linear_name(layer, role) + &if shared { format!("[{part}]") } else { String::new() }
    }

    /// Where 1/s goes when an input's channels are smoothed by s; `None` if nothing can take it up: without a norm
    /// before its readers, or behind a nonlinearity that factors do not pass.
    pub fn absorber(&self, input: Input) -> Option<Absorber> {
        let norm = |place| self.norm_name(0, place).map(|_| Absorber::Norm(place));
        match input {
            Input::AttentionNorm => norm(Place::BeforeAttention),
            Input::AttentionOutput => Some(Absorber::Rows(Role::V)),
            Input::MlpNorm | Input::Routed(_) => norm(Place::BeforeMlp),
            Input::MlpInner(mlp) => {
                let passes = self.arch.gated || self.activation.is_homogeneous();
                passes.then_some(Absorber::Rows(Role::Up(mlp)))
            }
        }
    }

    /// The inputs of blocks that nothing can take up smoothing factors for, and why.
    pub fn unsmoothed(&self) -> Vec<(Input, &'static str)> {
        let mut inputs = self.inputs(0);
        inputs.retain(|&input| self.absorber(input).is_none());
        let why = |input: Input| match input {
            Input::MlpInner(_) => "the nonlinearity before it does not let factors through",
            _ => "no norm stands before it",
        };
        inputs.into_iter().map(|input| (input, why(input))).collect()
    }

    /// Weights in the linears of all blocks.
    pub fn linear_weights(&self) -> usize {
        (0..self.layers).map(|layer| self.block_weights(layer).0).sum()
    }

    /// Weights in the linears of a block, and how many of them one token reads.
    pub fn block_weights(&self, layer: usize) -> (usize, usize) {
        let routing = self.mixture(layer).map(|experts| experts.routing);
        let (mut all, mut of_experts) = (0, 0);
        for role in self.roles(layer) {
            let (n, k) = self.linear_size(role);
            all += n * k;
            if let Role::Gate(Mlp::Expert(_)) | Role::Up(Mlp::Expert(_)) | Role::Down(Mlp::Expert(_)) = role {
                of_experts += n * k;
            }
        }
        (all, all - of_experts + routing.map_or(0, |r| of_experts / r.experts * r.chosen))
    }
}

/// Decides a flag.
pub(crate) fn flag(flag: Flag, config: &Config) -> Result<bool> {
    Ok(match flag {
        Flag::Always => true,
        Flag::Never => false,
        Flag::Config(field) => config.opt_bool(field)?.unwrap_or(false),
        Flag::ConfigUnless(field) => config.opt_bool(field)?.unwrap_or(true),
    })
}
