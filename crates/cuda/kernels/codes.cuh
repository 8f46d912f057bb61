// 8-bit codes of f32 values, bit for bit as planish_tensor::q8 defines them: to nearest even, saturating.
#pragma once

// What rows are turned into. The _BITS kinds encode FP8 by integer arithmetic, as chips before sm_89 must.
enum Kind { PLAIN = 0, INT8 = 1, E4M3 = 2, E5M2 = 3, E4M3_BITS = 4, E5M2_BITS = 5 };

// An FP8 code with M bits of mantissa: the magnitude is rounded to a multiple of the step of its binade.
template <int M>
__device__ __forceinline__ unsigned fp8_by_bits(float x) {
    const float largest = M == 3 ? 448.f : 57344.f;
    const int lowest = (M == 3 ? -6 : -14) + 127;
    unsigned sign = __float_as_uint(x) >> 24 & 0x80u;
    float y = fminf(fabsf(x), largest);
    int exponent = max(static_cast<int>(__float_as_uint(y) >> 23), lowest);
    // One over the step, a power of two: the product is exact.
    float per_step = __uint_as_float(static_cast<unsigned>(254 + M - exponent) << 23);
    unsigned multiple = static_cast<unsigned>(__float2int_rn(__fmul_rn(y, per_step)));
    // A multiple of 2^(M+1) carries into the exponent field by plain addition.
    return sign | ((static_cast<unsigned>(exponent - lowest) << M) + multiple);
}

template <int M>
__device__ __forceinline__ unsigned fp8_pair(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    unsigned short pair;
    if (M == 3) {
        asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
    } else {
        asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
    }
    return pair;
#else
    return fp8_by_bits<M>(low) | fp8_by_bits<M>(high) << 8;
#endif
}

__device__ __forceinline__ unsigned int8_quad(float4 u) {
    int a = __float2int_rn(u.x), b = __float2int_rn(u.y), c = __float2int_rn(u.z), d = __float2int_rn(u.w);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 720
    unsigned high, quad;
    asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, 0;" : "=r"(high) : "r"(d), "r"(c));
    asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, %3;" : "=r"(quad) : "r"(b), "r"(a), "r"(high));
    return quad;
#else
    auto byte = [](int v) { return static_cast<unsigned>(min(max(v, -128), 127)) & 0xffu; };
    return byte(a) | byte(b) << 8 | byte(c) << 16 | byte(d) << 24;
#endif
}

// Four codes of values in units of their scale, the first in the lowest byte. None may be NaN.
template <int KIND>
__device__ __forceinline__ unsigned encode4(float4 u) {
    if (KIND == INT8) return int8_quad(u);
    if (KIND == E4M3) return fp8_pair<3>(u.x, u.y) | fp8_pair<3>(u.z, u.w) << 16;
    if (KIND == E5M2) return fp8_pair<2>(u.x, u.y) | fp8_pair<2>(u.z, u.w) << 16;
    constexpr int M = KIND == E4M3_BITS ? 3 : 2;
    return fp8_by_bits<M>(u.x) | fp8_by_bits<M>(u.y) << 8 | fp8_by_bits<M>(u.z) << 16 | fp8_by_bits<M>(u.w) << 24;
}

// Value of a token's largest magnitude in units of its scale.
__device__ __forceinline__ float activation_range(int kind) {
    return kind == INT8 ? 127.f : (kind == E4M3 || kind == E4M3_BITS) ? 448.f : 57344.f;
}
