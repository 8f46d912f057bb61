"""Runs every check_* function of a module against the server named by PLANISH_URL; `N passed, N failed` at the end."""
import asyncio
import inspect
import json
import os
import sys
import traceback
import urllib.request

URL = os.environ.get("PLANISH_URL", "http://127.0.0.1:23333")
MODEL = os.environ.get("PLANISH_MODEL", "smol")
KEY = os.environ.get("PLANISH_KEY", "none")
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


def run(module):
    passed, failed = 0, 0
    for name, check in list(vars(module).items()):
        if not name.startswith("check_"):
            continue
        try:
            outcome = check()
            if inspect.isawaitable(outcome):
                asyncio.run(outcome)
            passed += 1
            print(f"ok   {name}")
        except Exception:
            failed += 1
            print(f"FAIL {name}\n{traceback.format_exc()}")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


def fetch(path, body=None):
    """The answer to a plain request, which must be a success."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(URL + path, data, headers)) as answer:
        return answer.read().decode()


def raises(kind, call):
    """The exception that the call must end with."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}, found a success")
