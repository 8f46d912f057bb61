//! What was typed becomes what it means: flags and a recipe file go in, one decided [`Recipe`] comes out.
mod agree;
mod arguments;
mod flags;
mod kv;
mod limits;
mod modifiers;
mod pattern;
mod presets;
mod yaml;

pub use pattern::Pattern;

use crate::error::{Error, Result};
use flags::Typed;
use planish_checkpoint::scheme::{ActQuant, LinearScheme, QuantType};
use planish_tensor::Q8;

/// What a user may say about quantizing; `None` is "not said". Spelled as on the command line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuantizeArgs {
    /// `int8`, `fp8`, `float8_e4m3fn` or `float8_e5m2`.
    pub quant_dtype: Option<String>,
    /// A preset of llm-compressor, such as `FP8_BLOCK`.
    pub scheme: Option<String>,
    /// `float`, `int8` or `fp8` for the output projection.
    pub lm_head: Option<String>,
    /// A number from 0 to 1, `auto` or `off`.
    pub smooth: Option<String>,
    /// `gptq` or `rtn`.
    pub weights: Option<String>,
    /// `dynamic` or `static`.
    pub activations: Option<String>,
    /// `on` or `off`.
    pub clip: Option<String>,
    /// `fp8` or `off`: scales of keys and values.
    pub kv_scales: Option<String>,
    /// Names, or `re:` and a regular expression, of the linears to keep in float.
    pub ignore: Vec<String>,
    /// `compressed-tensors` or `lmdeploy`.
    pub format: Option<String>,
    /// File, or nothing for the built-in sample.
    pub calib_dataset: Option<String>,
    /// Number of calibration sequences.
    pub calib_samples: Option<usize>,
    /// Tokens of a calibration sequence at most.
    pub calib_seqlen: Option<usize>,
    /// Seed of the shuffle.
    pub seed: Option<u64>,
    /// Text of a recipe in llm-compressor's schema.
    pub recipe: Option<String>,
}

/// The output projection's name in flags and recipes, whatever a family calls it.
pub const HEAD: &str = "lm_head";

/// How activations are smoothed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Smooth {
    /// Not at all.
    Off,
    /// With this strength.
    Alpha(f64),
    /// With the strength that is found best for each group.
    Auto,
}

/// How weights are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightMethod {
    /// Column by column, making up for the errors.
    Gptq,
    /// To the nearest code.
    Rtn,
}

/// When the scales of activations are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// Per token, when it runs.
    Dynamic,
    /// Per tensor, from the calibration.
    Static,
}

/// The layout of the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// That of vLLM, SGLang and transformers.
    CompressedTensors,
    /// That of LMDeploy's `smooth_quant`.
    Lmdeploy,
}

/// A pair of SmoothQuant: what absorbs `1/s`, and the linears that absorb `s`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapping {
    /// The linears whose columns are multiplied.
    pub balance: Vec<Pattern>,
    /// The norm (or linear) whose output is divided.
    pub smooth: Pattern,
}

impl Mapping {
    /// Whether it names the pair of linears `balance` that all read the output of `smooth`.
    pub fn names(&self, smooth: &str, balance: &[&str]) -> bool {
        self.smooth.matches(smooth) && balance.iter().all(|b| self.balance.iter().any(|pattern| pattern.matches(b)))
    }
}

/// Linears that are quantized alike.
#[derive(Clone, Debug, PartialEq)]
pub struct RecipeGroup {
    /// Names and patterns; the class `Linear` stands for all.
    pub targets: Vec<Pattern>,
    /// How.
    pub scheme: LinearScheme,
}

/// Everything decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Linears to quantize and how, never none. A name goes before a pattern, and that before the class `Linear`.
    pub groups: Vec<RecipeGroup>,
    /// Smoothing.
    pub smooth: Smooth,
    /// The groups to smooth; `None` for those that the architecture implies.
    pub mappings: Option<Vec<Mapping>>,
    /// A group is left unsmoothed when all of its layers match one of these.
    pub smooth_ignore: Vec<Pattern>,
    /// Weights.
    pub weights: WeightMethod,
    /// Columns of GPTQ's update block, as the recipe says. It does not change the result, and is only written back.
    pub block_size: usize,
    /// GPTQ's damping as a part of the mean diagonal.
    pub damping: f64,
    /// GPTQ's order: largest diagonal first.
    pub act_order: bool,
    /// Whether each row's scale is searched below that of its largest magnitude.
    pub clip: bool,
    /// Type of a cache whose scales, one for the keys and one for the values of each layer, are calibrated and stored.
    pub kv_cache: Option<QuantType>,
    /// Linears to keep in float.
    pub ignore: Vec<Pattern>,
    /// The layout of the checkpoint.
    pub format: Format,
    /// Where calibration text comes from; `None` for the built-in sample.
    pub calib_dataset: Option<String>,
    /// Number of calibration sequences.
    pub calib_samples: usize,
    /// Tokens of a calibration sequence at most.
    pub calib_seqlen: usize,
    /// Seed of the shuffle.
    pub seed: u64,
}

/// Decides everything: flags, then the recipe file, then the defaults
/// (int8: smoothing 0.8 and GPTQ; fp8: no smoothing and round-to-nearest).
///
/// # Errors
/// A value that is not accepted, an invalid or unsupported recipe, or a flag that contradicts it; names all of them.
pub fn decide(args: &QuantizeArgs) -> Result<Recipe> {
    let typed = Typed::read(args)?;
    let recipe = args.recipe.as_deref().map(yaml::read).transpose()?;
    if let Some(recipe) = &recipe {
        agree::agree(&typed, args, recipe)?;
    }
    let base = match recipe {
        Some(recipe) => recipe,
        None => typed.alone(args)?,
    };
    let positive = |name: &str, value: Option<usize>, default: usize| match value.unwrap_or(default) {
        0 => Err(setting(name, "a number above 0", "0")),
        n => Ok(n),
    };
    let decided = Recipe {
        groups: base.groups,
        smooth: typed.smooth.unwrap_or(base.smooth),
        mappings: base.mappings,
        smooth_ignore: base.smooth_ignore,
        weights: typed.weights.unwrap_or(base.weights),
        block_size: base.block_size,
        damping: base.damping,
        act_order: base.act_order,
        clip: typed.clip.or(base.clip).unwrap_or(false),
        kv_cache: typed.kv_cache.unwrap_or(base.kv_cache),
        ignore: base.ignore,
        format: typed.format.unwrap_or(Format::CompressedTensors),
        calib_dataset: args.calib_dataset.clone(),
        calib_samples: positive("--calib-samples", args.calib_samples, 512)?,
        calib_seqlen: positive("--calib-seqlen", args.calib_seqlen, 2048)?,
        seed: args.seed.unwrap_or(42),
    };
    limits::storable(&decided)?;
    Ok(decided)
}

impl Recipe {
    /// How the linear of this full name (without `.weight`) is quantized; `None` leaves it in float.
    pub fn scheme_of(&self, name: &str) -> Option<&LinearScheme> {
        ranked(&self.groups, &self.ignore, name)
    }

    /// How the output projection is quantized, which the family calls `name`.
    pub fn scheme_of_head(&self, name: &str) -> Option<&LinearScheme> {
        let ignored = self.ignore.iter().any(|p| p.rank(name).is_some());
        self.scheme_of(HEAD).filter(|_| !ignored).or_else(|| {
            let scheme = self.scheme_of(name);
            scheme.filter(|_| !self.ignore.iter().any(|p| p.rank(HEAD).is_some()))
        })
    }

    /// Whether the linear of this full name (without `.weight`) is to be quantized.
    pub fn quantizes(&self, name: &str) -> bool {
        self.scheme_of(name).is_some()
    }

    /// The 8-bit type of the first group: of all, unless they are mixed.
    pub fn dtype(&self) -> Q8 {
        q8(self.groups[0].scheme.weights.dtype)
    }

    /// The 8-bit types of all groups, each once.
    pub fn dtypes(&self) -> Vec<Q8> {
        let mut out: Vec<Q8> = Vec::new();
        for kind in self.groups.iter().map(|group| q8(group.scheme.weights.dtype)) {
            if !out.contains(&kind) {
                out.push(kind);
            }
        }
        out
    }

    /// When the first group's scales of activations are computed.
    pub fn activations(&self) -> Activations {
        when(&self.groups[0].scheme)
    }

    /// Whether the group of linears `balance` that read the output of `smooth` is to be smoothed.
    pub fn smooths(&self, smooth: &str, balance: &[&str]) -> bool {
        let ignored = |name: &str| self.smooth_ignore.iter().any(|p| p.matches(name));
        if self.smooth == Smooth::Off || (ignored(smooth) && balance.iter().all(|b| ignored(b))) {
            return false;
        }
        self.mappings.as_ref().is_none_or(|all| all.iter().any(|m| m.names(smooth, balance)))
    }

    /// The same with every group in FP8 E4M3.
    pub fn in_fp8(&self) -> Recipe {
        let mut out = self.clone();
        out.groups.iter_mut().for_each(|group| group.scheme.weights.dtype = QuantType::Fp8E4M3);
        out
    }

    /// Gives linears with these full names, all of one group now, that group's scheme in FP8 E4M3.
    ///
    /// # Errors
    /// A name that is no pattern.
    pub fn put_in_fp8(&mut self, names: &[String]) -> Result<()> {
        let Some(mut scheme) = names.first().and_then(|name| self.scheme_of(name)).copied() else { return Ok(()) };
        scheme.weights.dtype = QuantType::Fp8E4M3;
        let targets = names.iter().map(|name| Pattern::new(name)).collect::<Result<Vec<_>>>()?;
        // Before a group that names them too; one group holds all that share a scheme.
        match self.groups.first_mut().filter(|group| group.scheme == scheme) {
            Some(group) => group.targets.extend(targets),
            None => self.groups.insert(0, RecipeGroup { targets, scheme }),
        }
        Ok(())
    }

    /// Refuses, before any work, what this version does not make.
    ///
    /// # Errors
    /// Names the group, what is made and what was found.
    pub fn check_made(&self) -> Result<()> {
        limits::made(self)
    }

    /// Whether anything of it needs calibration data.
    pub fn needs_calibration(&self) -> bool {
        self.smooth != Smooth::Off
            || self.weights == WeightMethod::Gptq
            || self.clip
            || self.kv_cache.is_some()
            || self.groups.iter().any(|g| when(&g.scheme) == Activations::Static)
    }

    /// The text of `recipe.yaml`, in llm-compressor's schema.
    pub fn to_yaml(&self) -> String {
        yaml::write(self)
    }
}

/// Name of an element type, as a user types it.
pub fn dtype_name(dtype: Q8) -> &'static str {
    match dtype {
        Q8::Int8 => "int8",
        Q8::E4M3 => "float8_e4m3fn",
        Q8::E5M2 => "float8_e5m2",
    }
}

/// The grid of an 8-bit type.
pub fn q8(dtype: QuantType) -> Q8 {
    match dtype {
        QuantType::Int8 => Q8::Int8,
        QuantType::Fp8E4M3 => Q8::E4M3,
        QuantType::Fp8E5M2 => Q8::E5M2,
    }
}

/// The scheme of the group that names a linear most specifically; `None` where it is ignored or not named.
fn ranked<'a>(groups: &'a [RecipeGroup], ignore: &[Pattern], name: &str) -> Option<&'a LinearScheme> {
    if ignore.iter().any(|p| p.rank(name).is_some()) {
        return None;
    }
    let rank = |group: &RecipeGroup| group.targets.iter().filter_map(|t| t.rank(name)).min();
    let ranked = groups.iter().filter_map(|group| Some((rank(group)?, &group.scheme)));
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, scheme)| scheme)
}

fn when(scheme: &LinearScheme) -> Activations {
    match scheme.activations {
        ActQuant::Static { .. } => Activations::Static,
        ActQuant::None | ActQuant::Dynamic { .. } => Activations::Dynamic,
    }
}

fn parse_smooth(name: &str, text: &str) -> Result<Smooth> {
    match text {
        "off" => Ok(Smooth::Off),
        "auto" => Ok(Smooth::Auto),
        _ => match text.parse::<f64>() {
            Ok(alpha) if (0.0..=1.0).contains(&alpha) => Ok(Smooth::Alpha(alpha)),
            _ => Err(setting(name, "a number from 0 to 1, auto or off", text)),
        },
    }
}

fn smooth_name(smooth: Smooth) -> String {
    match smooth {
        Smooth::Off => "off".into(),
        Smooth::Auto => "auto".into(),
        Smooth::Alpha(alpha) => alpha.to_string(),
    }
}

fn setting(name: &str, expected: &str, found: &str) -> Error {
    Error::Setting { name: name.into(), expected: expected.into(), found: found.into() }
}

#[cfg(test)]
mod tests;
