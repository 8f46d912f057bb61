#!/usr/bin/env bash
# Quantizes a model to INT8, compares it with the original and talks to it.
# MODEL=PATH|HUB_ID takes another model than the small one that this script fetches.
set -euo pipefail
cd "$(dirname "$0")/.."

planish=${PLANISH:-${CARGO_TARGET_DIR:-target}/release/planish}
[ -x "$planish" ] || { echo "error: $planish: expected the release binary; run 'make demo'" >&2; exit 1; }

model=${MODEL:-}
if [ -z "$model" ]; then
  model=$(scripts/fetch_model.sh models)
fi
if [ -d "$model" ]; then name=$(basename "$(cd "$model" && pwd)"); else name=$(basename "$model"); fi
# SmolLM2-135M-Instruct.Q4_1.gguf -> SmolLM2-135M-Instruct
name=$(printf '%s' "$name" | sed -E 's/\.gguf$//; s/[.-](Q[0-9][A-Z0-9_]*|B?F16|F32|GGUF)$//')
int8=demo/$name-INT8

started=$SECONDS
step() {
  printf '\n$ planish'
  local word
  for word in "$@"; do
    case "$word" in *" "*) printf ' "%s"' "$word" ;; *) printf ' %s' "$word" ;; esac
  done
  printf '\n'
  "$planish" "$@"
}

step quantize "$model" --work-dir "$int8" --overwrite
step compare "$model" "$int8" --windows 8 --window-len 512
step generate "$int8" --chat --max-new-tokens 64 \
  -p "Hi, pls intro yourself" \
  -p "What is 2 + 3?"

cat <<END

Done in $((SECONDS - started)) s. The INT8 model is in $int8. Go on with:
  $planish chat $int8
  $planish serve $int8        # OpenAI-compatible: http://127.0.0.1:23333, Swagger UI at /
  $planish generate $int8 --chat -p "Write a haiku about iron."
  $planish inspect $int8 --verify
  $planish compare $model $int8 --data FILE.txt
END
