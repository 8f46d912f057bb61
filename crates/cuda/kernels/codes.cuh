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

// By adding 1.5 * 2^23, which leaves the integer in the low bits: no unit may be outside [-128.5, 127.5).
__device__ __forceinline__ unsigned int8_quad(float4 u) {
    auto bits = [](float v) { return __float_as_uint(__fadd_rn(v, 12582912.f)); };
    return __byte_perm(__byte_perm(bits(u.x), bits(u.y), 0x0040), __byte_perm(bits(u.z), bits(u.w), 0x0040), 0x5410);
}

// FP8 codes by integer arithmetic. Not inlined: for chips that do not multiply FP8 either.
__device__ __noinline__ unsigned fp8_quad_by_bits(float4 u, int kind) {
    if (kind == E4M3 || kind == E4M3_BITS) {
        return fp8_by_bits<3>(u.x) | fp8_by_bits<3>(u.y) << 8 | fp8_by_bits<3>(u.z) << 16 | fp8_by_bits<3>(u.w) << 24;
    }
    return fp8_by_bits<2>(u.x) | fp8_by_bits<2>(u.y) << 8 | fp8_by_bits<2>(u.z) << 16 | fp8_by_bits<2>(u.w) << 24;
}

// Four codes of values in units of their scale, the first in the lowest byte. None may be NaN, nor may a unit exceed the
// range by more than a rounding.
template <int KIND>
__device__ __forceinline__ unsigned encode4(float4 u) {
    if (KIND == INT8) return int8_quad(u);
    if (KIND == E4M3) return fp8_pair<3>(u.x, u.y) | fp8_pair<3>(u.z, u.w) << 16;
    if (KIND == E5M2) return fp8_pair<2>(u.x, u.y) | fp8_pair<2>(u.z, u.w) << 16;
    return fp8_quad_by_bits(u, KIND);
}

// Value of a token's largest magnitude in units of its scale.
__device__ __forceinline__ float activation_range(int kind) {
    return kind == INT8 ? 127.f : (kind == E4M3 || kind == E4M3_BITS) ? 448.f : 57344.f;
}

// Quotients by one scale, as division rounds them. Correcting x * (1 / scale) once gives the same bits as division
// does, if nothing underflows on the way (units below 2^-20 have the code 0 or -0 whatever their last bits); other scales
// are divided by. The correction loses the sign of -0.
struct Scale {
    float scale, inverse;

    __device__ __forceinline__ explicit Scale(float s) : scale(s), inverse(__fdiv_rn(1.f, s)) {}

    __device__ __forceinline__ bool is_ordinary() const { return scale > 0x1p-60f && scale < 0x1p60f; }

    __device__ __forceinline__ float quotient(float x) const {
        float q = __fmul_rn(x, inverse);
        return copysignf(fmaf(fmaf(-q, scale, x), inverse, q), x);
    }

    __device__ __forceinline__ float4 quotients(float4 v) const {
        return make_float4(quotient(v.x), quotient(v.y), quotient(v.z), quotient(v.w));
    }
};

// Four codes on a scale that is not ordinary: 0 if it is 0 or NaN. Not inlined: rarely needed, and long.
__device__ __noinline__ unsigned divided_codes(float4 v, float by, int kind) {
    if (!(by > 0.f)) return 0;
    float most = activation_range(kind), least = kind == INT8 ? -128.f : -most;
    auto unit = [&](float x) { return fminf(fmaxf(__fdiv_rn(x, by), least), most); };
    float4 u = {unit(v.x), unit(v.y), unit(v.z), unit(v.w)};
    return kind == INT8 ? int8_quad(u) : fp8_quad_by_bits(u, kind);
}
