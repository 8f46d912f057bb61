// archs: 90a
// Entry points of the sm_90a products, one for each tile: `src/choose.rs` has the same table.
#include "gemm_hopper.cuh"

// Names end in the tile: tokens, rows, and blocks of a cluster along rows and tokens.
#define KERNEL(NAME, W, X, TN, MI, WGS, CN, CT, PROMOTE)                                                               \
    extern "C" __global__ void __cluster_dims__(CN *CT, 1, 1) __launch_bounds__(128 * (WGS + 1), 1) NAME(              \
        const __grid_constant__ TensorMap w_map, const __grid_constant__ TensorMap x_map,                              \
        const __grid_constant__ TensorMap out_map, const float* xs, const float* ws, const float* bias, void* out,     \
        void* parts, uint32_t* counters, int t, int n, int row, int steps, int xs_stride, int layout, int gate,        \
        int out_type, int boxes, int stream, int group, int chunk) {                                                   \
        const GemmArguments a = {xs,  ws,    bias,      out,    parts, counters, t,     n,      row,                   \
                                 steps, xs_stride, layout, gate,  out_type, boxes, stream, group, chunk};              \
        Gemm<Element::W, Element::X, TN, MI, WGS, CN, CT, PROMOTE>::run(&w_map, &x_map, &out_map, a);                  \
    }
