"""A model in 8 bits."""

import json
import os
from types import SimpleNamespace
from typing import Any, Literal

from planish import _planish
from planish._names import refusing, talks

_MEANT = {
    "alpha": "smooth",
    "calib_sequence_length": "calib_seqlen",
    "dataset": "calib_dataset",
    "max_seq_length": "calib_seqlen",
    "model_path": "model",
    "num_calibration_samples": "calib_samples",
    "output_dir": "work_dir",
    "search_scale": "smooth",
}


@refusing(_MEANT)
def quantize(
    model: str | os.PathLike[str],
    work_dir: str | os.PathLike[str],
    quant_dtype: Literal["int8", "fp8", "float8_e4m3fn", "float8_e5m2"] | None = None,
    *,
    scheme: Literal["W8A8", "FP8", "FP8_DYNAMIC", "FP8_BLOCK"] | None = None,
    lm_head: Literal["float", "int8", "fp8"] | None = None,
    smooth: float | Literal["auto", "off"] | None = None,
    weights: Literal["gptq", "rtn"] | None = None,
    activations: Literal["dynamic", "static"] | None = None,
    clip: bool | None = None,
    kv_scales: Literal["fp8", "off"] | None = None,
    recipe: str | os.PathLike[str] | None = None,
    calib_dataset: str | os.PathLike[str] | None = None,
    calib_samples: int | None = None,
    calib_seqlen: int | None = None,
    seed: int | None = None,
    ignore: str | list[str] | None = None,
    format: Literal["compressed-tensors", "lmdeploy"] | None = None,
    budget: float | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    max_shard_size: int | str = "5GB",
    device: str = "auto",
    threads: int | None = None,
    log_level: str = "info",
) -> dict[str, Any]:
    """Makes an 8-bit checkpoint of a float model, and returns its report, which is also `work_dir`/planish_report.json.

    The arguments are the flags of `planish quantize`; None leaves one to the recipe, or to its default.

    model: directory in Hugging Face layout, `.gguf` file or hub id.
    work_dir: where the checkpoint goes.
    quant_dtype: "int8" (the default), "fp8" (which is "float8_e4m3fn") or "float8_e5m2".
    scheme: one of llm-compressor's presets.
    lm_head: the output projection: "float" (the default), "int8" or "fp8".
    smooth: SmoothQuant's strength from 0 to 1, "auto" to search it for each group, or "off"; 0.8 for int8, off for fp8.
    weights: "gptq" (the default for int8) or "rtn" (for fp8).
    activations: "dynamic" (per token, the default) or "static" (one scale for each input, from the calibration).
    clip: look for each row's best scale below that of its largest weight.
    kv_scales: "fp8" stores scales of keys and values for a cache of that type.
    recipe: a file in llm-compressor's schema; other arguments must agree with it.
    calib_dataset: jsonl, json, parquet, csv or txt file, or a data set of the hub; a small sample inside the package
        unless given.
    calib_samples, calib_seqlen: sequences (512) and tokens of each (2048).
    seed: of the shuffle (42).
    ignore: linears to keep in float beside lm_head: names, or "re:" and a regular expression.
    format: "compressed-tensors" (the default) or "lmdeploy".
    budget: keep the most sensitive linears in float until the KL divergence is at most this; "KL=0.01,fp8" lets those that
        lose less in FP8 go there first.
    resume: continue an unfinished run.
    overwrite: replace what is in `work_dir`.
    max_shard_size: bytes, or a size such as "5GB", at which the next shard begins.
    device, threads: where it is computed; see EngineConfig.
    log_level: "info" shows a progress bar where stderr is a terminal; "warning", "error" and "off" do not.

    Ctrl-C ends the run after what it is computing; `resume=True` goes on from there.
    """
    given = dict(locals())
    report: dict[str, Any] = json.loads(_planish.quantize(SimpleNamespace(**given), talks(log_level)))
    return report
