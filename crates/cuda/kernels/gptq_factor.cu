// GPTQ's factor of a Gram matrix (crates/quant/src/gptq/factor.rs): the damped matrix in the reversed order of the
// solve, its Cholesky factor by blocks of 128, and that factor read backwards, each column divided by its pivot.
#include "dependency.cuh"
#include "gptq_panel.cuh"
#include "gptq_product.cuh"

// gram[i][j] / s[i] / s[j] in the lower triangle.
extern "C" __global__ void gptq_divide_gram(float* gram, const float* s, int k) {
    grid_wait();
    int i = blockIdx.x;
    float* row = gram + (size_t)i * k;
    float si = s[i];
    for (int j = threadIdx.x; j <= i; j += blockDim.x) row[j] = __fdiv_rn(__fdiv_rn(row[j], si), s[j]);
}

extern "C" __global__ void gptq_diagonal(const float* gram, float* diagonal, int k) {
    grid_wait();
    int j = blockIdx.x * blockDim.x + threadIdx.x;
    if (j < k) diagonal[j] = gram[(size_t)j * k + j];
}

// Lower triangle of the reversed, damped matrix [kp, kp]; the padding is the identity.
extern "C" __global__ void gptq_reverse(const float* gram, const int* order, const float* added, float* out, int k, int kp) {
    grid_wait();
    int a = blockIdx.x;
    float* row = out + (size_t)a * kp;
    if (a >= k) {
        for (int b = threadIdx.x; b < kp; b += blockDim.x) row[b] = a == b ? 1.f : 0.f;
        return;
    }
    int i = order[k - 1 - a];
    for (int b = threadIdx.x; b < kp; b += blockDim.x) {
        float value = 0.f;
        if (b <= a) {
            int j = order[k - 1 - b];
            value = gram[(size_t)max(i, j) * k + min(i, j)];
            if (a == b) value += added[k - 1 - a];
        }
        row[b] = value;
    }
}

// A 128 x 128 block in shared memory without padding: columns are exchanged so that a walk along either axis meets
// every bank.
__device__ __forceinline__ float& at(float* block, int row, int column) {
    return block[row * TILE + (column ^ (row & 31))];
}

// Cholesky factor of a 32 x 32 diagonal part, one row a lane.
__device__ void factor_corner(float* block, int start, int* failed) {
    int lane = threadIdx.x;
    float row[32];
#pragma unroll
    for (int j = 0; j < 32; j++) row[j] = at(block, start + lane, start + j);
#pragma unroll
    for (int c = 0; c < 32; c++) {
        float pivot = __shfl_sync(~0u, row[c], c);
        if (lane == 0 && !(pivot > 0.f && pivot <= 3.4028235e38f)) *failed = 1;
        float root = sqrtf(pivot);
        row[c] = lane == c ? root : row[c] / root;
        float own = row[c];
#pragma unroll
        for (int j = c + 1; j < 32; j++) row[j] -= own * __shfl_sync(~0u, own, j);
    }
#pragma unroll
    for (int j = 0; j < 32; j++)
        if (j <= lane) at(block, start + lane, start + j) = row[j];
}

// Factor of the 128 x 128 block at `start` on the diagonal, in place. `failed` becomes 1 where it is not positive.
extern "C" __global__ void __launch_bounds__(512) gptq_corner(float* matrix, int kp, int start, int* failed) {
    extern __shared__ float block[];
    grid_wait();
    float* corner = matrix + (size_t)start * kp + start;
    for (int i = threadIdx.x; i < TILE * TILE; i += blockDim.x) at(block, i / TILE, i % TILE) = corner[(size_t)(i / TILE) * kp + i % TILE];
    __syncthreads();
    for (int from = 0; from < TILE; from += 32) {
        if (threadIdx.x < 32) factor_corner(block, from, failed);
        __syncthreads();
        int below = from + 32, row = below + threadIdx.x;
        if (row < TILE) {
            float x[32];
#pragma unroll
            for (int c = 0; c < 32; c++) x[c] = at(block, row, from + c);
#pragma unroll
            for (int c = 0; c < 32; c++) {
                x[c] = x[c] / at(block, from + c, from + c);
#pragma unroll
                for (int to = c + 1; to < 32; to++) x[to] -= x[c] * at(block, from + to, from + c);
            }
#pragma unroll
            for (int c = 0; c < 32; c++) at(block, row, from + c) = x[c];
        }
        __syncthreads();
        // The rest of the block: a warp takes rows, its lanes columns.
        int rest = TILE - below;
        for (int i = threadIdx.x; i < rest * rest; i += blockDim.x) {
            int r = below + i / rest, c = below + i % rest;
            if (c <= r) {
                float sum = 0.f;
#pragma unroll 8
                for (int d = 0; d < 32; d++) sum += at(block, r, from + d) * at(block, c, from + d);
                at(block, r, c) -= sum;
            }
        }
        __syncthreads();
    }
    for (int i = threadIdx.x; i < TILE * TILE; i += blockDim.x) {
        int r = i / TILE, c = i % TILE;
        if (c <= r) corner[(size_t)r * kp + c] = at(block, r, c);
    }
}

// Rows below the block at `start`: x L^T = a, in place.
extern "C" __global__ void __launch_bounds__(PANEL_ROWS) gptq_below(float* matrix, int kp, int start) {
    __shared__ __align__(16) float coefficients[TILE][PANEL_STRIDE];
    grid_wait();
    const float* corner = matrix + (size_t)start * kp + start;
    size_t row = (size_t)start + TILE + blockIdx.x * PANEL_ROWS + threadIdx.x;
    float* own = matrix + row * kp + start;
    for (int to = 0; to < TILE; to += STEP) {
        panel_coefficients(corner, kp, to, coefficients);
        float x[STEP];
        load_row(own + to, x);
        panel_before<-1>(own, to, coefficients, x);
#pragma unroll
        for (int c = 0; c < STEP; c++) {
            x[c] = x[c] / coefficients[to + c][c];
            panel_after<-1>(x[c], c, coefficients[to + c], x);
        }
        store_row(x, own + to);
    }
}

// The lower tiles after the panel at `start` lose the panel's product with itself.
extern "C" __global__ void __launch_bounds__(256, 2) gptq_trailing(float* matrix, int kp, int start) {
    __shared__ __align__(16) ProductMemory memory;
    grid_wait();
    int i = (int)((sqrtf(8.f * blockIdx.x + 1.f) - 1.f) * 0.5f);
    while ((i + 1) * (i + 2) / 2 <= (int)blockIdx.x) i++;
    while (i * (i + 1) / 2 > (int)blockIdx.x) i--;
    int j = blockIdx.x - i * (i + 1) / 2;
    size_t row = (size_t)start + TILE * (i + 1), column = (size_t)start + TILE * (j + 1);
    float sums[8][8];
    product(matrix + row * kp + start, kp, matrix + column * kp + start, kp, TILE, memory, sums);
#pragma unroll
    for (int r = 0; r < 8; r++) {
        float* out = matrix + (row + product_row(r)) * kp + column;
#pragma unroll
        for (int c = 0; c < 8; c += 4) {
            float4* p = (float4*)(out + product_column(c));
            float4 v = *p;
            v.x -= sums[r][c];
            v.y -= sums[r][c + 1];
            v.z -= sums[r][c + 2];
            v.w -= sums[r][c + 3];
            *p = v;
        }
    }
}

// unit[c][j] = L[k-1-j][k-1-c] / L[k-1-c][k-1-c] for j <= c < k, else 0; pivots[c] = L[k-1-c][k-1-c], 0 in the padding.
// `failed` becomes 1 where a number is not finite or a pivot not normal. Blocks of 32 x 8 threads, 32 x 32 elements.
extern "C" __global__ void gptq_unit(const float* factor, float* unit, float* pivots, int k, int kp, int* failed) {
    __shared__ float tile[32][33];
    __shared__ float divisors[32];
    grid_wait();
    int c0 = blockIdx.y * 32, j0 = blockIdx.x * 32, x = threadIdx.x % 32, y = threadIdx.x / 32;
    if (j0 > c0 + 31) {
        for (int i = y; i < 32; i += 8) unit[(size_t)(c0 + i) * kp + j0 + x] = 0.f;
        return;
    }
    if (threadIdx.x < 32) {
        int c = c0 + threadIdx.x;
        float pivot = c < k ? factor[(size_t)(k - 1 - c) * kp + (k - 1 - c)] : 1.f;
        divisors[threadIdx.x] = pivot;
        if (j0 == c0) {
            pivots[c] = c < k ? pivot : 0.f;
            if (!(fabsf(pivot) >= 1.17549435e-38f && fabsf(pivot) <= 3.4028235e38f)) *failed = 1;
        }
    }
    for (int i = y; i < 32; i += 8) {
        int j = j0 + i, c = c0 + x;
        tile[i][x] = j <= c && c < k ? factor[(size_t)(k - 1 - j) * kp + (k - 1 - c)] : 0.f;
    }
    __syncthreads();
    for (int i = y; i < 32; i += 8) {
        int c = c0 + i, j = j0 + x;
        float value = tile[x][i];
        if (!(fabsf(value) <= 3.4028235e38f)) *failed = 1;
        unit[(size_t)c * kp + j] = j < c ? __fdiv_rn(value, divisors[i]) : (j == c && c < k ? 1.f : 0.f);
    }
}
