#!/usr/bin/env bash
# Everything that CI runs, in one go: format, lints, house rules, fixtures, tests, end-to-end tests with a real model.
# Every step runs even when one before it failed. The last line is `N passed, N failed, N skipped`.
set -euo pipefail
cd "$(dirname "$0")/.."

# A build from nothing gains nothing from incremental compilation and would keep gigabytes for it.
if [ -n "${CI:-}" ]; then export CARGO_INCREMENTAL=0; fi

free_disk() { df -Pk . | awk 'NR == 2 { printf "%.1f GiB of disk free\n", $4 / 1048576 }'; }
free_disk

failed_steps=()
step() {
  local name=$1
  shift
  printf '\n== %s: %s\n' "$name" "$*"
  "$@" || failed_steps+=("$name")
}

# Kernels are compiled for every architecture although no GPU is needed for it.
step nvcc scripts/fetch_nvcc.sh
step format cargo fmt --all --check
step lint cargo clippy --workspace --all-targets -- -D warnings
step tidy cargo xtask tidy
step golden cargo xtask golden

# The end-to-end tests read PLANISH_TEST_MODEL and print `skipped: no model` without it.
if [ -z "${PLANISH_TEST_MODEL:-}" ]; then
  if model=$(scripts/fetch_model.sh); then
    export PLANISH_TEST_MODEL=$model
  else
    echo "warning: no model; the end-to-end tests are skipped" >&2
  fi
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
# --show-output prints what passing tests said, which is where `skipped: …` lines come from.
run_tests() { cargo test --workspace --no-fail-fast -- --show-output 2>&1 | tee "$log"; }
step tests run_tests

# Real programs against the program that the tests have just built: those that install within a minute. `make test-clients`
# runs the others too.
run_clients() {
  PLANISH=${CARGO_TARGET_DIR:-target}/debug/planish MODEL=$PLANISH_TEST_MODEL scripts/test_clients.sh openai anthropic node schemathesis
}
if [ -n "${PLANISH_TEST_MODEL:-}" ]; then step clients run_clients; fi

# The Python package, built with what the tests have built; its tests are counted with them.
run_python() { PLANISH=${CARGO_TARGET_DIR:-target}/debug/planish PROFILE=dev scripts/test_python.sh 2>&1 | tee -a "$log"; }
step python run_python

# `test result: ok. 3 passed; 0 failed; 0 ignored; …`, one line per test binary.
read -r passed failed ignored < <(awk '
  /^test result: / { for (i = 2; i <= NF; i++) {
    if ($i ~ /^passed/) passed += $(i - 1)
    if ($i ~ /^failed/) failed += $(i - 1)
    if ($i ~ /^ignored/) ignored += $(i - 1) } }
  END { print passed + 0, failed + 0, ignored + 0 }' "$log")
said_skipped=$(grep -c '^skipped:' "$log" || true)
passed=$((passed - said_skipped))
skipped=$((ignored + said_skipped))

status=0
echo
free_disk
if [ ${#failed_steps[@]} -gt 0 ]; then
  echo "failed steps: ${failed_steps[*]}"
  status=1
fi
if [ "$failed" -gt 0 ]; then status=1; fi
if [ "$((passed + failed))" -le 0 ]; then
  echo "no test ran"
  status=1
fi
echo "$passed passed, $failed failed, $skipped skipped"
exit "$status"
