// f32 values in units of a scale, and units as 8-bit codes: the pieces of codes.cuh that products share.
#pragma once

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

template <int M>
__device__ __forceinline__ unsigned fp8_quad(float4 u) {
    return fp8_pair<M>(u.x, u.y) | fp8_pair<M>(u.z, u.w) << 16;
}

// By adding 1.5 * 2^23, which leaves the integer in the low bits: no unit may be outside [-128.5, 127.5).
__device__ __forceinline__ unsigned int8_quad(float4 u) {
    auto bits = [](float v) { return __float_as_uint(__fadd_rn(v, 12582912.f)); };
    return __byte_perm(__byte_perm(bits(u.x), bits(u.y), 0x0040), __byte_perm(bits(u.z), bits(u.w), 0x0040), 0x5410);
}

// The signs of four values, where four codes have theirs.
__device__ __forceinline__ unsigned signs4(float4 v) {
    unsigned low = __byte_perm(__float_as_uint(v.x), __float_as_uint(v.y), 0x0073);
    unsigned high = __byte_perm(__float_as_uint(v.z), __float_as_uint(v.w), 0x0073);
    return __byte_perm(low, high, 0x5410) & 0x80808080u;
}

// Quotients by one scale, as division rounds them. Correcting x * (1 / scale) once gives the same bits as division
// does, if nothing underflows on the way (units below 2^-20 have the code 0 or -0 whatever their last bits); other scales
// are divided by. The correction loses the sign of -0, which codes of FP8 get back by `signs4`.
struct Scale {
    float scale, inverse;

    __device__ __forceinline__ explicit Scale(float s) : scale(s), inverse(__fdiv_rn(1.f, s)) {}

    __device__ __forceinline__ bool is_ordinary() const { return scale > 0x1p-60f && scale < 0x1p60f; }

    __device__ __forceinline__ float quotient(float x) const {
        float q = __fmul_rn(x, inverse);
        return fmaf(fmaf(-q, scale, x), inverse, q);
    }

    __device__ __forceinline__ float4 quotients(float4 v) const {
        return make_float4(quotient(v.x), quotient(v.y), quotient(v.z), quotient(v.w));
    }
};
