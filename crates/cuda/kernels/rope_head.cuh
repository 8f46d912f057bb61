// What becomes of the heads of q, k and v, and the types that they are stored in: for the rotation's own kernels, and for
// products that rotate what they store.
#pragma once
#include "channel_order.cuh"
#include "half_range.cuh"

enum KvType { KV_F32 = 0, KV_BF16 = 1, KV_I8 = 2, KV_E4M3 = 3 };

__device__ __forceinline__ unsigned short to_bf16(float x) {
    unsigned bits = __float_as_uint(x);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return (unsigned short)(bits >> 16 | 0x40);
    return (unsigned short)((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
}

__device__ __forceinline__ unsigned bf16_pair(float low, float high) {
    return to_bf16(low) | (unsigned)to_bf16(high) << 16;
}

__device__ __forceinline__ unsigned short to_f16(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(within_f16(x)));
    return bits;
}

__device__ __forceinline__ unsigned f16_pair(float low, float high) {
    return to_f16(low) | (unsigned)to_f16(high) << 16;
}

// What becomes of the heads of qkv `[t, (nq + 2 nkv) d]`.
struct HeadArguments {
    float* qkv;
    unsigned short* queries; // [t, nq d] for rotated queries in 16 bits, which then are not written to qkv; or null
    const float* cos_sin;    // [positions, 2 half]; null: nothing is rotated
    const unsigned *header, *positions, *slots;
    void *k, *v; // null: nothing is stored
    float *k_scales, *v_scales;
    int nq, nkv, d, half, interleaved, kv_type;
    float k_fixed, v_fixed; // 0: each head has a scale of its own
};
