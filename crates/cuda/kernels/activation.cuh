// The gate's nonlinearities, the same in every kernel. The CPU's definition, with the chip's own exp2 and reciprocal: a
// product's epilogue computes this for each of its results while the tensor cores wait, and exact forms of both take
// four times the instructions. The error is a few units in the last place; where the power overflows, 0 is returned.
#pragma once

// Of N values at once, so that each waits for none of the others. `gelu`: GELU by tanh, x (1 + tanh(u)) / 2 =
// x / (1 + exp(-2u)); otherwise SiLU, x / (1 + exp(-x)).
template <int N> __device__ __forceinline__ void activate_all(float (&x)[N], bool gelu) {
    const float log2_e = 1.4426950409f;
    float y[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const float cubed = __fmul_rn(__fmul_rn(__fmul_rn(0.044715f, x[i]), x[i]), x[i]);
        const float u = __fmul_rn(0.7978845608f, __fadd_rn(x[i], cubed));
        y[i] = gelu ? __fmul_rn(-2.0f * log2_e, u) : __fmul_rn(-log2_e, x[i]);
    }
    // What is too small for a normal number counts as 0: beside the 1 it does anyway.
#pragma unroll
    for (int i = 0; i < N; ++i) asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(y[i]));
#pragma unroll
    for (int i = 0; i < N; ++i) y[i] = __fadd_rn(1.0f, y[i]);
#pragma unroll
    for (int i = 0; i < N; ++i) asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(y[i]));
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = __fmul_rn(x[i], y[i]);
}

__device__ __forceinline__ float activated(float x, bool gelu) {
    float one[1] = {x};
    activate_all(one, gelu);
    return one[0];
}
