// The gate's nonlinearities, operation by operation as the CPU's definition has them; only exp may differ, in its last
// digit.
#pragma once

// `gelu`: GELU by tanh, x (1 + tanh(u)) / 2 = x / (1 + exp(-2u)); otherwise SiLU, x / (1 + exp(-x)).
__device__ __forceinline__ float activated(float x, bool gelu) {
    float cubed = __fmul_rn(__fmul_rn(__fmul_rn(0.044715f, x), x), x);
    float u = __fmul_rn(0.7978845608f, __fadd_rn(x, cubed));
    float exponent = gelu ? -2.0f * u : -x;
    return __fdiv_rn(x, __fadd_rn(1.0f, expf(exponent)));
}
