#!/usr/bin/env bash
# Speeds of the demo's model, in float and in INT8 (made by `make demo`), then each kernel against the peaks of this
# machine measured in the same run. ROUNDS=N for more of each; the tables show medians beside the best.
set -euo pipefail
cd "$(dirname "$0")/.."
planish=${PLANISH:-target/release/planish}
model=${MODEL:-$(scripts/fetch_model.sh models)}
rounds=${ROUNDS:-5}

# row NAME MODEL FLAGS…: one measurement.
row() {
  echo "== $1: $2"
  "$planish" bench latency "$2" --rounds "$rounds" "${@:3}" --log-level error
}

# Seconds from start to the first token, best of so many, and the peak memory of the largest of them.
start() {
  python3 - "$planish" "$1" "$rounds" <<'PY'
import resource, subprocess, sys, time
planish, model, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
command = [planish, "generate", model, "-p", "Hi", "--max-new-tokens", "1", "--log-level", "error"]
def once():
    begin = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begin
times = sorted(once() for _ in range(rounds))
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(f"== start to the end of one token: {model}\nbest {times[0]:.3f} s, median {times[len(times) // 2]:.3f} s, peak memory {peak:.0f} MiB")
PY
}

schema=$(mktemp)
trap 'rm -f "$schema"' EXIT
python3 - >"$schema" <<'PY'
import json
kinds = [{"type": "string", "maxLength": 12}, {"type": "integer"}, {"type": "boolean"}]
fields = {f"field_{i}": kinds[i % 3] for i in range(30)}
print(json.dumps({"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}))
PY

for m in "$model" demo/*-INT8; do
  [ -e "$m" ] || continue
  for threads in 1 2; do
    for head in auto int8; do
      row "decode, $threads thread(s), head $head" "$m" --threads "$threads" --lm-head "$head" --input-len 16 --output-len 129
    done
    for input in 128 512 2048; do
      row "prefill $input, $threads thread(s)" "$m" --threads "$threads" --input-len "$input" --output-len 2
    done
    for batch in 8 32; do
      row "$batch sequences, $threads thread(s)" "$m" --threads "$threads" --batch "$batch" --input-len 128 --output-len 128
    done
  done
  row "shared prefix of 1024 tokens" "$m" --input-len 32 --output-len 2 --shared-prefix 1024
  row "JSON schema of 30 fields" "$m" --input-len 32 --output-len 256 --json-schema "$schema"
  echo "== engine overhead at 32 sequences: $m"
  "$planish" bench latency "$m" --rounds "$rounds" --batch 32 --input-len 128 --output-len 128 --json --log-level error |
    python3 -c 'import json, sys; print("outside the forward: %.2f %%" % (100 - 100 * json.load(sys.stdin)["forward_share"]))'
  start "$m"
done
cargo bench --package planish-cpu --bench kernels
cargo bench --package planish-cpu --bench kernels_float
