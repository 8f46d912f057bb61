"""Text in, text out."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from planish import _planish
from planish._config import EngineConfig, GenerationConfig
from planish._names import refusing, talks

# A text, a conversation, or token ids.
Message = Mapping[str, Any]
Prompt = str | Sequence[Message] | Sequence[int]

_OPENING = {
    "backend": "engine_config",
    "backend_config": "engine_config",
    "chat_template_config": "do_preprocess",
    "model": "model_path",
    "speculative_config": "engine_config",
}
_CALLING = {"generation_config": "gen_config", "sampling_params": "gen_config", "messages": "prompts"}


@dataclass
class Response:
    """An answer, or in a stream a piece of one.

    text: the text (in a stream, what was added to it), without special tokens and stop words.
    generate_token_len: tokens of the answer so far.
    input_token_len: tokens of the prompt.
    finish_reason: "stop", "length", or None while it grows.
    token_ids: the tokens (in a stream, those that were added).
    logprobs: for each of these tokens, log-probabilities by id, of the chosen token and of the likeliest; None unless
        asked for.
    index: number of the prompt in the list.
    choice: number of the answer to it, when `n` is more than 1.
    prompt_logprobs: as logprobs, for each token of the prompt but the first.
    """

    text: str
    generate_token_len: int
    input_token_len: int
    finish_reason: Literal["stop", "length"] | None
    token_ids: list[int]
    logprobs: list[dict[int, float]] | None = None
    index: int = 0
    choice: int = 0
    prompt_logprobs: list[dict[int, float]] | None = None


class Stream(Iterator[Response]):
    """Pieces of answers as they come. Leaving it (`close`, `with`, or dropping it) ends what still runs."""

    def __init__(self, native: _planish.Stream) -> None:
        self._native = native

    def __next__(self) -> Response:
        return Response(*next(self._native))

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends what still runs."""
        self._native.close()


class Pipeline:
    """A loaded model. `planish.pipeline` opens one; any number of threads may use it at once."""

    def __init__(self, model_path: str | os.PathLike[str], engine_config: EngineConfig | None = None,
                 log_level: str = "info") -> None:
        if engine_config is not None and not isinstance(engine_config, EngineConfig):
            raise TypeError(f"engine_config: expected a planish.EngineConfig, found {engine_config!r}")
        self._engine = _planish.Engine(os.fspath(model_path), engine_config or EngineConfig(), talks(log_level))

    @refusing(_CALLING)
    def infer(
        self,
        prompts: Prompt | Sequence[Prompt],
        gen_config: GenerationConfig | Sequence[GenerationConfig] | None = None,
        do_preprocess: bool | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answers prompts, all in one batch; calling the pipeline does the same.

        prompts: a text, a list of messages (one conversation: dicts with "role" and "content"), a list of token ids; or a
            list of these.
        gen_config: a GenerationConfig for all, or one for each prompt; greedy, at most 512 tokens, unless given.
        do_preprocess: True puts a text into the model's chat template, as the user's message; False leaves it as it is.
            None, the default, does so if the model has a template. Messages always need one, token ids never.
        tools: functions to show to the model, in OpenAI's form, where its template shows them.
        chat_template_kwargs: further variables of the template, such as {"enable_thinking": False}.

        Returns a Response for one prompt, and for a list of prompts a list in its order. With `n` above 1 it is always a
        list: the answers to the first prompt, then those to the second, …

        Raises ValueError or TypeError for arguments that cannot be, planish.Error for what fails later, and
        KeyboardInterrupt on Ctrl-C, which ends the run.
        """
        single, native = self._prompts(prompts, do_preprocess, tools, chat_template_kwargs)
        configs = _configs(gen_config, len(native))
        answers = [Response(*answer) for answer in self._engine.run(native, configs)]
        return answers[0] if single and configs[0].n == 1 else answers

    def __call__(self, prompts: Prompt | Sequence[Prompt],
                 gen_config: GenerationConfig | Sequence[GenerationConfig] | None = None,
                 do_preprocess: bool | None = None, **kwargs: Any) -> Any:
        """The same as `infer`."""
        return self.infer(prompts, gen_config=gen_config, do_preprocess=do_preprocess, **kwargs)

    @refusing(_CALLING)
    def stream_infer(
        self,
        prompts: Prompt | Sequence[Prompt],
        gen_config: GenerationConfig | Sequence[GenerationConfig] | None = None,
        do_preprocess: bool | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> Stream:
        """Answers prompts piece by piece: an iterator of Responses of all of them, told apart by `index` (and `choice`).

        The arguments are those of `infer`. The texts of a prompt's pieces, joined, are the text that `infer` gives; the
        last piece has a `finish_reason`.
        """
        _, native = self._prompts(prompts, do_preprocess, tools, chat_template_kwargs)
        return Stream(self._engine.stream(native, _configs(gen_config, len(native))))

    @property
    def info(self) -> dict[str, Any]:
        """What runs, and on what: architecture, device, max_model_len, max_batch, kv_dtype, vocab_size, notes."""
        return self._engine.info()

    def close(self) -> None:
        """Ends what is running, with an error for those who wait for it, and frees the model. Doing it twice is fine."""
        self._engine.close()

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prompts(self, prompts: Any, do_preprocess: bool | None, tools: Any,
                 variables: Any) -> tuple[bool, list[tuple[str, Any]]]:
        if do_preprocess is not None and not isinstance(do_preprocess, bool):
            raise TypeError(f"do_preprocess: expected True, False or None, found {do_preprocess!r}")
        if isinstance(prompts, Iterable) and not isinstance(prompts, (str, bytes, Mapping, Sequence)):
            prompts = list(prompts)
        single = isinstance(prompts, str) or _is_one(prompts)
        every = [prompts] if single else prompts
        if not isinstance(every, Sequence) or isinstance(every, bytes):
            raise TypeError(f"prompts: expected a text, messages, token ids, or a list of these, found {prompts!r:.60}")
        return single, [self._prompt(i, p, do_preprocess, tools, variables) for i, p in enumerate(every)]

    def _prompt(self, index: int, prompt: Any, do_preprocess: bool | None, tools: Any,
                variables: Any) -> tuple[str, Any]:
        has_chat = self._engine.has_chat()
        if isinstance(prompt, str):
            through = has_chat if do_preprocess is None else do_preprocess
            if not through and (tools or variables):
                raise ValueError("tools and chat_template_kwargs: expected a chat template that shows them, found none")
            if not through:
                return "text", prompt
            prompt = [{"role": "user", "content": prompt}]
        elif isinstance(prompt, Sequence) and prompt and all(isinstance(part, int) for part in prompt):
            return "ids", list(prompt)
        if not _is_messages(prompt):
            raise TypeError(f"prompts[{index}]: expected a text, messages or token ids, found {prompt!r:.60}")
        if not has_chat:
            raise ValueError("prompts: the model has no chat template; give texts, and do_preprocess=False")
        messages = [_message(f"prompts[{index}][{at}]", message) for at, message in enumerate(prompt)]
        return "chat", json.dumps({"messages": messages, "tools": tools, "variables": variables})


@refusing(_OPENING)
def pipeline(
    model_path: str | os.PathLike[str],
    engine_config: EngineConfig | None = None,
    log_level: str = "info",
) -> Pipeline:
    """Opens a model: a directory in Hugging Face layout, a `.gguf` file, or a hub id (which is fetched).

    engine_config: how it is run; see EngineConfig.
    log_level: "info" says on stderr what came out smaller than one might expect; "warning", "error" and "off" do not.

    >>> with pipeline("MODEL") as pipe:
    ...     for answer in pipe(["Hi, pls intro yourself", "Shanghai is"]):
    ...         print(answer.text)

    Raises planish.Error if the model cannot be read or does not fit.
    """
    return Pipeline(model_path, engine_config, log_level)


def _configs(given: Any, count: int) -> list[Any]:
    if given is None:
        given = GenerationConfig()
    configs = [given] * count if isinstance(given, GenerationConfig) else given
    if not isinstance(configs, Sequence) or not all(isinstance(c, GenerationConfig) for c in configs):
        raise TypeError(f"gen_config: expected a planish.GenerationConfig, or a list of them, found {given!r:.60}")
    if len(configs) != count:
        raise ValueError(f"gen_config: expected one for each of {count} prompts, found {len(configs)}")
    return list(configs)


def _is_messages(prompt: Any) -> bool:
    return (isinstance(prompt, Sequence) and not isinstance(prompt, (str, bytes)) and len(prompt) > 0
            and all(isinstance(part, Mapping) for part in prompt))


def _is_one(prompts: Any) -> bool:
    """Whether a list is one conversation, or one prompt's token ids."""
    if not isinstance(prompts, Sequence) or isinstance(prompts, bytes) or not prompts:
        return False
    return isinstance(prompts[0], (Mapping, int))


def _message(place: str, message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as templates know it: its content is one text."""
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str):
        raise ValueError(f'{place}: expected a message with a "role", found {dict(message)!r:.60}')
    if isinstance(content, Sequence) and not isinstance(content, (str, bytes)):
        for part in content:
            if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise ValueError(f'{place}: expected parts of type "text", found {part!r:.60}')
        content = "\n".join(part["text"] for part in content)
    if content is not None and not isinstance(content, str):
        raise TypeError(f'{place}: expected "content" to be a text, found {content!r:.60}')
    return {**message, "content": content or ""}
