// Names of element types, and roundings between f32 and 16-bit floats. No header of the toolkit is needed, so that the
// compilers of both sm_70 and newer chips take these files.
#pragma once

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// The bits of 16-bit floats.
struct bf16 {
    u16 bits;
    static constexpr bool IS_BF16 = true;
};
struct f16 {
    u16 bits;
    static constexpr bool IS_BF16 = false;
};

__device__ __forceinline__ float widened(float v) { return v; }
__device__ __forceinline__ float widened(bf16 v) { return __uint_as_float((u32)v.bits << 16); }
__device__ __forceinline__ float widened(f16 v) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits));
    return f;
}

// To nearest, ties to even; NaN stays NaN.
__device__ __forceinline__ void round_to(float v, float& out) { out = v; }
__device__ __forceinline__ void round_to(float v, f16& out) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(v)); }
__device__ __forceinline__ void round_to(float v, bf16& out) {
    u32 bits = __float_as_uint(v);
    bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    out.bits = (u16)(nan ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}
__device__ __forceinline__ u32 two_bf16(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    bf16 a, b;
    round_to(low, a);
    round_to(high, b);
    return (u32)b.bits << 16 | a.bits;
#endif
}
__device__ __forceinline__ u32 two_f16(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    f16 a, b;
    round_to(low, a);
    round_to(high, b);
    return (u32)b.bits << 16 | a.bits;
#endif
}
