#!/usr/bin/env bash
# Speeds of the demo's model, in float and in INT8 (made by `make demo`), on one thread and on two, then each kernel
# against the peaks of this machine measured in the same run.
set -euo pipefail
cd "$(dirname "$0")/.."
planish=${PLANISH:-target/release/planish}
model=${MODEL:-$(scripts/fetch_model.sh models)}
for m in "$model" demo/*-INT8; do
  [ -e "$m" ] || continue
  for threads in 1 2; do
    for shape in "512 2" "16 129"; do
      read -r input output <<<"$shape"
      echo "== $m, $threads thread(s), $input in, $output out"
      "$planish" bench latency "$m" --threads "$threads" --input-len "$input" --output-len "$output" --rounds 5
    done
  done
done
cargo bench --package planish-cpu --bench kernels
cargo bench --package planish-cpu --bench kernels_float
