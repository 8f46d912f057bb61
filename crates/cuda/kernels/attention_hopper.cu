// archs: 90a
// Attention of many query rows on Hopper: two warpgroups of 64 rows multiply by wgmma while a third brings keys and
// values into a ring of shared memory (bf16 by the copy engine; codes are widened on their way), and a fourth the queries
// of the next tile. A block stays and takes one tile after another.
// Results equal those of the other kernels of this family to the bit: both kinds of instruction sum steps of 16 alike.
#include "attention_mma.cuh"
#include "attention_hopper_wgmma.cuh"
#include "copy_engine.cuh"

// A tile and the key head it is of.
struct Task {
    Tile tile;
    int kv_head, unused;
};

template <class Cache, int D>
struct Hopper {
    static constexpr int ROWS = 128, BLOCKS = D / 64;
    static constexpr int UNIT = SEGMENT * D * 2;                   // a segment's keys or values
    static constexpr int CHUNKS = D * Cache::BYTES / 16;           // of a vector
    static constexpr int STAGES = D == 64 ? 6 : Cache::CODES ? 3 : 5;
    static constexpr int RAW = Cache::CODES ? 3 : 1;               // units of codes
    static constexpr int RAW_UNIT = Cache::CODES ? SEGMENT * D : 0;
    static constexpr int Q = ROWS * D * 2, QS = 2;                 // buffers of queries
    // Of so many segments: copies run ahead by all units of both rings.
    static constexpr int SCALED = 8, SCALES = Cache::CODES ? SCALED * 2 * SEGMENT * 4 : 0;
    static constexpr int ENDS = QS * ROWS * 4, INFO = QS * sizeof(Task);
    static constexpr int SHARED = STAGES * UNIT + QS * Q + RAW * RAW_UNIT + SCALES + ENDS + INFO + 256 + 1024;
    static constexpr int WORK_REGISTERS = Cache::CODES ? 208 : 216, COPY_REGISTERS = Cache::CODES ? 48 : 32;
    static constexpr int STAGE_REGISTERS = 48;

    unsigned ring, queries, raw, scales, full, empty, q_full, q_empty; // addresses in shared memory
    char* memory;
    int* ends;
    Task* info;

    __device__ void place(char* at) {
        unsigned base = shared_address(at), up = (1024 - base % 1024) % 1024;
        memory = at + up;
        ring = base + up;
        queries = ring + STAGES * UNIT;
        raw = queries + QS * Q;
        scales = raw + RAW * RAW_UNIT;
        ends = (int*)(memory + (scales - ring) + SCALES);
        info = (Task*)((char*)ends + ENDS);
        full = scales + SCALES + ENDS + INFO;
        empty = full + STAGES * 8;
        q_full = empty + STAGES * 8;
        q_empty = q_full + QS * 8;
    }

    __device__ static int start_of(const Attention& a, int end) { return a.window ? max(end - a.window, 0) : 0; }

    // Where a chunk of 16 bytes of bf16 stands in a matrix of `rows`.
    __device__ __forceinline__ static unsigned place_of_chunk(int rows, int row, int chunk) {
        return (chunk >> 3) * rows * 128 + row * 128 + ((chunk & 7) ^ (row & 7)) * 16;
    }

    // ---- the copying warpgroup

    // Units are numbered on and on over a block's tiles: keys are even, values odd. This copies those of codes.
    struct Copier {
        const Attention& a;
        const Hopper& s;
        int issued, given; // copies queued; units of codes handed over
        Tile tile;
        unsigned vector; // of this lane's key

        // Queues the copy of a segment's keys or values.
        __device__ __forceinline__ void issue(const Pages& pages, int segment) {
            int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
            bool values = issued & 1;
            int key = segment * SEGMENT + warp * 32 + lane;
            if (!values) vector = key >= tile.lo && key < tile.hi ? pages.vector(key) : ~0u;
            unsigned to = s.raw + issued % RAW * RAW_UNIT;
            // A lane has one chunk of every few rows. The rows' numbers first, all on their way at once.
            constexpr int STRIDE = 32 / CHUNKS, BATCH = CHUNKS < 8 ? CHUNKS : 8;
            int chunk = lane % CHUNKS, first = lane / CHUNKS;
            const char* from = (const char*)(values ? a.v : a.k) + chunk * 16;
#pragma unroll
            for (int n = 0; n < CHUNKS; n += BATCH) {
                unsigned its[BATCH];
#pragma unroll
                for (int i = 0; i < BATCH; i++) its[i] = __shfl_sync(~0u, vector, (n + i) * STRIDE + first);
#pragma unroll
                for (int i = 0; i < BATCH; i++) {
                    int line = warp * 32 + (n + i) * STRIDE + first;
                    // Where there is none nothing is read, and zeros are written.
                    copy_16(to + (line * CHUNKS + chunk) * 16, from + (size_t)its[i] * (CHUNKS * 16), its[i] != ~0u);
                }
            }
            if (!values) {
                unsigned at = s.scales + (issued / 2 % SCALED * 2 * SEGMENT + warp * 32 + lane) * 4;
                copy_4(at, a.k_scales + vector, vector != ~0u);
                copy_4(at + SEGMENT * 4, a.v_scales + vector, vector != ~0u);
            }
            commit_copies();
            issued++;
        }

        // Each thread widens the chunks of unit `given` that it copied itself.
        __device__ __forceinline__ void give() {
            int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
            const char* from = s.memory + (s.raw - s.ring) + given % RAW * RAW_UNIT;
            char* to = s.memory + given % STAGES * UNIT;
            barrier_wait(s.empty + given % STAGES * 8, (given / STAGES & 1) ^ 1);
            // Channels take the places of `place_of`: in q too, and in the output they are put back.
#pragma unroll 4
            for (int n = 0; n < CHUNKS; n++) {
                int at = n * 32 + lane, line = warp * 32 + at / CHUNKS, chunk = at % CHUNKS;
                uint4 codes = *(const uint4*)(from + (line * CHUNKS + chunk) * 16);
                uint4 even, odd;
                widen<Cache>(codes.x, even.x, odd.x);
                widen<Cache>(codes.y, even.y, odd.y);
                widen<Cache>(codes.z, even.z, odd.z);
                widen<Cache>(codes.w, even.w, odd.w);
                *(uint4*)(to + place_of_chunk(SEGMENT, line, 2 * chunk)) = even;
                *(uint4*)(to + place_of_chunk(SEGMENT, line, 2 * chunk + 1)) = odd;
            }
            barrier_arrive(s.full + given % STAGES * 8);
            given++;
        }
    };

    __device__ void copy_codes(const Attention& a) const {
        Copier copier{a, *this, 0, 0, Tile{}, ~0u};
        for (int round = 0; round < rounds(a); round++) {
            int flat = nth_of_round(round), kv_head = flat % a.nkv;
            copier.tile = nth_tile(a, flat);
            if (copier.tile.rows == 0) continue;
            Pages pages(a, copier.tile.seq, kv_head);
            Run span(copier.tile, 1, 0);
            for (int unit = 2 * span.begin; unit < 2 * span.end; unit++) {
                copier.issue(pages, unit / 2);
                if (copier.issued - copier.given == RAW) {
                    wait_copies<RAW - 1>();
                    copier.give();
                }
            }
        }
        wait_copies<0>();
        while (copier.given < copier.issued) copier.give();
    }

    // Units of bf16, a box of each page and 64 channels. Called by one warp, a box of keys for each of its lanes. Where no
    // row sees any key of a box the ring keeps what it held, which `settle_segment` sees to.
    __device__ void copy_boxes(const Attention& a, const TensorMap* k_map, const TensorMap* v_map) const {
        int lane = threadIdx.x & 31, unit = 0;
        for (int round = 0; round < rounds(a); round++) {
            int flat = nth_of_round(round);
            Tile tile = nth_tile(a, flat);
            if (tile.rows == 0) continue;
            Pages pages(a, tile.seq, flat % a.nkv);
            int keys = min(pages.page_size, SEGMENT);
            Run span(tile, 1, 0);
            for (int segment = span.begin; segment < span.end; segment++) {
                int key = segment * SEGMENT + lane * keys;
                bool some = lane * keys < SEGMENT && key < tile.hi && key + keys > tile.lo;
                unsigned row = some ? pages.vector(key) : 0, boxes = __popc(__ballot_sync(~0u, some));
                for (int values = 0; values < 2; values++, unit++) {
                    unsigned barrier = full + unit % STAGES * 8, to = ring + unit % STAGES * UNIT + lane * keys * 128;
                    barrier_wait(empty + unit % STAGES * 8, (unit / STAGES & 1) ^ 1);
                    if (lane == 0) barrier_expect(barrier, boxes * keys * D * 2);
                    __syncwarp();
                    for (int block = 0; block < BLOCKS && some; block++) {
                        const TensorMap* map = values ? v_map : k_map;
                        load_box(to + block * SEGMENT * 128, map, block * 64, row, barrier, 0, policy_evict_normal());
                    }
                }
            }
        }
    }

    // Tiles and heads are taken in rounds of one for each block; blocks change places from round to round, so that none has
    // the same stretch of every sequence, and with it always more or less to do than others.
    __device__ static int rounds(const Attention& a) { return (a.tiles * a.nkv + gridDim.x - 1) / gridDim.x; }
    __device__ static int nth_of_round(int round) {
        int blocks = gridDim.x, turn = blocks * 79 / 128;
        return round * blocks + (blockIdx.x + round * turn) % blocks;
    }
    // The last tiles of a sequence have the most to do. Past the end there are tiles without rows.
    __device__ static Tile nth_tile(const Attention& a, int flat) {
        if (flat >= a.tiles * a.nkv) return Tile{};
        return find_tile(a, a.tiles - 1 - flat / a.nkv, ROWS, flat % a.nkv);
    }

    // ---- the warpgroup of queries

    // Queries of each tile as bf16, and what the rows see; at last an end without rows.
    __device__ void stage(const Attention& a) const {
        int turn = 0;
        for (int round = 0; round < rounds(a); round++) {
            int flat = nth_of_round(round);
            Tile tile = nth_tile(a, flat);
            if (tile.rows > 0) stage_tile(a, tile, turn++, flat % a.nkv);
        }
        stage_tile(a, Tile{}, turn, 0);
    }

    __device__ __forceinline__ void stage_tile(const Attention& a, const Tile& tile, int turn, int kv_head) const {
        int slot = turn % QS, thread = threadIdx.x & 127, group = a.nq / a.nkv;
        barrier_wait(q_empty + slot * 8, (turn / QS & 1) ^ 1);
        if (thread == 0) info[slot] = {tile, kv_head, 0};
        char* to = memory + (queries - ring) + slot * Q;
        int width = (a.nq + 2 * a.nkv) * D;
        if (tile.rows > 0) {
            ends[slot * ROWS + thread] = row_of(a, tile, kv_head, thread).end;
            // Rows past the end repeat the last one, and what becomes of them is not stored: a condition would keep loads from running ahead.
#pragma unroll 4
            for (int i = thread; i < ROWS * D / 8; i += 128) {
                int row = i / (D / 8), chunk = i % (D / 8), packed = tile.first + min(row, tile.rows - 1);
                size_t token = tile.token + packed / group;
                const float* from = a.qkv + token * width + (kv_head * group + packed % group) * D;
                float4 x, y;
                // Of codes, a chunk holds every other pair's place; see `place_of`.
                if (Cache::CODES) {
                    const float* step = from + chunk / 2 * 16 + (chunk & 1);
                    x = make_float4(step[0], step[2], step[4], step[6]);
                    y = make_float4(step[8], step[10], step[12], step[14]);
                } else {
                    x = *(const float4*)(from + chunk * 8);
                    y = *(const float4*)(from + chunk * 8 + 4);
                }
                *(uint4*)(to + place_of_chunk(ROWS, row, chunk)) =
                    make_uint4(pack_bf16(x.x, x.y), pack_bf16(x.z, x.w), pack_bf16(y.x, y.y), pack_bf16(y.z, y.w));
            }
        }
        barrier_arrive(q_full + slot * 8);
    }

    // ---- the multiplying warpgroups

    // As `settle_odd_values`, on the layout of this kernel; all multiplying threads call. True if there were any.
    template <int N>
    __device__ __forceinline__ bool settle_segment(float (&o)[N], char* unit, int key, const RowOf (&row)[2]) const {
        int thread = threadIdx.x - 256;
        bool odd = false;
        for (int i = thread; i < SEGMENT * D / 8; i += 256) odd |= odd_bf16(*(const uint4*)(unit + i * 16));
        int any;
        asm volatile("{.reg .pred p, q; setp.ne.b32 p, %1, 0; barrier.cta.red.or.pred q, 1, 256, p; selp.b32 %0, 1, 0, q;}"
                     : "=r"(any)
                     : "r"((int)odd)
                     : "memory");
        if (!any) return false;
        float copy[N];
        for (int i = 0; i < N; i++) copy[i] = 0.0f;
#pragma unroll 1
        for (int i = 0; i < N; i++) {
            const RowOf& r = (i & 2) ? row[1] : row[0];
            int c = i / 4 * 8 + 2 * (threadIdx.x & 3) + (i & 1);
#pragma unroll 1
            for (int j = max(r.start - key, 0); j < min(r.end - key, SEGMENT); j++) {
                unsigned x = *(unsigned short*)(unit + place_of_chunk(SEGMENT, j, c / 8) + c % 8 * 2);
                if ((x & 0x7F80) == 0x7F80) copy[i] += __uint_as_float(x << 16);
            }
        }
        asm volatile("barrier.cta.sync 1, 256;" ::: "memory");
#pragma unroll 1
        for (int i = thread; i < SEGMENT * D; i += 256) {
            unsigned short* x = (unsigned short*)(unit + i * 2);
            if ((*x & 0x7F80) == 0x7F80) *x = 0;
        }
        copy_engine_fence();
        asm volatile("barrier.cta.sync 1, 256;" ::: "memory");
#pragma unroll
        for (int i = 0; i < N; i++) o[i] = copy[i];
        return true;
    }

    // The writers of codes would wait in this fence for all copies under way; so the readers call it.
    __device__ __forceinline__ void await_unit(int unit) const {
        barrier_wait(full + unit % STAGES * 8, unit / STAGES & 1);
        if (Cache::CODES) copy_engine_fence();
    }

    __device__ void work(const Attention& a) const {
        constexpr int N = D / 2;
        int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5 & 3), group = (threadIdx.x >> 7) - 2;
        int mine = 64 * group + 16 * warp + lane / 4;
        Rule rule = Rule::of<Cache>(a);
        int unit = 0;
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
                row[h].start = start_of(a, row[h].end);
            }
            int seen_from = start_of(a, end[tile.rows - 1]), seen_to = end[0];
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
                    score_step(s, matrix(q_at + across, 16), matrix(ring + stage * UNIT + across, 16), i > 0);
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
                float o[N];
                bool begun = false;
                int key = segment * SEGMENT;
                if (!Cache::CODES && (key < seen_from || key + SEGMENT > seen_to)) {
                    begun = settle_segment(o, memory + stage * UNIT, key, row);
                }
                products_begin();
#pragma unroll
                for (int i = 0; i < SEGMENT / 16; i++) {
                    value_step(o, p[i], matrix(ring + stage * UNIT + i * 2048, SEGMENT * 128), begun || i > 0);
                }
                products_commit();
                products_wait(o);
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
        int group = a.nq / a.nkv;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            if (mine + 8 * h >= tile.rows) continue;
            int packed = tile.first + mine + 8 * h;
            size_t token = tile.token + packed / group;
            float* to = a.out + (token * a.nq + kv_head * group + packed % group) * D;
            int c = threadIdx.x & 3;
#pragma unroll
            for (int j = 0; j < N / 4; j += 2) {
                float x[2][2];
#pragma unroll
                for (int i = 0; i < 4; i++) x[i / 2][i % 2] = finished(o[4 * (j + i / 2) + 2 * h + i % 2], l[h]);
                if (Cache::CODES) {
                    *(float4*)(to + 8 * j + 4 * c) = make_float4(x[0][0], x[1][0], x[0][1], x[1][1]);
                } else {
                    *(float2*)(to + 8 * j + 2 * c) = make_float2(x[0][0], x[0][1]);
                    *(float2*)(to + 8 * j + 8 + 2 * c) = make_float2(x[1][0], x[1][1]);
                }
            }
        }
    }

    // What is masked counts times 0, which must not meet NaN.
    __device__ void clear_ring() const {
        for (int i = threadIdx.x; i < STAGES * UNIT / 16; i += blockDim.x) ((uint4*)memory)[i] = make_uint4(0, 0, 0, 0);
        copy_engine_fence();
    }

    __device__ static void run(const Attention& a, const TensorMap* k_map, const TensorMap* v_map) {
        extern __shared__ __align__(1024) char shared[];
        Hopper s;
        s.place(shared);
        if (threadIdx.x == 0) {
            for (int i = 0; i < STAGES; i++) {
                barrier_init(s.full + i * 8, Cache::CODES ? 128 : 1);
                barrier_init(s.empty + i * 8, 256);
            }
            for (int i = 0; i < QS; i++) {
                barrier_init(s.q_full + i * 8, 128);
                barrier_init(s.q_empty + i * 8, 256);
            }
        }
        if (!Cache::CODES) s.clear_ring();
        grid_wait();
        grid_release();
        __syncthreads();
        if (threadIdx.x < 256) {
            if (threadIdx.x < 128) {
                asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COPY_REGISTERS));
                if constexpr (Cache::CODES) s.copy_codes(a);
                else if (threadIdx.x < 32) s.copy_boxes(a, k_map, v_map);
            } else {
                asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(STAGE_REGISTERS));
                s.stage(a);
            }
        } else {
            asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(WORK_REGISTERS));
            s.work(a);
        }
    }
};

#define HOPPER(NAME, CACHE, D)                                                                                        \
    extern "C" __global__ void __launch_bounds__(512, 1) attention_hopper_##NAME##_##D(                               \
        const __grid_constant__ TensorMap k_map, const __grid_constant__ TensorMap v_map, ATTENTION_PARAMETERS) {     \
        const Attention a = ATTENTION_ARGUMENTS;                                                                      \
        Hopper<CACHE, D>::run(a, &k_map, &v_map);                                                                     \
    }                                                                                                                 \
    static_assert(Hopper<CACHE, D>::SHARED <= 227 * 1024, "more than a block gets")

HOPPER(bf16, CacheBf16, 64);
HOPPER(bf16, CacheBf16, 128);
HOPPER(i8, CacheI8, 64);
HOPPER(i8, CacheI8, 128);
HOPPER(e4m3, CacheE4m3, 64);
HOPPER(e4m3, CacheE4m3, 128);
