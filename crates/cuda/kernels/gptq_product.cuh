// Tiles of `A B^T` in f32 by plain fused multiply-adds: 128 x 128 outputs a block of 256 threads, 8 x 8 a thread.
// Every matrix is row-major with its sides padded to multiples of 128, so that no access needs a bound.
#pragma once

constexpr int TILE = 128;        // rows and columns of a tile, and columns of a panel
constexpr int DEPTH = 16;        // inner columns that are in shared memory at once
constexpr int STRIDE = TILE + 4;

struct ProductMemory {
    float a[2][DEPTH][STRIDE];
    float b[2][DEPTH][STRIDE];
};

// The thread's 64 outputs: rows `row(i)`, columns `column(j)` of the tile.
__device__ __forceinline__ int product_row(int i) { return (threadIdx.x / 16) * 4 + (i & 3) + (i & 4) * 16; }
__device__ __forceinline__ int product_column(int j) { return (threadIdx.x % 16) * 4 + (j & 3) + (j & 4) * 16; }

struct Staged {
    float4 a[2], b[2];
};

__device__ __forceinline__ void fetch(Staged& s, const float* a, size_t lda, const float* b, size_t ldb, int at) {
    int row = threadIdx.x / 4, column = at + (threadIdx.x % 4) * 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        s.a[half] = *(const float4*)(a + (size_t)(row + half * 64) * lda + column);
        s.b[half] = *(const float4*)(b + (size_t)(row + half * 64) * ldb + column);
    }
}

__device__ __forceinline__ void stage(const Staged& s, float (*a)[STRIDE], float (*b)[STRIDE]) {
    int row = threadIdx.x / 4, column = (threadIdx.x % 4) * 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            a[column + i][row + half * 64] = (&s.a[half].x)[i];
            b[column + i][row + half * 64] = (&s.b[half].x)[i];
        }
    }
}

// `sums[i][j] = sum over inner < depth of a[row(i)][inner] * b[column(j)][inner]`; depth is a multiple of DEPTH.
__device__ __forceinline__ void product(const float* __restrict__ a, size_t lda, const float* __restrict__ b, size_t ldb,
                                        int depth, ProductMemory& memory, float (&sums)[8][8]) {
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 8; j++) sums[i][j] = 0.f;
    Staged next;
    fetch(next, a, lda, b, ldb, 0);
    stage(next, memory.a[0], memory.b[0]);
    __syncthreads();
    const int ty = (threadIdx.x / 16) * 4, tx = (threadIdx.x % 16) * 4;
    int now = 0;
    for (int at = 0; at < depth; at += DEPTH) {
        bool more = at + DEPTH < depth;
        if (more) fetch(next, a, lda, b, ldb, at + DEPTH);
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            float x[8], y[8];
            *(float4*)&x[0] = *(const float4*)&memory.a[now][d][ty];
            *(float4*)&x[4] = *(const float4*)&memory.a[now][d][ty + 64];
            *(float4*)&y[0] = *(const float4*)&memory.b[now][d][tx];
            *(float4*)&y[4] = *(const float4*)&memory.b[now][d][tx + 64];
#pragma unroll
            for (int i = 0; i < 8; i++)
#pragma unroll
                for (int j = 0; j < 8; j++) sums[i][j] += x[i] * y[j];
        }
        if (more) stage(next, memory.a[now ^ 1], memory.b[now ^ 1]);
        __syncthreads();
        now ^= 1;
    }
}
