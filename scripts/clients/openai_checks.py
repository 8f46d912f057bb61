"""openai-python, unmodified: chat, streams, usage, tools, parse, Responses, completions, errors, abort."""
import json
import sys
import time
from typing import Literal

import openai
from pydantic import BaseModel

from run_checks import KEY, MODEL, URL, WEATHER, fetch, raises, run

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
HELLO = [{"role": "user", "content": "What is the capital of France?"}]
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "The weather", "strict": True, "parameters": WEATHER}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}


class Answer(BaseModel):
    """Short enough that every value of it fits."""

    mood: Literal["good", "bad"]
    sure: bool


def ask(**more):
    return client.chat.completions.create(**{"model": MODEL, "messages": HELLO, "max_tokens": 16, "temperature": 0, **more})


def check_models():
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL
    assert raises(openai.NotFoundError, lambda: client.models.retrieve("nothing")).code == "model_not_found"


def check_chat_and_usage():
    answer = ask()
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.prompt_tokens > 5 and 0 < usage.completion_tokens <= 16
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def check_stream_says_the_same():
    whole = ask()
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason


def check_stream_helper():
    # The package refuses an answer that reached its length, so this one ends at a word that the model is known to say.
    short = {"stop": [max(ask().choices[0].message.content.split()[1:], key=len)]}
    with client.chat.completions.stream(model=MODEL, messages=HELLO, max_tokens=16, temperature=0, **short) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds, kinds
    assert final.choices[0].message.content == ask(**short).choices[0].message.content


async def check_async_client():
    async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY) as other:
        stream = await other.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=8, stream=True)
        assert [chunk async for chunk in stream][-1].choices[0].finish_reason


def check_sampling_fields():
    several = ask(n=3, temperature=1.2, seed=7, top_p=0.9, presence_penalty=0.5, frequency_penalty=0.5, stop=["\n\n"])
    again = ask(n=3, temperature=1.2, seed=7, top_p=0.9, presence_penalty=0.5, frequency_penalty=0.5, stop=["\n\n"])
    texts = [choice.message.content for choice in several.choices]
    assert len(texts) == 3 and texts == [choice.message.content for choice in again.choices]
    longest = ask(max_tokens=openai.omit, max_completion_tokens=5, extra_body={"ignore_eos": True, "top_k": 5, "min_p": 0.1})
    assert longest.usage.completion_tokens == 5 and longest.choices[0].finish_reason == "length"


def check_logprobs():
    tokens = ask(logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert tokens and all(len(token.top_logprobs) == 3 for token in tokens)
    for token in tokens:
        assert token.logprob == token.top_logprobs[0].logprob and bytes(token.bytes).decode(errors="replace") == token.token


def check_named_and_required_tools():
    for choice in (NAMED, "required"):
        answer = ask(tools=[TOOL], tool_choice=choice, parallel_tool_calls=False, max_tokens=100)
        assert answer.choices[0].finish_reason == "tool_calls"
        call = answer.choices[0].message.tool_calls[0]
        arguments = json.loads(call.function.arguments)
        assert call.function.name == "get_weather" and arguments["city"] in ("Paris", "Oslo"), arguments
    back = [*HELLO, answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    assert ask(messages=back, tools=[TOOL]).choices[0].finish_reason


def check_tools_are_streamed():
    with client.chat.completions.stream(
        model=MODEL, messages=HELLO, tools=[TOOL], tool_choice=NAMED, parallel_tool_calls=False, max_tokens=100
    ) as stream:
        kinds = [event.type for event in stream]
        call = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert "tool_calls.function.arguments.delta" in kinds and "tool_calls.function.arguments.done" in kinds, set(kinds)
    assert call.function.parsed_arguments["city"] in ("Paris", "Oslo")


def check_tool_choice_none_and_auto():
    assert ask(tools=[TOOL], tool_choice="none").choices[0].message.tool_calls is None
    assert ask(tools=[TOOL], tool_choice="auto").choices[0].finish_reason in ("stop", "length", "tool_calls")


def check_parse():
    answer = client.chat.completions.parse(model=MODEL, messages=HELLO, response_format=Answer, max_tokens=60, temperature=0)
    assert isinstance(answer.choices[0].message.parsed, Answer)
    tool = openai.pydantic_function_tool(Answer, name="answer")
    called = client.chat.completions.parse(
        model=MODEL, messages=HELLO, tools=[tool], tool_choice="required", parallel_tool_calls=False, max_tokens=100, temperature=0
    )
    assert isinstance(called.choices[0].message.tool_calls[0].function.parsed_arguments, Answer)
    # Blanks and lines are allowed in an object, so that a small model may not come to its end: those that do are objects.
    answers = ask(response_format={"type": "json_object"}, max_tokens=200, temperature=0.7, n=8, seed=1).choices
    ended = [json.loads(choice.message.content) for choice in answers if choice.finish_reason == "stop"]
    assert ended and all(isinstance(value, dict) for value in ended), [choice.message.content for choice in answers]


def check_responses():
    answer = client.responses.create(model=MODEL, input="Hi", max_output_tokens=8)
    assert answer.output_text and answer.usage.output_tokens <= 8
    # Short enough to come to its end: of an answer that was cut, the helper has no final response.
    with client.responses.stream(model=MODEL, input="Hi", text_format=Answer, max_output_tokens=60, temperature=0) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text and isinstance(final.output_parsed, Answer)
    parsed = client.responses.parse(model=MODEL, input="Hi", text_format=Answer, max_output_tokens=60, temperature=0)
    assert isinstance(parsed.output_parsed, Answer)
    tool = {"type": "function", "name": "get_weather", "strict": True, "parameters": WEATHER}
    called = client.responses.create(model=MODEL, input="Hi", tools=[tool], tool_choice="required", max_output_tokens=100, temperature=0)
    call = next(item for item in called.output if item.type == "function_call")
    assert json.loads(call.arguments)["city"] in ("Paris", "Oslo")
    assert raises(openai.BadRequestError, lambda: client.responses.create(model=MODEL, input="Hi", previous_response_id="r"))


def check_completions():
    one = client.completions.create(model=MODEL, prompt="Paris is", max_tokens=4, temperature=0)
    ids = json.loads(fetch("/tokenize", {"prompt": "Paris is"}))["tokens"]
    for prompt in (["Paris is"] * 2, ids, [ids, ids]):
        many = client.completions.create(model=MODEL, prompt=prompt, max_tokens=4, temperature=0)
        assert all(choice.text == one.choices[0].text for choice in many.choices)
    scored = client.completions.create(model=MODEL, prompt="Paris is", max_tokens=1, temperature=0, echo=True, logprobs=1)
    found = scored.choices[0].logprobs
    assert found.token_logprobs[0] is None and len(found.tokens) == len(ids) + 1
    assert all(best is None or chosen <= max(best.values()) for chosen, best in zip(found.token_logprobs[1:], found.top_logprobs[1:]))


def check_errors():
    error = raises(openai.NotFoundError, lambda: ask(model="nothing"))
    assert (error.status_code, error.code, error.param) == (404, "model_not_found", "model")
    assert raises(openai.BadRequestError, lambda: ask(temperature=9)).param == "temperature"
    assert raises(openai.BadRequestError, lambda: ask(max_tokens=10**6)).code == "context_length_exceeded"
    assert raises(openai.BadRequestError, lambda: ask(prediction={"type": "content", "content": "x"})).param == "prediction"
    raises(openai.BadRequestError, lambda: client.embeddings.create(model=MODEL, input="x"))
    if KEY != "none":
        wrong = openai.OpenAI(base_url=f"{URL}/v1", api_key="wrong", max_retries=0)
        raises(openai.AuthenticationError, lambda: wrong.models.list())


def check_abort_frees_the_pages():
    stream = ask(stream=True, max_tokens=1500, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    for _ in range(2400):
        if "\nplanish_http_requests_inside 0\n" in fetch("/metrics"):
            return
        time.sleep(0.05)
    raise AssertionError("the request goes on")


run(sys.modules["__main__"])
