#!/usr/bin/env python3
"""Writes blocks.bin: random GGUF blocks of every supported type, and their f32 values by the `gguf` package.

    python make.py OUT.bin          (needs numpy and gguf)

Record, little endian: type number u32, blocks u32, block bytes, element values as f32. Five blocks per type; scale
fields are replaced by finite f16 numbers, a subnormal and a zero among them; everything else is random bits.
"""
import struct
import sys

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

BLOCKS = 5
# Byte offsets of the f16 fields of a block.
HALVES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.F16: [0],
}


def main():
    rng = np.random.default_rng(20240917)
    out = bytearray()
    for ty in [T.F32, T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q4_K, T.Q5_K, T.Q6_K]:
        size, width = GGML_QUANT_SIZES[ty]
        blocks = BLOCKS if size > 1 else 64
        raw = rng.integers(0, 256, (blocks, width), dtype=np.uint8)
        for at in HALVES.get(ty, []):
            halves = rng.normal(0, 0.02, blocks).astype(np.float16)
            halves[:3] = [-0.0371, 3e-7, 0.0]
            raw[:, at:at + 2] = halves.view(np.uint8).reshape(blocks, 2)
        if ty == T.F32:
            raw = rng.normal(0, 1, blocks).astype("<f4").view(np.uint8).reshape(blocks, width)
        if ty == T.BF16:
            top = rng.normal(0, 1, blocks).astype("<f4").view(np.uint32) >> 16
            raw = top.astype("<u2").view(np.uint8).reshape(blocks, width)
        values = dequantize(raw, ty).astype("<f4").reshape(-1)
        assert values.size == blocks * size and np.isfinite(values).all()
        out += struct.pack("<II", int(ty), blocks) + raw.tobytes() + values.tobytes()
    with open(sys.argv[1], "wb") as f:
        f.write(out)


if __name__ == "__main__":
    main()
