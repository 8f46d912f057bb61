// archs: 90a
// Attention of many query rows on Hopper: two warpgroups of 64 rows multiply by wgmma while other warps bring keys and
// values into a ring of shared memory (bf16 by the copy engine; codes are widened on their way), and the queries of the
// next tile. A block stays and takes one tile after another.
// Results equal those of the other kernels of this family to the bit: both kinds of instruction sum steps of 16 alike.
#include "attention_hopper_copies.cuh"
#include "attention_hopper_wgmma.cuh"

template <class Cache, int D>
struct HopperWork : HopperCopies<Cache, D> {
    using H = Hopper<Cache, D>;
    using H::ROWS, H::UNIT, H::STAGES, H::Q, H::QS, H::SCALED, H::CHECKS;
    using H::ring, H::queries, H::scales, H::full, H::empty, H::q_full, H::q_empty, H::memory, H::ends, H::info;

    // What the checks found of the values of an edge; every multiplying thread asks.
    __device__ __forceinline__ bool any_odd_value(int edge) const {
        barrier_wait(H::checked + edge % CHECKS * 8, edge / CHECKS & 1);
        const int* found = H::found + edge % CHECKS * 4;
        return found[2] | found[3];
    }

    // As `settle_odd_values`, on the layout of this kernel; what is to be added to the products goes to `aside`, and rows
    // are given from where in the unit to where they see. Rare: it must not take registers from what is not.
    template <int N>
    __device__ __noinline__ static void set_aside(
        float* aside, char* unit, int start_0, int end_0, int start_1, int end_1) {
#pragma unroll 1
        for (int i = 0; i < N; i++) {
            int c = i / 4 * 8 + 2 * (threadIdx.x & 3) + (i & 1), end = (i & 2) ? end_1 : end_0;
            float sum = 0.0f;
#pragma unroll 1
            for (int j = max((i & 2) ? start_1 : start_0, 0); j < min(end, SEGMENT); j++) {
                unsigned x = *(unsigned short*)(unit + H::place_of_chunk(SEGMENT, j, c / 8) + c % 8 * 2);
                if ((x & 0x7F80) == 0x7F80) sum += __uint_as_float(x << 16);
            }
            aside[i] = sum;
        }
        asm volatile("barrier.cta.sync 1, 256;" ::: "memory");
#pragma unroll 1
        for (int i = threadIdx.x - H::BRINGING; i < SEGMENT * D; i += H::WORKING) {
            unsigned short* x = (unsigned short*)(unit + i * 2);
            if ((*x & 0x7F80) == 0x7F80) *x = 0;
        }
        copy_engine_fence();
        asm volatile("barrier.cta.sync 1, 256;" ::: "memory");
    }

    // The writers of codes would wait in this fence for all copies under way; so the readers call it.
    __device__ __forceinline__ void await_unit(int unit) const {
        barrier_wait(full + unit % STAGES * 8, unit / STAGES & 1);
        if (Cache::CODES) copy_engine_fence();
    }

    __device__ void work(const Attention& a) const {
        constexpr int N = D / 2;
        int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5 & 3), group = (threadIdx.x - H::BRINGING) >> 7;
        int mine = 64 * group + 16 * warp + lane / 4;
        Rule rule = Rule::of<Cache>(a);
        int unit = 0, edges = 0;
        for (int turn = 0;; turn++) {
            int slot = turn % QS;
            barrier_wait(q_full + slot * 8, turn / QS & 1);
            Tile tile = info[slot].tile;
            int kv_head = info[slot].kv_head;
            if (tile.rows == 0) return;
            const int* end = ends + slot * ROWS;
            RowOf row[2];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                row[h].end = end[mine + 8 * h];
                row[h].start = H::start_of(a, row[h].end);
            }
            Seen seen = H::seen_by(a, slot, tile.rows);
            Run span(tile, 1, 0);
            float all_o[N], all_m[2] = {NEVER, NEVER}, all_l[2] = {};
#pragma unroll
            for (int i = 0; i < N; i++) all_o[i] = 0.0f;
            unsigned q_at = queries + slot * Q + 64 * group * 128;
            for (int segment = span.begin; segment < span.end; segment++) {
                float s[64], m[2], l[2];
                int stage = unit % STAGES;
                await_unit(unit);
                products_begin();
#pragma unroll
                for (int i = 0; i < D / 16; i++) {
                    unsigned across = i / 4 * (SEGMENT * 128) + i % 4 * 32;
                    score_step<Cache>(s, matrix(q_at + across, 16), matrix(ring + stage * UNIT + across, 16), i > 0);
                }
                products_commit();
                products_wait(s);
                // Every thread arrives for itself: one of a warp would do, but costs as much, and hides who has read what.
                barrier_arrive(empty + stage * 8);
                if (segment + 1 == span.end) barrier_arrive(q_empty + slot * 8);
                const float* its = (const float*)(memory + (scales - ring)) + unit / 2 % SCALED * 2 * SEGMENT;
                unit++;
                unsigned p[8][4];
                weigh<Cache>(segment, *(float(*)[16][4])s, p, m, l, rule, row, its);
                stage = unit % STAGES;
                await_unit(unit);
                float o[N], aside[N];
                bool odd = false;
                if (!Cache::CODES && seen.edge(segment)) {
                    int key = segment * SEGMENT;
                    odd = any_odd_value(edges++);
                    if (odd) {
                        set_aside<N>(aside, memory + stage * UNIT, row[0].start - key, row[0].end - key, row[1].start - key,
                                     row[1].end - key);
                    }
                }
                products_begin();
#pragma unroll
                for (int i = 0; i < SEGMENT / 16; i++) {
                    value_step<Cache>(o, p[i], matrix(ring + stage * UNIT + i * 2048, SEGMENT * 128), i > 0);
                }
                products_commit();
                products_wait(o);
                if (odd) {
#pragma unroll
                    for (int i = 0; i < N; i++) o[i] += aside[i];
                }
                barrier_arrive(empty + stage * 8);
                unit++;
                merge(all_o, all_m, all_l, o, m, l);
            }
            write(a, tile, kv_head, mine, all_o, all_l);
        }
    }

    template <int N>
    __device__ __forceinline__ static void merge(
        float (&all_o)[N], float (&all_m)[2], float (&all_l)[2], const float (&o)[N], const float (&m)[2],
        const float (&l)[2]) {
        float x[2], y[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            merge_factors(all_m[h], m[h], x[h], y[h]);
            all_l[h] = merged(all_l[h], x[h], l[h], y[h]);
        }
        // Times 1 changes nothing.
        if (__any_sync(~0u, x[0] != 1.0f || x[1] != 1.0f)) {
#pragma unroll
            for (int i = 0; i < N; i++) all_o[i] = __fmul_rn(all_o[i], x[i / 2 % 2]);
        }
#pragma unroll
        for (int i = 0; i < N; i++) all_o[i] = __fmaf_rn(o[i], y[i / 2 % 2], all_o[i]);
    }

    template <int N>
    __device__ __forceinline__ static void write(
        const Attention& a, const Tile& tile, int kv_head, int mine, const float (&o)[N], const float (&l)[2]) {
        int group = a.nq / a.nkv, c = threadIdx.x & 3;
        // Codes lie so that a lane has four neighbouring channels; else even lanes take four of the first eight, odd ones of the
        // second.
        bool odd = !Cache::CODES && (c & 1);
        int first = Cache::CODES ? 4 * c : 8 * odd + 4 * (c >> 1);
        // All before any is stored: a branch for each store made every one wait for the one before.
        float4 fours[2][N / 8];
#pragma unroll
        for (int h = 0; h < 2; h++) {
#pragma unroll
            for (int j = 0; j < N / 8; j++) {
                float x[2][2];
#pragma unroll
                for (int i = 0; i < 4; i++) x[i / 2][i % 2] = finished(o[8 * j + 4 * (i / 2) + 2 * h + i % 2], l[h]);
                if (Cache::CODES) {
                    fours[h][j] = make_float4(x[0][0], x[1][0], x[0][1], x[1][1]);
                } else {
                    float u = __shfl_xor_sync(~0u, odd ? x[0][0] : x[1][0], 1);
                    float v = __shfl_xor_sync(~0u, odd ? x[0][1] : x[1][1], 1);
                    fours[h][j] = odd ? make_float4(u, v, x[1][0], x[1][1]) : make_float4(x[0][0], x[0][1], u, v);
                }
            }
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            if (mine + 8 * h >= tile.rows) continue;
            int packed = tile.first + mine + 8 * h;
            size_t token = tile.token + packed / group;
            a.put((token * a.nq + kv_head * group + packed % group) * D + first, fours[h]);
        }
    }

    __device__ static void run(const Attention& a, const TensorMap* q_map, const TensorMap* k_map, const TensorMap* v_map) {
        extern __shared__ __align__(1024) char shared[];
        HopperWork s;
        s.place(shared);
        if (threadIdx.x == 0) s.make_barriers();
        if (!Cache::CODES) s.clear_ring();
        grid_wait();
        grid_release();
        __syncthreads();
        if (threadIdx.x < H::BRINGING) {
            if constexpr (Cache::CODES) {
                if (threadIdx.x < 128) {
                    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(H::WIDEN_REGISTERS));
                    s.copy_codes(a);
                } else {
                    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(H::BRING_REGISTERS));
                    if (threadIdx.x < 160) s.copy_all_queries(a, q_map);
                }
            } else {
                asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(H::BRING_REGISTERS));
                if (threadIdx.x < 32) s.copy_boxes(a, k_map, v_map);
                else if (threadIdx.x < 64) s.copy_all_queries(a, q_map);
                else s.check_values(a);
            }
        } else {
            asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(H::WORK_REGISTERS));
            s.work(a);
        }
    }
};

#define HOPPER(NAME, CACHE, D)                                                                                        \
    extern "C" __global__ void __launch_bounds__(Hopper<CACHE, D>::THREADS, 1) attention_hopper_##NAME##_##D(         \
        const __grid_constant__ TensorMap q_map, const __grid_constant__ TensorMap k_map,                             \
        const __grid_constant__ TensorMap v_map, ATTENTION_PARAMETERS) {                                              \
        const Attention a = ATTENTION_ARGUMENTS;                                                                      \
        HopperWork<CACHE, D>::run(a, &q_map, &k_map, &v_map);                                                         \
    }                                                                                                                 \
    static_assert(Hopper<CACHE, D>::SHARED <= 227 * 1024, "more than a block gets")

HOPPER(bf16, CacheBf16, 64);
HOPPER(bf16, CacheBf16, 128);
HOPPER(i8, CacheI8, 64);
HOPPER(i8, CacheI8, 128);
HOPPER(e4m3, CacheE4m3, 64);
HOPPER(e4m3, CacheE4m3, 128);
