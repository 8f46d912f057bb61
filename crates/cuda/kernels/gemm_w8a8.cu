// W8A8 products for every chip: INT8 by tensor cores of sm_80 on, of sm_75, and by dp4a; FP8 by those of sm_89 on.
// A chip is given its own family and, where tests force them (sm_90), all of them.
#include "gemm_w8a8.cuh"
#include "mma_tile.cuh"
#include "simt_tile.cuh"

#if defined(__CUDA_ARCH__)
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define EVERY_FAMILY 1
#else
#define EVERY_FAMILY 0
#endif

#define ARGUMENTS                                                                                                      \
    const u8 *w, const u8 *x, const float *xs, const float *ws, const float *bias, void *out, int t, int n, int k,     \
        int mode, int type
#define SCALED Scaled{xs, ws, bias, out, t, n, mode, type}

#define TENSOR_CORE_KERNEL(NAME, MMA, WAY, ...)                                                                        \
    extern "C" __global__ void __launch_bounds__(Tile<__VA_ARGS__>::THREADS, Tile<__VA_ARGS__>::BLOCKS)                \
        NAME(ARGUMENTS) {                                                                                              \
        tensor_core_product<MMA, Tile<__VA_ARGS__>, Bytes, WAY, Bytes, WAY>(w, x, t, n, k, SCALED);                    \
    }

// Names: type, family, then rows x tokens of the tile, or `any` for rows that begin anywhere; `by_2` if two warps
// share k.
// Arguments: warps over rows, tokens and k; 16-row and 8-token tiles of a warp; bytes of k in a stage, and stages.
#if __CUDA_ARCH__ >= 800
TENSOR_CORE_KERNEL(int8_80_16x8, Int8, Way::Direct, 1, 1, 8, 1, 1, 512, 4)
TENSOR_CORE_KERNEL(int8_80_16x16, Int8, Way::Direct, 1, 1, 8, 1, 2, 512, 4)
TENSOR_CORE_KERNEL(int8_80_32x32, Int8, Way::Direct, 1, 1, 8, 2, 4, 512, 3)
TENSOR_CORE_KERNEL(int8_80_32x64, Int8, Way::Direct, 1, 1, 8, 2, 8, 256, 4)
TENSOR_CORE_KERNEL(int8_80_64x64_by_2, Int8, Way::Direct, 2, 2, 2, 2, 4, 128, 4)
TENSOR_CORE_KERNEL(int8_80_64x64, Int8, Way::Direct, 2, 2, 1, 2, 4, 128, 4)
TENSOR_CORE_KERNEL(int8_80_128x128, Int8, Way::Direct, 2, 4, 1, 4, 4, 64, 4)
TENSOR_CORE_KERNEL(int8_80_any, Int8, Way::Any, 2, 2, 1, 2, 4, 64, 2)
#endif

#if __CUDA_ARCH__ == 750 || EVERY_FAMILY
TENSOR_CORE_KERNEL(int8_75_16x8, Int8Turing, Way::Whole, 1, 1, 8, 1, 1, 512, 2)
TENSOR_CORE_KERNEL(int8_75_16x16, Int8Turing, Way::Whole, 1, 1, 8, 1, 2, 512, 2)
TENSOR_CORE_KERNEL(int8_75_32x32, Int8Turing, Way::Whole, 1, 1, 8, 2, 4, 256, 2)
TENSOR_CORE_KERNEL(int8_75_64x64, Int8Turing, Way::Whole, 2, 2, 2, 2, 4, 128, 2)
TENSOR_CORE_KERNEL(int8_75_128x128, Int8Turing, Way::Whole, 2, 4, 1, 4, 4, 64, 2)
TENSOR_CORE_KERNEL(int8_75_any, Int8Turing, Way::Any, 2, 2, 1, 2, 4, 64, 2)
#endif

#if __CUDA_ARCH__ >= 890
// One warp adds up a row's whole sum, in the same order in every tile: a token's result is the same in any company;
// except `by_8`, faster with few tokens, where eight warps share k.
#define FLOAT8_KERNELS(NAME, MMA)                                                                                      \
    TENSOR_CORE_KERNEL(NAME##_16x8, MMA, Way::Direct, 1, 1, 1, 1, 1, 256, 6)                                           \
    TENSOR_CORE_KERNEL(NAME##_16x32, MMA, Way::Direct, 1, 4, 1, 1, 1, 256, 4)                                          \
    TENSOR_CORE_KERNEL(NAME##_64x64, MMA, Way::Direct, 2, 2, 1, 2, 4, 128, 4)                                          \
    TENSOR_CORE_KERNEL(NAME##_128x128, MMA, Way::Direct, 2, 4, 1, 4, 4, 64, 4)                                         \
    TENSOR_CORE_KERNEL(NAME##_any, MMA, Way::Any, 2, 2, 1, 2, 4, 64, 2)
FLOAT8_KERNELS(e4m3_e4m3_89, E4m3E4m3)
TENSOR_CORE_KERNEL(e4m3_e4m3_89_16x8_by_8, E4m3E4m3, Way::Direct, 1, 1, 8, 1, 1, 512, 4)
TENSOR_CORE_KERNEL(e4m3_e4m3_89_16x16_by_8, E4m3E4m3, Way::Direct, 1, 1, 8, 1, 2, 512, 4)
TENSOR_CORE_KERNEL(e4m3_e4m3_89_32x32_by_8, E4m3E4m3, Way::Direct, 1, 1, 8, 2, 4, 512, 3)
FLOAT8_KERNELS(e4m3_e5m2_89, E4m3E5m2)
FLOAT8_KERNELS(e5m2_e4m3_89, E5m2E4m3)
FLOAT8_KERNELS(e5m2_e5m2_89, E5m2E5m2)
#endif

#if __CUDA_ARCH__ < 750 || EVERY_FAMILY
extern "C" __global__ void __launch_bounds__(256) int8_70_128x128(ARGUMENTS) {
    plain_product<Codes, Codes, PlainTile<2, 4>>(w, x, t, n, k, SCALED);
}
extern "C" __global__ void __launch_bounds__(64) int8_70_64x64(ARGUMENTS) {
    plain_product<Codes, Codes, PlainTile<1, 2>>(w, x, t, n, k, SCALED);
}
#endif

// Few tokens by dp4a: a warp has a row and the row eight below, and reads 16 bytes a lane of each.
template <int TOKENS> __device__ __forceinline__ void few(ARGUMENTS) {
    const int groups = (t + TOKENS - 1) / TOKENS, first = (int)blockIdx.x % groups * TOKENS;
    const int lane = threadIdx.x % 32, row = (int)blockIdx.x / groups * 16 + threadIdx.x / 32;
    t = min(t, first + TOKENS);
    const bool upper = row < n, lower = row + 8 < n;
    const int4* weights[2] = {(const int4*)(w + (long long)(upper ? row : 0) * k),
                              (const int4*)(w + (long long)(lower ? row + 8 : 0) * k)};
    const int count = k / 16;
    constexpr int AHEAD = 4;
    int4 held[AHEAD][2];
    auto read = [&](int from) {
#pragma unroll
        for (int a = 0; a < AHEAD; a++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const int at = from + a * 32 + lane;
                held[a][r] = at < count ? __ldg(weights[r] + at) : make_int4(0, 0, 0, 0);
            }
    };
    read(0);
    grid_wait();
    grid_release();
    int sums[TOKENS][2] = {};
    for (int from = 0; from < count; from += 32 * AHEAD) {
        int4 now[AHEAD][2];
#pragma unroll
        for (int a = 0; a < AHEAD; a++) now[a][0] = held[a][0], now[a][1] = held[a][1];
        if (from + 32 * AHEAD < count) read(from + 32 * AHEAD);
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            const int at = min(from + a * 32 + lane, count - 1);
#pragma unroll
            for (int c = 0; c < TOKENS; c++) {
                const int4 v = ((const int4*)(x + (long long)min(first + c, t - 1) * k))[at];
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    sums[c][r] = __dp4a(now[a][r].x, v.x, sums[c][r]);
                    sums[c][r] = __dp4a(now[a][r].y, v.y, sums[c][r]);
                    sums[c][r] = __dp4a(now[a][r].z, v.z, sums[c][r]);
                    sums[c][r] = __dp4a(now[a][r].w, v.w, sums[c][r]);
                }
            }
        }
    }
#pragma unroll
    for (int c = 0; c < TOKENS; c++)
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int step = 16; step > 0; step /= 2) sums[c][r] += __shfl_xor_sync(0xffffffffu, sums[c][r], step);
    if (lane != 0) return;
    const Scaled scaled = SCALED;
#pragma unroll
    for (int c = 0; c < TOKENS; c += 2) {
        const int other = c + 1 < TOKENS ? c + 1 : c;
        const int four[4] = {sums[c][0], sums[other][0], sums[c][1], sums[other][1]};
        scaled(row, first + c, four);
    }
}
extern "C" __global__ void __launch_bounds__(256) int8_few_1(ARGUMENTS) {
    few<1>(w, x, xs, ws, bias, out, t, n, k, mode, type);
}
extern "C" __global__ void __launch_bounds__(256) int8_few_2(ARGUMENTS) {
    few<2>(w, x, xs, ws, bias, out, t, n, k, mode, type);
}
extern "C" __global__ void __launch_bounds__(256) int8_few_4(ARGUMENTS) {
    few<4>(w, x, xs, ws, bias, out, t, n, k, mode, type);
}
#endif
