//! From a declaration and a configuration to a decided plan: every size, bias and window of one model.
use crate::arch::{Arch, Flag, Input, Role, Window};
use crate::archs;
use crate::error::{Error, Result};
use planish_checkpoint::{config::Config, rope::RopeConfig};
use planish_tensor::{Activation, AttentionShape};

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
            biases: [flag(arch.qkv_bias, config)?, flag(arch.o_bias, config)?, flag(arch.mlp_bias, config)?],
        })
    }

    /// Output and input channels of a linear.
    pub fn linear_size(&self, role: Role) -> (usize, usize) {
        let n = match role {
            Role::Q => self.nq * self.d,
            Role::K | Role::V => self.nkv * self.d,
            Role::Gate | Role::Up => self.ffn,
            Role::O | Role::Down => self.hidden,
        };
        (n, self.input_width(role.input()))
    }

    /// Width of a linear's input.
    pub fn input_width(&self, input: Input) -> usize {
        match input {
            Input::AttentionNorm | Input::MlpNorm => self.hidden,
            Input::AttentionOutput => self.nq * self.d,
            Input::MlpInner => self.ffn,
        }
    }

    /// Whether a linear has a bias.
    pub fn has_bias(&self, role: Role) -> bool {
        match role {
            Role::Q | Role::K | Role::V => self.biases[0],
            Role::O => self.biases[1],
            Role::Gate | Role::Up | Role::Down => self.biases[2],
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

    /// Prefix of a block's tensor names.
    pub fn block_prefix(&self, layer: usize) -> String {
        self.arch.names.block.replace("{}", &layer.to_string())
    }

    /// Module name of a linear (its weight is this and `.weight`).
    pub fn linear_name(&self, layer: usize, role: Role) -> String {
        self.block_prefix(layer) + self.arch.names.linears[role as usize]
    }

    /// Weights in the linears of all blocks.
    pub fn linear_weights(&self) -> usize {
        let block: usize = Role::ALL.iter().map(|&r| self.linear_size(r)).map(|(n, k)| n * k).sum();
        block * self.layers
    }
}

fn flag(flag: Flag, config: &Config) -> Result<bool> {
    Ok(match flag {
        Flag::Always => true,
        Flag::Never => false,
        Flag::Config(field) => config.opt_bool(field)?.unwrap_or(false),
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
