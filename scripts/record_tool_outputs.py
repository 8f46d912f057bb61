#!/usr/bin/env python3
"""Records what a model writes when it is offered tools in each format, for `crates/serve/tests/tools/recorded.rs`.

    scripts/record_tool_outputs.py URL crates/serve/tests/data/outputs

URL is `planish serve` with SmolLM2-135M-Instruct. For each format 200 raw outputs are written, one a line: 50 free, 60 that were made to
begin a call and went on as the model pleased, 60 held to the format to the end, 30 broken off; no two are the same. Needs nothing but
Python."""
import json
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TOOLS = {
    "get_weather": {"city": "string", "days": "integer"},
    "search-web": {"query": "string", "site": "string"},
    "sum.up": {"numbers": "list of numbers"},
    "send_mail": {"to": "string", "subject": "string", "body": "string"},
}
QUESTIONS = [
    "What is the weather in Paris tomorrow?",
    "Is it raining in 東京 and in São Paulo?",
    "Find pages about \"crab\" 🦀 recipes.",
    "Who won the world cup in 2018?",
    "Add 3, 4.5 and -1e3.",
    "Tell anna@example.org that I am late, please.",
    "Schreibe an max@example.org: Grüße aus Köln!",
    "Look up C:\\Temp on example.org and then tell me the weather in Rome.",
    "How are you?",
    "Write a mail with two lines to Bob <bob@example.org>.",
    "What is 2 + 2? Use a tool.",
    "Which tools do you have?",
]
# A JSON text and a flat JSON object, as regular expressions.
STRING = r'"([^"\\\x00-\x1f]|\\["\\/bnt]){0,60}"'
VALUE = rf'({STRING}|-?[0-9]{{1,6}}(\.[0-9]{{1,3}})?|true|null|\[({STRING}(, {STRING}){{0,2}})?\])'
OBJECT = rf'\{{({STRING}: {VALUE}(, {STRING}: {VALUE}){{0,2}})?\}}'
NAME = "(" + "|".join(name.replace(".", r"\.") for name in [*TOOLS, "unknown_tool"]) + ")"
PREAMBLE = r"([A-Z][^<\[{|]{0,80}[.:]\n)?"


def call(key):
    """A call as a JSON object."""
    return rf'\{{"name": "{NAME}", "{key}": {OBJECT}\}}'


# What each format says of itself; an example; the beginning of a call; one to three whole calls.
FORMATS = {
    "hermes": (
        "For each function call return a JSON object with function name and arguments within <tool_call></tool_call> XML tags.",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo", "days": 2}}\n</tool_call>',
        r"<tool_call>\n?",
        rf"<tool_call>\n{call('arguments')}\n</tool_call>(\n<tool_call>\n{call('arguments')}\n</tool_call>){{0,2}}|<tool_call>\[{call('arguments')}, {call('arguments')}\]</tool_call>",
    ),
    "llama3": (
        'Respond with a JSON for a function call, {"name": function name, "parameters": dictionary of argument name and its value}.',
        '{"name": "get_weather", "parameters": {"city": "Oslo", "days": 2}}',
        r'(<\|python_tag\|>)?\{"name": "',
        rf"(<\|python_tag\|>)?{call('parameters')}(; {call('parameters')}|\n{call('parameters')}){{0,2}}",
    ),
    "mistral": (
        "Call tools with [TOOL_CALLS] followed by a JSON list of calls.",
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Oslo", "days": 2}}]',
        rf"\[TOOL_CALLS\]( ?\[\{{\"name\": \"|{NAME}\[ARGS\])",
        rf"\[TOOL_CALLS\] ?\[{call('arguments')}(, {call('arguments')}){{0,2}}\]|(\[TOOL_CALLS\]{NAME}\[ARGS\]{OBJECT}){{1,3}}",
    ),
    "internlm2": (
        "Call plugins with <|action_start|><|plugin|>, a JSON object, and <|action_end|>.",
        '<|action_start|><|plugin|>\n{"name": "get_weather", "parameters": {"city": "Oslo", "days": 2}}<|action_end|>',
        r"<\|action_start\|> ?<\|plugin\|>\n?",
        rf"(<\|action_start\|><\|plugin\|>\n{call('parameters')}<\|action_end\|>\n?){{1,3}}",
    ),
}


def prompt(name, question):
    """A conversation with an example of a call in it, in SmolLM2's template."""
    rule, example = FORMATS[name][:2]
    tools = "\n".join(json.dumps({"name": tool, "parameters": given}) for tool, given in TOOLS.items())
    turns = [("system", f"You can call functions:\n{tools}\n{rule}"), ("user", "What is the weather in Oslo until tomorrow?"), ("assistant", example),
             ("user", question)]
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns) + "<|im_start|>assistant\n"


def plans(name):
    """How each output is made: a word for it, which question, temperature, seed, regular expression, most tokens."""
    begin, whole = FORMATS[name][2:]
    for number in range(200):
        question, kind = number % len(QUESTIONS), number // 10
        if kind < 5:
            yield "free", question, 0.0 if number < len(QUESTIONS) else 0.8, number, None, 120
        elif kind < 11:
            yield "begun", question, 0.8 if number % 2 else 1.3, number, rf"{PREAMBLE}{begin}[\s\S]*", 100
        elif kind < 17:
            yield "held", question, 1.0, number, rf"{PREAMBLE}({whole})", 250
        else:
            yield "broken off", question, 1.0, number, rf"{PREAMBLE}({whole})", 3 + 2 * (number - 170)


def ask(url, name, plan):
    """One output, with how it was made."""
    kind, question, temperature, seed, regex, most = plan
    body = {"prompt": prompt(name, QUESTIONS[question]), "temperature": temperature, "seed": seed, "max_tokens": most, "skip_special_tokens": True}
    if regex:
        body["response_format"] = {"type": "regex", "regex": regex}
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            text = json.load(answer)["choices"][0]["text"]
    except urllib.error.HTTPError as error:
        sys.exit(f"{name}, {kind}: {error.read().decode()}")
    return {"how": kind, "question": question, "temperature": temperature, "seed": seed, "text": text}


def record(url, name):
    """The outputs of a format; one that came before is made again with another seed."""
    with ThreadPoolExecutor(16) as pool:
        outputs = list(pool.map(lambda plan: ask(url, name, plan), plans(name)))
    seen = set()
    for number, plan in enumerate(plans(name)):
        kind, question, temperature, seed, *rest = plan
        while outputs[number]["text"] in seen:
            seed += 1000
            outputs[number] = ask(url, name, (kind, question, max(temperature, 0.8), seed, *rest))
        seen.add(outputs[number]["text"])
    return outputs


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    url, folder = sys.argv[1:]
    for name in FORMATS:
        lines = [json.dumps(output, ensure_ascii=False) for output in record(url, name)]
        (Path(folder) / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))
        print(name, len(lines), "outputs,", sum(map(len, lines)), "characters")
