// The range of f16, which queries are rounded to where keys are codes.
#pragma once

// The nearest number that f16 has room for; infinities and NaN stay what they are.
__device__ __forceinline__ float within_f16(float x) {
    return fabsf(x) < __builtin_huge_valf() ? fminf(fmaxf(x, -65504.0f), 65504.0f) : x;
}
