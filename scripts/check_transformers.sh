#!/usr/bin/env bash
# Checkpoints that Planish writes, loaded by transformers with compressed-tensors: are the logits the same?
# Quantizes MODEL (a float model with safetensors) in every scheme of scripts/check_transformers.py and compares
# log-probabilities of the prompts' positions. Installs torch, transformers and compressed-tensors into VENV, or takes
# those of PYTHON. Not part of `make test`: it fetches some hundred megabytes.
set -euo pipefail
cd "$(dirname "$0")/.."

planish=${PLANISH:-${CARGO_TARGET_DIR:-target}/release/planish}
[ -x "$planish" ] || { echo "error: $planish: expected the release binary; run 'cargo build --release'" >&2; exit 1; }
# The tiny model of the tests has no tokenizer: its calibration is token ids.
[ -n "${MODEL:-}" ] || export CALIBRATION=${CALIBRATION:-crates/cli/tests/data/calibration.json}
model=${MODEL:-crates/eval/tests/data/base}
[ -f "$model/config.json" ] || { echo "error: MODEL=$model: expected a folder with config.json" >&2; exit 1; }

python=${PYTHON:-}
if [ -z "$python" ]; then
  venv=${VENV:-target/check-transformers}
  if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet torch==2.14.0 transformers==5.17.0 compressed-tensors==0.19.0 accelerate==1.11.0 \
      safetensors==0.8.0 numpy==2.4.6
  fi
  python=$venv/bin/python
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" scripts/check_transformers.py "$planish" "$model" "$work"
