//! What a configuration says, decided: fields with their defaults, rules for each layer, factors.
use super::flag;
use crate::arch::{Arch, Epsilon, Must, Names, Place, Rope, Scale, Scores, Window};
use crate::error::{Error, Result};
use planish_checkpoint::{config::Config, rope::RopeConfig};
use planish_tensor::Activation;

/// Constant factors and caps of a model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Factors {
    pub eps: f32,
    pub head_eps: f32,
    pub embeddings: f32,
    pub scores: f32,
    pub score_cap: Option<f32>,
    pub logits: f32,
    pub logit_cap: Option<f32>,
}

impl Factors {
    /// The factor `r` on what is added to the hidden state is taken out of it: a state that is smaller by `r` all
    /// through gives the same norms if their epsilon is smaller by `r²`.
    pub fn new(arch: &Arch, config: &Config, hidden: usize, d: usize) -> Result<Factors> {
        let eps = match arch.fields.eps {
            Epsilon::Field(field) => config.f64(field)?,
            Epsilon::Fixed(eps) => eps,
        };
        let scales = &arch.scales;
        let residual = scale(scales.residual, config, hidden)?;
        if residual != 1.0 && !normed_before_and_nowhere_else(arch.names) {
            return Err(Error::Unsupported(format!(
                "{}: a factor on the residual needs norms before attention and MLP, and no others",
                arch.name
            )));
        }
        let scores = match scales.scores {
            Scores::HeadWidth => 1.0 / (d as f32).sqrt(),
            Scores::InverseRoot(field) => positive(config, field)?.powf(-0.5) as f32,
            Scores::Field(field) => positive(config, field)? as f32,
        };
        let cap = |field: Option<&'static str>| match field {
            Some(field) if config.opt_f64(field)?.is_some() => Ok(Some(positive(config, field)? as f32)),
            _ => Ok::<_, Error>(None),
        };
        Ok(Factors {
            eps: (eps / (residual * residual)) as f32,
            head_eps: eps as f32,
            embeddings: (scale(scales.embeddings, config, hidden)? / residual) as f32,
            scores,
            score_cap: cap(scales.score_cap)?,
            logits: (1.0 / scale(scales.logits, config, hidden)?) as f32,
            logit_cap: cap(scales.logit_cap)?,
        })
    }
}

fn normed_before_and_nowhere_else(names: &Names) -> bool {
    let has = |place| names.norms.iter().any(|(there, _)| *there == place);
    let after = has(Place::AfterAttention) || has(Place::AfterMlp);
    has(Place::BeforeAttention) && has(Place::BeforeMlp) && !after && names.positions.is_none()
}

fn scale(scale: Scale, config: &Config, hidden: usize) -> Result<f64> {
    Ok(match scale {
        Scale::One => 1.0,
        Scale::RootHidden => (hidden as f64).sqrt(),
        Scale::Field(field) if config.opt_f64(field)?.is_none() => 1.0,
        Scale::Field(field) => positive(config, field)?,
    })
}

fn positive(config: &Config, field: &str) -> Result<f64> {
    let value = config.f64(field)?;
    if value > 0.0 { Ok(value) } else { Err(config.wrong(field, "a positive number").into()) }
}

/// Refuses networks that the declaration is not about.
pub(super) fn check_musts(arch: &Arch, config: &Config) -> Result<()> {
    for (field, must) in arch.musts {
        let (fits, expected) = match must {
            Must::Be(value) => (config.opt_bool(field)?.unwrap_or(*value) == *value, value.to_string()),
            Must::Equal(other) => {
                let value = config.usize(other)?;
                (config.opt_usize(field)?.unwrap_or(value) == value, format!("{value}, as {other}"))
            }
        };
        if !fits {
            return Err(config.wrong(field, &expected).into());
        }
    }
    Ok(())
}

pub(super) fn activation(arch: &Arch, config: &Config) -> Result<Activation> {
    let field = arch.fields.activation;
    match config.opt_str(field)?.unwrap_or(arch.fields.default_activation) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" | "gelu_fast" => Ok(Activation::GeluTanh),
        "gelu" => Ok(Activation::Gelu),
        "relu" => Ok(Activation::Relu),
        _ => Err(config.wrong(field, "silu, gelu, gelu_pytorch_tanh or relu").into()),
    }
}

/// `[layers]` sliding windows.
pub(super) fn windows(rule: Window, config: &Config, layers: usize) -> Result<Vec<Option<u32>>> {
    let on = match rule {
        Window::Never => false,
        Window::All | Window::Pattern(..) => true,
        Window::Asked | Window::Upper => flag(crate::arch::Flag::Config("use_sliding_window"), config)?,
    };
    let width = if on { config.opt_count("sliding_window")?.filter(|&w| w > 0) } else { None };
    let Some(width) = width.map(|w| w as u32) else { return Ok(vec![None; layers]) };
    let windows = |on: &dyn Fn(usize) -> bool| (0..layers).map(|i| on(i).then_some(width)).collect();
    if matches!(rule, Window::All | Window::Asked) {
        return Ok(windows(&|_| true));
    }
    if let Some(kinds) = config.opt_strings("layer_types")? {
        if kinds.len() != layers {
            return Err(config.wrong("layer_types", "one entry for each layer").into());
        }
        return Ok(windows(&|i| kinds[i] == "sliding_attention"));
    }
    if let Window::Pattern(field, usual) = rule {
        let every = config.opt_usize(field)?.unwrap_or(usual);
        return Ok(windows(&|i| (i + 1) % every != 0));
    }
    let first = config.opt_count("max_window_layers")?.unwrap_or(layers);
    Ok(windows(&|i| i >= first))
}

/// The rules of rotation, and which of them each layer follows.
pub(super) fn ropes(
    rule: Rope,
    config: &Config,
    windows: &[Option<u32>],
) -> Result<(Vec<RopeConfig>, Vec<Option<usize>>)> {
    let layers = windows.len();
    Ok(match rule {
        Rope::Always => (vec![config.rope()?], vec![Some(0); layers]),
        Rope::Never => (Vec::new(), vec![None; layers]),
        Rope::Listed => (vec![config.rope()?], listed(config, layers)?),
        Rope::ByWindow => {
            let rules = vec![config.rope()?, config.rope_of("sliding_attention")?];
            (rules, windows.iter().map(|w| Some(w.is_some() as usize)).collect())
        }
    })
}

fn listed(config: &Config, layers: usize) -> Result<Vec<Option<usize>>> {
    const LIST: &str = "no_rope_layers";
    let rotated = match config.opt_counts(LIST)? {
        Some(list) if list.len() == layers && list.iter().all(|&x| x < 2) => list,
        Some(_) => return Err(config.wrong(LIST, "0 or 1 for each layer").into()),
        None => {
            let every = config.opt_usize("no_rope_layer_interval")?.unwrap_or(4);
            (0..layers).map(|i| usize::from((i + 1) % every != 0)).collect()
        }
    };
    Ok(rotated.into_iter().map(|rotates| (rotates == 1).then_some(0)).collect())
}
