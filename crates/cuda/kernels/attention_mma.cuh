// Fragments for tensor cores from caches of bf16, int8 and e4m3, and the copying of pieces of 64 keys.
// 8-bit codes are widened to f16 in registers, which is exact, and queries and weights are rounded to that: three bits more
// than bf16 has, and fewer instructions a code. The channels of a step of 16 then come in the order that spares byte
// permutations: q is laid out alike, and output channels are put back when they are written.
#pragma once
#include "attention.cuh"
#include "half_range.cuh"
#include "channel_order.cuh"
#include "shared_address.cuh"

constexpr int PIECE = 64; // keys

struct CacheBf16 {
    static constexpr int BYTES = 2;
    static constexpr bool CODES = false, E4M3 = false;
};
struct CacheI8 {
    static constexpr int BYTES = 1;
    static constexpr bool CODES = true, E4M3 = false;
};
struct CacheE4m3 {
    static constexpr int BYTES = 1;
    static constexpr bool CODES = true, E4M3 = true;
};

// An odd number of 16-byte chunks, so that eight rows of a matrix lie in different banks.
__host__ __device__ constexpr int pitch_of(int bytes) { return (bytes / 16 | 1) * 16; }

__device__ __forceinline__ void copy_16(unsigned to, const void* from, bool some) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(some ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copy_4(unsigned to, const void* from, bool some) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(some ? 4 : 0) : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

__device__ __forceinline__ void load_4(unsigned (&r)[4], unsigned at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
__device__ __forceinline__ void load_4_turned(unsigned (&r)[4], unsigned at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

template <class Cache>
__device__ __forceinline__ void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#define MULTIPLY(TYPE)                                                                                                \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                              \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
    if constexpr (Cache::CODES) MULTIPLY("f16");
    else MULTIPLY("bf16");
#undef MULTIPLY
}

// Two numbers as the tensor cores take them.
template <class Cache>
__device__ __forceinline__ unsigned pack(float low, float high) {
    unsigned r;
    if constexpr (Cache::CODES) asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    else asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

// The same of queries, of which none that is finite becomes infinite.
template <class Cache>
__device__ __forceinline__ unsigned pack_queries(float low, float high) {
    return Cache::CODES ? pack<Cache>(within_f16(low), within_f16(high)) : pack<Cache>(low, high);
}

// Four codes as two pairs of f16: bytes 0 and 2, bytes 1 and 3.
template <class Cache>
__device__ __forceinline__ void widen(unsigned w, unsigned& even, unsigned& odd) {
    if constexpr (!Cache::E4M3) {
        // f16 from 1024 to 2047 have a last digit of 1: 1024 + (128 + code), less 1152.
        unsigned places = w ^ 0x80808080u;
        asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(even) : "r"(__byte_perm(places, 0x64646464u, 0x4240)), "r"(0x64806480u));
        asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(odd) : "r"(__byte_perm(places, 0x64646464u, 0x4341)), "r"(0x64806480u));
    } else {
#ifdef CONVERTS_E4M3
        asm("{\n.reg .b16 low, high;\nmov.b32 {low, high}, %2;\n"
            "cvt.rn.f16x2.e4m3x2 %0, low;\ncvt.rn.f16x2.e4m3x2 %1, high;\n}"
            : "=r"(even), "=r"(odd)
            : "r"(__byte_perm(w, 0, 0x3120)));
#else
        // Sign, exponent and digits to their places, then the exponent's bias, 2^8: exact, subnormals too.
        unsigned e = (w << 7 & 0x3F803F80u) | (w << 8 & 0x80008000u);
        unsigned o = (w >> 1 & 0x3F803F80u) | (w & 0x80008000u);
        asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(even) : "r"(e), "r"(0x5C005C00u));
        asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(odd) : "r"(o), "r"(0x5C005C00u));
#endif
    }
}

// Where channel `i` of a step of 16 stands in q, and channel of output element (tile, e) of a lane's quad place `c`.
template <class Cache>
__device__ __forceinline__ int place_of(int i) {
    return Cache::CODES ? place_of_code(i) : i;
}
template <class Cache>
__device__ __forceinline__ int channel_of(int tile, int e, int c) {
    return Cache::CODES ? 4 * c + 2 * e + tile : 8 * tile + 2 * c + e;
}

// Adds steps i and i + 1 (if there is one) of 16 channels to the scores of 16 rows against 16 keys, which start at row
// `keys` of a piece: two tiles of 8. q are the fragments of the two steps.
template <class Cache, int D>
__device__ __forceinline__ void score_steps(
    float (&s0)[4], float (&s1)[4], const unsigned (*q)[4], unsigned piece, int keys, int i) {
    constexpr int PITCH = pitch_of(D * Cache::BYTES);
    int lane = threadIdx.x & 31;
    bool two = i + 1 < D / 16;
    unsigned b[4];
    if constexpr (!Cache::CODES) {
        unsigned at = piece + (keys + (lane & 7) + (lane >> 4) * 8) * PITCH + (lane >> 3 & 1) * 16 + i * 32;
        load_4(b, at);
        multiply<Cache>(s0, q[0], b[0], b[1]);
        multiply<Cache>(s1, q[0], b[2], b[3]);
        if (!two) return;
        load_4(b, at + 32);
        multiply<Cache>(s0, q[1], b[0], b[1]);
        multiply<Cache>(s1, q[1], b[2], b[3]);
    } else {
        unsigned even, odd;
        // For a last step alone the load reads it twice.
        load_4(b, piece + (keys + (lane & 15)) * PITCH + (i + (two ? lane >> 4 : 0)) * 16);
        widen<Cache>(b[0], even, odd);
        multiply<Cache>(s0, q[0], even, odd);
        widen<Cache>(b[1], even, odd);
        multiply<Cache>(s1, q[0], even, odd);
        if (!two) return;
        widen<Cache>(b[2], even, odd);
        multiply<Cache>(s0, q[1], even, odd);
        widen<Cache>(b[3], even, odd);
        multiply<Cache>(s1, q[1], even, odd);
    }
}

// Adds 32 keys (rows `keys` of a piece) times their weights to 16 channels of 16 rows; p are two fragments.
template <class Cache, int D>
__device__ __forceinline__ void add_32(
    float (&o0)[4], float (&o1)[4], const unsigned (&p0)[4], const unsigned (&p1)[4], unsigned piece, int keys,
    int channels) {
    constexpr int PITCH = pitch_of(D * Cache::BYTES);
    int lane = threadIdx.x & 31;
    if constexpr (!Cache::CODES) {
        unsigned at = piece + (keys + (lane & 15)) * PITCH + channels * 2 + (lane >> 4) * 16;
        unsigned b[4];
        load_4_turned(b, at);
        multiply<Cache>(o0, p0, b[0], b[1]);
        multiply<Cache>(o1, p0, b[2], b[3]);
        load_4_turned(b, at + 16 * PITCH);
        multiply<Cache>(o0, p1, b[0], b[1]);
        multiply<Cache>(o1, p1, b[2], b[3]);
    } else {
        unsigned at = piece + (keys + lane) * PITCH + channels;
        unsigned b[4], e0, e1, o_0, o_1;
        load_4_turned(b, at);
        widen<Cache>(b[0], e0, o_0);
        widen<Cache>(b[1], e1, o_1);
        multiply<Cache>(o0, p0, e0, e1);
        multiply<Cache>(o1, p0, o_0, o_1);
        widen<Cache>(b[2], e0, o_0);
        widen<Cache>(b[3], e1, o_1);
        multiply<Cache>(o0, p1, e0, e1);
        multiply<Cache>(o1, p1, o_0, o_1);
    }
}

// How scores become weights: 2^(s c - m). A plain score stays as it is and is scaled by `c` in the exponent; others
// are in units of log2 already, and c is 1.
// Over codes weights are 64 times as large: times the scale of small values f16 has them with an error of 2^-12 of the
// largest one, where a head's largest value is 2e-4 or more. Beyond 1e5 there is no room in f16.
struct Rule {
    float factor, c, top, per_top, less;
    bool early, capped; // the factor is multiplied before the maximum
    template <class Cache>
    __device__ __forceinline__ static Rule of(const Attention& a) {
        Rule r;
        r.capped = a.softcap != 0.0f;
        r.early = Cache::CODES || r.capped || !(a.scale > 0.0f);
        r.factor = r.capped ? a.scale : __fmul_rn(a.scale, LOG2_E);
        r.c = r.early ? 1.0f : r.factor;
        r.less = Cache::CODES ? 6.0f : 0.0f;
        r.top = __fmul_rn(a.softcap, LOG2_E);
        r.per_top = r.capped ? __frcp_rn(a.softcap) : 0.0f;
        return r;
    }
    // A score from a product; `scale` is that of the key. Then `cap`, if capped.
    __device__ __forceinline__ float score(float dot, float scale) const {
        return early ? __fmul_rn(dot, __fmul_rn(scale, factor)) : dot;
    }
    __device__ __forceinline__ float cap(float x) const { return __fmul_rn(tanh_fast(__fmul_rn(x, per_top)), top); }
    __device__ __forceinline__ float weight(float s, float base) const { return exp2_fast(__fmaf_rn(s, c, -base)); }
    // The maximum in units of log2, which is subtracted (0 if no key was seen), less `less`.
    __device__ __forceinline__ float maximum(float most) const { return __fsub_rn(__fmul_rn(most, c), less); }
};

// Writes query rows of a tile to shared memory in 16 bits; rows past the end are zeros.
template <class Cache, int D>
__device__ __forceinline__ void stage_queries(
    const Attention& a, const Tile& tile, int kv_head, char* to, int rows, int width) {
    constexpr int PITCH = pitch_of(2 * D);
    for (int i = threadIdx.x; i < rows * (D / 4); i += blockDim.x) {
        int row = i / (D / 4), c = i % (D / 4) * 4;
        float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (row < tile.rows) {
            int group = a.nq / a.nkv, packed = tile.first + row;
            size_t token = tile.token + packed / group, head = kv_head * group + packed % group;
            if (a.queries) {
                *(uint2*)(to + row * PITCH + c * 2) = *(const uint2*)(a.queries + (token * a.nq + head) * D + c);
                continue;
            }
            x = *(const float4*)(a.qkv + token * width + head * D + c);
        }
        char* at = to + row * PITCH + (c & ~15) * 2;
        if constexpr (Cache::CODES) {
            // Places of four neighbours: (0, 2) and (1, 3) are pairs.
            *(unsigned*)(at + place_of<Cache>(c & 15) * 2) = pack_queries<Cache>(x.x, x.z);
            *(unsigned*)(at + place_of<Cache>((c & 15) + 1) * 2) = pack_queries<Cache>(x.y, x.w);
        } else {
            *(uint2*)(at + (c & 15) * 2) = make_uint2(pack_queries<Cache>(x.x, x.y), pack_queries<Cache>(x.z, x.w));
        }
    }
}

// True if a bf16 of these eight is NaN or infinite.
__device__ __forceinline__ bool odd_bf16(uint4 x) {
    unsigned w[4] = {x.x, x.y, x.z, x.w};
    bool odd = false;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        odd |= (w[i] & 0x7F80u) == 0x7F80u || (w[i] & 0x7F800000u) == 0x7F800000u;
    }
    return odd;
}

// The copying of a run's pieces, in the order K, K, V, V of each segment; and which of them there are.
template <class Cache, int D, int WARPS>
struct Pieces {
    static constexpr int ROW = D * Cache::BYTES, PITCH = pitch_of(ROW), CHUNKS = ROW / 16, BYTES = PIECE * PITCH;
    static constexpr int ROWS = PIECE / WARPS; // of a warp
    static constexpr int SCALES = Cache::CODES ? 4 * 2 * SEGMENT * 4 : 0; // of four segments

    const Attention& a;
    Pages pages;
    int lo, hi, begin, end;
    unsigned ring, scales; // in shared memory
    unsigned vectors[2];   // of this lane's row, of both halves of a segment

    __device__ __forceinline__ bool some(int segment, int half) const {
        int key = segment * SEGMENT + half * PIECE;
        return segment < end && key < hi && key + PIECE > lo;
    }

    // Copies this warp's rows of a piece to `to`, if there is such a piece; keys before the same keys' values.
    __device__ __forceinline__ void load(int segment, int half, bool values, unsigned to) {
        if (!some(segment, half)) return;
        int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
        int key = segment * SEGMENT + half * PIECE + warp * ROWS + (lane & (ROWS - 1));
        unsigned vector = values ? vectors[half] : key >= lo && key < hi ? pages.vector(key) : ~0u;
        vectors[half] = vector;
        const char* from = (const char*)(values ? a.v : a.k);
        to += warp * ROWS * PITCH;
#pragma unroll
        for (int n = 0; n < (ROWS * CHUNKS + 31) / 32; n++) {
            int at = n * 32 + lane, row = at / CHUNKS, chunk = at % CHUNKS;
            unsigned its = __shfl_sync(~0u, vector, row & 31);
            if (ROWS * CHUNKS % 32 == 0 || row < ROWS) {
                // Where there is none nothing is read, and zeros are written.
                copy_16(to + row * PITCH + chunk * 16, from + (size_t)its * ROW + chunk * 16, its != ~0u);
            }
        }
        if (Cache::CODES && !values && lane < ROWS) {
            unsigned at = scales + ((segment & 3) * 2 * SEGMENT + half * PIECE + warp * ROWS + lane) * 4;
            copy_4(at, a.k_scales + vector, vector != ~0u);
            copy_4(at + SEGMENT * 4, a.v_scales + vector, vector != ~0u);
        }
    }
};

// In a piece that some rows do not see all of, weight 0 times NaN or infinity must add nothing: such values are added
// here to the rows that see them, and made 0. Every thread of the block calls; `first` and `step` are of its groups of
// 16 channels.
template <int D, int GROUPS>
__device__ __noinline__ void settle_odd_values(
    float* o, char* piece, int key, const RowOf& r0, const RowOf& r1, int first, int step) {
    constexpr int PITCH = pitch_of(2 * D);
    for (int i = 0; i < GROUPS * 8; i++) {
        const RowOf& r = (i & 2) ? r1 : r0;
        int c = (first + i / 8 * step) * 16 + channel_of<CacheBf16>(i >> 2 & 1, i & 1, threadIdx.x & 3);
        for (int j = max(r.start - key, 0); j < min(r.end - key, PIECE) && c < D; j++) {
            unsigned short x = *(unsigned short*)(piece + j * PITCH + c * 2);
            if ((x & 0x7F80) == 0x7F80) o[i] += __uint_as_float((unsigned)x << 16);
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < PIECE * D; i += blockDim.x) {
        unsigned short* x = (unsigned short*)(piece + i / D * PITCH + i % D * 2);
        if ((*x & 0x7F80) == 0x7F80) *x = 0;
    }
    __syncthreads();
}

// True if a value of the piece is NaN or infinite. Every thread of the block calls.
template <int D>
__device__ __forceinline__ bool any_odd(const char* piece) {
    bool odd = false;
    for (int i = threadIdx.x; i < PIECE * (D / 8); i += blockDim.x) {
        odd |= odd_bf16(*(const uint4*)(piece + i / (D / 8) * pitch_of(2 * D) + i % (D / 8) * 16));
    }
    return __syncthreads_or(odd);
}

// Both, without making the outputs live in memory where nothing is odd.
template <int D, int GROUPS>
__device__ __forceinline__ void settle(
    float (&o)[GROUPS][2][4], char* piece, int key, const RowOf& r0, const RowOf& r1, int first, int step) {
    if (!any_odd<D>(piece)) return;
    float copy[GROUPS * 8];
#pragma unroll
    for (int i = 0; i < GROUPS * 8; i++) copy[i] = o[i / 8][i / 4 % 2][i % 4];
    settle_odd_values<D, GROUPS>(copy, piece, key, r0, r1, first, step);
#pragma unroll
    for (int i = 0; i < GROUPS * 8; i++) o[i / 8][i / 4 % 2][i % 4] = copy[i];
}

// Scores of a warp's 16 rows and a segment to fragments of weights, as the kernel for few rows does: the sums of a
// quarter of the keys, then of the quarters. `scales` are of the keys, then of the values.
template <class Cache>
__device__ __forceinline__ void weigh(
    int segment, float (&s)[16][4], unsigned (&p)[8][4], float (&m)[2], float (&l)[2], const Rule& rule,
    const RowOf (&row)[2], const float* scales) {
    int c = threadIdx.x & 3, from = segment * SEGMENT + 2 * c;
    bool whole = row[0].start <= segment * SEGMENT && row[1].start <= segment * SEGMENT &&
        row[0].end >= (segment + 1) * SEGMENT && row[1].end >= (segment + 1) * SEGMENT;
    if (rule.early) {
#pragma unroll
        for (int i = 0; i < 64; i++) {
            s[i / 4][i % 4] = rule.score(s[i / 4][i % 4], Cache::CODES ? scales[2 * c + 8 * (i / 4) + i % 2] : 1.0f);
        }
    }
    if (rule.capped) {
#pragma unroll
        for (int i = 0; i < 64; i++) s[i / 4][i % 4] = rule.cap(s[i / 4][i % 4]);
    }
    if (!__all_sync(~0u, whole)) {
#pragma unroll
        for (int i = 0; i < 64; i++) {
            int key = from + 8 * (i / 4) + i % 2;
            const RowOf& r = row[i / 2 % 2];
            if (!(key >= r.start && key < r.end)) s[i / 4][i % 4] = NEVER;
        }
    }
    // Four chains of each row at a time: alone, each step would wait for the one before.
    float most[2][4];
#pragma unroll
    for (int i = 0; i < 64; i++) {
        float& x = most[i / 2 % 2][i / 4 % 4];
        x = i < 16 && i % 2 == 0 ? s[i / 4][i % 4] : fmaxf(x, s[i / 4][i % 4]);
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float all = fmaxf(fmaxf(most[h][0], most[h][1]), fmaxf(most[h][2], most[h][3]));
        all = fmaxf(all, __shfl_xor_sync(~0u, all, 1));
        all = fmaxf(all, __shfl_xor_sync(~0u, all, 2));
        m[h] = rule.maximum(all);
    }
    float sums[2][4] = {};
#pragma unroll
    for (int i = 0; i < 8; i++) {
#pragma unroll
        for (int g = 0; g < 4; g++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                // Key i of eight in quarter g: two halves, two tiles, two neighbours.
                float& x = s[i / 4 * 8 + 2 * g + i / 2 % 2][2 * h + i % 2];
                x = rule.weight(x, m[h] == NEVER ? 0.0f : m[h]);
                sums[h][g] = __fadd_rn(sums[h][g], x);
            }
        }
    }
#pragma unroll
    for (int j = 0; j < 16; j++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float w[2] = {s[j][2 * h], s[j][2 * h + 1]};
#pragma unroll
            for (int e = 0; e < 2; e++) {
                // A masked key's scale may be anything.
                if (Cache::CODES && w[e] != 0.0f) w[e] = __fmul_rn(w[e], scales[SEGMENT + 8 * j + 2 * c + e]);
            }
            p[j / 2][(j & 1) * 2 + h] = pack<Cache>(w[0], w[1]);
        }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float sum = __fadd_rn(__fadd_rn(__fadd_rn(sums[h][0], sums[h][1]), sums[h][2]), sums[h][3]);
        sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, 1));
        l[h] = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, 2));
    }
}
