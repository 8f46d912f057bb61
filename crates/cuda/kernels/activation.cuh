// The gate's nonlinearities, the same in every kernel. The CPU's definition, with the chip's own exp2 and reciprocal: a
// product's epilogue computes this for each of its results while the tensor cores wait, and exact forms of both take
// four times the instructions. The error is a few units in the last place.
#pragma once

// `gelu`: GELU by tanh, x (1 + tanh(u)) / 2 = x / (1 + exp(-2u)); otherwise SiLU, x / (1 + exp(-x)).
__device__ __forceinline__ float activated(float x, bool gelu) {
    float cubed = __fmul_rn(__fmul_rn(__fmul_rn(0.044715f, x), x), x);
    float u = __fmul_rn(0.7978845608f, __fadd_rn(x, cubed));
    const float log2_e = 1.4426950409f;
    float exponent = gelu ? __fmul_rn(-2.0f * log2_e, u) : __fmul_rn(-log2_e, x), power, inverse;
    asm("ex2.approx.f32 %0, %1;" : "=f"(power) : "f"(exponent));
    asm("rcp.approx.f32 %0, %1;" : "=f"(inverse) : "f"(__fadd_rn(1.0f, power)));
    return __fmul_rn(x, inverse);
}
