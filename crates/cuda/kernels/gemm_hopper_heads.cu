// archs: 90a
// The sm_90a products of queries, keys and values that rotate their heads and store them, in place of their sums: the
// tiles of `gemm_hopper.cu` that `Tile::takes_heads` in `src/choose/hopper.rs` names.
#include "gemm_hopper_heads.cuh"

#define KERNEL(NAME, W, X, TN, CN, CT)                                                                                 \
    extern "C" __global__ void __cluster_dims__(CN* CT, 1, 1) __launch_bounds__(384, 1) NAME(                          \
        const __grid_constant__ TensorMap w_map, const __grid_constant__ TensorMap x_map, const float* xs,             \
        const float* ws, const float* bias, int t, int n, int steps, int xs_stride, int group, float* qkv,             \
        unsigned short* queries, const float* cos_sin, const unsigned* header, const unsigned* positions,              \
        const unsigned* slots, void* k, void* v, float* k_scales, float* v_scales, int nq, int nkv, int d, int half,   \
        int interleaved, int kv_type, float k_fixed, float v_fixed) {                                                  \
        const GemmArguments a = {xs, ws, bias, qkv, t, n, n, steps, xs_stride, PLAIN, SILU, OUT_F32, 0, group, 0};     \
        const HeadArguments h = {qkv,      queries, cos_sin, header, positions, slots,       k,       v,       k_scales, \
                                 v_scales, nq,      nkv,     d,      half,      interleaved, kv_type, k_fixed, v_fixed}; \
        Gemm<Element::W, Element::X, TN, 1, 2, CN, CT, 1, 1, true>::run(&w_map, &x_map, &x_map, a, h);                 \
    }
// Named as the tile is, and `_heads`.
#define TILES(NAME, W, X)                                                                                              \
    KERNEL(NAME##_64x128_211_1_heads, W, X, 64, 2, 1)                                                                  \
    KERNEL(NAME##_64x128_121_1_heads, W, X, 64, 1, 2)                                                                  \
    KERNEL(NAME##_64x128_221_1_heads, W, X, 64, 2, 2)                                                                  \
    KERNEL(NAME##_128x128_211_1_heads, W, X, 128, 2, 1)                                                                \
    KERNEL(NAME##_128x128_121_1_heads, W, X, 128, 1, 2)                                                                \
    KERNEL(NAME##_128x128_221_1_heads, W, X, 128, 2, 2)                                                                \
    KERNEL(NAME##_192x128_211_1_heads, W, X, 192, 2, 1)                                                                \
    KERNEL(NAME##_256x128_211_1_heads, W, X, 256, 2, 1)

TILES(s8, S8, S8)
TILES(e4m3, E4M3, E4M3)
