//! From a declaration and a configuration to a decided plan: every size, bias and window of one model.
use crate::arch::{Arch, Flag, Input, Mlp, Role, Window};
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
    /// Added to the mean square in a norm.
    pub eps: f32,
    /// The gate's nonlinearity.
    pub activation: Activation,
    /// The output projection is the embedding.
    pub tied: bool,
    /// Positions that the model was made for.
    pub max_positions: usize,
    /// Rotary embedding.
    pub rope: RopeConfig,
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
        let hidden = config.usize("hidden_size")?;
        let nq = config.usize("num_attention_heads")?;
        let nkv = config.opt_usize("num_key_value_heads")?.unwrap_or(nq);
        let d = match config.opt_usize("head_dim")? {
            Some(d) => d,
            None => hidden / nq,
        };
        if nq % nkv != 0 || d == 0 {
            return Err(config.wrong("num_key_value_heads", "a divisor of num_attention_heads").into());
        }
        let layers = config.usize("num_hidden_layers")?;
        let scheme = Scheme::from_config(config)?;
        scheme.as_ref().map_or(Ok(()), |scheme| quantized::check(scheme, config.path()))?;
        Ok(Plan {
            arch,
            hidden,
            layers,
            vocab: config.usize("vocab_size")?,
            ffn: config.usize("intermediate_size")?,
            nq,
            nkv,
            d,
            eps: config.f64("rms_norm_eps")? as f32,
            activation: activation(config)?,
            tied: config.opt_bool("tie_word_embeddings")?.unwrap_or(false),
            max_positions: config.usize("max_position_embeddings")?,
            rope: config.rope()?,
            windows: windows(arch.window, config, layers)?,
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
            roles.extend(mlp(Mlp::Dense));
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
            scale: 1.0 / (self.d as f32).sqrt(),
            window: self.windows[layer],
            softcap: None,
        }
    }

    /// The grids that inputs may have, for sizing buffers; the usual one first.
    pub fn grids(&self) -> Vec<Grid> {
        [Grid::Token].into_iter().chain(self.scheme.iter().flat_map(|scheme| quantized::grids(scheme))).collect()
    }

    /// Prefix of a block's tensor names.
    pub fn block_prefix(&self, layer: usize) -> String {
        self.arch.names.block.replace("{}", &layer.to_string())
    }

    /// Module name of a linear (its weight is this and `.weight`).
    pub fn linear_name(&self, layer: usize, role: Role) -> String {
        let linears = &self.arch.names.linears;
        let in_block = match role {
            Role::Q => linears[0].to_owned(),
            Role::K => linears[1].to_owned(),
            Role::V => linears[2].to_owned(),
            Role::O => linears[3].to_owned(),
            Role::Gate(Mlp::Dense) => linears[4].to_owned(),
            Role::Up(Mlp::Dense) => linears[5].to_owned(),
            Role::Down(Mlp::Dense) => linears[6].to_owned(),
            of_mixture => self.arch.mixture.map(|m| m.module(of_mixture)).unwrap_or_default(),
        };
        self.block_prefix(layer) + &in_block
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

fn activation(config: &Config) -> Result<Activation> {
    match config.opt_str("hidden_act")?.unwrap_or("silu") {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        _ => Err(config.wrong("hidden_act", "silu or gelu_pytorch_tanh").into()),
    }
}

fn windows(rule: Window, config: &Config, layers: usize) -> Result<Vec<Option<u32>>> {
    let none = vec![None; layers];
    let on = match rule {
        Window::Never => false,
        Window::All => true,
        Window::Upper => config.opt_bool("use_sliding_window")?.unwrap_or(false),
    };
    let Some(width) = (if on { config.opt_usize("sliding_window")? } else { None }) else {
        return Ok(none);
    };
    let width = Some(width as u32);
    if rule == Window::All {
        return Ok(vec![width; layers]);
    }
    if let Some(kinds) = config.opt_strings("layer_types")? {
        if kinds.len() != layers {
            return Err(config.wrong("layer_types", "one entry for each layer").into());
        }
        return Ok(kinds.iter().map(|k| if k == "sliding_attention" { width } else { None }).collect());
    }
    let first = config.opt_count("max_window_layers")?.unwrap_or(layers);
    Ok((0..layers).map(|i| if i >= first { width } else { None }).collect())
}
