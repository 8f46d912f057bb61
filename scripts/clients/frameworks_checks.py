"""langchain-openai, litellm and instructor, unmodified."""
import os
import sys
from typing import Literal

os.environ.update(LANGSMITH_TRACING="false", LITELLM_LOCAL_MODEL_COST_MAP="True")

import instructor
import litellm
import openai
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

from run_checks import KEY, MODEL, URL, raises, run

litellm.telemetry = False
HELLO = [{"role": "user", "content": "Hello"}]
WAY = {"base_url": f"{URL}/v1", "api_key": KEY, "model": MODEL, "max_retries": 0}


class Answer(BaseModel):
    """A mood."""

    mood: Literal["good", "bad"]
    sure: bool


@tool
def get_weather(city: Literal["Paris", "Oslo"]) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


def check_langchain_chat():
    chat = ChatOpenAI(**WAY, max_tokens=12, temperature=0, stream_usage=True)
    whole = chat.invoke("Hello")
    parts = list(chat.stream("Hello"))
    assert whole.content and "".join(part.content for part in parts) == whole.content
    assert whole.usage_metadata["output_tokens"] == sum((p.usage_metadata or {}).get("output_tokens", 0) for p in parts)
    assert [answer.content for answer in chat.batch(["Hello", "Hello"])] == [whole.content] * 2


def check_langchain_tools_and_structure():
    chat = ChatOpenAI(**WAY, max_tokens=100, temperature=0)
    bound = chat.bind_tools([get_weather], tool_choice="get_weather", parallel_tool_calls=False)
    answer = bound.invoke("The weather in Paris?")
    call = answer.tool_calls[0]
    assert call["name"] == "get_weather" and call["args"]["city"] in ("Paris", "Oslo")
    back = [HumanMessage("The weather in Paris?"), answer, ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])]
    assert chat.invoke(back).response_metadata["finish_reason"]
    for method in ("json_schema", "function_calling"):
        assert isinstance(chat.with_structured_output(Answer, method=method).invoke("How are you?"), Answer), method


def check_langchain_completions():
    assert OpenAI(**WAY, max_tokens=4).invoke("Paris is")


def check_litellm():
    way = {"model": f"openai/{MODEL}", "api_base": f"{URL}/v1", "api_key": KEY, "num_retries": 0, "max_tokens": 12, "temperature": 0}
    whole = litellm.completion(messages=HELLO, **way)
    assert whole.choices[0].message.content and whole.usage.completion_tokens <= 12
    parts = litellm.completion(messages=HELLO, stream=True, **way)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == whole.choices[0].message.content
    structured = litellm.completion(messages=HELLO, response_format=Answer, **{**way, "max_tokens": 60})
    Answer.model_validate_json(structured.choices[0].message.content)
    theirs = {**way, "model": f"anthropic/{MODEL}", "api_base": URL}
    assert litellm.completion(messages=HELLO, **theirs).choices[0].message.content
    raises(litellm.exceptions.BadRequestError, lambda: litellm.completion(messages=HELLO, **{**way, "max_tokens": 10**6}))


def check_instructor():
    client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
    # Mode.JSON asks for any JSON object, which a small model gets wrong: these two hold it to the schema.
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        wrapped = instructor.from_openai(client, mode=mode)
        answer = wrapped.chat.completions.create(
            model=MODEL, messages=HELLO, response_model=Answer, max_tokens=120, max_retries=0, temperature=0
        )
        assert isinstance(answer, Answer), mode


run(sys.modules["__main__"])
