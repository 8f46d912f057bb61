// archs: 80 90a ptx
// Attention of many query rows, as in prefill: each warp has 16 rows (half of the channels of the output if heads are
// wide), and the block's warps share every piece of keys and values.
#include "attention_mma.cuh"

template <class Cache, int D, int STAGES, int WARPS = 8>
struct Many {
    using Copies = Pieces<Cache, D, WARPS>;
    static constexpr int SPLIT = D > 128 ? 2 : 1;     // warps that share 16 rows
    static constexpr int ROWS = 16 * WARPS / SPLIT;
    static constexpr int GROUPS = D / 16 / SPLIT;     // of 16 channels, of a warp
    static constexpr int Q = ROWS * pitch_of(2 * D);
    static constexpr int SHARED = Q + Copies::SCALES + STAGES * Copies::BYTES;

    // Scores of 16 rows and the 64 keys of a piece.
    __device__ __forceinline__ static void score(float (*s)[4], unsigned q_at, unsigned piece) {
        int lane = threadIdx.x & 31;
        unsigned from = q_at + (lane & 15) * pitch_of(2 * D) + (lane >> 4) * 16;
#pragma unroll
        for (int i = 0; i < D / 16; i += 2) {
            constexpr int STEPS = 2;
            unsigned q[STEPS][4];
            load_4(q[0], from + i * 32);
            if (i + 1 < D / 16) load_4(q[1], from + (i + 1) * 32);
#pragma unroll
            for (int j = 0; j < 4; j++) score_steps<Cache, D>(s[2 * j], s[2 * j + 1], q, piece, 16 * j, i);
        }
    }

    // Piece i of a tile, in the order K, K, V, V of each segment.
    __device__ __forceinline__ static void load(Copies& copies, const Run& span, int i) {
        copies.load(span.begin + i / 4, i & 1, i & 2, copies.ring + i % STAGES * Copies::BYTES);
        commit_copies();
    }

    __device__ static void run(const Attention& a) {
        extern __shared__ __align__(128) char memory[];
        char *q_at = memory, *scale_at = memory + Q, *ring = scale_at + Copies::SCALES;
        int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, c = lane % 4;
        // The last tiles of a sequence have the most to do.
        int index = a.tiles - 1 - blockIdx.x / a.nkv, kv_head = blockIdx.x % a.nkv;
        grid_wait();
        Tile tile = find_tile(a, index, ROWS, kv_head);
        Run span(tile, 1, 0);
        if (tile.rows == 0) return grid_release();
        Copies copies{a, Pages(a, tile.seq, kv_head), tile.lo, tile.hi, span.begin, span.end,
            shared_address(ring), shared_address(scale_at)};
#pragma unroll
        for (int i = 0; i < STAGES - 1; i++) load(copies, span, i);
        stage_queries<Cache, D>(a, tile, kv_head, q_at, ROWS, (a.nq + 2 * a.nkv) * D);
        int first_row = warp / SPLIT * 16, first_group = warp % SPLIT * GROUPS;
        RowOf row[2] = {row_of(a, tile, kv_head, first_row + lane / 4), row_of(a, tile, kv_head, first_row + lane / 4 + 8)};
        int seen_from = row_of(a, tile, kv_head, tile.rows - 1).start, seen_to = row_of(a, tile, kv_head, 0).end;
        int warp_last = min(first_row + 15, tile.rows - 1);
        int warp_lo = row_of(a, tile, kv_head, min(first_row, tile.rows - 1)).start;
        int warp_hi = first_row < tile.rows ? row_of(a, tile, kv_head, warp_last).end : 0;
        Rule rule = Rule::of<Cache>(a);
        unsigned my_q = shared_address(q_at) + first_row * pitch_of(2 * D);
        float all_o[GROUPS][2][4] = {}, all_m[2] = {NEVER, NEVER}, all_l[2] = {};
        int piece = 0;
        auto next = [&]() {
            wait_copies<STAGES - 2>();
            __syncthreads();
            load(copies, span, piece + STAGES - 1);
            return copies.ring + piece++ % STAGES * Copies::BYTES;
        };
        for (int segment = span.begin; segment < span.end; segment++) {
            bool busy = segment * SEGMENT < warp_hi && (segment + 1) * SEGMENT > warp_lo;
            float s[16][4] = {}, m[2], l[2];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                unsigned slot = next();
                if (busy && copies.some(segment, half)) score(s + 8 * half, my_q, slot);
            }
            unsigned p[8][4];
            const float* scales = (const float*)scale_at + (segment & 3) * 2 * SEGMENT;
            if (busy) weigh<Cache>(segment, s, p, m, l, rule, row, scales);
            float o[GROUPS][2][4] = {};
#pragma unroll
            for (int half = 0; half < 2; half++) {
                unsigned slot = next();
                bool some = copies.some(segment, half);
                int key = segment * SEGMENT + half * PIECE;
                if (!Cache::CODES && some && (max(key, tile.lo) < seen_from || min(key + PIECE, tile.hi) > seen_to)) {
                    char* at = ring + (slot - shared_address(ring));
                    settle<D, GROUPS>(o, at, key, row[0], row[1], first_group, 1);
                }
                if (!busy || !some) continue;
#pragma unroll
                for (int k = 0; k < 2; k++) {
#pragma unroll
                    for (int g = 0; g < GROUPS; g++) {
                        int at = 4 * half + 2 * k;
                        add_32<Cache, D>(o[g][0], o[g][1], p[at], p[at + 1], slot, 32 * k, (first_group + g) * 16);
                    }
                }
            }
            if (!busy) continue;
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float x, y;
                merge_factors(all_m[h], m[h], x, y);
                all_l[h] = merged(all_l[h], x, l[h], y);
#pragma unroll
                for (int i = 0; i < GROUPS * 4; i++) {
                    float& to = all_o[i / 4][i / 2 % 2][2 * h + i % 2];
                    to = merged(to, x, o[i / 4][i / 2 % 2][2 * h + i % 2], y);
                }
            }
        }
        grid_release();
#pragma unroll
        for (int h = 0; h < 2; h++) {
            if (first_row + lane / 4 + 8 * h >= tile.rows) continue;
            const size_t to = ((size_t)row[h].token * a.nq + row[h].head) * D;
#pragma unroll
            for (int i = 0; i < GROUPS * 4; i++) {
                int channel = (first_group + i / 4) * 16 + channel_of<Cache>(i / 2 % 2, i % 2, c);
                a.put(to + channel, finished(all_o[i / 4][i / 2 % 2][2 * h + i % 2], all_l[h]));
            }
        }
    }
};

#define MANY(NAME, CACHE, D, STAGES)                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 1) attention_many_##NAME##_##D(ATTENTION_PARAMETERS) {          \
        const Attention a = ATTENTION_ARGUMENTS;                                                                      \
        Many<CACHE, D, STAGES>::run(a);                                                                               \
    }                                                                                                                 \
    static_assert(Many<CACHE, D, STAGES>::SHARED <= 99 * 1024, "more than sm_86 gives a block")

MANY(bf16, CacheBf16, 64, 5);
MANY(bf16, CacheBf16, 80, 4);
MANY(bf16, CacheBf16, 96, 4);
MANY(bf16, CacheBf16, 128, 3);
MANY(bf16, CacheBf16, 256, 2);
MANY(i8, CacheI8, 64, 5);
MANY(i8, CacheI8, 80, 5);
MANY(i8, CacheI8, 96, 5);
MANY(i8, CacheI8, 128, 5);
MANY(i8, CacheI8, 256, 3);
MANY(e4m3, CacheE4m3, 64, 5);
MANY(e4m3, CacheE4m3, 80, 5);
MANY(e4m3, CacheE4m3, 96, 5);
MANY(e4m3, CacheE4m3, 128, 5);
MANY(e4m3, CacheE4m3, 256, 3);
