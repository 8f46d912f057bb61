// GPTQ's walk over the columns of a weight (crates/quant/src/gptq/rows.rs), 128 columns at a time, and rounding to
// nearest: `targets` are the values to round, `errors` the weights, then what rounding left; [np, kp] in the order of
// the solve.
#include "dependency.cuh"
#include "gptq_grid.cuh"
#include "gptq_panel.cuh"
#include "gptq_product.cuh"

// scales[r] of round-to-nearest and the largest magnitude of each row; the padding's scale is 1. A block a row.
template <class Grid>
__device__ void scales_of(const float* w, float* scales, float* most, int n, int k) {
    __shared__ unsigned largest;
    grid_wait();
    int row = blockIdx.x;
    if (threadIdx.x == 0) largest = 0;
    __syncthreads();
    unsigned own = 0;
    // The patterns of magnitudes sort like the magnitudes, NaN above infinity.
    if (row < n)
        for (int j = threadIdx.x; j < k; j += blockDim.x) own = max(own, __float_as_uint(w[(size_t)row * k + j]) & 0x7fffffffu);
    atomicMax(&largest, own);
    __syncthreads();
    if (threadIdx.x == 0) {
        float absmax = __uint_as_float(largest), scale = __fdiv_rn(absmax, Grid::RANGE);
        scales[row] = row >= n ? 1.f : (scale == 0.f ? 1.1920929e-7f : scale);
        if (row < n) most[row] = absmax;
    }
}

// The weight in the order of the solve, twice; zeros in the padding. A block a row.
extern "C" __global__ void gptq_permute(const float* w, const int* order, float* targets, float* errors, double* loss,
                                        int n, int k, int kp) {
    grid_wait();
    int row = blockIdx.x;
    for (int c = threadIdx.x; c < kp; c += blockDim.x) {
        float value = row < n && c < k ? w[(size_t)row * k + order[c]] : 0.f;
        targets[(size_t)row * kp + c] = value;
        errors[(size_t)row * kp + c] = value;
    }
    if (threadIdx.x == 0) loss[row] = 0.0;
}

// Columns [start, start + 128). A projected error times its pivot, squared, is the column's share of the loss: it is
// the target less its code, because the target already holds what the columns before have left.
template <class Grid>
__device__ void panel(float* targets, float* errors, const float* unit, const float* pivots, const float* added,
                      const float* scales, unsigned char* codes, double* loss, int kp, int start) {
    __shared__ __align__(16) float coefficients[TILE][PANEL_STRIDE];
    grid_wait();
    size_t row = (size_t)blockIdx.x * PANEL_ROWS + threadIdx.x;
    float* own_targets = targets + row * kp + start;
    float* own_errors = errors + row * kp + start;
    float scale = scales[row];
    double sum = loss[row];
    for (int to = 0; to < TILE; to += STEP) {
        panel_coefficients(unit + (size_t)start * kp + start, kp, to, coefficients);
        float t[STEP], e[STEP];
        unsigned packed[STEP / 4] = {};
        load_row(own_targets + to, t);
        load_row(own_errors + to, e);
        panel_before<1>(own_errors, to, coefficients, t);
#pragma unroll
        for (int c = 0; c < STEP; c++) {
            unsigned code;
            float q = on_grid<Grid>(t[c], scale, code);
            packed[c / 4] |= code << (8 * (c % 4));
            e[c] = __fsub_rn(e[c], q);
            double pivot = pivots[start + to + c], projected = t[c] - q, left = e[c];
            sum += pivot * pivot * (projected * projected) - (double)added[start + to + c] * (left * left);
            panel_after<1>(e[c], c, coefficients[to + c], t);
        }
        store_row(e, own_errors + to);
        uint4* out = (uint4*)(codes + row * kp + start + to);
        out[0] = make_uint4(packed[0], packed[1], packed[2], packed[3]);
        out[1] = make_uint4(packed[4], packed[5], packed[6], packed[7]);
    }
    loss[row] = sum;
}

// The targets after the panel at `start` gain its errors times their coefficients.
extern "C" __global__ void __launch_bounds__(256, 2) gptq_update(float* targets, const float* errors, const float* unit,
                                                                 int kp, int start) {
    __shared__ __align__(16) ProductMemory memory;
    grid_wait();
    size_t row = (size_t)blockIdx.y * TILE, column = (size_t)start + TILE * (blockIdx.x + 1);
    float sums[8][8];
    product(errors + row * kp + start, kp, unit + column * kp + start, kp, TILE, memory, sums);
#pragma unroll
    for (int r = 0; r < 8; r++) {
        float* out = targets + (row + product_row(r)) * kp + column;
#pragma unroll
        for (int c = 0; c < 8; c += 4) {
            float4* p = (float4*)(out + product_column(c));
            float4 v = *p;
            v.x += sums[r][c];
            v.y += sums[r][c + 1];
            v.z += sums[r][c + 2];
            v.w += sums[r][c + 3];
            *p = v;
        }
    }
}

// What rounding to nearest leaves, in the order of the solve. A block a row.
template <class Grid>
__device__ void nearest_errors(const float* w, const int* order, const float* scales, float* out, int n, int k, int kp) {
    grid_wait();
    int row = blockIdx.x;
    float scale = scales[row];
    for (int c = threadIdx.x; c < kp; c += blockDim.x) {
        float error = 0.f;
        unsigned code;
        if (row < n && c < k) {
            float value = w[(size_t)row * k + order[c]];
            error = __fsub_rn(value, on_grid<Grid>(value, scale, code));
        }
        out[(size_t)row * kp + c] = error;
    }
}

// Shares of `||v M||^2` less the damping, of the columns of each tile: shares[row][tile]. Tiles with the longest sums
// come first.
extern "C" __global__ void __launch_bounds__(256, 2) gptq_shares(const float* values, const float* unit,
                                                                 const float* pivots, const float* added, double* shares,
                                                                 int kp) {
    __shared__ __align__(16) ProductMemory memory;
    grid_wait();
    int tiles = kp / TILE, tile = tiles - 1 - blockIdx.y;
    size_t row = (size_t)blockIdx.x * TILE, column = (size_t)tile * TILE;
    float sums[8][8];
    product(values + row * kp, kp, unit + column * kp, kp, (tile + 1) * TILE, memory, sums);
#pragma unroll
    for (int r = 0; r < 8; r++) {
        double sum = 0.0;
#pragma unroll
        for (int c = 0; c < 8; c++) {
            size_t at = column + product_column(c);
            double pivot = pivots[at], projected = sums[r][c], left = values[(row + product_row(r)) * kp + at];
            sum += pivot * pivot * (projected * projected) - (double)added[at] * (left * left);
        }
        for (int lanes = 8; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
        if (threadIdx.x % 16 == 0) shares[(row + product_row(r)) * tiles + tile] = sum;
    }
}

__device__ double block_sum(double value, double* memory) {
    for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(~0u, value, lanes);
    __syncthreads();
    if (threadIdx.x % 32 == 0) memory[threadIdx.x / 32] = value;
    __syncthreads();
    double sum = 0.0;
    for (int i = 0; i < (int)blockDim.x / 32; i++) sum += memory[i];
    return sum;
}

// Codes in the order of the input channels: of GPTQ where its loss is not the larger one (or with `always`, where it is
// finite), else of round-to-nearest. numbers[row] = loss of GPTQ, of round-to-nearest, ||w - q||^2, ||w||^2. A block a
// row. Without `solved` everything is rounded to nearest.
template <class Grid>
__device__ void finish(const float* w, const int* place, const float* scales, const unsigned char* solved,
                       const double* loss, const double* shares, unsigned char* codes, double* numbers, int k, int kp,
                       int always) {
    __shared__ double memory[32];
    grid_wait();
    int row = blockIdx.x, tiles = kp / TILE;
    double gptq = 0.0, nearest = 0.0;
    bool better = false;
    if (solved) {
        gptq = loss[row];
        for (int i = 0; i < tiles; i++) nearest += shares[(size_t)row * tiles + i];
        better = gptq <= nearest || (always && gptq - gptq == 0.0);
    }
    float scale = scales[row];
    double lost = 0.0, total = 0.0;
    for (int j = threadIdx.x; j < k; j += blockDim.x) {
        float value = w[(size_t)row * k + j], q;
        unsigned code;
        if (better) {
            code = solved[(size_t)row * kp + place[j]];
            q = __fmul_rn(Grid::decode(code), scale);
        } else {
            q = on_grid<Grid>(value, scale, code);
        }
        codes[(size_t)row * k + j] = (unsigned char)code;
        double left = __fsub_rn(value, q);
        lost += left * left;
        total += (double)value * value;
    }
    lost = block_sum(lost, memory);
    total = block_sum(total, memory);
    if (threadIdx.x == 0) {
        double* out = numbers + (size_t)row * 4;
        out[0] = gptq;
        out[1] = nearest;
        out[2] = lost;
        out[3] = total;
    }
}

#define OF_GRID(NAME, GRID)                                                                                             \
    extern "C" __global__ void gptq_scales_##NAME(const float* w, float* scales, float* most, int n, int k) {          \
        scales_of<GRID>(w, scales, most, n, k);                                                                         \
    }                                                                                                                   \
    extern "C" __global__ void __launch_bounds__(PANEL_ROWS)                                                           \
        gptq_panel_##NAME(float* targets, float* errors, const float* unit, const float* pivots, const float* added,   \
                          const float* scales, unsigned char* codes, double* loss, int kp, int start) {                \
        panel<GRID>(targets, errors, unit, pivots, added, scales, codes, loss, kp, start);                              \
    }                                                                                                                   \
    extern "C" __global__ void gptq_nearest_##NAME(const float* w, const int* order, const float* scales, float* out,  \
                                                   int n, int k, int kp) {                                              \
        nearest_errors<GRID>(w, order, scales, out, n, k, kp);                                                          \
    }                                                                                                                   \
    extern "C" __global__ void gptq_finish_##NAME(const float* w, const int* place, const float* scales,               \
                                                  const unsigned char* solved, const double* loss,                     \
                                                  const double* shares, unsigned char* codes, double* numbers, int k,  \
                                                  int kp, int always) {                                                 \
        finish<GRID>(w, place, scales, solved, loss, shares, codes, numbers, k, kp, always);                            \
    }

OF_GRID(int8, Int8)
OF_GRID(e4m3, E4M3)
OF_GRID(e5m2, E5M2)
