// What the attention kernels share: operands, tiles of query rows, the softmax of a segment, and the end of a row.
// The arithmetic of a row is the same in every kernel of one family, to the bit: keys are taken in segments of 128
// positions counted from the start of the sequence; a segment yields (m, l, o) on its own, and segments are merged in
// ascending order, in registers or through a workspace. A key that a row does not see adds exactly nothing.
#pragma once
#include "dependency.cuh"

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
    const void* k;                // pages of [nkv, page_size, d]
    const void* v;
    const float* k_scales;        // pages of [nkv, page_size], or null
    const float* v_scales;
    const unsigned* header;       // [t, s, _, pages_per_seq, page_size, ...]
    const unsigned* positions;    // [t]
    const unsigned* query_starts; // [s + 1]
    const unsigned* kv_lens;      // [s]
    const unsigned* page_tables;  // [s, pages_per_seq]
    float* out;                   // [t, nq d]
    unsigned char* codes;         // [t, nq d], or null
    float* xs;                    // [t]
    float* part_o;                // [tile, nkv, slots, tile_rows, d]
    float2* part_ml;              // [tile, nkv, slots, tile_rows]
    unsigned* counters;           // [tile, nkv] of splits done, then [tile] of heads done; zero between calls
    float scale, softcap;         // softcap 0: none
    int nq, nkv, d, window;       // window 0: none
    int kv_type;                  // of the plain kernel
    int q8;                       // of codes: 0 int8, 1 e4m3, 2 e5m2
    int tiles, take, splits, slots, tile_rows;
};

#define ATTENTION_PARAMETERS                                                                                          \
    const float *qkv, const void *k, const void *v, const float *k_scales, const float *v_scales,                     \
        const unsigned *header, const unsigned *positions, const unsigned *query_starts, const unsigned *kv_lens,     \
        const unsigned *page_tables, float *out, unsigned char *codes, float *xs, float *part_o, float2 *part_ml,     \
        unsigned *counters, float scale, float softcap, int nq, int nkv, int d, int window, int kv_type, int q8,      \
        int tiles, int take, int splits, int slots, int tile_rows
#define ATTENTION_ARGUMENTS                                                                                           \
    Attention {                                                                                                       \
        qkv, k, v, k_scales, v_scales, header, positions, query_starts, kv_lens, page_tables, out, codes, xs, part_o, \
            part_ml, counters, scale, softcap, nq, nkv, d, window, kv_type, q8, tiles, take, splits, slots, tile_rows \
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

// The code of q8.rs nearest to `units`.
__device__ __forceinline__ unsigned char encode(float units, int q8) {
    if (q8 == 0) {
        float x = rintf(fminf(fmaxf(units, -128.0f), 127.0f));
        return (unsigned char)(signed char)(int)x;
    }
    // Round to nearest even on a grid whose step is that of the value's binade, or of the smallest normal's.
    int digits = q8 == 1 ? 3 : 2, bias = q8 == 1 ? 7 : 15;
    float most = q8 == 1 ? 448.0f : 57344.0f;
    float x = fminf(fabsf(units), most);
    unsigned sign = __float_as_uint(units) >> 31 << 7;
    int exponent = max((int)(__float_as_uint(x) >> 23) - 127, 1 - bias);
    float step = __uint_as_float((unsigned)(exponent - digits + 127) << 23);
    int count = __float2int_rn(__fdiv_rn(x, step)); // exact: a power of two
    // A count of 2^(digits+1) carries into the exponent by itself.
    unsigned code = ((unsigned)(exponent + bias - 1) << digits) + (unsigned)count;
    return (unsigned char)(sign | code);
}

// Largest |x| of a block as bits: NaN is above infinity, which is above all numbers.
__device__ __forceinline__ unsigned block_max(unsigned bits, unsigned* shared) {
    for (int step = 16; step; step /= 2) bits = max(bits, __shfl_xor_sync(~0u, bits, step));
    int warps = blockDim.x >> 5;
    __syncthreads();
    if ((threadIdx.x & 31) == 0) shared[threadIdx.x >> 5] = bits;
    __syncthreads();
    unsigned all = 0;
    for (int w = 0; w < warps; w++) all = max(all, shared[w]);
    return all;
}

__device__ __forceinline__ float code_scale(const Attention& a, int token, unsigned most, bool& some) {
    float range = a.q8 == 0 ? 127.0f : a.q8 == 1 ? 448.0f : 57344.0f;
    float scale = __fdiv_rn(__uint_as_float(most), range);
    bool finite = (__float_as_uint(scale) & 0x7F800000u) != 0x7F800000u;
    if (threadIdx.x == 0) a.xs[token] = finite ? scale : __uint_as_float(0x7FC00000u);
    some = finite && scale != 0.0f;
    return scale;
}

__device__ __forceinline__ unsigned max_bits(unsigned most, float x) { return max(most, __float_as_uint(x) & 0x7FFFFFFFu); }

// Quantizes a token's finished row, as q8.rs does. Every thread of the block, of 128, calls.
__device__ __forceinline__ void quantize_token(const Attention& a, int token, unsigned* shared) {
    int width = a.nq * a.d;
    const float* x = a.out + (size_t)token * width;
    unsigned char* codes = a.codes + (size_t)token * width;
    unsigned most = 0;
    bool some;
    if (width % 4) {
        for (int i = threadIdx.x; i < width; i += 128) most = max_bits(most, __ldcg(x + i));
        float scale = code_scale(a, token, block_max(most, shared), some);
        for (int i = threadIdx.x; i < width; i += 128) codes[i] = some ? encode(__fdiv_rn(__ldcg(x + i), scale), a.q8) : 0;
        return;
    }
    // Many loads at a time: one after the other they would cost a round trip each.
    constexpr int TURNS = 8;
    float4 v[TURNS];
    auto load = [&](int from) {
#pragma unroll
        for (int j = 0; j < TURNS; j++) {
            int i = from + (j * 128 + threadIdx.x) * 4;
            v[j] = i < width ? __ldcg((const float4*)(x + i)) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
    };
    for (int from = 0; from < width; from += TURNS * 512) {
        load(from);
#pragma unroll
        for (int j = 0; j < TURNS; j++) most = max_bits(max_bits(max_bits(max_bits(most, v[j].x), v[j].y), v[j].z), v[j].w);
    }
    float scale = code_scale(a, token, block_max(most, shared), some);
    for (int from = 0; from < width; from += TURNS * 512) {
        if (width > TURNS * 512) load(from);
#pragma unroll
        for (int j = 0; j < TURNS; j++) {
            int i = from + (j * 128 + threadIdx.x) * 4;
            if (i >= width) continue;
            unsigned word = 0;
            if (some) {
                word = encode(__fdiv_rn(v[j].x, scale), a.q8) | encode(__fdiv_rn(v[j].y, scale), a.q8) << 8 |
                    encode(__fdiv_rn(v[j].z, scale), a.q8) << 16 | (unsigned)encode(__fdiv_rn(v[j].w, scale), a.q8) << 24;
            }
            *(unsigned*)(codes + i) = word;
        }
    }
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
        float* to = a.out + ((size_t)r.token * a.nq + r.head) * d + c;
#pragma unroll
        for (int k = 0; k < N; k++) to[k] = finished(o[k], l);
    }
}

// After a run's state was written (to the output if it is all, to the workspace otherwise): the last block merges, and
// the last of a tile's heads quantizes its tokens.
__device__ __forceinline__ void finish_tile(
    const Attention& a, int index, const Tile& tile, int kv_head, const Run& run, unsigned* shared) {
    if (run.active > 1) {
        if (!arrive_last(a.counters + (size_t)index * a.nkv + kv_head, run.active, shared)) return;
        int all = (tile.hi + SEGMENT - 1) / SEGMENT - run.first, each = (all + a.splits - 1) / a.splits;
        if (a.d % 4 == 0) merge_slots<4>(a, index, tile, kv_head, all - each + 1);
        else merge_slots<1>(a, index, tile, kv_head, all - each + 1);
    }
    if (!a.codes) return;
    if (!arrive_last(a.counters + (size_t)a.tiles * a.nkv + index, a.nkv, shared)) return;
    int group = a.nq / a.nkv;
    int first = tile.token + tile.first / group, last = tile.token + (tile.first + tile.rows - 1) / group;
    for (int token = first; token <= last; token++) quantize_token(a, token, shared + 1);
}
