//! The flags of the command line, each understood by itself, and what they say without a recipe.
use super::modifiers::{self, Modifiers};
use super::{Activations, Format, HEAD, Pattern, QuantizeArgs, RecipeGroup, Smooth, WeightMethod};
use super::{agree, parse_smooth, presets, setting};
use crate::error::Result;
use planish_checkpoint::scheme::{ActQuant, LinearScheme, QuantType};

/// The flags, each understood by itself.
pub(super) struct Typed {
    pub dtype: Option<QuantType>,
    pub scheme: Option<LinearScheme>,
    /// Of the output projection; `Some(None)` keeps it in float.
    pub head: Option<Option<QuantType>>,
    pub clip: Option<bool>,
    /// Type of a cache with stored scales; `Some(None)` for no such scales.
    pub kv_cache: Option<Option<QuantType>>,
    pub smooth: Option<Smooth>,
    pub weights: Option<WeightMethod>,
    pub activations: Option<Activations>,
    pub format: Option<Format>,
    pub ignore: Option<Vec<Pattern>>,
}

impl Typed {
    pub fn read(args: &QuantizeArgs) -> Result<Typed> {
        let (e4m3, e5m2) = (QuantType::Fp8E4M3, QuantType::Fp8E5M2);
        let dtypes = [("int8", QuantType::Int8), ("fp8", e4m3), ("float8_e4m3fn", e4m3), ("float8_e5m2", e5m2)];
        let heads =
            [("float", None), ("int8", Some(QuantType::Int8)), ("fp8", Some(e4m3)), ("float8_e4m3fn", Some(e4m3))];
        let weights = [("gptq", WeightMethod::Gptq), ("rtn", WeightMethod::Rtn)];
        let activations = [("dynamic", Activations::Dynamic), ("static", Activations::Static)];
        let formats = [("compressed-tensors", Format::CompressedTensors), ("lmdeploy", Format::Lmdeploy)];
        let ignore = args.ignore.iter().map(|p| Pattern::new(p)).collect::<Result<Vec<_>>>()?;
        Ok(Typed {
            dtype: choice("--quant-dtype", args.quant_dtype.as_deref(), &dtypes)?,
            scheme: args.scheme.as_deref().map(|name| modifiers::scheme_named("--scheme", name)).transpose()?,
            head: choice("--lm-head", args.lm_head.as_deref(), &heads)?,
            smooth: args.smooth.as_deref().map(|s| parse_smooth("--smooth", s)).transpose()?,
            weights: choice("--weights", args.weights.as_deref(), &weights)?,
            activations: choice("--activations", args.activations.as_deref(), &activations)?,
            clip: choice("--clip", args.clip.as_deref(), &[("on", true), ("off", false)])?,
            kv_cache: choice("--kv-scales", args.kv_scales.as_deref(), &[("fp8", Some(e4m3)), ("off", None)])?,
            format: choice("--format", args.format.as_deref(), &formats)?,
            ignore: (!ignore.is_empty()).then_some(ignore),
        })
    }

    /// What flags without a recipe say.
    pub fn alone(&self, args: &QuantizeArgs) -> Result<Modifiers> {
        let dtype = self.dtype.or(self.scheme.map(|s| s.weights.dtype)).unwrap_or(QuantType::Int8);
        let mut out = Modifiers::defaults(dtype);
        if let Some(scheme) = self.scheme {
            agree::one_scheme(self, args, &scheme)?;
            out.groups[0].scheme = scheme;
        } else if self.activations == Some(Activations::Static) {
            out.groups[0].scheme.activations = ActQuant::Static { symmetric: true };
        }
        let head = Pattern::new(HEAD)?;
        if let Some(ignore) = &self.ignore {
            out.ignore = ignore.clone();
            out.ignore.extend((!ignore.contains(&head)).then(|| head.clone()));
        }
        if let Some(Some(dtype)) = self.head {
            if self.ignore.as_ref().is_some_and(|ignore| ignore.iter().any(|p| p.rank(HEAD).is_some())) {
                let found = format!("--ignore {}", args.ignore.join(", "));
                return Err(setting("--lm-head", "float, as --ignore names lm_head", &found));
            }
            out.ignore.retain(|p| *p != head);
            let scheme = presets::dynamic(dtype);
            if out.groups[0].scheme != scheme {
                out.groups.push(RecipeGroup { targets: vec![head], scheme });
            }
        }
        Ok(out)
    }
}

fn choice<T: Copy>(flag: &str, value: Option<&str>, known: &[(&str, T)]) -> Result<Option<T>> {
    let Some(value) = value else { return Ok(None) };
    match known.iter().find(|(name, _)| *name == value) {
        Some((_, choice)) => Ok(Some(*choice)),
        None => {
            let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
            Err(setting(flag, &names.join(", "), value))
        }
    }
}
