// Statistics of activations: column maxima and Gram matrices.
#include "row.cuh"

// absmax[j] = max(absmax[j], |x[t, j]|): a thread for each column and STRETCH rows. NaN is above all; as integers,
// magnitudes order as they do as numbers.
constexpr int STRETCH = 64;

extern "C" __global__ void __launch_bounds__(128) observe_columns(const float* x, int t, int k, int* absmax) {
    grid_wait();
    grid_release();
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= k) return;
    int first = blockIdx.y * STRETCH, end = min(t, first + STRETCH);
    unsigned most = 0;
#pragma unroll 8
    for (int row = first; row < end; row++) most = max(most, magnitude(x[static_cast<size_t>(row) * k + column]));
    atomicMax(absmax + column, static_cast<int>(most));
}

__device__ __forceinline__ float rounded(float x, bool brain) {
    if (!brain) return x;
    unsigned bits = __float_as_uint(x);
    if (isnan(x)) return x;
    return __uint_as_float((bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u);
}

constexpr int TILE = 64, DEPTH = 16;

// A block for each tile [TILE, TILE] on or below the diagonal, numbered row by row.
__device__ __forceinline__ int2 tile_of(int index) {
    int i = static_cast<int>((sqrtf(8.f * index + 1.f) - 1.f) / 2.f);
    while (i * (i + 1) / 2 > index) i--;
    while ((i + 1) * (i + 2) / 2 <= index) i++;
    return make_int2(i, index - i * (i + 1) / 2);
}

// gram[i, j] += sum of x[t, i] x[t, j] for j <= i, by fused multiply-adds in ascending t from 0.
extern "C" __global__ void __launch_bounds__(256) gram_fma(const float* x, int t, int k, int brain, float* gram) {
    __shared__ float a[DEPTH][TILE + 4], b[DEPTH][TILE + 4];
    grid_wait();
    grid_release();
    int2 tile = tile_of(blockIdx.x);
    int top = tile.x * TILE, left = tile.y * TILE;
    int ty = threadIdx.x / 16 * 4, tx = threadIdx.x % 16 * 4;
    float sum[4][4] = {};
    for (int first = 0; first < t; first += DEPTH) {
        for (int at = threadIdx.x; at < DEPTH * TILE; at += 256) {
            int row = first + at / TILE, column = at % TILE;
            const float* from = x + static_cast<size_t>(row) * k;
            a[at / TILE][column] = row < t && top + column < k ? rounded(from[top + column], brain) : 0.f;
            b[at / TILE][column] = row < t && left + column < k ? rounded(from[left + column], brain) : 0.f;
        }
        __syncthreads();
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++) sum[i][j] = fmaf(a[d][ty + i], b[d][tx + j], sum[i][j]);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int row = top + ty + i, column = left + tx + j;
            if (row < k && column <= row) gram[static_cast<size_t>(row) * k + column] += sum[i][j];
        }
    }
}
