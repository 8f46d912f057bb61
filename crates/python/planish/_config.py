"""What a pipeline is opened with, and what answers are made with."""

import json
from dataclasses import dataclass, fields
from typing import Any, Literal

from planish import _planish
from planish._names import check

# What LMDeploy, vLLM and OpenAI call what has another name here.
_ENGINE = {
    "block_size": "kv_cache_memory",
    "cache_max_entry_count": "kv_cache_memory",
    "device_type": "device",
    "enable_prefix_caching": "prefix_cache",
    "kv_cache_dtype": "kv_dtype",
    "max_batch_size": "max_batch",
    "max_num_seqs": "max_batch",
    "num_gpu_blocks": "kv_cache_memory",
    "quant_policy": "kv_dtype",
    "session_len": "max_model_len",
}
_GENERATION = {
    "bad_token_ids": "logit_bias",
    "bad_words": "logit_bias",
    "grammar": "response_format",
    "json_schema": "response_format",
    "max_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "regex": "response_format",
    "repetition_ngram_size": "repetition_penalty",
    "seed": "random_seed",
    "stop": "stop_words",
    "top_logprobs": "logprobs",
}


class _Checked:
    """A data class that says which field was meant when one is not known."""

    _meant: dict[str, str] = {}

    def __init_subclass__(cls, meant: dict[str, str]) -> None:
        cls._meant = meant

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        check(cls.__name__, kwargs, [field.name for field in fields(cls)], cls._meant)  # type: ignore[arg-type]
        return super().__new__(cls)


@dataclass(kw_only=True)
class EngineConfig(_Checked, meant=_ENGINE):
    """How a model is run. The fields are the flags of `planish generate`.

    device: where to run: "auto" (the first GPU, else the CPU), "cpu", "cuda" or "cuda:N".
    threads: threads of the CPU; all cores unless given.
    max_model_len: longest sequence, prompt and answer together; what the model was made for unless given.
    max_batch: sequences that run at once.
    kv_cache_memory: bytes for keys and values; a share of the free memory unless given.
    kv_dtype: element type of keys and values: "auto", "f32", "bf16", "int8" or "fp8".
    lm_head: output projection: "auto" (as the model has it), or "int8" (faster, with a small loss).
    prefix_cache: keep computed prompts for later prompts that begin alike.
    overlap: prepare a step while the one before runs; None leaves it to the device.
    speculate: guess up to this many tokens from repetitions in the text; answers stay the same.
    batch_invariant: the same answer in any batch, for FP8 on a GPU too; all else keeps this promise anyhow.
    """

    device: str = "auto"
    threads: int | None = None
    max_model_len: int | None = None
    max_batch: int | None = None
    kv_cache_memory: int | None = None
    kv_dtype: Literal["auto", "f32", "bf16", "int8", "fp8"] = "auto"
    lm_head: Literal["auto", "int8"] = "auto"
    prefix_cache: bool = True
    overlap: bool | None = None
    speculate: int | None = None
    batch_invariant: bool = False

    def __post_init__(self) -> None:
        _planish.check_engine(self)


@dataclass(kw_only=True)
class GenerationConfig(_Checked, meant=_GENERATION):
    """What is generated. Names and defaults are LMDeploy's.

    Answers are greedy unless `do_sample` is True, or `temperature`, `top_p`, `top_k` or `min_p` is given; a `temperature`
    of 0 is greedy too. When tokens are drawn, what is not given is temperature 0.8, top_k 50, top_p 1 and min_p 0.

    n: answers to each prompt; they share its keys and values, and answer i draws with random_seed + i.
    max_new_tokens: most tokens of an answer.
    min_new_tokens: tokens before one that ends the answer may be chosen.
    do_sample: True draws tokens, False takes the likeliest; None leaves it to the fields below.
    temperature: divisor of the logits.
    top_p: keep the likeliest tokens up to this probability.
    top_k: keep this many of the likeliest tokens; 0 keeps all.
    min_p: keep tokens at least this probable, relative to the likeliest.
    repetition_penalty: push tokens that were seen down by this factor.
    presence_penalty: subtract this from the logit of every token that was generated.
    frequency_penalty: subtract this from a token's logit for every time that it was generated.
    logit_bias: add to the logits of tokens, by their ids.
    random_seed: the same seed gives the same answer; None draws another one each time.
    ignore_eos: go on after the end-of-text token.
    stop_words: text (or texts) that end an answer, of any length; they are not part of it.
    stop_token_ids: tokens that end an answer, besides the model's own.
    logprobs: report the log-probabilities of this many of the likeliest tokens, and of the chosen one.
    prompt_logprobs: the same for every token of the prompt but the first.
    response_format: what the text must be: {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"schema": {...}}}, {"type": "regex_schema", "regex_schema": "..."}
        or {"type": "grammar", "grammar": "..."} (Lark, from its rule `start`).
    priority: prompts with a smaller number go first.
    cache_salt: only prompts with the same salt share cached prefixes.
    """

    n: int = 1
    max_new_tokens: int = 512
    min_new_tokens: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] | None = None
    random_seed: int | None = None
    ignore_eos: bool = False
    stop_words: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    response_format: dict[str, Any] | None = None
    priority: int = 0
    cache_salt: str | None = None

    def __post_init__(self) -> None:
        _planish.check_generation(self)

    def _format_json(self) -> str | None:
        if self.response_format is None:
            return None
        if not isinstance(self.response_format, dict):
            raise TypeError(f"response_format: expected a dict, or None, found {self.response_format!r}")
        return json.dumps(self.response_format)
