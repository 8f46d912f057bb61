#!/usr/bin/env bash
# Puts nvcc 13.0 (from pinned wheels, about 500 MB unpacked) under target/nvcc, where the build of crates/cuda looks
# for it, and prints its CUDA_HOME. Needs Python 3 with pip; no GPU and no driver. Does nothing if it is there already.
set -euo pipefail
cd "$(dirname "$0")/.."

wheels=(
  nvidia-cuda-nvcc==13.0.88
  nvidia-nvvm==13.0.88
  nvidia-cuda-crt==13.0.88
  nvidia-cuda-runtime==13.0.96
  nvidia-cuda-cccl==13.0.85
  nvidia-cuda-nvrtc-cu12==12.9.86
)
to=target/nvcc
mark=$to/wheels.txt

if [ "$(cat "$mark" 2>/dev/null)" != "${wheels[*]}" ]; then
  rm -rf "$to" "$to.part"
  mkdir -p "$to.part"
  echo "installing nvcc 13.0 into $to" >&2
  python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$to.part" "${wheels[@]}" >&2
  chmod +x "$to.part"/nvidia/cu13/bin/* "$to.part"/nvidia/cu13/nvvm/bin/* 2>/dev/null || true
  echo "${wheels[*]}" >"$to.part/wheels.txt"
  mv "$to.part" "$to"
  touch crates/cuda/build.rs # the build looks for nvcc again
fi
echo "$PWD/$to/nvidia/cu13"
