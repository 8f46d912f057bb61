// One block's tile of a product of weights [n, k] and tokens [t, k] by tensor cores with a warp's own operands (not
// warpgroups'): weight rows are the 16 rows of the instruction, tokens its 8 columns. Seen as bytes the operands of
// s8 (32 wide), e4m3 (32) and bf16 (16) instructions are laid out alike, so one loop serves them all.
#pragma once
#include "dependency.cuh"
#include "floats.cuh"
#include "stages.cuh"

// Warps over rows, tokens and k; 16-row and 8-token tiles of a warp; bytes of k in a stage, and stages.
template <int ROW_WARPS_, int TOKEN_WARPS_, int K_WARPS_, int MI_, int NI_, int BYTES_, int STAGES_>
struct Tile {
    static constexpr int ROW_WARPS = ROW_WARPS_, TOKEN_WARPS = TOKEN_WARPS_, K_WARPS = K_WARPS_;
    static constexpr int MI = MI_, NI = NI_, BYTES = BYTES_, STAGES = STAGES_;
    static constexpr int THREADS = 32 * ROW_WARPS * TOKEN_WARPS * K_WARPS;
    static constexpr int ROWS = 16 * ROW_WARPS * MI, TOKENS = 8 * TOKEN_WARPS * NI;
    static constexpr int STAGE = (ROWS + TOKENS) * BYTES;
    static constexpr int CHUNKS = BYTES / 16, STEPS = BYTES / K_WARPS / 32;
    // Blocks that a multiprocessor's registers are to hold.
    static constexpr int BLOCKS = MI * NI * THREADS == 4096 && K_WARPS == 1 ? 2 : 1;
};

// ---- instructions ------------------------------------------------------------------------------------------------

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 750
__device__ __forceinline__ void ldmatrix4(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
}
__device__ __forceinline__ void ldmatrix2(u32 (&r)[2], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(address));
}
#endif

// INT8 before sm_80: four instructions of 8 rows and 16 bytes of k.
struct Int8Turing {
    typedef int Sum;
    static __device__ __forceinline__ void add(int (&c)[4], const u32 (&a)[4], const u32* b) {
        small(c[0], c[1], a[0], b[0]);
        small(c[2], c[3], a[1], b[0]);
        small(c[0], c[1], a[2], b[1]);
        small(c[2], c[3], a[3], b[1]);
    }
    static __device__ __forceinline__ void small(int& c0, int& c1, u32 a, u32 b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 750
        asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
            : "+r"(c0), "+r"(c1)
            : "r"(a), "r"(b));
#endif
    }
};

struct Int8 {
    typedef int Sum;
    static __device__ __forceinline__ void add(int (&c)[4], const u32 (&a)[4], const u32* b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
        asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
    }
};

#define FLOAT_INSTRUCTION(NAME, TEXT)                                                                            \
    struct NAME {                                                                                                      \
        typedef float Sum;                                                                                             \
        static __device__ __forceinline__ void add(float (&c)[4], const u32 (&a)[4], const u32* b) {                   \
            asm("mma.sync.aligned." TEXT " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                      \
                : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                       \
                : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                                   \
        }                                                                                                              \
    };
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
FLOAT_INSTRUCTION(Bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
#endif
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
// Weight type, then activation type.
FLOAT_INSTRUCTION(E4m3E4m3, "m16n8k32.row.col.f32.e4m3.e4m3.f32")
FLOAT_INSTRUCTION(E5m2E4m3, "m16n8k32.row.col.f32.e5m2.e4m3.f32")
FLOAT_INSTRUCTION(E4m3E5m2, "m16n8k32.row.col.f32.e4m3.e5m2.f32")
FLOAT_INSTRUCTION(E5m2E5m2, "m16n8k32.row.col.f32.e5m2.e5m2.f32")
#endif

// ---- operands in memory ----------------------------------------------------------------------------------------

// 16 bytes of a row as the tensor cores take them: copied, or rounded to bf16. `part` takes the first `count` elements
// and zeros.
struct Bytes {
    typedef u8 Element;
    static constexpr int WIDTH = 16;
    static __device__ __forceinline__ uint4 whole(const u8* p) { return *(const uint4*)p; }
    static __device__ __forceinline__ uint4 part(const u8* p, int count) { return first_bytes(p, count); }
};
template <class From> struct ToBf16 {
    typedef From Element;
    static constexpr int WIDTH = 8;
    static __device__ __forceinline__ uint4 whole(const From* p) {
        if constexpr (sizeof(From) == 4) {
            float4 a = *(const float4*)p, b = *((const float4*)p + 1);
            return make_uint4(two_bf16(a.x, a.y), two_bf16(a.z, a.w), two_bf16(b.x, b.y), two_bf16(b.z, b.w));
        } else {
            uint4 v = *(const uint4*)p;
            return make_uint4(rounded(v.x), rounded(v.y), rounded(v.z), rounded(v.w));
        }
    }
    static __device__ __forceinline__ uint4 part(const From* p, int count) {
        float v[8];
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = i < count ? widened(p[i]) : 0.0f;
        return make_uint4(two_bf16(v[0], v[1]), two_bf16(v[2], v[3]), two_bf16(v[4], v[5]), two_bf16(v[6], v[7]));
    }
    static __device__ __forceinline__ u32 rounded(u32 two) {
        if constexpr (From::IS_BF16) return two;
        return two_bf16(widened(From{(u16)two}), widened(From{(u16)(two >> 16)}));
    }
};

// How an operand goes into the stages. Direct: 16-byte copies that pass no register, of rows at multiples of 16 bytes.
// Whole: through registers, such rows. Any: through registers, rows that begin anywhere.
enum class Way { Direct, Whole, Any };

template <class Source, Way WAY, int ROWS, int CHUNKS, int THREADS> struct Operand {
    typedef typename Source::Element Element;
    static constexpr bool DIRECT = WAY == Way::Direct;
    static constexpr int COUNT = (ROWS * CHUNKS + THREADS - 1) / THREADS;
    const Element* from;
    int rows, k;
    bool aligned;
    uint4 held[DIRECT ? 1 : COUNT];

    __device__ __forceinline__ Operand(const void* matrix, int first, int all, int k_)
        : from((const Element*)matrix + (long long)first * k_), rows(all - first), k(k_),
          aligned(WAY != Way::Any || k_ % Source::WIDTH == 0) {}

    template <class Use> __device__ __forceinline__ void each(int stage, Use use) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            int at = (int)threadIdx.x + i * THREADS, row = at / CHUNKS, chunk = at % CHUNKS;
            if ((ROWS * CHUNKS) % THREADS != 0 && at >= ROWS * CHUNKS) break;
            use(i, row, chunk, (stage * CHUNKS + chunk) * Source::WIDTH);
        }
    }
    __device__ __forceinline__ void copy(u32 to, int stage) {
        each(stage, [&](int, int row, int chunk, int at) {
            bool there = row < rows && at < k;
            copy16(to + place<CHUNKS>(row, chunk), there ? from + (long long)row * k + at : from, there);
        });
    }
    __device__ __forceinline__ void fetch(int stage) {
        each(stage, [&](int i, int row, int, int at) {
            held[i] = make_uint4(0, 0, 0, 0);
            if (row >= rows || at >= k) return;
            const Element* p = from + (long long)row * k + at;
            if (aligned)
                held[i] = Source::whole(p);
            else if (WAY == Way::Any)
                held[i] = Source::part(p, k - at);
        });
    }
    __device__ __forceinline__ void put(u32 to) {
        each(0, [&](int i, int row, int chunk, int) { store_shared16(to + place<CHUNKS>(row, chunk), held[i]); });
    }
    // For the first stages, before which nothing is computed.
    __device__ __forceinline__ void load(u32 to, int stage) {
        if constexpr (DIRECT) {
            copy(to, stage);
        } else {
            fetch(stage);
            put(to);
        }
    }
};

// ---- the product -----------------------------------------------------------------------------------------------

// Which tile a block computes: sixteen token tiles share the rows that they read, so that a wave of blocks finds both
// its weights and its tokens in the second-level cache.
__device__ __forceinline__ void tile_of_block(int block, int row_tiles, int token_tiles, int& row, int& token) {
    const int group = 16;
    int first = block / (group * row_tiles) * group, width = min(group, token_tiles - first);
    int local = block % (group * row_tiles);
    token = first + local % width;
    row = local / width;
}

// Sums over k of the block's tile, then `out(row, token, c)` for each thread's four: rows `row` and `row + 8`, tokens
// `token` and `token + 1`: c[0] (row, token), c[1] (row, token + 1), c[2] (row + 8, token), c[3].
// The terms of a sum are added in ascending k whatever the tile, except where K_WARPS > 1: those are for integers, and
// for floats where a token's result may depend on how many others there are.
template <class Mma, class T, class WeightSource, Way WEIGHT_WAY, class TokenSource, Way TOKEN_WAY, class Out>
__device__ __forceinline__ void tensor_core_product(const void* w, const void* x, int t, int n, int k, Out out) {
    extern __shared__ __align__(128) u8 memory[];
    typedef typename Mma::Sum Sum;
    const u32 stages = shared_address(memory);
    constexpr int TOKENS_AT = T::ROWS * T::BYTES;
    int row_tile, token_tile;
    tile_of_block(blockIdx.x, (n + T::ROWS - 1) / T::ROWS, (t + T::TOKENS - 1) / T::TOKENS, row_tile, token_tile);
    const int first_row = row_tile * T::ROWS, first_token = token_tile * T::TOKENS;
    Operand<WeightSource, WEIGHT_WAY, T::ROWS, T::CHUNKS, T::THREADS> weights(w, first_row, n, k);
    Operand<TokenSource, TOKEN_WAY, T::TOKENS, T::CHUNKS, T::THREADS> tokens(x, first_token, t, k);
    const int count = (k + T::CHUNKS * WeightSource::WIDTH - 1) / (T::CHUNKS * WeightSource::WIDTH);

    // Weights do not depend on earlier kernels; tokens do.
#pragma unroll 1
    for (int s = 0; s < T::STAGES - 1; s++)
        if (s < count) weights.load(stages + s * T::STAGE, s);
    grid_wait();
    grid_release();
#pragma unroll 1
    for (int s = 0; s < T::STAGES - 1; s++) {
        if (s < count) tokens.load(stages + s * T::STAGE + TOKENS_AT, s);
        copies_end_group();
    }

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int k_warp = warp / (T::ROW_WARPS * T::TOKEN_WARPS), tile_warp = warp % (T::ROW_WARPS * T::TOKEN_WARPS);
    const int warp_row = tile_warp % T::ROW_WARPS * T::MI * 16, warp_token = tile_warp / T::ROW_WARPS * T::NI * 8;
    Sum sums[T::MI][T::NI][4] = {};
    for (int i = 0; i < count; i++) {
        wait_copies<T::STAGES - 2>();
        __syncthreads();
        const int next = i + T::STAGES - 1;
        const u32 free_stage = stages + next % T::STAGES * T::STAGE;
        if (next < count) {
            if constexpr (weights.DIRECT) weights.copy(free_stage, next);
            else weights.fetch(next);
            if constexpr (tokens.DIRECT) tokens.copy(free_stage + TOKENS_AT, next);
            else tokens.fetch(next);
        }
        copies_end_group();
        const u32 stage = stages + i % T::STAGES * T::STAGE;
#pragma unroll
        for (int step = 0; step < T::STEPS; step++) {
            const int chunk = (k_warp * T::STEPS + step) * 2;
            u32 a[T::MI][4], b[T::NI][2];
#pragma unroll
            for (int mi = 0; mi < T::MI; mi++)
                ldmatrix4(a[mi], stage + place<T::CHUNKS>(warp_row + mi * 16 + lane % 16, chunk + lane / 16));
            const u32 token_stage = stage + TOKENS_AT;
            if constexpr (T::NI == 1) {
                ldmatrix2(b[0], token_stage + place<T::CHUNKS>(warp_token + lane % 8, chunk + lane / 8 % 2));
            } else {
#pragma unroll
                for (int ni = 0; ni < T::NI; ni += 2) {
                    u32 both[4];
                    const int row = warp_token + ni * 8 + lane / 16 * 8 + lane % 8;
                    ldmatrix4(both, token_stage + place<T::CHUNKS>(row, chunk + lane / 8 % 2));
                    b[ni][0] = both[0], b[ni][1] = both[1], b[ni + 1][0] = both[2], b[ni + 1][1] = both[3];
                }
            }
#pragma unroll
            for (int mi = 0; mi < T::MI; mi++)
#pragma unroll
                for (int ni = 0; ni < T::NI; ni++) Mma::add(sums[mi][ni], a[mi], b[ni]);
        }
        if (next < count) {
            if constexpr (!weights.DIRECT) weights.put(free_stage);
            if constexpr (!tokens.DIRECT) tokens.put(free_stage + TOKENS_AT);
        }
    }

    const int row = first_row + warp_row + lane / 4, token = first_token + warp_token + lane % 4 * 2;
    if constexpr (T::K_WARPS == 1) {
#pragma unroll
        for (int mi = 0; mi < T::MI; mi++)
#pragma unroll
            for (int ni = 0; ni < T::NI; ni++) out(row + mi * 16, token + ni * 8, sums[mi][ni]);
    } else {
        // Each of the warps that share a tile adds up some of its parts.
        wait_copies<0>();
        __syncthreads();
        constexpr int WARPS = T::THREADS / 32, PARTS = T::MI * T::NI, SHARE = T::ROW_WARPS * T::TOKEN_WARPS;
        static_assert(WARPS * PARTS * 512 <= T::STAGES * T::STAGE, "partial sums fit where the stages were");
        struct __align__(16) Four {
            Sum c[4];
        };
        Four* partial = (Four*)memory;
#pragma unroll
        for (int p = 0; p < PARTS; p++) {
            Sum(&c)[4] = sums[p / T::NI][p % T::NI];
            partial[(p * WARPS + warp) * 32 + lane] = Four{{c[0], c[1], c[2], c[3]}};
        }
        __syncthreads();
        for (int p = k_warp; p < PARTS; p += T::K_WARPS) {
            Sum total[4] = {};
#pragma unroll
            for (int other = 0; other < T::K_WARPS; other++) {
                const Four four = partial[(p * WARPS + other * SHARE + tile_warp) * 32 + lane];
#pragma unroll
                for (int e = 0; e < 4; e++) total[e] += four.c[e];
            }
            out(row + p / T::NI * 16, token + p % T::NI * 8, total);
        }
    }
}
