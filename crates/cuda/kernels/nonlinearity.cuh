// The nonlinearities of MLPs, nearly to the last bit of the definition. (`activation.cuh` has a quicker form for the
// epilogues of products.)
#pragma once

enum Act { SILU = 0, GELU_TANH = 1, GELU = 2, RELU = 3 };

// x / (1 + exp(-u)). The quotient is corrected once after a reciprocal that is exact but for its last bit.
__device__ __forceinline__ float sigmoid_product(float x, float u) {
    float d = __fadd_rn(1.f, expf(-u)), r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(d));
    r = fmaf(fmaf(-d, r, 1.f), r, r);
    float q = __fmul_rn(x, r);
    // An infinite quotient has no correction.
    if (fabsf(q) <= 3.4028234e38f) q = fmaf(fmaf(-q, d, x), r, q);
    // Beyond, the reciprocal is 0 and its correction no number; -infinity and NaN must stay NaN.
    return d < 0x1p126f ? q : __fmul_rn(x, 0.f);
}

template <int ACT>
__device__ __forceinline__ float activate(float x) {
    if (ACT == SILU) return sigmoid_product(x, x);
    // x (1 + erf(x / sqrt(2))) / 2; the complement keeps the digits that 1 + erf loses near -1.
    if (ACT == GELU) return x == -INFINITY ? __fmul_rn(x, 0.f) : __fmul_rn(__fmul_rn(0.5f, x), erfcf(__fmul_rn(x, -0.70710678f)));
    if (ACT == RELU) return x < 0.f ? 0.f : x;
    // sqrt(2 / pi) (x + 0.044715 x x x), rounded after every step as the definition is, the root too.
    float cube = __fmul_rn(__fmul_rn(__fmul_rn(0.044715f, x), x), x);
    float u = __fmul_rn(0.79788452f, __fadd_rn(x, cube));
    return sigmoid_product(x, __fmul_rn(2.f, u));
}
