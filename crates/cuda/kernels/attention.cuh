// What the attention kernels share: operands, tiles of query rows, the softmax of a segment, and the end of a row.
// The arithmetic of a row is the same in every kernel of one family, to the bit: keys are taken in segments of 128
// positions counted from the start of the sequence; a segment yields (m, l, o) on its own, and segments are merged in
// ascending order, in registers or through a workspace. A key that a row does not see adds exactly nothing.
#pragma once
#include "dependency.cuh"
#include "floats.cuh"

constexpr int SEGMENT = 128;
constexpr float LOG2_E = 1.4426950408889634f;
constexpr float NEVER = -__builtin_huge_valf();

// Which sequences a launch takes: all, those whose rows fit into one tile of 16, the others, or all where each has one
// token and a tile takes its rows.
enum Take { TAKE_ALL = 0, TAKE_FEW = 1, TAKE_MANY = 2, TAKE_ONE = 3 };

// One call. Query rows of one key head are packed token by token: row r of a sequence is head r % group of its
// token r / group.
struct Attention {
    const float* qkv;             // [t, (nq + 2 nkv) d]
    const unsigned short* queries; // [t, nq d] in 16 bits, in the order of the cache's places, in place of those in qkv; or null
    const void* k;                // pages of [nkv, page_size, d]
    const void* v;
    const float* k_scales;        // pages of [nkv, page_size], or null
    const float* v_scales;
    const unsigned* header;       // [t, s, _, pages_per_seq, page_size, ...]
    const unsigned* positions;    // [t]
    const unsigned* query_starts; // [s + 1]
    const unsigned* kv_lens;      // [s]
    const unsigned* page_tables;  // [s, pages_per_seq]
    void* out;                    // [t, nq d] in f32, or bf16 if `narrow`
    float* part_o;                // [tile, nkv, slots, tile_rows, d]
    float2* part_ml;              // [tile, nkv, slots, tile_rows]
    unsigned* counters;           // [tile, nkv] of splits done; or one, of tiles taken; zero between calls
    float scale, softcap;         // softcap 0: none
    int nq, nkv, d, window;       // window 0: none
    int kv_type;                  // of the plain kernel
    int tiles, take, splits, slots, tile_rows;
    int narrow;

    __device__ __forceinline__ void put(size_t at, float x) const {
        if (narrow) round_to(x, ((bf16*)out)[at]);
        else ((float*)out)[at] = x;
    }
    // Neighbours, of every 16 channels.
    template <int N>
    __device__ __forceinline__ void put(size_t at, const float2 (&x)[N]) const {
        if (narrow) {
#pragma unroll
            for (int i = 0; i < N; i++) *(unsigned*)((bf16*)out + at + 16 * i) = two_bf16(x[i].x, x[i].y);
        } else {
#pragma unroll
            for (int i = 0; i < N; i++) *(float2*)((float*)out + at + 16 * i) = x[i];
        }
    }
    template <int N>
    __device__ __forceinline__ void put(size_t at, const float4 (&x)[N]) const {
        if (narrow) {
#pragma unroll
            for (int i = 0; i < N; i++)
                *(uint2*)((bf16*)out + at + 16 * i) = make_uint2(two_bf16(x[i].x, x[i].y), two_bf16(x[i].z, x[i].w));
        } else {
#pragma unroll
            for (int i = 0; i < N; i++) *(float4*)((float*)out + at + 16 * i) = x[i];
        }
    }
};

#define ATTENTION_PARAMETERS                                                                                          \
    const float *qkv, const unsigned short *queries, const void *k, const void *v, const float *k_scales, const float *v_scales,                     \
        const unsigned *header, const unsigned *positions, const unsigned *query_starts, const unsigned *kv_lens,     \
        const unsigned *page_tables, void *out, float *part_o, float2 *part_ml,     \
        unsigned *counters, float scale, float softcap, int nq, int nkv, int d, int window, int kv_type,              \
        int tiles, int take, int splits, int slots, int tile_rows, int narrow
#define ATTENTION_ARGUMENTS                                                                                           \
    Attention {                                                                                                       \
        qkv, queries, k, v, k_scales, v_scales, header, positions, query_starts, kv_lens, page_tables, out, part_o,         \
            part_ml, counters, scale, softcap, nq, nkv, d, window, kv_type, tiles, take, splits, slots, tile_rows, narrow \
    }

// Some query rows of one sequence.
struct Tile {
    int seq;
    int token;  // the sequence's first row of qkv
    int first;  // packed row of the tile's first
    int rows;   // in the tile, 0 if there is no such tile
    int lo, hi; // keys that any of the rows sees
};

// One row's place.
struct RowOf {
    int token, head; // row of qkv, query head
    int start, end;  // keys it sees
};

__device__ __forceinline__ RowOf row_of(const Attention& a, const Tile& tile, int kv_head, int row) {
    int group = a.nq / a.nkv, packed = tile.first + row;
    RowOf r;
    r.token = tile.token + packed / group;
    r.head = kv_head * group + packed % group;
    r.start = r.end = 0;
    if (row < tile.rows) {
        r.end = min((int)__ldg(a.positions + r.token) + 1, (int)__ldg(a.kv_lens + tile.seq));
        r.start = a.window ? max(r.end - a.window, 0) : 0;
    }
    return r;
}

// Tile `index` of those with `height` rows, in the order of the sequences. All lanes of a warp must call.
__device__ __forceinline__ Tile find_tile(const Attention& a, int index, int height, int kv_head) {
    int group = a.nq / a.nkv, lane = threadIdx.x & 31, sequences = __ldg(a.header + 1), before = 0;
    Tile tile = {};
    if (a.take == TAKE_ONE) {
        tile.seq = tile.token = index;
        tile.rows = group;
        sequences = 0;
    }
    for (int base = 0; base < sequences; base += 32) {
        int seq = base + lane, rows = 0, count = 0;
        if (seq < sequences) {
            rows = (int)(__ldg(a.query_starts + seq + 1) - __ldg(a.query_starts + seq)) * group;
            bool few = rows <= 16;
            count = a.take == TAKE_ALL || (a.take == TAKE_FEW) == few ? (rows + height - 1) / height : 0;
        }
        int sum = count;
        for (int step = 1; step < 32; step *= 2) {
            int other = __shfl_up_sync(~0u, sum, step);
            sum += lane >= step ? other : 0;
        }
        int here = index - before;
        unsigned hit = __ballot_sync(~0u, here < sum);
        if (hit) {
            int owner = __ffs(hit) - 1;
            int skipped = here - __shfl_sync(~0u, sum - count, owner);
            tile.seq = base + owner;
            tile.first = skipped * height;
            tile.rows = min(height, __shfl_sync(~0u, rows, owner) - tile.first);
            break;
        }
        before += __shfl_sync(~0u, sum, 31);
    }
    if (tile.rows > 0) {
        if (a.take != TAKE_ONE) tile.token = __ldg(a.query_starts + tile.seq);
        tile.lo = row_of(a, tile, kv_head, 0).start;
        tile.hi = row_of(a, tile, kv_head, tile.rows - 1).end;
    }
    return tile;
}

// Numbers of a sequence's vectors in the cache.
struct Pages {
    const unsigned* table;
    int page_size, shift, nkv, head;

    __device__ Pages(const Attention& a, int seq, int kv_head)
        : table(a.page_tables + (size_t)seq * __ldg(a.header + 3)), page_size(__ldg(a.header + 4)), nkv(a.nkv), head(kv_head) {
        shift = (page_size & (page_size - 1)) == 0 ? 31 - __clz(page_size) : -1;
    }
    __device__ __forceinline__ unsigned vector(int key) const {
        int page = shift >= 0 ? key >> shift : key / page_size;
        return (__ldg(table + page) * nkv + head) * page_size + (key - page * page_size);
    }
};

// The segments that block `split` of a tile takes.
struct Run {
    int first, begin, end, active; // first segment of the tile, this run, splits that have work
    int end_of_first;              // of split 0
    __device__ Run(const Tile& tile, int splits, int split) {
        first = tile.lo / SEGMENT;
        int all = (tile.hi + SEGMENT - 1) / SEGMENT - first;
        int each = (all + splits - 1) / splits;
        active = each ? (all + each - 1) / each : 1;
        begin = first + min(split * each, all);
        end = first + min((split + 1) * each, all);
        end_of_first = first + each;
        if (split >= active) end = begin - 1;
    }
};

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Factors by which what is known and a later stretch of keys count together; both maxima in units of log2.
__device__ __forceinline__ void merge_factors(float& m, float later, float& a, float& b) {
    float both = fmaxf(m, later), base = both == NEVER ? 0.0f : both;
    a = exp2_fast(__fsub_rn(m, base));
    b = exp2_fast(__fsub_rn(later, base));
    m = both;
}

__device__ __forceinline__ float merged(float x, float a, float later, float b) {
    return __fmaf_rn(later, b, __fmul_rn(x, a));
}

// The last step of every output. Adding 0 makes -0, which could tell how often nothing was added, 0.
__device__ __forceinline__ float finished(float o, float l) { return __fadd_rn(__fmul_rn(o, __frcp_rn(l)), 0.0f); }

// tanh to about 2^-23 of 1, by one exponential.
__device__ __forceinline__ float tanh_fast(float x) {
    float e = exp2_fast(__fmul_rn(x, 2.0f * LOG2_E));
    return __fsub_rn(1.0f, __fdividef(2.0f, __fadd_rn(1.0f, e)));
}

__device__ __forceinline__ size_t slot_of(const Attention& a, int tile, int kv_head, int slot) {
    return (((size_t)tile * a.nkv + kv_head) * a.slots + slot) * a.tile_rows;
}

// True in every thread of the block that arrives last of `of`; what the others wrote before is then visible.
__device__ __forceinline__ bool arrive_last(unsigned* counter, unsigned of, unsigned* shared) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        unsigned before = atomicAdd(counter, 1);
        *shared = before + 1 == of;
        if (before + 1 == of) *counter = 0;
    }
    __syncthreads();
    bool last = *shared;
    if (last) __threadfence();
    return last;
}

// Merges the stretches of a tile and head in order, N channels of a row for each thread. Loads run ahead of sums.
template <int N>
__device__ __forceinline__ void merge_slots(const Attention& a, int index, const Tile& tile, int kv_head, int slots) {
    constexpr int AHEAD = 16;
    int d = a.d;
    for (int i = threadIdx.x * N; i < tile.rows * d; i += blockDim.x * N) {
        int row = i / d, c = i % d;
        float m = NEVER, l = 0.0f, o[N] = {};
        size_t at = slot_of(a, index, kv_head, 0) + row;
        for (int slot = 0; slot < slots; slot += AHEAD, at += (size_t)AHEAD * a.tile_rows) {
            float2 ml[AHEAD];
            float later[AHEAD][N];
#pragma unroll
            for (int j = 0; j < AHEAD; j++) {
                size_t from = at + (slot + j < slots ? (size_t)j * a.tile_rows : 0);
                ml[j] = __ldcg(a.part_ml + from);
                if constexpr (N == 4) {
                    float4 v = __ldcg((const float4*)(a.part_o + from * d + c));
                    later[j][0] = v.x, later[j][1] = v.y, later[j][2] = v.z, later[j][3] = v.w;
                } else {
                    later[j][0] = __ldcg(a.part_o + from * d + c);
                }
            }
#pragma unroll
            for (int j = 0; j < AHEAD; j++) {
                if (slot + j >= slots) break;
                float x, y;
                merge_factors(m, ml[j].x, x, y);
                l = merged(l, x, ml[j].y, y);
#pragma unroll
                for (int k = 0; k < N; k++) o[k] = merged(o[k], x, later[j][k], y);
            }
        }
        RowOf r = row_of(a, tile, kv_head, row);
        const size_t to = ((size_t)r.token * a.nq + r.head) * d + c;
#pragma unroll
        for (int k = 0; k < N; k++) a.put(to + k, finished(o[k], l));
    }
}

// After a run's state was written, to the output if it is all and to the workspace otherwise: the last block merges.
__device__ __forceinline__ void finish_tile(
    const Attention& a, int index, const Tile& tile, int kv_head, const Run& run, unsigned* shared) {
    if (run.active == 1) return;
    if (!arrive_last(a.counters + (size_t)index * a.nkv + kv_head, run.active, shared)) return;
    int all = (tile.hi + SEGMENT - 1) / SEGMENT - run.first, each = run.end_of_first - run.first;
    if (a.d % 4 == 0) merge_slots<4>(a, index, tile, kv_head, all - each + 1);
    else merge_slots<1>(a, index, tile, kv_head, all - each + 1);
}
