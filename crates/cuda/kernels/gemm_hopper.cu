// archs: 90a
// Entry points of the sm_90a products, one for each tile: `src/choose.rs` has the same table.
#include "gemm_hopper.cuh"

// Names end in tokens x rows of a block, blocks of a cluster along rows, tokens and k, and blocks of a multiprocessor.
#define KERNEL(NAME, W, X, TN, MI, WGS, CN, CT, CK, OCC) KERNEL_OF(NAME, W, X, TN, MI, WGS, CN, CT, CK, OCC, false)
#define BY_TURNS(NAME, W, X, TN, CN, CT) KERNEL_OF(NAME, W, X, TN, 2, 2, CN, CT, 1, 1, true)
#define KERNEL_OF(NAME, W, X, TN, MI, WGS, CN, CT, CK, OCC, TURNS)                                                     \
    extern "C" __global__ void __cluster_dims__(CN* CT* CK, 1, 1) __launch_bounds__(128 * (WGS + 1), OCC) NAME(        \
        const __grid_constant__ TensorMap w_map, const __grid_constant__ TensorMap x_map,                              \
        const __grid_constant__ TensorMap out_map, const float* xs, const float* ws, const float* bias, void* out,     \
        int t, int n, int row, int steps, int xs_stride, int layout, int gate, int out_type, int boxes, int group,     \
        int add) {                                                                                                     \
        const GemmArguments a = {xs,        ws,     bias, out,      t,     n,     row,  steps,                         \
                                 xs_stride, layout, gate, out_type, boxes, group, add};                                \
        Gemm<Element::W, Element::X, TN, MI, WGS, CN, CT, CK, OCC, false, TURNS>::run(&w_map, &x_map, &out_map, a);    \
    }
#define TILES(NAME, W, X)                                                                                              \
    KERNEL(NAME##_8x128_111_2, W, X, 8, 1, 2, 1, 1, 1, 2)                                                              \
    KERNEL(NAME##_8x64_112_1, W, X, 8, 1, 1, 1, 1, 2, 1)                                                               \
    KERNEL(NAME##_16x128_111_2, W, X, 16, 1, 2, 1, 1, 1, 2)                                                            \
    KERNEL(NAME##_16x64_112_1, W, X, 16, 1, 1, 1, 1, 2, 1)                                                             \
    KERNEL(NAME##_16x64_112_2, W, X, 16, 1, 1, 1, 1, 2, 2)                                                             \
    KERNEL(NAME##_32x128_111_2, W, X, 32, 1, 2, 1, 1, 1, 2)                                                            \
    KERNEL(NAME##_32x64_112_1, W, X, 32, 1, 1, 1, 1, 2, 1)                                                             \
    KERNEL(NAME##_32x64_112_2, W, X, 32, 1, 1, 1, 1, 2, 2)                                                             \
    KERNEL(NAME##_64x128_211_1, W, X, 64, 1, 2, 2, 1, 1, 1)                                                            \
    KERNEL(NAME##_64x128_121_1, W, X, 64, 1, 2, 1, 2, 1, 1)                                                            \
    KERNEL(NAME##_64x64_112_1, W, X, 64, 1, 1, 1, 1, 2, 1)                                                             \
    KERNEL(NAME##_64x128_221_1, W, X, 64, 1, 2, 2, 2, 1, 1)                                                            \
    KERNEL(NAME##_128x128_211_1, W, X, 128, 1, 2, 2, 1, 1, 1)                                                          \
    KERNEL(NAME##_128x128_121_1, W, X, 128, 1, 2, 1, 2, 1, 1)                                                          \
    KERNEL(NAME##_128x128_112_1, W, X, 128, 1, 2, 1, 1, 2, 1)                                                          \
    KERNEL(NAME##_128x128_212_1, W, X, 128, 1, 2, 2, 1, 2, 1)                                                          \
    KERNEL(NAME##_128x128_221_1, W, X, 128, 1, 2, 2, 2, 1, 1)                                                          \
    KERNEL(NAME##_192x128_211_1, W, X, 192, 1, 2, 2, 1, 1, 1)                                                          \
    KERNEL(NAME##_256x128_211_1, W, X, 256, 1, 2, 2, 1, 1, 1)                                                          \
    BY_TURNS(NAME##_128x128_121_1_turns, W, X, 128, 1, 2)                                                              \
    BY_TURNS(NAME##_192x128_211_1_turns, W, X, 192, 2, 1)
// What the rarer types have.
#define FEW_TILES(NAME, W, X)                                                                                          \
    KERNEL(NAME##_16x128_111_2, W, X, 16, 1, 2, 1, 1, 1, 2)                                                            \
    KERNEL(NAME##_64x128_211_1, W, X, 64, 1, 2, 2, 1, 1, 1)                                                            \
    KERNEL(NAME##_128x128_211_1, W, X, 128, 1, 2, 2, 1, 1, 1)                                                          \
    KERNEL(NAME##_192x128_211_1, W, X, 192, 1, 2, 2, 1, 1, 1)                                                          \
    KERNEL(NAME##_256x128_211_1, W, X, 256, 1, 2, 2, 1, 1, 1)

TILES(s8, S8, S8)
TILES(e4m3, E4M3, E4M3)
FEW_TILES(e5m2, E5M2, E5M2)
FEW_TILES(e5m2_e4m3, E5M2, E4M3)
FEW_TILES(e4m3_e5m2, E4M3, E5M2)
FEW_TILES(bf16, BF16, BF16)
