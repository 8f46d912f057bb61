"""check_transformers.py PLANISH MODEL WORK_DIR: see check_transformers.sh.

For each scheme: `planish quantize` (or `planish convert`), then log-probabilities of fixed prompts from `planish generate --prompt-logprobs`
and from transformers, which runs the checkpoint through compressed-tensors in float32. compressed-tensors simulates
INT8 activations per token on absmax/127.5 where kernels (and Planish) have absmax/127: that one formula is replaced.
"""
import json
import os
import subprocess
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from compressed_tensors.quantization.lifecycle import forward as lifecycle
from transformers import AutoModelForCausalLM

torch.set_grad_enabled(False)
torch.manual_seed(0)
planish, model, work = sys.argv[1:4]
TOP = 20
CASES = {
    "INT8 dynamic, SmoothQuant + GPTQ": [],
    "INT8 dynamic, round-to-nearest": ["--smooth", "off", "--weights", "rtn"],
    "INT8 static": ["--activations", "static", "--smooth", "off", "--weights", "rtn"],
    "FP8 dynamic": ["--quant-dtype", "fp8"],
    "FP8 static": ["--quant-dtype", "fp8", "--activations", "static"],
    "INT8 dynamic, block 0 in float": ["--smooth", "off", "--weights", "rtn", "--ignore", "lm_head", "--ignore", r"re:model\.layers\.0\."],
    "FP8 blocks of 128 x 128": ["--scheme", "FP8_BLOCK"],
    "FP8 per tensor, static": ["--scheme", "FP8"],
    "INT8 with an INT8 output projection": ["--lm-head", "int8"],
    "INT8 with an FP8 output projection": ["--lm-head", "fp8"],
    "INT8, down projections in FP8": ["--recipe", "MIXED"],
    "INT8 dynamic with zero points": ["--recipe", "ASYMMETRIC"],
    "INT8 static with zero points": ["--recipe", "STATIC_ASYMMETRIC"],
}
# What no flag says.
GROUP = "{targets: [Linear], weights: {type: int, strategy: channel}, input_activations: {type: int, symmetric: false, %s}}"
RECIPES = {
    "MIXED": "{GPTQModifier: {ignore: [lm_head], scheme: {W8A8: [Linear], FP8_DYNAMIC: ['re:.*down_proj']}}}",
    "ASYMMETRIC": "{QuantizationModifier: {ignore: [lm_head], config_groups: {g: %s}}}" % (GROUP % "strategy: token, dynamic: true"),
    "STATIC_ASYMMETRIC": "{QuantizationModifier: {ignore: [lm_head], config_groups: {g: %s}}}" % (GROUP % "strategy: tensor"),
}
# Checkpoints in LMDeploy's layout that `planish convert` brings into the other.
CONVERTED = {
    "INT8 of LMDeploy, converted": "crates/model/tests/data/lmdeploy_int8",
    "FP8 of LMDeploy, converted": "crates/model/tests/data/lmdeploy_fp8",
}

simulated = lifecycle.compute_dynamic_scales_and_zp


def as_kernels(value, args, module, global_scale=None):
    scale, zero = simulated(value, args, module, global_scale)
    return (scale * (127.5 / 127.0), zero) if args.type == "int" and args.symmetric else (scale, zero)


lifecycle.compute_dynamic_scales_and_zp = as_kernels


def run(*words):
    done = subprocess.run([planish, *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"planish {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def distances(folder, prompts):
    """Largest and root mean square difference of the log-probabilities of the 20 likeliest tokens at each position, and
    the mean KL divergence over them."""
    words = [w for ids in prompts for w in ("--input-ids", " ".join(map(str, ids)))]
    flags = ["--device", "cpu", "--json", "--max-new-tokens", "1", "--ignore-eos", "--kv-dtype", "f32"]
    ours = json.loads(run("generate", folder, *flags, "--prompt-logprobs", str(TOP), *words))["results"]
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    worst, squares, count, kl = 0.0, 0.0, 0, 0.0
    positions = 0
    for ids, result in zip(prompts, ours):
        logp = torch.log_softmax(theirs(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float(), -1)
        for at, entry in enumerate(result["prompt_logprobs"]):
            pairs = [(float(logp[at, t["id"]]), t["logprob"]) for t in entry["top"]]
            diffs = [abs(a - b) for a, b in pairs]
            worst = max(worst, *diffs)
            squares += sum(d * d for d in diffs)
            count += len(diffs)
            kl += sum(2.718281828459045**a * (a - b) for a, b in pairs)
            positions += 1
    return worst, (squares / count) ** 0.5, kl / positions


def recipe_file(name):
    path = os.path.join(work, name + ".yaml")
    with open(path, "w") as file:
        file.write("a_stage: {b_modifiers: %s}\n" % RECIPES[name])
    return path


def write(name):
    folder = os.path.join(work, name.replace(" ", "-").replace(",", ""))
    if name in CONVERTED:
        run("convert", CONVERTED[name], "--format", "compressed-tensors", "--work-dir", folder)
        return folder
    flags = ["--device", "cpu", "--work-dir", folder, "--calib-samples", "16", "--calib-seqlen", "256"]
    calibration = os.environ.get("CALIBRATION")
    flags += ["--calib-dataset", calibration] if calibration else []
    flags += [recipe_file(word) if word in RECIPES else word for word in CASES[name]]
    run("quantize", model, *flags)
    return folder


vocabulary = json.load(open(os.path.join(model, "config.json")))["vocab_size"]
generator = torch.Generator().manual_seed(1)
prompts = [torch.randint(3, min(vocabulary, 1000), (n,), generator=generator).tolist() for n in (37, 64)]
print("| scheme | largest | RMS | KL |\n|---|---|---|---|")
failed = []
for name in [*CASES, *CONVERTED]:
    worst, rms, kl = distances(write(name), prompts)
    print(f"| {name} | {worst:.1e} | {rms:.1e} | {kl:.1e} |", flush=True)
    # Codes on rounding ties may fall to either side; a wrong formula moves log-probabilities by tenths.
    if rms > 0.07 or abs(kl) > 1e-3:
        failed.append(name)
sys.exit(f"different: {', '.join(failed)}" if failed else 0)
