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

// The bits of x rounded to bf16, to nearest even.
__device__ __forceinline__ unsigned brain(float x) {
    unsigned bits = __float_as_uint(x);
    return isnan(x) ? 0x7fc0u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

constexpr int TILE = 128;
// Tiles that run at the same time are neighbours, so that they find each other's columns in the cache.
constexpr int GROUP = 16;

// The tile of this block, in groups on or below the diagonal, numbered row by row; false if there is none.
__device__ __forceinline__ bool own_tile(int k, int& top, int& left) {
    int group = blockIdx.x / (GROUP * GROUP), inside = blockIdx.x % (GROUP * GROUP);
    int i = static_cast<int>((sqrtf(8.f * group + 1.f) - 1.f) / 2.f);
    while (i * (i + 1) / 2 > group) i--;
    while ((i + 1) * (i + 2) / 2 <= group) i++;
    int row = i * GROUP + inside / GROUP, column = (group - i * (i + 1) / 2) * GROUP + inside % GROUP;
    top = row * TILE, left = column * TILE;
    return column <= row && top < k;
}

// Adds to one element on or below the diagonal.
__device__ __forceinline__ void add_to(float* gram, int k, int row, int column, float sum) {
    if (row < k && column <= row) gram[static_cast<size_t>(row) * k + column] += sum;
}

constexpr int DEPTH = 8;

// gram[i, j] += sum of x[t, i] x[t, j] for j <= i, by fused multiply-adds in ascending t from 0. Each thread has 8 x 8
// elements, in fours that are half a tile apart, so that its neighbours' reads do not collide.
extern "C" __global__ void __launch_bounds__(256) gram_fma(const float* x, int t, int k, int narrow, float* gram) {
    __shared__ float4 a[2][DEPTH][TILE / 4], b[2][DEPTH][TILE / 4];
    int top, left;
    grid_wait();
    grid_release();
    if (!own_tile(k, top, left)) return;
    int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    int depth = threadIdx.x / 32, quad = threadIdx.x % 32;
    float sum[8][8] = {};
    auto fetch = [&](int first, int side) {
        float4 v = {0.f, 0.f, 0.f, 0.f};
        int row = first + depth, column = side + 4 * quad;
        if (row < t && column < k) v = load4(x + static_cast<size_t>(row) * k, column, k);
        if (narrow) {
            auto wide = [](float x) { return __uint_as_float(brain(x) << 16); };
            v = make_float4(wide(v.x), wide(v.y), wide(v.z), wide(v.w));
        }
        return v;
    };
    float4 rows = fetch(0, top), columns = fetch(0, left);
    for (int first = 0, stage = 0; first < t; first += DEPTH, stage ^= 1) {
        a[stage][depth][quad] = rows, b[stage][depth][quad] = columns;
        __syncthreads();
        if (first + DEPTH < t) rows = fetch(first + DEPTH, top), columns = fetch(first + DEPTH, left);
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            float4 y[2] = {a[stage][d][ty], a[stage][d][ty + 16]}, z[2] = {b[stage][d][tx], b[stage][d][tx + 16]};
            const float *p = &y[0].x, *q = &z[0].x;
#pragma unroll
            for (int i = 0; i < 8; i++) {
#pragma unroll
                for (int j = 0; j < 8; j++) sum[i][j] = fmaf(p[i], q[j], sum[i][j]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
#pragma unroll
        for (int j = 0; j < 8; j++) {
            int row = top + 4 * ty + i % 4 + i / 4 * (TILE / 2), column = left + 4 * tx + j % 4 + j / 4 * (TILE / 2);
            add_to(gram, k, row, column, sum[i][j]);
        }
    }
}

// x rounded to bf16, with zeros added to a whole number of steps and tiles: to[rows, width].
extern "C" __global__ void __launch_bounds__(256)
narrow_rows(const float* x, int t, int k, int rows, int width, uint4* to) {
    grid_wait();
    grid_release();
    size_t at = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x, each = width / 8;
    int row = static_cast<int>(at / each), column = static_cast<int>(at % each) * 8;
    if (row >= rows) return;
    float4 v[2] = {};
    const float* from = x + static_cast<size_t>(row) * k;
    if (row < t && column < k) v[0] = load4(from, column, k);
    if (row < t && column + 4 < k) v[1] = load4(from, column + 4, k);
    auto pair = [](float low, float high) { return brain(low) | brain(high) << 16; };
    to[at] = make_uint4(pair(v[0].x, v[0].y), pair(v[0].z, v[0].w), pair(v[1].x, v[1].y), pair(v[1].z, v[1].w));
}

// Steps of 32 tokens, STAGES of them on their way into shared memory.
constexpr int STEP = 32, STAGES = 4, LINE = TILE * 2, OPERAND = STEP * LINE;

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
// Where 16 bytes of a token's line lie: lines of 8 tokens start at different banks.
__device__ __forceinline__ unsigned place(int token, int chunk) { return token * LINE + ((chunk ^ (token & 7)) << 4); }

__device__ __forceinline__ void fetch_step(unsigned to, const uint4* x, int width, int first, int side) {
#pragma unroll
    for (int i = 0; i < STEP * TILE / 8 / 128; i++) {
        int token = i * 8 + threadIdx.x / 16, chunk = threadIdx.x % 16;
        const uint4* from = x + (static_cast<size_t>(first + token) * width + side) / 8 + chunk;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + place(token, chunk)), "l"(from));
    }
}

// Four 8 x 8 matrices, transposed: their rows in memory are tokens.
__device__ __forceinline__ void load_matrices(unsigned (&m)[4], unsigned from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(from));
}

__device__ __forceinline__ void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

// As gram_fma, of rows narrowed before. Four warps have a quarter of the tile each.
extern "C" __global__ void __launch_bounds__(128, 2)
gram_mma(const uint4* x, int rows, int width, int k, float* gram) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    extern __shared__ uint4 shared[];
    unsigned base = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    int top, left, steps = rows / STEP;
    grid_wait();
    grid_release();
    if (!own_tile(k, top, left)) return;
    auto fetch = [&](int step) {
        unsigned to = base + step % STAGES * 2 * OPERAND;
        if (step < steps) {
            fetch_step(to, x, width, step * STEP, top);
            fetch_step(to + OPERAND, x, width, step * STEP, left);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    };
    for (int step = 0; step < STAGES - 1; step++) fetch(step);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int down = warp / 2 * 64, right = warp % 2 * 64;
    float c[4][8][4] = {};
    for (int step = 0; step < steps; step++) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
        __syncthreads();
        fetch(step + STAGES - 1);
        unsigned from = base + step % STAGES * 2 * OPERAND;
#pragma unroll
        for (int half = 0; half < STEP; half += 16) {
            unsigned a[4][4], b[4][4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int token = half + lane / 16 * 8 + lane % 8, chunk = (down + 16 * i) / 8 + lane / 8 % 2;
                load_matrices(a[i], from + place(token, chunk));
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int token = half + lane / 8 % 2 * 8 + lane % 8, chunk = (right + 16 * j) / 8 + lane / 16;
                load_matrices(b[j], from + OPERAND + place(token, chunk));
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int j = 0; j < 8; j++) multiply(c[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 8; j++) {
            int row = top + down + 16 * i + lane / 4, column = left + right + 8 * j + lane % 4 * 2;
            add_to(gram, k, row, column, c[i][j][0]);
            add_to(gram, k, row, column + 1, c[i][j][1]);
            add_to(gram, k, row + 8, column, c[i][j][2]);
            add_to(gram, k, row + 8, column + 1, c[i][j][3]);
        }
    }
#endif
}
