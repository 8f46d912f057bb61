// What is done to logits. Rows are wide and few, so each is cut into parts of PART columns, one for each block; how a
// row is cut depends on its width alone.
#include "row.cuh"

typedef unsigned long long u64;

constexpr int THREADS = 256, TURNS = 4, PART = 4 * THREADS * TURNS;

// Orders by value, then the smaller index first; a NaN is above all. 0 and -0 are equal.
__device__ __forceinline__ u64 rank(float x, int at) {
    if (isnan(x)) return ~0ull;
    unsigned bits = __float_as_uint(x + 0.f);
    unsigned ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
    return static_cast<u64>(ordered) << 32 | ~static_cast<unsigned>(at);
}

__device__ __forceinline__ u64 larger(u64 a, u64 b) { return a > b ? a : b; }

__device__ __forceinline__ u64 warp_max(u64 v) {
    for (int step = 16; step > 0; step /= 2) v = larger(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}

__device__ __forceinline__ u64 block_max(u64 v, u64 (&shared)[32]) {
    v = warp_max(v);
    unsigned lane = threadIdx.x % 32;
    if (lane == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_max(lane < blockDim.x / 32 ? shared[lane] : 0);
}

// Loads this thread's columns of its block's part; those past the end are `fill`.
__device__ __forceinline__ void load_part(const float* row, int first, int v, float fill, float4 (&x)[TURNS]) {
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        int at = first + 4 * (threadIdx.x + i * THREADS);
        x[i] = make_float4(fill, fill, fill, fill);
        if (at < v) x[i] = load4(row, at, v);
        if (at + 1 >= v) x[i].y = fill;
        if (at + 2 >= v) x[i].z = fill;
        if (at + 3 >= v) x[i].w = fill;
    }
}

// best[row, part]: the largest rank.
extern "C" __global__ void __launch_bounds__(THREADS) argmax_parts(const float* logits, int v, int parts, u64* best) {
    __shared__ u64 shared[32];
    grid_wait();
    grid_release();
    int part = blockIdx.x % parts;
    float4 x[TURNS];
    load_part(logits + static_cast<size_t>(blockIdx.x / parts) * v, part * PART, v, -INFINITY, x);
    u64 top = 0;
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        int at = part * PART + 4 * (threadIdx.x + i * THREADS);
        if (at < v) {
            top = larger(top, larger(rank(x[i].x, at), rank(x[i].y, at + 1)));
            top = larger(top, larger(rank(x[i].z, at + 2), rank(x[i].w, at + 3)));
        }
    }
    top = block_max(top, shared);
    if (threadIdx.x == 0) best[blockIdx.x] = top;
}

// A warp for each row: its largest rank's column.
extern "C" __global__ void __launch_bounds__(THREADS) argmax_rows(const u64* best, int rows, int parts, unsigned* out) {
    grid_wait();
    grid_release();
    int row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    u64 top = 0;
    for (int i = threadIdx.x % 32; i < parts; i += 32) top = larger(top, best[static_cast<size_t>(row) * parts + i]);
    top = warp_max(top);
    if (threadIdx.x % 32 == 0) out[row] = top == ~0ull ? ~0u : ~static_cast<unsigned>(top);
}

__device__ __forceinline__ float warp_largest(float v) {
    for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}

// -infinity has no weight, also where it is the largest of its part.
__device__ __forceinline__ float weight(float x, float top) { return x == -INFINITY ? 0.f : expf(__fsub_rn(x, top)); }

// tops[row, part]: the largest of the part, NaN left out; sums[row, part]: the sum of exp(x - top).
extern "C" __global__ void __launch_bounds__(THREADS)
softmax_parts(const float* logits, int v, int parts, float* tops, double* sums) {
    __shared__ float largest[32];
    __shared__ double shared[32];
    grid_wait();
    grid_release();
    float4 x[TURNS];
    load_part(logits + static_cast<size_t>(blockIdx.x / parts) * v, blockIdx.x % parts * PART, v, -INFINITY, x);
    float top = -INFINITY;
#pragma unroll
    for (int i = 0; i < TURNS; i++) top = fmaxf(top, fmaxf(fmaxf(x[i].x, x[i].y), fmaxf(x[i].z, x[i].w)));
    top = warp_largest(top);
    unsigned lane = threadIdx.x % 32;
    if (lane == 0) largest[threadIdx.x / 32] = top;
    __syncthreads();
    top = warp_largest(lane < THREADS / 32 ? largest[lane] : -INFINITY);
    double sum = 0.0;
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        sum += (weight(x[i].x, top) + weight(x[i].y, top)) + (weight(x[i].z, top) + weight(x[i].w, top));
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) tops[blockIdx.x] = top, sums[blockIdx.x] = sum;
}

// Joins the parts' sums, in each block again, and subtracts.
extern "C" __global__ void __launch_bounds__(THREADS)
softmax_apply(float* logits, int v, int parts, const float* tops, const double* sums) {
    grid_wait();
    grid_release();
    size_t row = blockIdx.x / parts;
    tops += row * parts, sums += row * parts;
    float top = -INFINITY;
    for (int i = threadIdx.x % 32; i < parts; i += 32) top = fmaxf(top, tops[i]);
    top = warp_largest(top);
    double sum = 0.0;
    for (int i = threadIdx.x % 32; i < parts; i += 32) {
        // A part of -infinities alone has the sum 0, or NaN if it has a NaN.
        sum += tops[i] == -INFINITY ? sums[i] : sums[i] * exp(static_cast<double>(tops[i]) - top);
    }
    float shift = __double2float_rn(log(warp_sum(sum)));
    int first = blockIdx.x % parts * PART;
    float* to = logits + row * v;
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        int at = first + 4 * (threadIdx.x + i * THREADS);
        if (at < v) {
            float4 x = load4(to, at, v);
            x = make_float4(__fsub_rn(__fsub_rn(x.x, top), shift), __fsub_rn(__fsub_rn(x.y, top), shift),
                            __fsub_rn(__fsub_rn(x.z, top), shift), __fsub_rn(__fsub_rn(x.w, top), shift));
            store4(to, at, v, x);
        }
    }
}

// x = cap tanh(x / cap), by element.
extern "C" __global__ void __launch_bounds__(THREADS) softcap(float* x, int rows, int cols, float cap) {
    grid_wait();
    grid_release();
    long long n = (long long)rows * cols, step = (long long)gridDim.x * blockDim.x;
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += step) {
        x[i] = __fmul_rn(cap, tanhf(__fdiv_rn(x[i], cap)));
    }
}
