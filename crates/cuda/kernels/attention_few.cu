// archs: 80 90a ptx
// Attention of up to 16 query rows a block, as in decoding: four warps share every segment of keys, each with a quarter
// of the keys for the scores and a quarter of the channels for the output. A sequence may be split over several blocks.
#include "attention_mma.cuh"

template <class Cache, int D, int PAIRS>
struct Few {
    using Copies = Pieces<Cache, D, 4>;
    static constexpr int GROUPS = (D / 16 + 3) / 4; // of 16 channels, of a warp
    static constexpr int Q = 16 * pitch_of(2 * D), P = 16 * pitch_of(2 * SEGMENT);
    static constexpr int SHARED = Q + P + (64 + 256 + 16) * 4 + Copies::SCALES + PAIRS * 2 * Copies::BYTES;

    float o[GROUPS][2][4];
    float m[2], l[2];

    __device__ void clear() {
        m[0] = m[1] = NEVER;
        l[0] = l[1] = 0.0f;
#pragma unroll
        for (int i = 0; i < GROUPS * 8; i++) (&o[0][0][0])[i] = 0.0f;
    }

    __device__ void merge(const Few& later, bool tall) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            if (h && !tall) continue;
            float x, y;
            merge_factors(m[h], later.m[h], x, y);
            l[h] = merged(l[h], x, later.l[h], y);
#pragma unroll
            for (int g = 0; g < GROUPS; g++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float& to = o[g][i >> 1][2 * h + (i & 1)];
                    to = merged(to, x, later.o[g][i >> 1][2 * h + (i & 1)], y);
                }
            }
        }
    }

    // To the workspace, or finished to the output.
    __device__ void write(const Attention& a, const Tile& tile, int index, int kv_head, int slot) const {
        int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int row = lane / 4 + 8 * h;
            if (row >= tile.rows) continue;
            RowOf r = row_of(a, tile, kv_head, row);
            size_t at = slot < 0 ? (size_t)r.token * a.nq + r.head : slot_of(a, index, kv_head, slot) + row;
            if (slot >= 0 && warp == 0 && lane % 4 == 0) a.part_ml[at] = make_float2(m[h], l[h]);
#pragma unroll
            for (int g = 0; g < GROUPS; g++) {
                if (4 * g + warp >= D / 16) continue;
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float x = o[g][i >> 1][2 * h + (i & 1)];
                    int channel = (4 * g + warp) * 16 + channel_of<Cache>(i >> 1, i & 1, lane % 4);
                    if (slot < 0) a.put(at * D + channel, finished(x, l[h]));
                    else a.part_o[at * D + channel] = x;
                }
            }
        }
    }

    // Copies of whole segments, keys and values in turn, through a ring of PAIRS.
    struct Ring {
        Copies& copies;
        int segment;
        bool values;
        unsigned to, from, first; // the next slots to write and to read
        __device__ __forceinline__ static void step(unsigned& slot, unsigned first) {
            slot += 2 * Copies::BYTES;
            if (slot == first + PAIRS * 2 * Copies::BYTES) slot = first;
        }
        __device__ __forceinline__ void load() {
            copies.load(segment, 0, values, to);
            copies.load(segment, 1, values, to + Copies::BYTES);
            commit_copies();
            segment += values;
            values = !values;
            step(to, first);
        }
        // Waits for the next segment's keys or values; the slot before is free then.
        __device__ __forceinline__ unsigned next() {
            wait_copies<PAIRS - 2>();
            __syncthreads();
            load();
            unsigned slot = from;
            step(from, first);
            return slot;
        }
    };

    __device__ static void run(const Attention& a) {
        extern __shared__ __align__(128) char memory[];
        char *q_at = memory, *p_at = q_at + Q;
        float *maxima = (float*)(p_at + P), *sums = maxima + 64;
        unsigned* flags = (unsigned*)(sums + 256);
        char* ring = (char*)(flags + 16) + Copies::SCALES;
        int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, c = lane % 4;
        int index = blockIdx.x, kv_head = blockIdx.y;
        Tile tile = find_tile(a, index, 16, kv_head);
        Run span(tile, a.splits, blockIdx.z);
        if (tile.rows == 0 || span.begin >= span.end) return grid_wait();
        Copies copies{a, Pages(a, tile.seq, kv_head), tile.lo, tile.hi, span.begin, span.end,
            shared_address(ring), shared_address(flags + 16)};
        // Keys of earlier steps were written before this step began: their copies need not wait for the kernel before.
        bool old = min(tile.hi, (span.begin + PAIRS / 2) * SEGMENT) <= (int)__ldg(a.positions + tile.token);
        if (!old) grid_wait();
        Ring slots{copies, span.begin, false, copies.ring, copies.ring, copies.ring};
#pragma unroll
        for (int i = 0; i < PAIRS - 1; i++) slots.load();
        if (old) grid_wait();
        stage_queries<Cache, D>(a, tile, kv_head, q_at, 16, (a.nq + 2 * a.nkv) * D);
        RowOf row[2] = {row_of(a, tile, kv_head, lane / 4), row_of(a, tile, kv_head, lane / 4 + 8)};
        int seen_from = row_of(a, tile, kv_head, tile.rows - 1).start, seen_to = row_of(a, tile, kv_head, 0).end;
        Rule rule = Rule::of<Cache>(a);
        __syncthreads();
        unsigned q[D / 16][4];
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            load_4(q[i], shared_address(q_at) + (lane & 15) * pitch_of(2 * D) + i * 32 + (lane >> 4) * 16);
        }
        Few all, part;
        all.clear();
        bool tall = tile.rows > 8; // or the fragments' lower rows are not there
        for (int segment = span.begin; segment < span.end; segment++) {
            part.clear();
            unsigned slot = slots.next();
            float s[2][2][4] = {}, v_scale[2][4];
#pragma unroll
            for (int i = 0; i < D / 16; i += 2) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    if (!copies.some(segment, half)) continue;
                    score_steps<Cache, D>(s[half][0], s[half][1], q + i, slot + half * Copies::BYTES, 16 * warp, i);
                }
            }
            const float* scales = (const float*)(flags + 16) + (segment & 3) * 2 * SEGMENT;
            bool whole = segment * SEGMENT >= seen_from && (segment + 1) * SEGMENT <= seen_to;
            if (Cache::CODES) {
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    v_scale[i / 4][i % 4] = scales[SEGMENT + i / 4 * PIECE + 16 * warp + 8 * (i / 2 % 2) + 2 * c + i % 2];
                }
            }
#pragma unroll
            for (int h = 0; h < 2; h++) {
                if (h && !tall) continue;
                float most = NEVER;
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    int place = i / 4 * PIECE + 16 * warp + 8 * (i / 2 % 2) + 2 * c + i % 2;
                    int key = segment * SEGMENT + place;
                    float& x = s[i / 4][i / 2 % 2][2 * h + i % 2];
                    float y = rule.score(x, Cache::CODES ? scales[place] : 1.0f);
                    if (rule.capped) y = rule.cap(y);
                    x = whole || (key >= row[h].start && key < row[h].end) ? y : NEVER;
                    most = fmaxf(most, x);
                }
                most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
                most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
                if (c == 0) maxima[warp * 16 + lane / 4 + 8 * h] = most;
            }
            __syncthreads();
#pragma unroll
            for (int h = 0; h < 2; h++) {
                if (h && !tall) continue;
                const float* at = maxima + lane / 4 + 8 * h;
                part.m[h] = rule.maximum(fmaxf(fmaxf(at[0], at[16]), fmaxf(at[32], at[48])));
                float base = part.m[h] == NEVER ? 0.0f : part.m[h], sum = 0.0f;
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float w[2];
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        w[e] = rule.weight(s[i >> 1][i & 1][2 * h + e], base);
                        sum = __fadd_rn(sum, w[e]);
                        // A masked key's scale may be anything.
                        if (Cache::CODES && w[e] != 0.0f) w[e] = __fmul_rn(w[e], v_scale[i >> 1][(i & 1) * 2 + e]);
                    }
                    int place = (i >> 1) * PIECE + 16 * warp + 8 * (i & 1) + 2 * c;
                    *(unsigned*)(p_at + (lane / 4 + 8 * h) * pitch_of(2 * SEGMENT) + place * 2) = pack<Cache>(w[0], w[1]);
                }
                sums[((lane / 4 + 8 * h) * 4 + c) * 4 + warp] = sum;
            }
            slot = slots.next();
#pragma unroll
            for (int h = 0; h < 2; h++) {
                if (h && !tall) continue;
                float4 x = *(const float4*)(sums + ((lane / 4 + 8 * h) * 4 + c) * 4);
                float sum = __fadd_rn(__fadd_rn(__fadd_rn(x.x, x.y), x.z), x.w);
                sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, 1));
                part.l[h] = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, 2));
            }
#pragma unroll
            for (int half = 0; half < 2; half++) {
                if (!copies.some(segment, half)) continue;
                int key = segment * SEGMENT + half * PIECE;
                unsigned piece = slot + half * Copies::BYTES;
                if (!Cache::CODES && (max(key, tile.lo) < seen_from || min(key + PIECE, tile.hi) > seen_to)) {
                    char* at = ring + (piece - shared_address(ring));
                    settle<D, GROUPS>(part.o, at, key, row[0], row[1], warp, 4);
                }
                unsigned p[4][4];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    unsigned at = shared_address(p_at) + (lane & 15) * pitch_of(2 * SEGMENT) + (lane >> 4) * 16;
                    load_4(p[i], at + half * PIECE * 2 + i * 32);
                }
#pragma unroll
                for (int g = 0; g < GROUPS; g++) {
                    int channels = (4 * g + warp) * 16;
                    if (channels >= D) continue;
                    add_32<Cache, D>(part.o[g][0], part.o[g][1], p[0], p[1], piece, 0, channels);
                    add_32<Cache, D>(part.o[g][0], part.o[g][1], p[2], p[3], piece, 32, channels);
                }
            }
            if (blockIdx.z == 0) {
                all.merge(part, tall);
            } else {
                part.write(a, tile, index, kv_head, segment - span.end_of_first + 1);
            }
        }
        grid_release();
        if (blockIdx.z == 0) all.write(a, tile, index, kv_head, span.active > 1 ? 0 : -1);
        finish_tile(a, index, tile, kv_head, span, flags);
    }
};

// BLOCKS of a multiprocessor, where its shared memory allows.
#define FEW(NAME, CACHE, D, PAIRS, BLOCKS)                                                                            \
    extern "C" __global__ void __launch_bounds__(128, BLOCKS) attention_few_##NAME(ATTENTION_PARAMETERS) {            \
        const Attention a = ATTENTION_ARGUMENTS;                                                                      \
        Few<CACHE, D, PAIRS>::run(a);                                                                                 \
    }                                                                                                                 \
    static_assert(Few<CACHE, D, PAIRS>::SHARED <= 163 * 1024, "more than sm_80 gives a block")

FEW(bf16_64, CacheBf16, 64, 3, 3);
FEW(bf16_80, CacheBf16, 80, 3, 2);
FEW(bf16_96, CacheBf16, 96, 3, 2);
FEW(bf16_128, CacheBf16, 128, 3, 2);
FEW(bf16_128_small, CacheBf16, 128, 2, 2); // for blocks of 99 KB
FEW(bf16_256, CacheBf16, 256, 2, 1);
FEW(i8_64, CacheI8, 64, 2, 4);
FEW(i8_80, CacheI8, 80, 2, 4);
FEW(i8_96, CacheI8, 96, 2, 4);
FEW(i8_128, CacheI8, 128, 2, 4);
FEW(i8_256, CacheI8, 256, 2, 2);
FEW(e4m3_64, CacheE4m3, 64, 2, 4);
FEW(e4m3_80, CacheE4m3, 80, 2, 4);
FEW(e4m3_96, CacheE4m3, 96, 2, 4);
FEW(e4m3_128, CacheE4m3, 128, 2, 4);
FEW(e4m3_256, CacheE4m3, 256, 2, 2);
