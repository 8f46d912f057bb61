// archs: 90a
// Attention of sequences with one new token over a cache of codes, when there are enough to fill the chip: each warp
// takes a sequence and a key head by itself, so that no warp waits for another. Keys are the rows of the matrix
// instructions and queries their columns, of which there are but a few; the copy engine brings 32 keys or values at a
// time into a ring of the warp's own.
// Results equal those of the other kernels of this family to the bit: sums run in the same order, see `sum_of`.
#define CONVERTS_E4M3
#include "attention_mma.cuh"
#include "copy_engine.cuh"

// A fragment of 8 x 8 16-bit numbers, rows and columns exchanged.
__device__ __forceinline__ unsigned turned(unsigned x) {
    unsigned y;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

template <class Cache>
struct Each {
    static constexpr int D = 128, KEYS = 32, STAGES = 3, WARPS = 4;
    static constexpr int PIECES = SEGMENT / KEYS;  // of a segment's keys; as many of its values
    static constexpr int DATA = KEYS * D, SCALES = KEYS * 4;
    static constexpr int OTHERS = 2 * SEGMENT * 4; // the values' scales of two segments
    static constexpr int SHARED = WARPS * (STAGES * (DATA + SCALES + 8) + OTHERS) + 1024;
    static constexpr int TILES = SEGMENT / 16, CHUNKS = D / 16;

    const Attention& a;
    const TensorMap *k_map, *v_map;
    Tile tile;
    int head, shift;        // a page has 1 << shift keys
    const unsigned* table;
    int pages;              // entries of the table
    int window;             // the first of 32 pages
    unsigned page;          // this lane's of them
    unsigned data, scales, others, full; // this warp's stages in shared memory
    const float *scale_at, *others_at;   // as the program sees `scales` and `others`
    // Pieces are counted from the sequence's start. The next to copy is one of the keys, or the values, of the segment
    // [begin, until).
    int next, begin, until, end;
    bool values;
    int stage, parity; // of the oldest piece that was copied, whose place the next will have

    // ---- copying

    __device__ __forceinline__ bool some(int piece) const { return piece >= tile.lo / KEYS && piece < end; }

    // Looks up the pages of a segment, if that before it was not among the same 32.
    __device__ __forceinline__ void look_up() {
        int first = begin * KEYS >> shift;
        if (first < window + 32) return;
        window = first & ~31;
        int mine = window + (threadIdx.x & 31);
        page = mine < pages ? __ldg(table + mine) : 0;
    }

    // Queues the next piece, if there is one.
    __device__ __forceinline__ void issue() {
        if (begin == end) return;
        int key = next * KEYS;
        unsigned its = __shfl_sync(~0u, page, (key >> shift) & 31);
        if (elected()) {
            int row = ((its * a.nkv + head) << shift) + (key & ((1 << shift) - 1));
            unsigned barrier = full + stage * 8, to = data + stage * DATA;
            if (values) {
                barrier_expect(barrier, DATA);
                load_box(to, v_map, 0, row, barrier, 0, policy_evict_first());
            } else {
                barrier_expect(barrier, DATA + 2 * SCALES);
                load_box(to, k_map, 0, row, barrier, 0, policy_evict_first());
                load_run(scales + stage * SCALES, a.k_scales + row, SCALES, barrier);
                load_run(others + next % (2 * PIECES) * SCALES, a.v_scales + row, SCALES, barrier);
            }
        }
        __syncwarp();
        if (++next < until) return;
        next = begin, values = !values;
        if (values) return;
        next = begin = until, until = min(until + PIECES, end);
        look_up();
    }
    __device__ __forceinline__ void turn() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
    __device__ __forceinline__ unsigned arrived() const {
        barrier_wait(full + stage * 8, parity);
        return data + stage * DATA;
    }
    // All lanes have read the stage.
    __device__ __forceinline__ void done() {
        __syncwarp();
        issue();
        turn();
    }

    // ---- the products

    // Scores of 32 keys: rows g and g + 8 of two tiles, columns 2c and 2c + 1. Tiles take turns, and loads run ahead:
    // each sum waits for itself.
    __device__ __forceinline__ static void score(float (*s)[4], const unsigned (&q)[CHUNKS][2], unsigned piece) {
        int lane = threadIdx.x & 31;
        unsigned at[2] = {piece + (lane & 15) * 128, piece + (16 + (lane & 15)) * 128}, turn = lane & 7, b[2][4];
#pragma unroll
        for (int t = 0; t < 2; t++) {
#pragma unroll
            for (int i = 0; i < 4; i++) s[t][i] = 0.0f;
            load_4(b[t], at[t] + (((lane >> 4) ^ turn) << 4));
        }
#pragma unroll
        for (int i = 0; i < CHUNKS; i += 2) {
            unsigned k[2][2][4];
#pragma unroll
            for (int t = 0; t < 2; t++) {
                widen<Cache>(b[t][0], k[t][0][0], k[t][0][2]);
                widen<Cache>(b[t][1], k[t][0][1], k[t][0][3]);
                widen<Cache>(b[t][2], k[t][1][0], k[t][1][2]);
                widen<Cache>(b[t][3], k[t][1][1], k[t][1][3]);
                if (i + 2 < CHUNKS) load_4(b[t], at[t] + (((i + 2 + (lane >> 4)) ^ turn) << 4));
            }
#pragma unroll
            for (int h = 0; h < 2; h++) {
                multiply<Cache>(s[0], k[0][h], q[i + h][0], q[i + h][1]);
                multiply<Cache>(s[1], k[1][h], q[i + h][0], q[i + h][1]);
            }
        }
    }

    // Adds 32 values times their weights: channels 2g and 2g + 1 of each chunk, columns 2c and 2c + 1.
    __device__ __forceinline__ static void add(float (&o)[CHUNKS][4], const unsigned (*p)[2], unsigned piece) {
        int lane = threadIdx.x & 31;
        unsigned at = piece + lane * 128, turn = lane & 7, b[2][4];
        load_4_turned(b[0], at + (turn << 4));
        load_4_turned(b[1], at + ((1 ^ turn) << 4));
#pragma unroll
        for (int i = 0; i < CHUNKS; i += 2) {
            unsigned v[2][2][4];
#pragma unroll
            for (int t = 0; t < 2; t++) {
                widen<Cache>(b[t][0], v[t][0][0], v[t][0][1]);
                widen<Cache>(b[t][1], v[t][0][2], v[t][0][3]);
                widen<Cache>(b[t][2], v[t][1][0], v[t][1][1]);
                widen<Cache>(b[t][3], v[t][1][2], v[t][1][3]);
                if (i + 2 < CHUNKS) load_4_turned(b[t], at + (((i + 2 + t) ^ turn) << 4));
            }
#pragma unroll
            for (int h = 0; h < 2; h++) {
                multiply<Cache>(o[i], v[0][h], p[h][0], p[h][1]);
                multiply<Cache>(o[i + 1], v[1][h], p[h][0], p[h][1]);
            }
        }
    }

    // ---- the softmax

    // Sums of both columns, as the other kernels have them: of two neighbours each and eight keys on, in both halves of
    // a segment; then of its quarters; then of the neighbours. Lanes with an even g keep those of column 2c.
    __device__ __forceinline__ static void sum_of(const float (&w)[TILES][4], float (&l)[2]) {
        bool odd = threadIdx.x & 4;
        float quarter[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            quarter[i] = 0.0f;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float(&x)[4] = w[i + 4 * half];
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    float mine = odd ? x[2 * h + 1] : x[2 * h];
                    float other = __shfl_xor_sync(~0u, odd ? x[2 * h] : x[2 * h + 1], 4);
                    quarter[i] = __fadd_rn(quarter[i], odd ? other : mine);
                    quarter[i] = __fadd_rn(quarter[i], odd ? mine : other);
                }
            }
        }
        float sum = __fadd_rn(__fadd_rn(__fadd_rn(quarter[0], quarter[1]), quarter[2]), quarter[3]);
        sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, 8));
        sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, 16));
        float other = __shfl_xor_sync(~0u, sum, 4);
        l[0] = odd ? other : sum;
        l[1] = odd ? sum : other;
    }

    // Scores of a segment to maxima, sums and fragments of weights. `its` are the values' scales.
    __device__ __forceinline__ static void weigh(
        float (&s)[TILES][4], const float* its, const Rule& rule, unsigned (&p)[TILES][2], float (&m)[2], float (&l)[2]) {
        int g = (threadIdx.x & 31) / 4;
        float most[2] = {NEVER, NEVER};
#pragma unroll
        for (int i = 0; i < TILES * 4; i++) most[i & 1] = fmaxf(most[i & 1], s[i / 4][i % 4]);
#pragma unroll
        for (int e = 0; e < 2; e++) {
#pragma unroll
            for (int step = 4; step < 32; step *= 2) most[e] = fmaxf(most[e], __shfl_xor_sync(~0u, most[e], step));
            m[e] = rule.maximum(most[e]);
        }
#pragma unroll
        for (int i = 0; i < TILES * 4; i++) {
            float& x = s[i / 4][i % 4];
            x = rule.weight(x, m[i & 1] == NEVER ? 0.0f : m[i & 1]);
        }
        sum_of(s, l);
#pragma unroll
        for (int t = 0; t < TILES; t++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float w[2] = {s[t][2 * h], s[t][2 * h + 1]}, scale = its[16 * t + 8 * h + g];
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    // A masked key's scale may be anything.
                    if (w[e] != 0.0f) w[e] = __fmul_rn(w[e], scale);
                }
                p[t][h] = turned(pack<Cache>(w[0], w[1]));
            }
        }
    }

    // Scales, caps and masks the scores of a piece.
    __device__ __forceinline__ void finish(float (*s)[4], int key, const Rule& rule) const {
        int g = (threadIdx.x & 31) / 4;
        const float* at = scale_at + stage * (SCALES / 4) + g;
#pragma unroll
        for (int i = 0; i < 8; i++) s[i / 4][i % 4] = rule.score(s[i / 4][i % 4], at[i / 2 * 8]);
        if (rule.capped) {
#pragma unroll
            for (int i = 0; i < 8; i++) s[i / 4][i % 4] = rule.cap(s[i / 4][i % 4]);
        }
        // One token: all its heads see the same keys.
        if (key >= tile.lo && key + KEYS <= tile.hi) return;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            int its = key + i / 2 * 8 + g;
            if (its < tile.lo || its >= tile.hi) s[i / 4][i % 4] = NEVER;
        }
    }

    // Query g of the head as columns, rounded; channels of a chunk in the order that `widen` gives codes.
    __device__ __forceinline__ void load_queries(unsigned (&q)[CHUNKS][2]) const {
        int g = (threadIdx.x & 31) / 4, c = threadIdx.x & 3;
        int width = (a.nq + 2 * a.nkv) * D;
        const float* from = a.qkv + (size_t)tile.token * width + (head * tile.rows + g) * D + 4 * c;
#pragma unroll
        for (int i = 0; i < CHUNKS; i++) {
            float4 x = g < tile.rows ? *(const float4*)(from + 16 * i) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            q[i][0] = pack_queries<Cache>(x.x, x.z);
            q[i][1] = pack_queries<Cache>(x.y, x.w);
        }
    }

    __device__ __forceinline__ void write(const float (&o)[CHUNKS][4], const float (&l)[2]) const {
        int g = (threadIdx.x & 31) / 4, c = threadIdx.x & 3;
#pragma unroll
        for (int e = 0; e < 2; e++) {
            if (2 * c + e >= tile.rows) continue;
            float2 pairs[CHUNKS];
#pragma unroll
            for (int i = 0; i < CHUNKS; i++) pairs[i] = make_float2(finished(o[i][e], l[e]), finished(o[i][2 + e], l[e]));
            a.put(((size_t)tile.token * a.nq + head * tile.rows + 2 * c + e) * D + 2 * g, pairs);
        }
    }

    __device__ __forceinline__ void attend() {
        Rule rule = Rule::of<Cache>(a);
        unsigned q[CHUNKS][2];
        load_queries(q);
        float all[CHUNKS][4] = {}, all_m[2] = {NEVER, NEVER}, all_l[2] = {};
        for (int segment = tile.lo / SEGMENT; segment * SEGMENT < tile.hi; segment++) {
            unsigned p[TILES][2];
            float m[2], l[2];
            {
                // Rolled, so that the instructions of a segment fit into the cache for them: the newest scores come last.
                float s[TILES][4] = {};
#pragma unroll 1
                for (int i = 0; i < PIECES; i++) {
#pragma unroll
                    for (int j = 0; j < TILES * 4 - 8; j++) s[j / 4][j % 4] = s[j / 4 + 2][j % 4];
                    float(*its)[4] = s + TILES - 2;
                    int piece = segment * PIECES + i;
                    if (some(piece)) {
                        score(its, q, arrived());
                        finish(its, piece * KEYS, rule);
                        done();
                    } else {
#pragma unroll
                        for (int j = 0; j < 8; j++) its[j / 4][j % 4] = NEVER;
                    }
                }
                weigh(s, others_at + segment % 2 * SEGMENT, rule, p, m, l);
            }
            float o[CHUNKS][4] = {};
#pragma unroll 1
            for (int i = 0; i < PIECES; i++) {
                if (some(segment * PIECES + i)) add(o, p, arrived()), done();
#pragma unroll
                for (int j = 0; j < 2 * TILES - 4; j++) p[j / 2][j % 2] = p[j / 2 + 2][j % 2];
            }
            float x[2], y[2];
#pragma unroll
            for (int e = 0; e < 2; e++) {
                merge_factors(all_m[e], m[e], x[e], y[e]);
                all_l[e] = merged(all_l[e], x[e], l[e], y[e]);
            }
#pragma unroll
            for (int i = 0; i < CHUNKS * 4; i++) all[i / 4][i % 4] = merged(all[i / 4][i % 4], x[i & 1], o[i / 4][i % 4], y[i & 1]);
        }
        grid_release();
        write(all, all_l);
    }

    __device__ static void run(const Attention& a, const TensorMap* k_map, const TensorMap* v_map) {
        extern __shared__ char memory[];
        // The compiler is told that all lanes have the same warp.
        int lane = threadIdx.x & 31, warp = __shfl_sync(~0u, threadIdx.x >> 5, 0), task = blockIdx.x * WARPS + warp;
        if (task >= a.tiles * a.nkv) return grid_wait();
        unsigned base = shared_address(memory), up = (1024 - base % 1024) % 1024;
        unsigned ends = base + up + WARPS * STAGES * DATA;
        Each e{a, k_map, v_map};
        e.head = task % a.nkv;
        e.tile = find_tile(a, task / a.nkv, 16, e.head);
        e.shift = 31 - __clz(__ldg(a.header + 4));
        e.pages = __ldg(a.header + 3);
        e.table = a.page_tables + (size_t)e.tile.seq * e.pages;
        e.window = -32;
        e.data = base + up + warp * STAGES * DATA;
        e.scales = ends + warp * STAGES * SCALES;
        e.scale_at = (const float*)(memory + (e.scales - base));
        e.others = ends + WARPS * STAGES * SCALES + warp * OTHERS;
        e.others_at = (const float*)(memory + (e.others - base));
        e.full = ends + WARPS * (STAGES * SCALES + OTHERS) + warp * STAGES * 8;
        e.next = e.begin = e.tile.lo / KEYS, e.end = (e.tile.hi + KEYS - 1) / KEYS;
        e.until = min((e.begin / PIECES + 1) * PIECES, e.end), e.values = false;
        e.stage = e.parity = 0;
        if (lane < STAGES) barrier_init(e.full + 8 * lane, 1);
        barrier_init_done();
        __syncwarp();
        // Keys of earlier steps were written before this step began: their copies need not wait for the kernel before. Up to
        // one piece of the second segment is asked for here; the newest key, the last, must lie behind it.
        bool old = (e.tile.lo / SEGMENT + 1) * SEGMENT + KEYS < e.tile.hi;
        if (!old) grid_wait();
        if (e.begin < e.end) e.look_up();
#pragma unroll
        for (int i = 0; i < STAGES; i++) e.issue(), e.turn();
        e.parity = 0; // the first piece's
        if (old) grid_wait();
        e.attend();
    }
};

#define EACH(NAME, CACHE)                                                                                             \
    extern "C" __global__ void __launch_bounds__(128, 4) attention_each_##NAME(                                       \
        const __grid_constant__ TensorMap k_map, const __grid_constant__ TensorMap v_map, ATTENTION_PARAMETERS) {     \
        const Attention a = ATTENTION_ARGUMENTS;                                                                      \
        Each<CACHE>::run(a, &k_map, &v_map);                                                                          \
    }                                                                                                                 \
    static_assert(Each<CACHE>::SHARED <= 56 * 1024, "four blocks do not fit")

EACH(i8, CacheI8);
EACH(e4m3, CacheE4m3);
