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
model=${model%/}
name=$(basename "$model")
name=${name%.gguf}
int8=demo/$name-INT8

started=$SECONDS
step() {
  printf '\n$ planish'
  printf ' %q' "$@"
  printf '\n'
  "$planish" "$@"
}

step quantize "$model" --work-dir "$int8" --overwrite
step compare "$model" "$int8" --windows "${DEMO_WINDOWS:-4}" --window-len "${DEMO_WINDOW_LEN:-512}"
step generate "$int8" --chat --max-new-tokens 64 \
  -p "Hi, pls intro yourself" \
  -p "What is the capital of France?"

cat <<END

Done in $((SECONDS - started)) s. The INT8 model is in $int8. Go on with:
  $planish chat $int8
  $planish generate $int8 --chat -p "Write a haiku about iron."
  $planish inspect $int8 --verify
  $planish compare $model $int8 --data FILE.txt
END
