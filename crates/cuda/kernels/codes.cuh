// 8-bit codes of f32 values, bit for bit as planish_tensor::q8 defines them: to nearest even, saturating.
#pragma once
#include "quotients.cuh"

// What rows are turned into. The _BITS kinds encode FP8 by integer arithmetic, as chips before sm_89 must.
enum Kind { PLAIN = 0, INT8 = 1, E4M3 = 2, E5M2 = 3, E4M3_BITS = 4, E5M2_BITS = 5 };

// FP8 codes by integer arithmetic. Not inlined: for chips that do not multiply FP8 either.
__device__ __noinline__ unsigned fp8_quad_by_bits(float4 u, int kind) {
    if (kind == E4M3 || kind == E4M3_BITS) {
        return fp8_by_bits<3>(u.x) | fp8_by_bits<3>(u.y) << 8 | fp8_by_bits<3>(u.z) << 16 | fp8_by_bits<3>(u.w) << 24;
    }
    return fp8_by_bits<2>(u.x) | fp8_by_bits<2>(u.y) << 8 | fp8_by_bits<2>(u.z) << 16 | fp8_by_bits<2>(u.w) << 24;
}

// Four codes of values in units of their scale, the first in the lowest byte, with any sign of 0. None may be NaN, nor may
// a unit exceed the range by more than a rounding.
template <int KIND>
__device__ __forceinline__ unsigned encode4(float4 u) {
    if (KIND == INT8) return int8_quad(u);
    if (KIND == E4M3) return fp8_quad<3>(u);
    if (KIND == E5M2) return fp8_quad<2>(u);
    return fp8_quad_by_bits(u, KIND);
}

// Four codes of values on an ordinary scale.
template <int KIND>
__device__ __forceinline__ unsigned codes4(Scale scale, float4 v) {
    unsigned codes = encode4<KIND>(scale.quotients(v));
    return KIND == INT8 ? codes : codes | signs4(v);
}

// Value of a token's largest magnitude in units of its scale.
__device__ __forceinline__ float activation_range(int kind) {
    return kind == INT8 ? 127.f : (kind == E4M3 || kind == E4M3_BITS) ? 448.f : 57344.f;
}

// Four codes on a scale that is not ordinary: 0 if it is 0 or NaN. Not inlined: rarely needed, and long.
__device__ __noinline__ unsigned divided_codes(float4 v, float by, int kind) {
    if (!(by > 0.f)) return 0;
    float most = activation_range(kind), least = kind == INT8 ? -128.f : -most;
    auto unit = [&](float x) { return fminf(fmaxf(__fdiv_rn(x, by), least), most); };
    float4 u = {unit(v.x), unit(v.y), unit(v.z), unit(v.w)};
    return kind == INT8 ? int8_quad(u) : fp8_quad_by_bits(u, kind);
}
