"""act127.py DATA_DIR BASE_MODEL: logits of checkpoints with dynamic INT8 activations on the grid of real kernels.

The tools' own simulation divides by absmax/127.5 where kernels (and Planish) divide by absmax/127. For each checkpoint
named below this writes NAME/act127/model.safetensors with logits_0, all positions of the first prompt: round half to
even, exact integer product, acc * s_x * s_w, everything else float32. FP8 linears: absmax/448, products in float64.
"""
import json
import os
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
torch.set_grad_enabled(False)
data, base = sys.argv[1:3]
prompt = json.load(open(f"{data}/prompts.json"))["prompts"][0]


def product(codes, scales):
    int8, w = codes.dtype == torch.int8, codes.double() if codes.dtype == torch.int8 else codes.float().double()
    top = 127.0 if int8 else 448.0

    def forward(x):
        s = x.abs().amax(-1, keepdim=True) / top
        units = torch.where(s > 0, x / s, torch.zeros_like(x)).clamp(-128 if int8 else -448, 127 if int8 else 448)
        q = units.round() if int8 else units.to(torch.float8_e4m3fn).float()
        return (q.double() @ w.t()).float() * s * scales.float().t()

    return forward


for name in ["w8a8_rtn_f32", "w8a8_sq_gptq", "mixed_fp8down_int8rest", "w8a8_lm_head"]:
    tensors = load_file(f"{data}/{name}/model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval()
    quantized = {key[: -len(".weight_scale")] for key in tensors if key.endswith(".weight_scale")}
    floats = {k: v.float() for k, v in tensors.items() if not k.endswith("_scale") and k[: -len(".weight")] not in quantized}
    model.load_state_dict(floats, strict=False)
    for key, module in model.named_modules():
        if key in quantized:
            module.forward = product(tensors[f"{key}.weight"], tensors[f"{key}.weight_scale"])
    logits = model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0].float().contiguous()
    os.makedirs(f"{data}/{name}/act127", exist_ok=True)
    save_file({"logits_0": logits}, f"{data}/{name}/act127/model.safetensors")
    print(name, float(logits.std()))
