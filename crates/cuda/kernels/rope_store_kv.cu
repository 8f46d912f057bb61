// Rotates q and k of each token and stores k and v in the pages; a warp takes one head of a token after another.
// The arithmetic is that of the reference, product by product, so that 8-bit codes agree.
// q may go to a place of its own, rounded to 16 bits as attention would: what is in qkv then stays as it was.
#include "channel_order.cuh"
#include "half_range.cuh"
#include "dependency.cuh"

enum KvType { KV_F32 = 0, KV_BF16 = 1, KV_I8 = 2, KV_E4M3 = 3 };

__device__ __forceinline__ unsigned char encode_i8(float units) {
    return (unsigned char)(signed char)(int)rintf(fminf(fmaxf(units, -128.0f), 127.0f));
}

// Nearest even on the grid of the value's binade, or of the smallest normal numbers.
__device__ __forceinline__ unsigned char encode_e4m3(float units) {
    float x = fminf(fabsf(units), 448.0f);
    int exponent = max((int)(__float_as_uint(x) >> 23) - 127, -6);
    float per_step = __uint_as_float((unsigned)(127 + 3 - exponent) << 23);
    unsigned code = ((unsigned)(exponent + 6) << 3) + (unsigned)__float2int_rn(x * per_step);
    return (unsigned char)(__float_as_uint(units) >> 31 << 7 | code);
}

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

// N neighbouring channels of a lane at a time.
template <int N>
struct Group {
    float x[N];
    __device__ __forceinline__ void load(const float* from) {
        if constexpr (N == 4) {
            float4 v = *(const float4*)from;
            x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
        } else {
            x[0] = *from;
        }
    }
    __device__ __forceinline__ void store(float* to) const {
        if constexpr (N == 4) *(float4*)to = make_float4(x[0], x[1], x[2], x[3]);
        else *to = x[0];
    }
    // As bf16 to channel c of a row.
    __device__ __forceinline__ void round(unsigned short* row, int c) const {
        if constexpr (N == 4) *(uint2*)(row + c) = make_uint2(bf16_pair(x[0], x[1]), bf16_pair(x[2], x[3]));
        else row[c] = to_bf16(x[0]);
    }
    // As f16 to the places that widened codes have.
    __device__ __forceinline__ void place(unsigned short* row, int c) const {
        unsigned short* to = row + (c & ~15) + place_of_code(c & 15);
        if constexpr (N == 4) *(unsigned*)to = f16_pair(x[0], x[2]), *(unsigned*)(to + 8) = f16_pair(x[1], x[3]);
        else *to = to_f16(x[0]);
    }
};

// One head. Channels of a lane: PASSES groups of N, 32 groups apart.
template <int N, int PASSES>
__device__ __forceinline__ void one_head(
    int token, int head, float* qkv, unsigned short* queries, const float* cos_sin, const unsigned* header, const unsigned* positions, const unsigned* slots, void* k,
    void* v, float* k_scales, float* v_scales, int nq, int nkv, int d, int half, int interleaved, int kv_type,
    float k_fixed, float v_fixed) {
    int lane = threadIdx.x & 31, heads = nq + 2 * nkv;
    float* row = qkv + ((size_t)token * heads + head) * d;
    bool rotates = cos_sin && head < nq + nkv, stores = head >= nq, rounds = queries && !stores;
    if (!rotates && !stores && !rounds) return;
    Group<N> x[PASSES];
#pragma unroll
    for (int i = 0; i < PASSES; i++) {
        int c = (i * 32 + lane) * N;
        if (c < d) x[i].load(row + c);
    }
    if (rotates) {
        const float* cosines = cos_sin + (size_t)positions[token] * 2 * half;
        const float* sines = cosines + half;
        Group<N> turned[PASSES];
#pragma unroll
        for (int i = 0; i < PASSES; i++) {
            int c = (i * 32 + lane) * N;
            if (c >= d) continue;
            turned[i] = x[i];
            if (c >= 2 * half) continue;
            if (interleaved) {
#pragma unroll
                for (int j = 0; j < N; j++) {
                    int at = c + j;
                    if (at >= 2 * half) continue;
                    float other = N == 4 ? x[i].x[j ^ 1] : row[at ^ 1], co = cosines[at / 2], si = sines[at / 2];
                    float a = __fmul_rn(x[i].x[j], co), b = __fmul_rn(other, si);
                    turned[i].x[j] = at & 1 ? __fadd_rn(a, b) : __fsub_rn(a, b);
                }
            } else {
                // With groups of four, half is a multiple of four.
                bool first = c < half;
                int angle = first ? c : c - half;
                Group<N> other, co, si;
                other.load(row + (first ? c + half : c - half));
                if constexpr (N == 4) {
                    co.load(cosines + angle);
                    si.load(sines + angle);
                } else {
                    co.x[0] = cosines[angle];
                    si.x[0] = sines[angle];
                }
#pragma unroll
                for (int j = 0; j < N; j++) {
                    float a = __fmul_rn(x[i].x[j], co.x[j]), b = __fmul_rn(other.x[j], si.x[j]);
                    turned[i].x[j] = first ? __fsub_rn(a, b) : __fadd_rn(a, b);
                }
            }
        }
        __syncwarp(); // every lane has read what it needs
#pragma unroll
        for (int i = 0; i < PASSES; i++) {
            int c = (i * 32 + lane) * N;
            if (c < d && !queries) turned[i].store(row + c);
            x[i] = turned[i];
        }
    }
    if (rounds) {
        unsigned short* to = queries + ((size_t)token * nq + head) * d;
#pragma unroll
        for (int i = 0; i < PASSES; i++) {
            int c = (i * 32 + lane) * N;
            if (c >= d) continue;
            if (kv_type >= KV_I8) x[i].place(to, c);
            else x[i].round(to, c);
        }
    }
    if (!stores) return;
    bool value = head >= nq + nkv;
    int kv_head = head - nq - (value ? nkv : 0), page_size = header[4], slot = slots[token];
    size_t vector = ((size_t)(slot / page_size) * nkv + kv_head) * page_size + slot % page_size, at = vector * d;
    void* to = value ? v : k;
    if (kv_type == KV_F32 || kv_type == KV_BF16) {
#pragma unroll
        for (int i = 0; i < PASSES; i++) {
            int c = (i * 32 + lane) * N;
            if (c >= d) continue;
            if (kv_type == KV_F32) x[i].store((float*)to + at + c);
            else x[i].round((unsigned short*)to + at, c);
        }
        return;
    }
    unsigned most = 0; // as bits, NaN is above infinity
#pragma unroll
    for (int i = 0; i < PASSES; i++) {
#pragma unroll
        for (int j = 0; j < N; j++) {
            if ((i * 32 + lane) * N < d) most = max(most, __float_as_uint(x[i].x[j]) & 0x7FFFFFFFu);
        }
    }
#pragma unroll
    for (int i = 16; i; i /= 2) most = max(most, __shfl_xor_sync(~0u, most, i));
    // The checkpoint's own scale, or the head's.
    float fixed = value ? v_fixed : k_fixed, range = kv_type == KV_I8 ? 127.0f : 448.0f;
    float scale = fixed != 0.0f ? fixed : __fdiv_rn(__uint_as_float(most), range);
    float least = kv_type == KV_I8 ? -128.0f : -448.0f;
    bool finite = most < 0x7F800000u, some = finite && scale != 0.0f;
    if (lane == 0) (value ? v_scales : k_scales)[vector] = finite ? scale : __uint_as_float(0x7FC00000u);
#pragma unroll
    for (int i = 0; i < PASSES; i++) {
        int c = (i * 32 + lane) * N;
        if (c >= d) continue;
        unsigned codes = 0;
#pragma unroll
        for (int j = 0; j < N; j++) {
            float units = fminf(fmaxf(__fdiv_rn(x[i].x[j], scale), least), range);
            unsigned code = !some ? 0 : kv_type == KV_I8 ? encode_i8(units) : encode_e4m3(units);
            codes |= code << (8 * j);
        }
        if constexpr (N == 4) *(unsigned*)((unsigned char*)to + at + c) = codes;
        else ((unsigned char*)to)[at + c] = (unsigned char)codes;
    }
}

#define ROPE(NAME, N, PASSES)                                                                                         \
    extern "C" __global__ void __launch_bounds__(128) NAME(                                                           \
        float* qkv, unsigned short* queries, const float* cos_sin, const unsigned* header, const unsigned* positions, const unsigned* slots,   \
        void* k, void* v, float* k_scales, float* v_scales, int nq, int nkv, int d, int half, int interleaved,        \
        int kv_type, float k_fixed, float v_fixed) {                                                                  \
        grid_wait();                                                                                                  \
        grid_release();                                                                                               \
        int warps = blockDim.x >> 5, first = blockIdx.y * warps + (threadIdx.x >> 5);                                 \
        int heads = k ? nq + 2 * nkv : nq; /* without a cache q alone is rounded */                                   \
        for (int head = first; head < heads; head += gridDim.y * warps) {                                             \
            one_head<N, PASSES>(blockIdx.x, head, qkv, queries, cos_sin, header, positions, slots, k, v, k_scales, v_scales,   \
                nq, nkv, d, half, interleaved, kv_type, k_fixed, v_fixed);                                            \
        }                                                                                                             \
    }

// d is a multiple of 4, and so is half unless pairs are neighbours.
ROPE(rope_store_kv_128, 4, 1)
ROPE(rope_store_kv_256, 4, 2)
// Any d up to 256.
ROPE(rope_store_kv_any, 1, 8)
