// archs: 90a
// Attention of many query rows on Hopper: two warpgroups of 64 rows multiply by wgmma while a third brings keys and
// values, widened to bf16, into a ring of shared memory. A block stays and takes one tile after another.
// Results equal those of the other kernels of this family to the bit: both kinds of instruction sum steps of 16 alike.
#include "attention_mma.cuh"

__device__ __forceinline__ void barrier_init(unsigned at, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(count) : "memory");
}
__device__ __forceinline__ void barrier_arrive(unsigned at) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
}
__device__ __forceinline__ void barrier_wait(unsigned at, unsigned parity) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "again:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
        "@p bra done;\nbra again;\ndone:\n}" ::"r"(at),
        "r"(parity)
        : "memory");
}
// What was written to shared memory in the ordinary way becomes visible to the matrix units.
__device__ __forceinline__ void publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// A matrix of rows of 128 swizzled bytes in shared memory; `across` is the distance of blocks of 64 columns, which only
// matters where rows are steps of the sum.
__device__ __forceinline__ unsigned long long matrix(unsigned at, unsigned across) {
    return (unsigned long long)((at & 0x3FFFF) >> 4) | (unsigned long long)(across >> 4) << 16 | 64ull << 32 | 1ull << 62;
}

#define FOUR(x, i) "+f"(x[i]), "+f"(x[i + 1]), "+f"(x[i + 2]), "+f"(x[i + 3])
#define SIXTEEN(x, i) FOUR(x, i), FOUR(x, i + 4), FOUR(x, i + 8), FOUR(x, i + 12)
#define NAMES_32                                                                                                      \
    "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,"     \
    "%29,%30,%31}"
#define NAMES_64                                                                                                      \
    "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,"     \
    "%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,"    \
    "%56,%57,%58,%59,%60,%61,%62,%63}"

// Scores of 64 rows and 128 keys: adds a step of 16 channels, or starts with it.
__device__ __forceinline__ void score_step(float (&s)[64], unsigned long long q, unsigned long long k, int add) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " NAMES_64 ", %64, %65, p, 1, 1, 0, 0;}"
                 : SIXTEEN(s, 0), SIXTEEN(s, 16), SIXTEEN(s, 32), SIXTEEN(s, 48)
                 : "l"(q), "l"(k), "r"(add));
}
// Adds 16 keys times their weights, or starts with them.
__device__ __forceinline__ void value_step(float (&o)[64], const unsigned (&p)[4], unsigned long long v, int add) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " NAMES_64
                 ", {%64,%65,%66,%67}, %68, p, 1, 1, 1;}"
                 : SIXTEEN(o, 0), SIXTEEN(o, 16), SIXTEEN(o, 32), SIXTEEN(o, 48)
                 : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(v), "r"(add));
}
__device__ __forceinline__ void value_step(float (&o)[32], const unsigned (&p)[4], unsigned long long v, int add) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " NAMES_32
                 ", {%32,%33,%34,%35}, %36, p, 1, 1, 1;}"
                 : SIXTEEN(o, 0), SIXTEEN(o, 16)
                 : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(v), "r"(add));
}
__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Registers pass through, so that nothing is read before.
template <int N>
__device__ __forceinline__ void products_wait(float (&x)[N]) {
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(x[i])::"memory");
}

template <class Cache, int D>
struct Hopper {
    static constexpr int ROWS = 128, BLOCKS = D / 64;
    static constexpr int UNIT = SEGMENT * D * 2;                   // a segment's keys or values
    static constexpr int CHUNKS = D * Cache::BYTES / 16;           // of a vector
    static constexpr int STAGES = D == 64 ? 6 : Cache::CODES ? 4 : 5;
    static constexpr int RAW = Cache::CODES ? 3 : 0, LAG = 2;      // units of codes; copies in flight
    static constexpr int RAW_UNIT = SEGMENT * D;
    static constexpr int Q = ROWS * D * 2, QS = D == 64 ? 2 : 1;   // buffers of queries
    static constexpr int SCALES = Cache::CODES ? 4 * 2 * SEGMENT * 4 : 0;
    static constexpr int ENDS = QS * ROWS * 4, INFO = 2 * 32;
    static constexpr int SHARED = STAGES * UNIT + QS * Q + RAW * RAW_UNIT + SCALES + ENDS + INFO + 256 + 1024;
    static constexpr int WORK_REGISTERS = Cache::CODES ? 224 : 232, COPY_REGISTERS = Cache::CODES ? 56 : 40;

    unsigned ring, queries, raw, scales, full, empty, q_full, q_empty; // addresses in shared memory
    char* memory;
    int* ends;
    Tile* info;

    __device__ void place(char* at) {
        unsigned base = shared_address(at), up = (1024 - base % 1024) % 1024;
        memory = at + up;
        ring = base + up;
        queries = ring + STAGES * UNIT;
        raw = queries + QS * Q;
        scales = raw + RAW * RAW_UNIT;
        ends = (int*)(memory + (scales - ring) + SCALES);
        info = (Tile*)((char*)ends + ENDS);
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

    // Units are numbered on and on over a block's tiles: keys are even, values odd.
    struct Copier {
        const Attention& a;
        const Hopper& s;
        int issued, given; // copies queued; units handed to the others
        Tile tile;
        unsigned vector; // of this lane's key

        // Queues the copy of a segment's keys or values.
        __device__ __forceinline__ void issue(const Pages& pages, int segment) {
            int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
            bool values = issued & 1;
            int key = segment * SEGMENT + warp * 32 + lane;
            if (!values) vector = key >= tile.lo && key < tile.hi ? pages.vector(key) : ~0u;
            const char* from = (const char*)(values ? a.v : a.k);
            unsigned to;
            if constexpr (Cache::CODES) {
                to = s.raw + issued % RAW * RAW_UNIT;
            } else {
                to = s.ring + issued % STAGES * UNIT;
                barrier_wait(s.empty + issued % STAGES * 8, (issued / STAGES & 1) ^ 1);
            }
#pragma unroll
            for (int n = 0; n < CHUNKS; n++) {
                int at = n * 32 + lane, row = at / CHUNKS, chunk = at % CHUNKS;
                unsigned its = __shfl_sync(~0u, vector, row);
                bool there = its != ~0u;
                const char* source = from + (there ? (size_t)its * (CHUNKS * 16) + chunk * 16 : 0);
                int line = warp * 32 + row;
                copy_16(to + (Cache::CODES ? (line * CHUNKS + chunk) * 16 : place_of_chunk(SEGMENT, line, chunk)),
                    source, there);
            }
            if (Cache::CODES && !values) {
                unsigned at = s.scales + ((issued / 2 & 3) * 2 * SEGMENT + warp * 32 + lane) * 4;
                bool there = vector != ~0u;
                copy_4(at, a.k_scales + (there ? vector : 0), there);
                copy_4(at + SEGMENT * 4, a.v_scales + (there ? vector : 0), there);
            }
            commit_copies();
            issued++;
        }

        // Hands unit `given` over: its copies, of this thread, are complete.
        __device__ __forceinline__ void give() {
            if constexpr (Cache::CODES) widen_unit();
            publish();
            barrier_arrive(s.full + given % STAGES * 8);
            given++;
        }

        // Each thread widens the chunks that it copied.
        __device__ __forceinline__ void widen_unit() {
            int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
            bool values = given & 1;
            const char* from = s.memory + (s.raw - s.ring) + given % RAW * RAW_UNIT;
            char* to = s.memory + given % STAGES * UNIT;
            barrier_wait(s.empty + given % STAGES * 8, (given / STAGES & 1) ^ 1);
#pragma unroll 2
            for (int n = 0; n < CHUNKS; n++) {
                int at = n * 32 + lane, line = warp * 32 + at / CHUNKS, chunk = at % CHUNKS;
                uint4 codes = *(const uint4*)(from + (line * CHUNKS + chunk) * 16);
                unsigned w[4] = {codes.x, codes.y, codes.z, codes.w}, e[4], o[4];
#pragma unroll
                for (int i = 0; i < 4; i++) widen<Cache>(w[i], e[i], o[i]);
                uint4 first = make_uint4(e[0], e[1], e[2], e[3]), second = make_uint4(o[0], o[1], o[2], o[3]);
                if (values) {
                    first = make_uint4(__byte_perm(e[0], o[0], 0x5410), __byte_perm(e[0], o[0], 0x7632),
                        __byte_perm(e[1], o[1], 0x5410), __byte_perm(e[1], o[1], 0x7632));
                    second = make_uint4(__byte_perm(e[2], o[2], 0x5410), __byte_perm(e[2], o[2], 0x7632),
                        __byte_perm(e[3], o[3], 0x5410), __byte_perm(e[3], o[3], 0x7632));
                }
                *(uint4*)(to + place_of_chunk(SEGMENT, line, 2 * chunk)) = first;
                *(uint4*)(to + place_of_chunk(SEGMENT, line, 2 * chunk + 1)) = second;
            }
        }

        __device__ __forceinline__ void drain() {
            wait_copies<0>();
            while (given < issued) give();
        }

        // Queries of a tile as bf16, and what the rows see; an end without rows.
        __device__ __forceinline__ void give_queries(int turn, int kv_head, bool end) {
            int slot = turn % QS, thread = threadIdx.x, group = a.nq / a.nkv;
            barrier_wait(s.q_empty + slot * 8, (turn / QS & 1) ^ 1);
            if (thread == 0) {
                Tile t = tile;
                if (end) t.rows = 0;
                s.info[slot] = t;
                ((int*)&s.info[slot])[6] = kv_head;
            }
            if (!end) {
                s.ends[slot * ROWS + thread] = row_of(a, tile, kv_head, thread).end;
                char* to = s.memory + (s.queries - s.ring) + slot * Q;
                int width = (a.nq + 2 * a.nkv) * D;
#pragma unroll 4
                for (int i = thread; i < ROWS * D / 8; i += 128) {
                    int row = i / (D / 8), chunk = i % (D / 8);
                    float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f), y = x;
                    if (row < tile.rows) {
                        int packed = tile.first + row;
                        size_t token = tile.token + packed / group;
                        const float* from = a.qkv + token * width + (kv_head * group + packed % group) * D;
                        // Of codes, a chunk holds every other pair's place; see `place_of`.
                        if (Cache::CODES) {
                            const float* step = from + chunk / 2 * 16 + (chunk & 1);
                            x = make_float4(step[0], step[2], step[4], step[6]);
                            y = make_float4(step[8], step[10], step[12], step[14]);
                        } else {
                            x = *(const float4*)(from + chunk * 8);
                            y = *(const float4*)(from + chunk * 8 + 4);
                        }
                    }
                    *(uint4*)(to + place_of_chunk(ROWS, row, chunk)) =
                        make_uint4(pack_bf16(x.x, x.y), pack_bf16(x.z, x.w), pack_bf16(y.x, y.y), pack_bf16(y.z, y.w));
                }
            }
            publish();
            barrier_arrive(s.q_full + slot * 8);
        }
    };

    __device__ void copy(const Attention& a) const {
        Copier copier{a, *this, 0, 0, Tile{}, ~0u};
        int turn = 0;
        for (int flat = blockIdx.x; flat < a.tiles * a.nkv; flat += gridDim.x) {
            // The last tiles of a sequence have the most to do.
            int kv_head = flat % a.nkv;
            copier.tile = find_tile(a, a.tiles - 1 - flat / a.nkv, ROWS, kv_head);
            if (copier.tile.rows == 0) continue;
            copier.drain();
            copier.give_queries(turn++, kv_head, false);
            Pages pages(a, copier.tile.seq, kv_head);
            Run span(copier.tile, 1, 0);
            for (int unit = 2 * span.begin; unit < 2 * span.end; unit++) {
                copier.issue(pages, unit / 2);
                if (copier.issued - copier.given > LAG) {
                    wait_copies<LAG>();
                    copier.give();
                }
            }
        }
        copier.drain();
        copier.give_queries(turn, 0, true);
    }

    // ---- the multiplying warpgroups

    // As `settle_odd_values`, on the layout of this kernel; all multiplying threads call. True if there were any.
    template <int N>
    __device__ __forceinline__ bool settle_segment(float (&o)[N], char* unit, int key, const RowOf (&row)[2]) const {
        int thread = threadIdx.x - 128;
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
        publish();
        asm volatile("barrier.cta.sync 1, 256;" ::: "memory");
#pragma unroll
        for (int i = 0; i < N; i++) o[i] = copy[i];
        return true;
    }

    __device__ void work(const Attention& a) const {
        constexpr int N = D / 2;
        int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5 & 3), group = (threadIdx.x >> 7) - 1;
        int mine = 64 * group + 16 * warp + lane / 4;
        Rule rule = Rule::of<Cache>(a);
        int unit = 0;
        for (int turn = 0;; turn++) {
            int slot = turn % QS;
            barrier_wait(q_full + slot * 8, turn / QS & 1);
            Tile tile = info[slot];
            int kv_head = ((int*)&info[slot])[6];
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
                barrier_wait(full + stage * 8, unit / STAGES & 1);
                products_begin();
#pragma unroll
                for (int i = 0; i < D / 16; i++) {
                    unsigned across = i / 4 * (SEGMENT * 128) + i % 4 * 32;
                    score_step(s, matrix(q_at + across, 16), matrix(ring + stage * UNIT + across, 16), i > 0);
                }
                products_commit();
                products_wait(s);
                if (lane == 0) {
                    barrier_arrive(empty + stage * 8);
                    if (segment + 1 == span.end) barrier_arrive(q_empty + slot * 8);
                }
                const float* its = (const float*)(memory + (scales - ring)) + (unit / 2 & 3) * 2 * SEGMENT;
                unit++;
                unsigned p[8][4];
                weigh<Cache>(segment, *(float(*)[16][4])s, p, m, l, rule, row, its);
                stage = unit % STAGES;
                barrier_wait(full + stage * 8, unit / STAGES & 1);
                float o[N];
                bool begun = false;
                int key = segment * SEGMENT;
                if (!Cache::CODES && (max(key, tile.lo) < seen_from || min(key + SEGMENT, tile.hi) > seen_to)) {
                    begun = settle_segment(o, memory + stage * UNIT, key, row);
                }
                products_begin();
#pragma unroll
                for (int i = 0; i < SEGMENT / 16; i++) {
                    value_step(o, p[i], matrix(ring + stage * UNIT + i * 2048, SEGMENT * 128), begun || i > 0);
                }
                products_commit();
                products_wait(o);
                if (lane == 0) barrier_arrive(empty + stage * 8);
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
#pragma unroll
        for (int i = 0; i < N; i++) all_o[i] = merged(all_o[i], x[i / 2 % 2], o[i], y[i / 2 % 2]);
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
            float* to = a.out + (token * a.nq + kv_head * group + packed % group) * D + 2 * (threadIdx.x & 3);
#pragma unroll
            for (int j = 0; j < N / 4; j++) {
                *(float2*)(to + 8 * j) =
                    make_float2(finished(o[4 * j + 2 * h], l[h]), finished(o[4 * j + 2 * h + 1], l[h]));
            }
        }
    }

    __device__ static void run(const Attention& a) {
        extern __shared__ __align__(1024) char shared[];
        Hopper s;
        s.place(shared);
        if (threadIdx.x == 0) {
            for (int i = 0; i < STAGES; i++) {
                barrier_init(s.full + i * 8, 128);
                barrier_init(s.empty + i * 8, 8);
            }
            for (int i = 0; i < QS; i++) {
                barrier_init(s.q_full + i * 8, 128);
                barrier_init(s.q_empty + i * 8, 8);
            }
        }
        grid_wait();
        __syncthreads();
        if (threadIdx.x < 128) {
            asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COPY_REGISTERS));
            s.copy(a);
        } else {
            asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(WORK_REGISTERS));
            s.work(a);
        }
    }
};

#define HOPPER(NAME, CACHE, D)                                                                                        \
    extern "C" __global__ void __launch_bounds__(384, 1) attention_hopper_##NAME##_##D(ATTENTION_PARAMETERS) {        \
        const Attention a = ATTENTION_ARGUMENTS;                                                                      \
        Hopper<CACHE, D>::run(a);                                                                                     \
    }                                                                                                                 \
    static_assert(Hopper<CACHE, D>::SHARED <= 227 * 1024, "more than a block gets")

HOPPER(bf16, CacheBf16, 64);
HOPPER(bf16, CacheBf16, 128);
HOPPER(i8, CacheI8, 64);
HOPPER(i8, CacheI8, 128);
HOPPER(e4m3, CacheE4m3, 64);
HOPPER(e4m3, CacheE4m3, 128);
