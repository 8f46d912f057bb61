//! Which Hugging Face tensor each GGUF tensor is, and how its rows must be put back.
use super::error::{GgufError, Result};
use super::file::GgufTensor;
use std::ops::Range;

/// One architecture as GGUF spells it.
pub(super) struct Arch {
    /// `general.architecture`.
    pub name: &'static str,
    /// The converter interleaved the rows of q and k for ggml's rotary order.
    pub interleaved: bool,
    /// Prefixes of the router and of one expert, and the names of gate, up and down, where there are experts.
    pub experts: Option<Experts>,
}

/// Hugging Face names of a mixture-of-experts block.
pub(super) struct Experts {
    router: &'static str,
    prefix: &'static str,
    gate_up_down: [&'static str; 3],
}

const QWEN_EXPERTS: Experts =
    Experts { router: "mlp.gate", prefix: "mlp.experts", gate_up_down: ["gate_proj", "up_proj", "down_proj"] };

/// Every architecture that is read. Errors list these.
pub(super) const ARCHS: [Arch; 6] = [
    Arch {
        name: "llama",
        interleaved: true,
        // A llama with experts is Mixtral.
        experts: Some(Experts {
            router: "block_sparse_moe.gate",
            prefix: "block_sparse_moe.experts",
            gate_up_down: ["w1", "w3", "w2"],
        }),
    },
    Arch { name: "granite", interleaved: true, experts: None },
    Arch { name: "qwen2", interleaved: false, experts: None },
    Arch { name: "qwen3", interleaved: false, experts: None },
    Arch { name: "qwen2moe", interleaved: false, experts: Some(QWEN_EXPERTS) },
    Arch { name: "qwen3moe", interleaved: false, experts: Some(QWEN_EXPERTS) },
];

/// Parts of a block that are one tensor on both sides.
const PLAIN: [(&str, &str); 15] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
    ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
    ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
];

/// Numbers the names depend on.
pub(super) struct Dims {
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub experts: usize,
}

/// A Hugging Face tensor inside a GGUF tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    /// The Hugging Face name.
    pub name: String,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Which elements of the GGUF tensor it is.
    pub elements: Range<usize>,
    /// Heads over whose rows the interleaving is undone.
    pub interleaved_heads: Option<usize>,
}

/// The architecture of this name.
pub(super) fn find(name: &str) -> Result<&'static Arch> {
    ARCHS.iter().find(|a| a.name == name).ok_or_else(|| {
        let known: Vec<_> = ARCHS.iter().map(|a| a.name).collect();
        let reason = format!("architecture '{name}' is not read from GGUF; supported: {}", known.join(", "));
        GgufError::unsupported("general.architecture", reason)
    })
}

/// The Hugging Face tensors that `tensor` holds: one, or one per expert, or none for rotary factors.
pub(super) fn parts(arch: &Arch, dims: &Dims, tensor: &GgufTensor) -> Result<Vec<Part>> {
    let whole = |name: &str| vec![part(tensor, name.to_owned(), None)];
    match tensor.name.as_str() {
        "token_embd.weight" => Ok(whole("model.embed_tokens.weight")),
        "output_norm.weight" => Ok(whole("model.norm.weight")),
        "output.weight" => Ok(whole("lm_head.weight")),
        // Read into the config's rope_scaling.
        "rope_freqs.weight" => Ok(Vec::new()),
        name => match block_name(name) {
            Some((layer, _, _)) if layer >= dims.layers => {
                let expected = format!("a layer below the {} of block_count", dims.layers);
                Err(GgufError::malformed(format!("tensor '{name}'"), expected, layer))
            }
            Some((layer, stem, kind)) => block_parts(arch, dims, tensor, layer, stem, kind),
            None => Err(no_counterpart(arch, name)),
        },
    }
}

/// `blk.<layer>.<stem>.<weight|bias>`, the layer in plain decimal.
fn block_name(name: &str) -> Option<(usize, &str, &str)> {
    let mut fields = name.strip_prefix("blk.")?.split('.');
    let (layer, stem, kind) = (fields.next()?, fields.next()?, fields.next()?);
    let number: usize = layer.parse().ok()?;
    let plain = number.to_string() == layer && fields.next().is_none() && matches!(kind, "weight" | "bias");
    plain.then_some((number, stem, kind))
}

fn block_parts(
    arch: &Arch,
    dims: &Dims,
    tensor: &GgufTensor,
    layer: usize,
    stem: &str,
    kind: &str,
) -> Result<Vec<Part>> {
    let prefix = format!("model.layers.{layer}");
    if let Some((_, to)) = PLAIN.iter().find(|(from, _)| *from == stem) {
        let heads = match stem {
            "attn_q" if arch.interleaved => Some(dims.heads),
            "attn_k" if arch.interleaved => Some(dims.kv_heads),
            _ => None,
        };
        check_heads(tensor, heads)?;
        let mut found = part(tensor, format!("{prefix}.{to}.{kind}"), heads);
        if stem == "ffn_gate_inp_shexp" && found.shape.len() == 1 {
            found.shape.insert(0, 1); // the file drops the outer dimension of 1
        }
        return Ok(vec![found]);
    }
    let Some(experts) = arch.experts.as_ref().filter(|_| kind == "weight") else {
        return Err(no_counterpart(arch, &tensor.name));
    };
    let matrix = match stem {
        "ffn_gate_inp" => return Ok(vec![part(tensor, format!("{prefix}.{}.weight", experts.router), None)]),
        "ffn_gate_exps" => experts.gate_up_down[0],
        "ffn_up_exps" => experts.gate_up_down[1],
        "ffn_down_exps" => experts.gate_up_down[2],
        _ => return Err(no_counterpart(arch, &tensor.name)),
    };
    expert_parts(dims, tensor, |e| format!("{prefix}.{}.{e}.{matrix}.weight", experts.prefix))
}

/// One part per expert of a stacked `[experts, out, in]` tensor.
fn expert_parts(dims: &Dims, tensor: &GgufTensor, name: impl Fn(usize) -> String) -> Result<Vec<Part>> {
    let [count, rows, columns] = tensor.shape[..] else {
        return Err(GgufError::malformed(what(tensor), "three dimensions", format!("{:?}", tensor.shape)));
    };
    if count != dims.experts {
        let expected = format!("the {} experts of expert_count", dims.experts);
        return Err(GgufError::malformed(what(tensor), expected, count));
    }
    let size = rows * columns; // cannot overflow: the whole tensor's size was checked
    let one = |e: usize| Part {
        name: name(e),
        shape: vec![rows, columns],
        elements: e * size..(e + 1) * size,
        interleaved_heads: None,
    };
    Ok((0..count).map(one).collect())
}

fn part(tensor: &GgufTensor, name: String, interleaved_heads: Option<usize>) -> Part {
    let elements = 0..tensor.shape.iter().product();
    Part { name, shape: tensor.shape.clone(), elements, interleaved_heads }
}

fn check_heads(tensor: &GgufTensor, heads: Option<usize>) -> Result<()> {
    let rows = tensor.shape.first().copied().unwrap_or(1);
    match heads {
        Some(heads) if rows % heads != 0 || (rows / heads) % 2 != 0 => {
            let expected = format!("rows for {heads} heads of an even size");
            Err(GgufError::malformed(what(tensor), expected, rows))
        }
        _ => Ok(()),
    }
}

fn what(tensor: &GgufTensor) -> String {
    format!("tensor '{}'", tensor.name)
}

fn no_counterpart(arch: &Arch, name: &str) -> GgufError {
    GgufError::unsupported(format!("tensor '{name}'"), format!("no known part of a '{}' model", arch.name))
}
