// The matrix product of sm_90a: out[t, n] = (acc * xs[t]) * ws[n] + bias[n], acc = X[t, k] . W[n, k]^T,
// or that added to out.
// The weights are wgmma's A (64 channels a warpgroup and instruction), the tokens its B (TN columns), so that one kernel
// serves a single token and thousands. One warp keeps a ring of stages filled by TMA; the other warpgroups multiply,
// scale and store: all of them a tile at a time, or each every other tile by turns, one storing while the other multiplies.
// Blocks take tiles in turn; or the blocks of a cluster share the k of one tile and add up their sums, in the order of k,
// through each other's shared memory. Clusters also load what they share once (multicast).
#pragma once
#include "activation.cuh"
#include "dependency.cuh"
#include "copy_engine.cuh"
#include "floats.cuh"
#include "gemm_hopper_wgmma.cuh"
#include "rope_head.cuh"
#include <cuda_bf16.h>
#include <cuda_fp16.h>

enum Layout { PLAIN = 0, GATED = 1, INTERLEAVED = 2 };
enum OutType { OUT_F32 = 0, OUT_BF16 = 1, OUT_F16 = 2 };
enum Gate { SILU = 0, GELU_TANH = 1 };
// What is stored: the sums as they are, or gate and up joined.
enum Form { FORM_SUMS, FORM_SILU, FORM_GELU };

struct GemmArguments {
    const float* xs;    // [t], or [1] with xs_stride 0; null: 1
    const float* ws;    // [n]; null: 1
    const float* bias;  // [n]; null: 0
    void* out;          // [t, row]
    int t, n;           // tokens, rows of W
    int row;            // columns of out: n, or n / 2 when gated
    int steps;          // k in steps of 128 bytes
    int xs_stride;
    int layout, gate, out_type;
    int boxes; // out is written by TMA
    int group; // tiles of tokens that are walked before the next tile of channels
    int add;   // to what out (f32, plain) holds, instead of replacing it
};

// Four sums as one access. (Casts of the register array would make the compiler copy it around wgmma.)
template <class T> struct Four;
template <> struct Four<int> {
    using Type = int4;
};
template <> struct Four<float> {
    using Type = float4;
};

// How the heads of q, k and v are rotated and stored in place of sums, with angles that come through the ring: see
// gemm_hopper_heads.cuh.
template <class Gemm, bool HEADS> struct HeadsOf {
    static constexpr int STAGES_OF_ANGLES = 0;
    template <class... Any> __device__ HeadsOf(const Any&...) {}
};

constexpr int STEP = 128;      // bytes of k in a stage: one swizzled row
constexpr int SHARED = 232448; // bytes of shared memory a block may have
constexpr int SHARED_OF_TWO = 115712; // bytes when a multiprocessor holds two

// The largest divisor of `count` up to `most`.
constexpr int divisor(int count, int most) { return count % most == 0 ? most : divisor(count, most - 1); }

template <Element W, Element X, int TN, int MI, int WGS, int CN, int CT, int CK, int OCC, bool HEADS = false, bool TURNS = false> struct Gemm {
    using Mma = Wgmma<W, X, TN>;
    using Acc = typename Mma::Acc;
    using Part = typename Four<Acc>::Type;
    using Heads = HeadsOf<Gemm, HEADS>;
    static constexpr int GROUPS = TURNS ? 1 : WGS; // warpgroups that share a tile; with TURNS each takes every other tile
    static constexpr int ROWS = 64 * MI * GROUPS, TOKENS = TN;
    static constexpr int CLUSTER = CN * CT * CK;
    static constexpr int W_BYTES = ROWS * STEP, X_BYTES = TN * STEP, STAGE = W_BYTES + X_BYTES;
    static constexpr int ELEMENTS = W == Element::BF16 ? STEP / 2 : STEP; // of k in a step
    static constexpr int STORE_OF_GROUP = 16384; // bytes that a warpgroup stores by
    static constexpr int SUM_TOKENS = 32; // of a box of sums in 32 bits
    static constexpr int STORE_BYTES = TN >= 64 && OCC == 1 && CK == 1 ? WGS * STORE_OF_GROUP : 0;
    static constexpr int XS_BYTES = WGS * TN * 4;
    static constexpr int REST = STORE_BYTES + XS_BYTES + 1024;
    static constexpr int FIT = ((OCC == 1 ? SHARED : SHARED_OF_TWO) - REST) / STAGE;
    static constexpr int STAGES = FIT > 16 ? 16 : FIT;
    static constexpr int SHARED_BYTES = STAGES * STAGE + REST;
    static constexpr bool BALANCED = OCC == 1 && WGS == 2; // registers move from the producer to the consumers
    static constexpr int THREADS = 128 * (WGS + 1);
    static_assert(STAGES >= 3, "the ring is too short");
    static_assert(!TURNS || (CK == 1 && WGS == 2 && !HEADS), "two take turns");
    static_assert(CK == 1 || MI == 1, "a shared tile is added up in pieces of one block of 64 rows");

    // The tiles of a cluster, and this block's share of their k.
    struct Walk {
        uint32_t tile, tiles, stride;
        int from, to, number = 0; // number: of the tiles of this cluster
        __device__ Walk(const GemmArguments& a, uint32_t all, uint32_t part) {
            tiles = all, stride = gridDim.x / CLUSTER, tile = blockIdx.x / CLUSTER;
            from = a.steps * part / CK, to = a.steps * (part + 1) / CK;
        }
        __device__ bool done() const { return tile >= tiles; }
        __device__ void next() { tile += stride, ++number; }
    };
    // Tiles of a cluster: all of one group of tokens before the next, so that the group's X stays in L2.
    struct Grid {
        int channels, tokens;
        __device__ Grid(const GemmArguments& a) {
            channels = (a.n + ROWS * CN - 1) / (ROWS * CN), tokens = (a.t + TN * CT - 1) / (TN * CT);
        }
        __device__ void place(const GemmArguments& a, uint32_t tile, int& n0, int& t0) const {
            const int whole = channels * a.group, g = tile / whole, rest = tile - g * whole;
            const int width = min(a.group, tokens - g * a.group);
            n0 = rest / width * ROWS * CN, t0 = (g * a.group + rest % width) * TN * CT;
        }
    };

    struct Shared {
        uint32_t stages, stores, full, empty;
        float* xs;
    };
    struct Peers {
        uint32_t rank, n, t, part;
        uint16_t w_mask, x_mask; // blocks that read the same weights, the same tokens; 0 if none shares them
        __device__ Peers() {
            rank = CLUSTER == 1 ? 0 : cluster_rank();
            n = rank % CN, t = rank / CN % CT, part = rank / (CN * CT), w_mask = 0, x_mask = 0;
            const uint32_t first = part * CN * CT;
#pragma unroll
            for (int i = 0; i < CT && CT > 1; ++i) w_mask |= 1 << (first + n + CN * i);
#pragma unroll
            for (int i = 0; i < CN && CN > 1; ++i) x_mask |= 1 << (first + t * CN + i);
        }
    };

    // Steps of the ring that follow those of k for the tile of a cluster: angles, if one of its blocks has heads that rotate.
    static __device__ int more_steps(const HeadArguments& h, int n0) {
        return HEADS && n0 < (h.nq + h.nkv) * h.d ? Heads::STAGES_OF_ANGLES : 0;
    }

    // ---- the producer: one thread, or a warp of which the first does what is not of angles ----
    struct Cursor {
        Walk walk;
        Grid grid;
        int n0, t0, k, end;
        bool alive;
        __device__ Cursor(const GemmArguments& a, const HeadArguments& h, const Grid& g, const Peers& p)
            : walk(a, g.channels * g.tokens, p.part), grid(g) {
            open(a, h);
        }
        __device__ void open(const GemmArguments& a, const HeadArguments& h) {
            alive = !walk.done();
            if (!alive) return;
            k = walk.from;
            grid.place(a, walk.tile, n0, t0);
            end = walk.to + more_steps(h, n0);
        }
        __device__ void step(const GemmArguments& a, const HeadArguments& h) {
            if (++k == end) walk.next(), open(a, h);
        }
        __device__ bool is_past_k() const { return HEADS && k >= walk.to; }
    };
    static __device__ void load_w(
        const Cursor& c, const TensorMap* map, const Shared& s, const Peers& p, int stage, uint64_t policy) {
        constexpr int SLICE = ROWS / CT;
        load_box(s.stages + stage * STAGE + p.t * SLICE * STEP, map, c.k * ELEMENTS, c.n0 + p.n * ROWS + p.t * SLICE,
                 s.full + 8 * stage, p.w_mask, policy);
    }
    static __device__ void load_x(
        const Cursor& c, const TensorMap* map, const Shared& s, const Peers& p, int stage, uint64_t policy) {
        constexpr int SLICE = TN / CN;
        load_box(s.stages + stage * STAGE + W_BYTES + p.n * SLICE * STEP, map, c.k * ELEMENTS,
                 c.t0 + p.t * TN + p.n * SLICE, s.full + 8 * stage, p.x_mask, policy);
    }
    static __device__ void produce(
        const TensorMap* w_map, const TensorMap* x_map, const GemmArguments& a, const HeadArguments& h, const Shared& s,
        const Peers& p, int lane) {
        const bool first = !HEADS || lane == 0;
        const Grid grid(a);
        // Weights that are read in one go leave the cache first. Tokens, which many blocks ask for at about the same time, do
        // not change the order: to move them up in it, as a normal read does, costs up to a fifth of a product's time.
        const uint64_t w_policy = grid.tokens <= a.group ? policy_evict_first() : policy_evict_normal();
        const uint64_t x_policy = policy_evict_unchanged();
        // The weights do not depend on earlier kernels: the ring fills with them while those still run.
        int filled = 0;
        for (Cursor c(a, h, grid, p); c.alive && filled < STAGES && !c.is_past_k(); c.step(a, h), ++filled) {
            if (!first) continue;
            barrier_expect(s.full + 8 * filled, STAGE);
            load_w(c, w_map, s, p, filled, w_policy);
        }
        grid_wait();
        Cursor c(a, h, grid, p);
        for (int i = 0; i < filled; ++i, c.step(a, h))
            if (first) load_x(c, x_map, s, p, i, x_policy);
        // A stage that was never filled is empty: a wait for the turn before its first does not wait.
        int stage = filled % STAGES, parity = filled < STAGES;
        for (; c.alive; c.step(a, h)) {
            barrier_wait(s.empty + 8 * stage, parity);
            if constexpr (HEADS)
                if (c.is_past_k()) Heads::load_angles(h, s, c.k - c.walk.to, stage, c.t0 + p.t * TN, a.t, lane);
            if (first && !c.is_past_k()) {
                barrier_expect(s.full + 8 * stage, STAGE);
                load_w(c, w_map, s, p, stage, w_policy);
                load_x(c, x_map, s, p, stage, x_policy);
            }
            if (++stage == STAGES) stage = 0, parity ^= 1;
        }
    }

    // ---- the consumers ----
    struct Lane {
        int warpgroup, warp, lane; // warp within its warpgroup
        __device__ int part() const { return TURNS ? 0 : warpgroup; } // of the tile's rows
    };
    static __device__ void release(const Shared& s, const Peers& p, const Lane& l, int stage) {
        if (CN * CT == 1) {
            if (l.lane == 0) barrier_arrive(s.empty + 8 * stage);
        } else if (HEADS && l.lane == p.rank) {
            barrier_arrive(s.empty + 8 * stage); // the same; but racecheck, which looks at angles, follows this form alone
        } else if (l.lane < CLUSTER && ((p.w_mask | p.x_mask) >> l.lane & 1)) {
            barrier_arrive_at(s.empty + 8 * stage, l.lane);
        }
    }
    // A warpgroup multiplies while the other stores: barriers 9 and 10, which one waits at and the other passes by.
    static __device__ void turn_wait(int warpgroup) { asm volatile("bar.sync %0, 256;" ::"r"(9 + warpgroup) : "memory"); }
    static __device__ void turn_give(int warpgroup) { asm volatile("bar.arrive %0, 256;" ::"r"(9 + warpgroup) : "memory"); }
    // Adds the products of the steps [from, to) to acc, which starts at zero.
    static __device__ void multiply(
        Acc (&acc)[MI][TN / 2], int count, const Shared& s, const Peers& p, const Lane& l, int& stage, int& parity,
        bool pass_on = false) {
        int last = -1;
        for (int k = 0; k < count; ++k) {
            barrier_wait(s.full + 8 * stage, parity);
            const uint32_t base = s.stages + stage * STAGE;
            const uint64_t w = operand_descriptor(base + l.part() * MI * 64 * STEP);
            const uint64_t x = operand_descriptor(base + W_BYTES);
            wgmma_fence();
#pragma unroll
            for (int j = 0; j < STEP / 32; ++j)
#pragma unroll
                for (int i = 0; i < MI; ++i) Mma::run(acc[i], w + i * (64 * STEP / 16) + 2 * j, x + 2 * j, k + j > 0);
            wgmma_commit();
            wgmma_wait<1>();
            if (last >= 0) release(s, p, l, last);
            last = stage;
            if (++stage == STAGES) stage = 0, parity ^= 1;
        }
        if (TURNS && pass_on) turn_give(1 - l.warpgroup);
        wgmma_wait<0>();
        release(s, p, l, last);
    }

    struct Scales {
        float ws[MI][2], bias[MI][2];
        float xs[(TN + 127) / 128]; // this thread's share of the tile's, on the way to shared memory
    };
    static __device__ Scales load_scales(const GemmArguments& a, const Lane& l, int n0, int t0) {
        Scales v;
#pragma unroll
        for (int i = 0; i < MI; ++i)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int n = n0 + (l.part() * MI + i) * 64 + l.warp * 16 + l.lane / 4 + 8 * h;
                v.ws[i][h] = a.ws != nullptr && n < a.n ? a.ws[n] : 1.0f;
                v.bias[i][h] = a.bias != nullptr && n < a.n ? a.bias[n] : 0.0f;
            }
        const int thread = l.warp * 32 + l.lane;
#pragma unroll
        for (int i = 0; i < (TN + 127) / 128; ++i) {
            const int t = t0 + thread + 128 * i;
            v.xs[i] = a.xs != nullptr && t < a.t ? a.xs[(size_t)t * a.xs_stride] : 1.0f;
        }
        return v;
    }
    static __device__ void share_xs(const Scales& v, const Shared& s, const Lane& l) {
        warpgroup_sync(l.warpgroup);
        const int thread = l.warp * 32 + l.lane;
#pragma unroll
        for (int i = 0; i < (TN + 127) / 128; ++i)
            if (thread + 128 * i < TN) s.xs[l.warpgroup * TN + thread + 128 * i] = v.xs[i];
        warpgroup_sync(l.warpgroup);
    }

    // As every other kernel has it: an INT8 product may be taken by either, and a last digit may move a code.
    static __device__ float gate(float g, float up, int kind) { return __fmul_rn(activated(g, kind != SILU), up); }
    static __device__ float scale(float sum, float xs, float ws, float bias) {
        return __fadd_rn(__fmul_rn(__fmul_rn(sum, xs), ws), bias);
    }
    static __device__ void put(const GemmArguments& a, size_t at, float y) {
        if (a.add) atomicAdd((float*)a.out + at, y); // nobody waits for it, as for a store
        else if (a.out_type == OUT_F32) ((float*)a.out)[at] = y;
        else ((unsigned short*)a.out)[at] = half_bits(y, a.out_type);
    }
    static __device__ unsigned short half_bits(float y, int type) {
        const unsigned short bf16 = __bfloat16_as_ushort(__float2bfloat16_rn(y));
        const unsigned short f16 = __half_as_ushort(__float2half_rn(y));
        return type == OUT_BF16 ? bf16 : f16;
    }
    // Any size and alignment: a thread's two channels of two tokens, a warp's sixteen of eight.
    static __device__ void store_eight(
        const GemmArguments& a, const Acc (&sum)[4], const Scales& v, const float* xs, const Lane& l, int i, int n0,
        int t0, int first) {
        const int n = n0 + (l.part() * MI + i) * 64 + l.warp * 16 + l.lane / 4;
        const int channel = n / 16 * 8 + l.lane / 4;
        const int low = a.layout == PLAIN ? n : channel;
        const int high = a.layout == PLAIN ? n + 8 : a.n / 2 + channel;
        const int column = first + 2 * (l.lane & 3), t = t0 + column;
        float y[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) y[e] = scale(sum[e], xs[column + (e & 1)], v.ws[i][e >> 1], v.bias[i][e >> 1]);
        if (a.layout == GATED) y[0] = gate(y[0], y[2], a.gate), y[1] = gate(y[1], y[3], a.gate);
        const bool put_low = a.layout == GATED ? n + 8 < a.n : n < a.n, put_high = a.layout != GATED && n + 8 < a.n;
        const size_t at = (size_t)t * a.row;
        if (t < a.t && put_low) put(a, at + low, y[0]);
        if (t < a.t && put_high) put(a, at + high, y[2]);
        if (t + 1 < a.t && put_low) put(a, at + a.row + low, y[1]);
        if (t + 1 < a.t && put_high) put(a, at + a.row + high, y[3]);
    }
    static __device__ void store_direct(
        const GemmArguments& a, const Acc (&acc)[MI][TN / 2], const Scales& v, const Shared& s, const Lane& l, int n0,
        int t0) {
#pragma unroll
        for (int i = 0; i < MI; ++i)
#pragma unroll
            for (int j = 0; j < TN / 2; j += 4) {
                const Acc sum[4] = {acc[i][j], acc[i][j + 1], acc[i][j + 2], acc[i][j + 3]};
                store_eight(a, sum, v, s.xs + l.warpgroup * TN, l, i, n0, t0, 2 * j);
            }
    }
    // ---- storing: through shared memory and the copy engine ----
    // These are ordered by the fence that follows, not among other accesses: a clobber would make each wait its turn.
    static __device__ void box_put(uint32_t at, float y) { asm volatile("st.shared.f32 [%0], %1;" ::"r"(at), "f"(y)); }
    // The compiler would merge the forms of a tile's storing and choose between their instructions one by one.
    template <int FORM> static __device__ void keep_apart() { asm volatile("// form %0" ::"n"(FORM)); }

    // Sums in 32 bits, each warp by itself: boxes of 16 channels (two of 8, where gate and up part) of some tokens, swizzled so
    // that the warp's stores meet no bank twice.
    template <bool APART>
    static __device__ void store_sums(
        const TensorMap* map, const GemmArguments& a, const Acc (&acc)[MI][TN / 2], const Scales& v, const Shared& s,
        const Lane& l, int n0, int t0) {
        constexpr int ROW = APART ? 32 : 64, BOX = SUM_TOKENS * 64, BUFFERS = STORE_OF_GROUP / 4 / BOX;
        static_assert(MI * TN / SUM_TOKENS % BUFFERS == 0, "a tile begins with the first buffer");
        const float* xs = s.xs + l.warpgroup * TN + 2 * (l.lane & 3);
        const uint32_t buffers = s.stores + (l.warpgroup * 4 + l.warp) * (STORE_OF_GROUP / 4);
        const int quad = l.lane & 3;
        const bool swap = APART ? quad >> 1 : quad & 1;
        // Of this lane's two channels, for its first and its second token.
        uint32_t low[2], high[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const int token = 2 * quad + (e ^ swap), turn = APART ? token >> 2 & 1 : token >> 1 & 3;
            low[e] = buffers + token * ROW + (l.lane / 4 * 4 ^ turn << 4);
            high[e] = APART ? low[e] + BOX / 2 : low[e] ^ 32;
        }
#pragma unroll
        for (int box = 0; box < MI * TN / SUM_TOKENS; ++box) {
            const int i = box % MI, c = box / MI, offset = box % BUFFERS * BOX, t = t0 + c * SUM_TOKENS;
            const int n = n0 + (l.part() * MI + i) * 64 + l.warp * 16;
            keep_apart<APART>();
            if (l.lane == 0) store_wait_read<BUFFERS - 1>();
            __syncwarp();
#pragma unroll
            for (int j = 0; j < SUM_TOKENS / 8; ++j) {
                const int first = (c * (SUM_TOKENS / 8) + j) * 4, to = offset + j * 8 * ROW;
                const float2 x = *(const float2*)(xs + c * SUM_TOKENS + 8 * j);
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    const bool second = e ^ swap;
                    const Acc low_sum = second ? acc[i][first + 1] : acc[i][first];
                    const Acc high_sum = second ? acc[i][first + 3] : acc[i][first + 2];
                    const float xe = second ? x.y : x.x;
                    box_put(low[e] + to, scale(low_sum, xe, v.ws[i][0], v.bias[i][0]));
                    box_put(high[e] + to, scale(high_sum, xe, v.ws[i][1], v.bias[i][1]));
                }
            }
            keep_apart<APART>();
            copy_engine_fence();
            __syncwarp();
            if (l.lane == 0) {
                const uint32_t from = buffers + offset;
                if (n < a.n && t < a.t) {
                    if (APART) store_box(map, n / 2, t, from), store_box(map, a.n / 2 + n / 2, t, from + BOX / 2);
                    else if (a.add) add_box(map, n, t, from);
                    else store_box(map, n, t, from);
                }
                store_commit();
            }
        }
    }

    // The rest, each warpgroup by itself: 64 channels in 16 bits, or the 32 that are left where gate and up are joined, of 32
    // tokens at a time. A row is a token, of 128 bytes, or 64 of gates in 16 bits: eight channels, a warp's, would be less of it
    // than memory takes at least. While one chunk is put, those before it are on their way.
    template <Form FORM, bool WIDE> struct Rows {
        static constexpr bool JOINING = FORM != FORM_SUMS;
        static constexpr int CHUNK = 32, ROW = JOINING && !WIDE ? 64 : 128, BYTES = CHUNK * ROW, CHUNKS = MI * TN / CHUNK;
        static constexpr int BUFFERS = divisor(CHUNKS, STORE_OF_GROUP / BYTES); // a tile begins with the first of them
        static constexpr bool WHOLE = BUFFERS == CHUNKS;
        static_assert(!(WIDE && !JOINING) && BUFFERS >= 2, "one chunk is put while another is stored");

        // Where a lane puts gates of 32 bits of its first token and the second, `odd`.
        static __device__ uint32_t place(const Lane& l, int odd) {
            const int token = 2 * (l.lane & 3) + odd, piece = 2 * l.warp + (l.lane >> 4);
            return token * ROW + ((piece ^ token) << 4) + (l.lane >> 2 & 3) * 4;
        }
        // Where rows of its matrices of 16 bits begin: of gates those of 32 tokens, of sums both halves of 16.
        static __device__ uint32_t row(const Lane& l) {
            if (JOINING) return l.lane * ROW + ((l.warp ^ (l.lane >> 1 & 3)) << 4);
            return ((l.lane >> 4) * 8 + (l.lane & 7)) * ROW + ((2 * l.warp + (l.lane >> 3 & 1) ^ (l.lane & 7)) << 4);
        }
    };
    static __device__ uint32_t half_pair(float low, float high, int type) {
        const uint32_t bf16 = two_bf16(low, high);
        uint32_t f16;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(f16) : "f"(high), "f"(low));
        return type == OUT_BF16 ? bf16 : f16;
    }
    template <Form FORM, bool WIDE>
    static __device__ void store_rows(
        const TensorMap* map, const GemmArguments& a, const Acc (&acc)[MI][TN / 2], const Scales& v, const Shared& s,
        const Lane& l, int n0, int t0) {
        using R = Rows<FORM, WIDE>;
        constexpr int EIGHTS = R::CHUNK / 8, BYTES = R::BYTES, BUFFERS = R::BUFFERS;
        const bool storing = l.warp == 0 && l.lane == 0;
        const float* xs = s.xs + l.warpgroup * TN + 2 * (l.lane & 3);
        const uint32_t buffers = s.stores + l.warpgroup * STORE_OF_GROUP;
        const uint32_t place[2] = {buffers + R::place(l, 0), buffers + R::place(l, 1)}, row = buffers + R::row(l);
        auto send = [&](int box) {
            const int t = t0 + box / MI * R::CHUNK, n = n0 + (l.part() * MI + box % MI) * 64;
            if (n < a.n && t < a.t) store_box(map, R::JOINING ? n / 2 : n, t, buffers + box % BUFFERS * BYTES);
        };
        if (R::WHOLE) {
            if (storing) store_wait_read<0>();
            warpgroup_sync(l.warpgroup);
        }
#pragma unroll
        for (int box = 0; box < R::CHUNKS; ++box) {
            const int i = box % MI, c = box / MI, offset = box % BUFFERS * BYTES;
            keep_apart<2 + 2 * FORM + WIDE>();
            float y[2][2 * EIGHTS]; // of the channels that are eight apart
#pragma unroll
            for (int j = 0; j < EIGHTS; ++j) {
                const float2 x = *(const float2*)(xs + c * R::CHUNK + 8 * j);
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    y[e >> 1][2 * j + (e & 1)] = scale(
                        acc[i][4 * (c * EIGHTS + j) + e], e & 1 ? x.y : x.x, v.ws[i][e >> 1], v.bias[i][e >> 1]);
            }
            if (R::JOINING) {
                activate_all(y[0], FORM == FORM_GELU);
#pragma unroll
                for (int k = 0; k < 2 * EIGHTS; ++k) y[0][k] = __fmul_rn(y[0][k], y[1][k]);
            }
            if (WIDE) {
#pragma unroll
                for (int k = 0; k < 2 * EIGHTS; ++k) box_put(place[k % 2] + offset + k / 2 * 8 * R::ROW, y[0][k]);
            } else {
                // Matrices: blocks of eight tokens of gates, or both halves of two of them.
#pragma unroll
                for (int first = 0; first < EIGHTS; first += R::JOINING ? 4 : 2) {
                    uint32_t pairs[4];
#pragma unroll
                    for (int m = 0; m < 4; ++m) {
                        const int half = R::JOINING ? 0 : m & 1, j = first + (R::JOINING ? m : m >> 1);
                        pairs[m] = half_pair(y[half][2 * j], y[half][2 * j + 1], R::JOINING ? OUT_BF16 : a.out_type);
                    }
                    shared_store_transposed(row + offset + first * 8 * R::ROW, pairs);
                }
            }
            keep_apart<2 + 2 * FORM + WIDE>();
            if (R::WHOLE && box + 1 < R::CHUNKS) continue;
            copy_engine_fence();
            // The buffer that comes next has been read when all meet.
            if (!R::WHOLE && storing) store_wait_read<BUFFERS - 2>();
            warpgroup_sync(l.warpgroup);
            if (!storing) continue;
            for (int sent = R::WHOLE ? 0 : box; sent <= box; ++sent) send(sent);
            store_commit();
        }
    }

    static __device__ void store(
        const TensorMap* map, const GemmArguments& a, const Acc (&acc)[MI][TN / 2], const Scales& v, const Shared& s,
        const Lane& l, int n0, int t0) {
        if constexpr (STORE_BYTES > 0)
            if (a.boxes) return store_by_boxes(map, a, acc, v, s, l, n0, t0);
        store_direct(a, acc, v, s, l, n0, t0);
    }
    static __device__ void store_by_boxes(
        const TensorMap* map, const GemmArguments& a, const Acc (&acc)[MI][TN / 2], const Scales& v, const Shared& s,
        const Lane& l, int n0, int t0) {
        const bool joined = a.layout == GATED, silu = a.gate == SILU, wide = a.out_type == OUT_F32;
        if (joined && silu && wide) store_rows<FORM_SILU, true>(map, a, acc, v, s, l, n0, t0);
        else if (joined && wide) store_rows<FORM_GELU, true>(map, a, acc, v, s, l, n0, t0);
        else if (joined && silu) store_rows<FORM_SILU, false>(map, a, acc, v, s, l, n0, t0);
        else if (joined) store_rows<FORM_GELU, false>(map, a, acc, v, s, l, n0, t0);
        else if (!wide) store_rows<FORM_SUMS, false>(map, a, acc, v, s, l, n0, t0);
        else if (a.layout == INTERLEAVED) store_sums<true>(map, a, acc, v, s, l, n0, t0);
        else store_sums<false>(map, a, acc, v, s, l, n0, t0);
    }

    // Adds up what the blocks of the cluster have of a tile, each a share of it, and stores that.
    static __device__ void join(
        const GemmArguments& a, const Acc (&acc)[MI][TN / 2], const Scales& v, const Shared& s, const Peers& p,
        const Lane& l, int n0, int t0) {
        constexpr int GROUPS = TN / 8, PART = WGS * GROUPS * 128 * 16; // a thread has four sums of eight tokens
        const uint32_t mine = s.stages + ((l.warpgroup * GROUPS) * 128 + l.warp * 32 + l.lane) * 16;
        static_assert(PART <= STAGES * STAGE, "sums go where the stages were");
        consumers_sync<WGS * 128>();
#pragma unroll
        for (int j = 0; j < GROUPS; ++j)
            shared_store_four(mine + j * 128 * 16, acc[0][4 * j], acc[0][4 * j + 1], acc[0][4 * j + 2], acc[0][4 * j + 3]);
        cluster_arrive(), cluster_wait();
        const float* xs = s.xs + l.warpgroup * TN;
        const uint32_t first = p.rank % (CN * CT);
        for (int j = GROUPS * p.part / CK; j < GROUPS * (p.part + 1) / CK; ++j) {
            Part sums[CK];
#pragma unroll
            for (int c = 0; c < CK; ++c) sums[c] = shared_load_four<Part>(mine + j * 128 * 16, first + c * CN * CT);
#pragma unroll
            for (int c = 1; c < CK; ++c)
                sums[0].x += sums[c].x, sums[0].y += sums[c].y, sums[0].z += sums[c].z, sums[0].w += sums[c].w;
            const Acc sum[4] = {sums[0].x, sums[0].y, sums[0].z, sums[0].w};
            store_eight(a, sum, v, xs, l, 0, n0, t0, 8 * j);
        }
    }

    static __device__ void consume(
        const TensorMap* out_map, const GemmArguments& a, const HeadArguments& h, const Shared& s, const Peers& p,
        const Lane& l) {
        const Grid grid(a);
        int stage = 0, parity = 0;
        grid_wait();
        for (Walk walk(a, grid.channels * grid.tokens, p.part); !walk.done(); walk.next()) {
            if (TURNS && walk.number % 2 != l.warpgroup) { // the other's tile: its steps of the ring
                stage += walk.to - walk.from;
                parity ^= stage / STAGES & 1, stage %= STAGES;
                continue;
            }
            int n0, t0;
            grid.place(a, walk.tile, n0, t0);
            const bool angles = more_steps(h, n0) > 0;
            n0 += p.n * ROWS, t0 += p.t * TN;
            const Scales v = load_scales(a, l, n0, t0);
            const Heads heads(h, a, l, s, n0, t0);
            // Warpgroups that drift apart hold more stages: the ring would be short for the one ahead.
            if (GROUPS > 1) consumers_sync<WGS * 128>();
            if (TURNS && walk.number > 0) turn_wait(l.warpgroup);
            Acc acc[MI][TN / 2];
            multiply(acc, walk.to - walk.from, s, p, l, stage, parity, walk.tile + walk.stride < walk.tiles);
            share_xs(v, s, l);
            if constexpr (HEADS) heads.store(acc, v, s, p, l, angles, stage, parity);
            else if (CK > 1) join(a, acc, v, s, p, l, n0, t0);
            else store(out_map, a, acc, v, s, l, n0, t0);
        }
        store_wait_read<0>();
    }

    static __device__ void run(
        const TensorMap* w_map, const TensorMap* x_map, const TensorMap* out_map, const GemmArguments& a,
        const HeadArguments& h = {}) {
        extern __shared__ __align__(1024) uint8_t memory[];
        Shared s;
        s.stages = shared_address(memory);
        s.stores = s.stages + STAGES * STAGE;
        s.xs = (float*)(memory + STAGES * STAGE + STORE_BYTES);
        s.full = s.stores + STORE_BYTES + XS_BYTES;
        s.empty = s.full + 8 * STAGES;
        const Peers p;
        const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
        const Lane l = {warp / 4, warp % 4, (int)threadIdx.x % 32};
        if (threadIdx.x == 0) {
            for (int i = 0; i < STAGES; ++i) {
                barrier_init(s.full + 8 * i, 1);
                barrier_init(s.empty + 8 * i, GROUPS * 4 * (CN + CT - 1));
            }
            barrier_init_done();
        }
        grid_release();
        if (CLUSTER > 1) cluster_arrive(), cluster_wait();
        else __syncthreads();
        if (l.warpgroup == WGS) {
            if (BALANCED) registers_give<40>();
            if (l.warp == 0 && (HEADS || l.lane == 0)) {
                prefetch_map(w_map), prefetch_map(x_map);
                produce(w_map, x_map, a, h, s, p, l.lane);
            }
            __syncwarp();
            if (CK > 1) cluster_arrive(), cluster_wait(); // beside the consumers' in `join`
        } else {
            if (BALANCED) registers_take<232>();
            consume(out_map, a, h, s, p, l);
        }
        // No block may leave while another still writes to its shared memory or signals its barriers.
        if (CLUSTER > 1) {
            __syncwarp();
            cluster_arrive(), cluster_wait();
        }
    }
};
