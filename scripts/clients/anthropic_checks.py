"""Anthropic's SDK, unmodified: messages, streams, tools, counting, errors."""
import sys

import anthropic

from run_checks import KEY, MODEL, URL, WEATHER, raises, run

client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"name": "get_weather", "description": "The weather", "input_schema": WEATHER}


def check_message():
    answer = client.messages.create(model=MODEL, max_tokens=8, messages=HELLO, system="Be brief.")
    assert answer.content[0].type == "text" and answer.content[0].text
    assert answer.usage.input_tokens > 5 and 0 < answer.usage.output_tokens <= 8
    assert answer.stop_reason in ("max_tokens", "end_turn")


def check_stream():
    whole = client.messages.create(model=MODEL, max_tokens=12, messages=HELLO, extra_body={"temperature": 0})
    with client.messages.stream(model=MODEL, max_tokens=12, messages=HELLO, extra_body={"temperature": 0}) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text
    assert final.usage.output_tokens == whole.usage.output_tokens and final.stop_reason == whole.stop_reason


def check_tools():
    choice = {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True}
    answer = client.messages.create(model=MODEL, max_tokens=100, messages=HELLO, tools=[TOOL], tool_choice=choice)
    used = next(block for block in answer.content if block.type == "tool_use")
    assert answer.stop_reason == "tool_use" and used.input["city"] in ("Paris", "Oslo")
    result = {"type": "tool_result", "tool_use_id": used.id, "content": "sunny"}
    back = [*HELLO, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    assert client.messages.create(model=MODEL, max_tokens=4, messages=back, tools=[TOOL]).content
    with client.messages.stream(model=MODEL, max_tokens=100, messages=HELLO, tools=[TOOL], tool_choice=choice) as stream:
        streamed = stream.get_final_message()
    assert streamed.content[0].input["city"] in ("Paris", "Oslo")


def check_count():
    counted = client.messages.count_tokens(model=MODEL, messages=HELLO)
    assert counted.input_tokens == client.messages.create(model=MODEL, max_tokens=1, messages=HELLO).usage.input_tokens


def check_errors():
    error = raises(anthropic.NotFoundError, lambda: client.messages.create(model="nothing", max_tokens=2, messages=HELLO))
    assert "does not exist" in str(error)
    raises(anthropic.BadRequestError, lambda: client.messages.create(model=MODEL, max_tokens=0, messages=HELLO))
    with client.messages.stream(model=MODEL, max_tokens=500, messages=HELLO) as stream:
        next(iter(stream))


run(sys.modules["__main__"])
