"""Hooks for schemathesis: errors have OpenAI's shape, and nothing of the machine is in them; most requests name the model
that is served, or they would all end at its name."""
import os
import re

import schemathesis

LEAKS = re.compile(r"0x[0-9a-f]{6,}|/root|/home|/work|\.rs:|panicked")


MODEL = os.environ.get("PLANISH_MODEL", "tiny")


@schemathesis.hook
def map_body(ctx, body):
    if isinstance(body, dict) and isinstance(body.get("model"), str) and len(body["model"]) % 8:
        body["model"] = MODEL
    return body


@schemathesis.check
def openai_error_shape(ctx, response, case):
    if response.status_code < 400 or case.method == "HEAD":
        return
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    assert isinstance(error["message"], str) and error["message"] and isinstance(error["type"], str), error
    assert error["code"] is None or isinstance(error["code"], str), error
    assert not LEAKS.search(response.text), response.text
