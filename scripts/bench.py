#!/usr/bin/env python3
"""Times `planish generate` on one model or several: reading a prompt, writing one answer, writing eight at once.

Usage: scripts/bench.py PLANISH MODEL...      Standard library only. Speeds are medians of three runs.
"""
import json
import statistics
import subprocess
import sys

RUNS = 3
# What is timed: (name, prompts in the batch, prompt tokens each, new tokens each, which tokens are counted)
CASES = [
    ("prompt of 512", 1, 512, 1, "prompt_tokens"),
    ("decode, 1 sequence", 1, 16, 128, "completion_tokens"),
    ("decode, 8 sequences", 8, 16, 128, "completion_tokens"),
]


def generate(planish, model, sequences, prompt_len, new_tokens):
    """One run; returns the parsed JSON document."""
    command = [planish, "generate", model, "--json", "--ignore-eos", "--max-new-tokens", str(new_tokens)]
    if sequences == 1:
        ids = " ".join(str(100 + i % 400) for i in range(prompt_len))
        command += ["--input-ids", ids]
    else:
        for i in range(sequences):
            command += ["-p", f"{i} " + "one " * prompt_len]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(command[:3])}: exit status {done.returncode}")
    return json.loads(done.stdout)


def main():
    if len(sys.argv) < 3:
        sys.exit("usage: scripts/bench.py PLANISH MODEL...")
    planish, models = sys.argv[1], sys.argv[2:]
    print(f"{'model':<44} {'what':<22} {'tokens/s':>10}")
    for model in models:
        for name, sequences, prompt_len, new_tokens, counted in CASES:
            speeds = []
            for _ in range(RUNS):
                said = generate(planish, model, sequences, prompt_len, new_tokens)
                speeds.append(said["usage"][counted] / said["seconds"])
            print(f"{model[-44:]:<44} {name:<22} {statistics.median(speeds):>10.1f}")


if __name__ == "__main__":
    main()
