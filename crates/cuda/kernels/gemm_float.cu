// Products of f32 activations and float weights: in f32 by fused multiply-adds in ascending k, which equals the reference
// bit for bit, or rounded to bf16 for the tensor cores of sm_80 on. A token's result does not depend on its company.
#include "mma_tile.cuh"
#include "simt_tile.cuh"

#if defined(__CUDA_ARCH__)
#define ARGUMENTS                                                                                                      \
    const void *w, const float *x, const float *bias, void *out, int t, int n, int k, int type
#define BIASED Biased{bias, out, t, n, type}

struct Biased {
    const float* bias;
    void* out;
    int t, n, type;  // 0 f32, 1 bf16, 2 f16

    __device__ __forceinline__ void store(long long at, float v) const {
        if (type == 0) ((float*)out)[at] = v;
        if (type == 1) round_to(v, ((bf16*)out)[at]);
        if (type == 2) round_to(v, ((f16*)out)[at]);
    }
    __device__ __forceinline__ float channel_bias(int row) const { return bias && row < n ? bias[row] : 0.0f; }
    __device__ __forceinline__ void operator()(int row, int token, const float (&c)[4]) const {
        if (row >= n || token >= t) return;
        const bool low_row = row + 8 < n, next_token = token + 1 < t;
        const float b0 = channel_bias(row), b1 = channel_bias(row + 8);
        const long long at = (long long)token * n + row;
        store(at, __fadd_rn(c[0], b0));
        if (low_row) store(at + 8, __fadd_rn(c[2], b1));
        if (next_token) {
            store(at + n, __fadd_rn(c[1], b0));
            if (low_row) store(at + n + 8, __fadd_rn(c[3], b1));
        }
    }
};

// ---- bf16 by tensor cores: names say rows x tokens of the tile ----------------------------------------------------
#if __CUDA_ARCH__ >= 800
#define TENSOR_CORE_KERNEL(NAME, WEIGHT, WAY, TOKEN_WAY, ...)                                                          \
    extern "C" __global__ void __launch_bounds__(Tile<__VA_ARGS__>::THREADS, Tile<__VA_ARGS__>::BLOCKS)                \
        NAME(ARGUMENTS) {                                                                                              \
        tensor_core_product<Bf16, Tile<__VA_ARGS__>, ToBf16<WEIGHT>, WAY, ToBf16<float>, TOKEN_WAY>(w, x, t, n, k,     \
                                                                                                    BIASED);          \
    }
TENSOR_CORE_KERNEL(bf16_80_16x16, bf16, Way::Direct, Way::Whole, 1, 2, 1, 1, 1, 256, 4)
TENSOR_CORE_KERNEL(bf16_80_16x32, bf16, Way::Direct, Way::Whole, 1, 4, 1, 1, 1, 256, 4)
TENSOR_CORE_KERNEL(bf16_80_64x8, bf16, Way::Direct, Way::Whole, 4, 1, 1, 1, 1, 256, 4)
TENSOR_CORE_KERNEL(bf16_80_64x16, bf16, Way::Direct, Way::Whole, 4, 1, 1, 1, 2, 256, 4)
TENSOR_CORE_KERNEL(bf16_80_64x32, bf16, Way::Direct, Way::Whole, 4, 1, 1, 1, 4, 128, 4)
TENSOR_CORE_KERNEL(bf16_80_64x64, bf16, Way::Direct, Way::Whole, 2, 2, 1, 2, 4, 128, 4)
TENSOR_CORE_KERNEL(bf16_80_128x128, bf16, Way::Direct, Way::Whole, 2, 4, 1, 4, 4, 64, 4)
// Rows that begin anywhere, and weights that are rounded.
#define ANY_KERNELS(NAME, WEIGHT)                                                                                      \
    TENSOR_CORE_KERNEL(NAME##_80_any_64x8, WEIGHT, Way::Any, Way::Any, 4, 1, 1, 1, 1, 128, 3)                          \
    TENSOR_CORE_KERNEL(NAME##_80_any_64x64, WEIGHT, Way::Any, Way::Any, 2, 2, 1, 2, 4, 64, 3)
ANY_KERNELS(bf16, bf16)
ANY_KERNELS(f16, f16)
ANY_KERNELS(f32, float)
#endif

// ---- f32 ----------------------------------------------------------------------------------------------------------
#define PLAIN_KERNELS(NAME, WEIGHT)                                                                                    \
    extern "C" __global__ void __launch_bounds__(256, 2) NAME##_plain_128x128(ARGUMENTS) {                             \
        plain_product<Floats<WEIGHT>, Floats<float>, PlainTile<2, 4>>(w, x, t, n, k, BIASED);                          \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(64) NAME##_plain_64x64(ARGUMENTS) {                                   \
        plain_product<Floats<WEIGHT>, Floats<float>, PlainTile<1, 2>>(w, x, t, n, k, BIASED);                          \
    }

// Few tokens: a lane has ROWS rows, and adds up their sums alone. Weights stand in the stages as stored. Tokens are read
// by all lanes together, which costs as much as reading weights: more rows share what was read.
template <class Weight, int TOKENS, int ROWS> __device__ __forceinline__ void few(ARGUMENTS) {
    extern __shared__ __align__(128) u8 memory[];
    constexpr int WIDTH = 128 / sizeof(Weight), STAGES = 5, TOKENS_AT = ROWS * 32 * 128, STAGE = TOKENS_AT + TOKENS * WIDTH * 4;
    constexpr int QUADS = TOKENS * WIDTH / 4;
    const int groups = (t + TOKENS - 1) / TOKENS, first_token = (int)blockIdx.x % groups * TOKENS;
    const int lane = threadIdx.x, first = (int)blockIdx.x / groups * 32 * ROWS, count = (k + WIDTH - 1) / WIDTH;
    const bool aligned = k % (16 / (int)sizeof(Weight)) == 0;
    const u32 stages = shared_address(memory);
    auto copy = [&](u32 to, const void* row, int at, int size, bool there) {
        const u8* from = (const u8*)row + (there ? (long long)at * size : 0);
        if (aligned) return copy16(to, from, there);
        store_shared16(to, there ? first_bytes(from, (k - at) * size) : make_uint4(0, 0, 0, 0));
    };
    auto weights = [&](int s) {
#pragma unroll
        for (int i = 0; i < 8 * ROWS; i++) {
            const int row = i * 4 + lane / 8, chunk = lane % 8, at = s * WIDTH + chunk * (WIDTH / 8);
            const u32 to = stages + s % STAGES * STAGE + place<8>(row, chunk);
            const bool there = first + row < n && at < k;
            copy(to, (const Weight*)w + (long long)(there ? first + row : 0) * k, at, sizeof(Weight), there);
        }
    };
    auto tokens = [&](int s) {
#pragma unroll
        for (int i = 0; i < (QUADS + 31) / 32; i++) {
            const int q = i * 32 + lane, token = first_token + q / (WIDTH / 4), at = s * WIDTH + q % (WIDTH / 4) * 4;
            if (q >= QUADS) break;
            const bool there = token < t && at < k;
            copy(stages + s % STAGES * STAGE + TOKENS_AT + q * 16, x + (long long)(there ? token : 0) * k, at, 4, there);
        }
    };
#pragma unroll 1
    for (int s = 0; s < STAGES - 1; s++)
        if (s < count) weights(s);
    grid_wait();
    grid_release();
#pragma unroll 1
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < count) tokens(s);
        copies_end_group();
    }
    float sums[ROWS][TOKENS] = {};
    for (int i = 0; i < count; i++) {
        wait_copies<STAGES - 2>();
        __syncwarp();
        if (i + STAGES - 1 < count) {
            weights(i + STAGES - 1);
            tokens(i + STAGES - 1);
        }
        copies_end_group();
        const u32 stage = stages + i % STAGES * STAGE;
#pragma unroll
        for (int chunk = 0; chunk < 8; chunk++) {
            uint4 raw[ROWS];
#pragma unroll
            for (int r = 0; r < ROWS; r++) raw[r] = load_shared16(stage + place<8>(r * 32 + lane, chunk));
#pragma unroll
            for (int j = 0; j < WIDTH / 8; j += 4)
#pragma unroll
                for (int c = 0; c < TOKENS; c++) {
                    const uint4 q = load_shared16(stage + TOKENS_AT + (c * WIDTH + chunk * (WIDTH / 8) + j) * 4);
#pragma unroll
                    for (int r = 0; r < ROWS; r++) {
                        const Weight* values = (const Weight*)&raw[r] + j;
                        sums[r][c] = fmaf(__uint_as_float(q.x), widened(values[0]), sums[r][c]);
                        sums[r][c] = fmaf(__uint_as_float(q.y), widened(values[1]), sums[r][c]);
                        sums[r][c] = fmaf(__uint_as_float(q.z), widened(values[2]), sums[r][c]);
                        sums[r][c] = fmaf(__uint_as_float(q.w), widened(values[3]), sums[r][c]);
                    }
                }
        }
    }
    const Biased biased = BIASED;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const int row = first + r * 32 + lane;
        if (row >= n) break;
        const float b = biased.channel_bias(row);
#pragma unroll
        for (int c = 0; c < TOKENS; c++)
            if (first_token + c < t) biased.store((long long)(first_token + c) * n + row, __fadd_rn(sums[r][c], b));
    }
}
#define FEW_KERNEL(NAME, WEIGHT, TOKENS, ROWS)                                                                               \
    extern "C" __global__ void __launch_bounds__(32) NAME##_few_##TOKENS(ARGUMENTS) {                                  \
        few<WEIGHT, TOKENS, ROWS>(w, x, bias, out, t, n, k, type);                                                           \
    }
#define F32_KERNELS(NAME, WEIGHT)                                                                                      \
    PLAIN_KERNELS(NAME, WEIGHT)                                                                                        \
    FEW_KERNEL(NAME, WEIGHT, 1, 1) FEW_KERNEL(NAME, WEIGHT, 4, 1) FEW_KERNEL(NAME, WEIGHT, 16, 2)
F32_KERNELS(f32, float)
F32_KERNELS(bf16, bf16)
F32_KERNELS(f16, f16)

// Activations for a product that reads bf16.
extern "C" __global__ void __launch_bounds__(256) round_to_bf16(const float* x, bf16* out, long long count) {
    grid_wait();
    grid_release();
    const long long at = ((long long)blockIdx.x * 256 + threadIdx.x) * 8;
    if (at + 8 <= count) {
        *(uint4*)(out + at) = ToBf16<float>::whole(x + at);
    } else {
        for (long long i = at; i < count; i++) round_to(x[i], out[i]);
    }
}
#endif
