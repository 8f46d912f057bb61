// Rotates q and k of each token and stores k and v in the pages; a warp takes one head of a token after another.
// The arithmetic is that of the reference, product by product, so that 8-bit codes agree.
// q may go to a place of its own, rounded to 16 bits as attention would: what is in qkv then stays as it was.
#include "dependency.cuh"
#include "rope_head.cuh"
#include "rope_pairs.cuh"

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

// The angles of a lane's channels from c on, of which the second half of a head's pairs takes those of the first.
template <int N>
struct Angles {
    Group<N> co, si;
    __device__ __forceinline__ void load(const HeadArguments& a, unsigned position, int c) {
        const float* cosines = a.cos_sin + (size_t)position * 2 * a.half;
        if (a.interleaved) {
#pragma unroll
            for (int j = 0; j < N; j++) {
                if (c + j < 2 * a.half) co.x[j] = cosines[(c + j) / 2], si.x[j] = cosines[a.half + (c + j) / 2];
            }
        } else if (c < 2 * a.half) { // with groups of four, half is a multiple of four
            const float* from = cosines + (c < a.half ? c : c - a.half);
            co.load(from), si.load(from + a.half);
        }
    }
};

// The channels from c on, rotated; `row` holds the head.
template <int N>
__device__ __forceinline__ Group<N> rotated(
    const HeadArguments& a, const Group<N>& x, const Angles<N>& angles, const float* row, int c) {
    Group<N> turned = x;
    if (c >= 2 * a.half) return turned;
    if (a.interleaved) {
#pragma unroll
        for (int j = 0; j < N; j++) {
            int at = c + j;
            if (at >= 2 * a.half) continue;
            float other = N == 4 ? x.x[j ^ 1] : row[at ^ 1];
            float p = __fmul_rn(x.x[j], angles.co.x[j]), q = __fmul_rn(other, angles.si.x[j]);
            turned.x[j] = at & 1 ? __fadd_rn(p, q) : __fsub_rn(p, q);
        }
        return turned;
    }
    bool first = c < a.half;
    Group<N> other;
    other.load(row + (first ? c + a.half : c - a.half));
#pragma unroll
    for (int j = 0; j < N; j++) {
        float p = __fmul_rn(x.x[j], angles.co.x[j]), q = __fmul_rn(other.x[j], angles.si.x[j]);
        turned.x[j] = first ? __fsub_rn(p, q) : __fadd_rn(p, q);
    }
    return turned;
}

// Stores a key or a value at its slot. Channels of a lane: PASSES groups of N, 32 groups apart.
template <int N, int PASSES>
__device__ __forceinline__ void store_vector(const HeadArguments& a, const Group<N> (&x)[PASSES], int head, unsigned slot) {
    int lane = threadIdx.x & 31, d = a.d;
    bool value = head >= a.nq + a.nkv;
    int kv_head = head - a.nq - (value ? a.nkv : 0), page_size = a.header[4];
    size_t vector = ((size_t)(slot / page_size) * a.nkv + kv_head) * page_size + slot % page_size, at = vector * d;
    void* to = value ? a.v : a.k;
    if (a.kv_type == KV_F32 || a.kv_type == KV_BF16) {
#pragma unroll
        for (int i = 0; i < PASSES; i++) {
            int c = (i * 32 + lane) * N;
            if (c >= d) continue;
            if (a.kv_type == KV_F32) x[i].store((float*)to + at + c);
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
    float fixed = value ? a.v_fixed : a.k_fixed, range = a.kv_type == KV_I8 ? 127.0f : 448.0f;
    float scale = fixed != 0.0f ? fixed : __fdiv_rn(__uint_as_float(most), range);
    float least = a.kv_type == KV_I8 ? -128.0f : -448.0f;
    bool finite = most < 0x7F800000u, some = finite && scale != 0.0f;
    if (lane == 0) (value ? a.v_scales : a.k_scales)[vector] = finite ? scale : __uint_as_float(0x7FC00000u);
#pragma unroll
    for (int i = 0; i < PASSES; i++) {
        int c = (i * 32 + lane) * N;
        if (c >= d) continue;
        unsigned codes = 0;
#pragma unroll
        for (int j = 0; j < N; j++) {
            float units = fminf(fmaxf(__fdiv_rn(x[i].x[j], scale), least), range);
            unsigned code = !some ? 0 : a.kv_type == KV_I8 ? encode_i8(units) : encode_e4m3(units);
            codes |= code << (8 * j);
        }
        if constexpr (N == 4) *(unsigned*)((unsigned char*)to + at + c) = codes;
        else ((unsigned char*)to)[at + c] = (unsigned char)codes;
    }
}

// Stores a query of `token` as attention takes it.
template <int N, int PASSES>
__device__ __forceinline__ void store_query(const HeadArguments& a, const Group<N> (&x)[PASSES], int head, int token) {
    int lane = threadIdx.x & 31;
    float* wide = a.qkv + ((size_t)token * (a.nq + 2 * a.nkv) + head) * a.d;
    unsigned short* narrow = a.queries + ((size_t)token * a.nq + head) * a.d;
#pragma unroll
    for (int i = 0; i < PASSES; i++) {
        int c = (i * 32 + lane) * N;
        if (c >= a.d) continue;
        if (!a.queries) x[i].store(wide + c);
        else if (a.kv_type >= KV_I8) x[i].place(narrow, c);
        else x[i].round(narrow, c);
    }
}

// One head. Channels of a lane: PASSES groups of N, 32 groups apart.
template <int N, int PASSES>
__device__ __forceinline__ void one_head(const HeadArguments& a, int token, int head) {
    int lane = threadIdx.x & 31, heads = a.nq + 2 * a.nkv;
    float* row = a.qkv + ((size_t)token * heads + head) * a.d;
    bool rotates = a.cos_sin && head < a.nq + a.nkv, stores = head >= a.nq, rounds = a.queries && !stores;
    if (!rotates && !stores && !rounds) return;
    Group<N> x[PASSES];
#pragma unroll
    for (int i = 0; i < PASSES; i++) {
        int c = (i * 32 + lane) * N;
        if (c < a.d) x[i].load(row + c);
    }
    if (rotates) {
        Group<N> turned[PASSES];
        unsigned position = a.positions[token];
#pragma unroll
        for (int i = 0; i < PASSES; i++) {
            int c = (i * 32 + lane) * N;
            if (c >= a.d) continue;
            Angles<N> angles;
            angles.load(a, position, c);
            turned[i] = rotated(a, x[i], angles, row, c);
        }
        __syncwarp(); // every lane has read what it needs
#pragma unroll
        for (int i = 0; i < PASSES; i++) {
            int c = (i * 32 + lane) * N;
            if (c < a.d && !a.queries) turned[i].store(row + c);
            x[i] = turned[i];
        }
    }
    if (rounds) store_query(a, x, head, token);
    if (stores) store_vector(a, x, head, a.slots[token]);
}

template <int N, int PASSES> __device__ __forceinline__ void each_head(const HeadArguments& a) {
    grid_wait();
    grid_release();
    int warps = blockDim.x >> 5, first = blockIdx.y * warps + (threadIdx.x >> 5);
    int heads = a.k ? a.nq + 2 * a.nkv : a.nq; // without a cache q alone is rounded
    for (int head = first; head < heads; head += gridDim.y * warps) one_head<N, PASSES>(a, blockIdx.x, head);
}

constexpr int THREADS = 128;

// Kernels of one signature; the body sees HeadArguments `a`.
#define ROPE(NAME, BODY)                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(                                                       \
        float* qkv, unsigned short* queries, const float* cos_sin, const unsigned* header, const unsigned* positions, \
        const unsigned* slots, void* k, void* v, float* k_scales, float* v_scales, int nq, int nkv, int d, int half,  \
        int interleaved, int kv_type, float k_fixed, float v_fixed) {                                                 \
        const HeadArguments a = {qkv,      queries, cos_sin, header, positions, slots,       k,       v,       k_scales, \
                                 v_scales, nq,      nkv,     d,      half,      interleaved, kv_type, k_fixed, v_fixed}; \
        BODY(a);                                                                                                      \
    }

// d is a multiple of 4, and so is half unless pairs are neighbours.
ROPE(rope_store_kv_128, (each_head<4, 1>))
ROPE(rope_store_kv_256, (each_head<4, 2>))
// Any d up to 256.
ROPE(rope_store_kv_any, (each_head<1, 8>))
// Heads of 128 channels that rotate whole in pairs (i, i + d / 2), an even number of each role.
ROPE(rope_store_kv_pairs, heads_of_token<3>)
