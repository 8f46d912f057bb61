"""What the tests share: models, and the program that the package must agree with."""

import json
import os
import signal
import subprocess

from planish import EngineConfig

# Whatever runs these tests in the background may ignore the signal, and Python then raises nothing.
signal.signal(signal.SIGINT, signal.default_int_handler)

PROGRAM = os.environ["PLANISH"]
# A model of random weights whose tokens are the bytes, with a chat template.
TINY = os.environ["PLANISH_TINY"]
# The same without a chat template.
PLAIN = os.environ["PLANISH_PLAIN"]
# A real one.
REAL = os.environ.get("PLANISH_TEST_MODEL")


def config(**fields):
    """The program's own settings in these tests."""
    return EngineConfig(device="cpu", threads=1, **fields)


def program(*args):
    """What the program prints with --json."""
    command = [PROGRAM, *args, "--device", "cpu", "--threads", "1", "--log-level", "error", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if ran.returncode != 0:
        raise AssertionError(f"{command}: {ran.stderr}")
    return json.loads(ran.stdout)


def error_of_program(*args):
    """The line with which it fails, without `error: `."""
    command = [PROGRAM, *args, "--device", "cpu", "--threads", "1", "--log-level", "error"]
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert ran.returncode == 1, ran
    return ran.stderr.strip().removeprefix("error: ")


def generated(model, prompts, *flags):
    """The program's answers."""
    given = [part for prompt in prompts for part in ("-p", prompt)]
    return program("generate", model, *given, *flags)["results"]
