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

// The value of a rank that is no NaN's.
__device__ __forceinline__ float value_of(u64 rank) {
    unsigned ordered = static_cast<unsigned>(rank >> 32);
    return __uint_as_float(ordered >> 31 ? ordered & 0x7fffffffu : ~ordered);
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

// The largest rank of this thread's columns.
__device__ __forceinline__ u64 best_of(const float4 (&x)[TURNS], int first, int v) {
    u64 top = 0;
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        int at = first + 4 * (threadIdx.x + i * THREADS);
        if (at < v) {
            top = larger(top, larger(rank(x[i].x, at), rank(x[i].y, at + 1)));
            top = larger(top, larger(rank(x[i].z, at + 2), rank(x[i].w, at + 3)));
        }
    }
    return top;
}

// best[row, part]: the largest rank.
extern "C" __global__ void __launch_bounds__(THREADS) argmax_parts(const float* logits, int v, int parts, u64* best) {
    __shared__ u64 shared[32];
    grid_wait();
    grid_release();
    int first = blockIdx.x % parts * PART;
    float4 x[TURNS];
    load_part(logits + static_cast<size_t>(blockIdx.x / parts) * v, first, v, -INFINITY, x);
    u64 top = block_max(best_of(x, first, v), shared);
    if (threadIdx.x == 0) best[blockIdx.x] = top;
}

// In a warp: the largest rank of a row's parts.
__device__ __forceinline__ u64 best_of_parts(const u64* best, int parts) {
    u64 top = 0;
    for (int i = threadIdx.x % 32; i < parts; i += 32) top = larger(top, best[i]);
    return warp_max(top);
}

// A warp for each row: its largest rank's column.
extern "C" __global__ void __launch_bounds__(THREADS) argmax_rows(const u64* best, int rows, int parts, unsigned* out) {
    grid_wait();
    grid_release();
    int row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    u64 top = best_of_parts(best + static_cast<size_t>(row) * parts, parts);
    if (threadIdx.x % 32 == 0) out[row] = top == ~0ull ? ~0u : ~static_cast<unsigned>(top);
}

__device__ __forceinline__ float warp_largest(float v) {
    for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}

// -infinity has no weight, also where it is the largest of its part.
__device__ __forceinline__ float weight(float x, float top) { return x == -INFINITY ? 0.f : expf(__fsub_rn(x, top)); }

// The largest of a part and the sum of exp(x - largest).
struct Part {
    float top;
    double sum;
};

// Of the block's part, NaN left out of the largest: in every thread.
__device__ __forceinline__ Part sum_part(const float4 (&x)[TURNS]) {
    __shared__ float largest[32];
    __shared__ double shared[32];
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
    return {top, block_sum(sum, shared)};
}

// In a warp: the parts of a row joined.
__device__ __forceinline__ Part join_parts(const float* tops, const double* sums, int parts) {
    float top = -INFINITY;
    for (int i = threadIdx.x % 32; i < parts; i += 32) top = fmaxf(top, tops[i]);
    top = warp_largest(top);
    double sum = 0.0;
    for (int i = threadIdx.x % 32; i < parts; i += 32) {
        // A part of -infinities alone has the sum 0, or NaN if it has a NaN.
        sum += tops[i] == -INFINITY ? sums[i] : sums[i] * exp(static_cast<double>(tops[i]) - top);
    }
    return {top, warp_sum(sum)};
}

// tops[row, part]: the largest of the part, NaN left out; sums[row, part]: the sum of exp(x - top).
extern "C" __global__ void __launch_bounds__(THREADS)
softmax_parts(const float* logits, int v, int parts, float* tops, double* sums) {
    grid_wait();
    grid_release();
    float4 x[TURNS];
    load_part(logits + static_cast<size_t>(blockIdx.x / parts) * v, blockIdx.x % parts * PART, v, -INFINITY, x);
    Part part = sum_part(x);
    if (threadIdx.x == 0) tops[blockIdx.x] = part.top, sums[blockIdx.x] = part.sum;
}

// Joins the parts' sums, in each block again, and subtracts.
extern "C" __global__ void __launch_bounds__(THREADS)
softmax_apply(float* logits, int v, int parts, const float* tops, const double* sums) {
    grid_wait();
    grid_release();
    size_t row = blockIdx.x / parts;
    Part all = join_parts(tops + row * parts, sums + row * parts, parts);
    float top = all.top, shift = __double2float_rn(log(all.sum));
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

// Of the logits' rows `rows[n]` alone, place by place: what argmax_parts and softmax_parts find, in one reading.
extern "C" __global__ void __launch_bounds__(THREADS) judge_parts(const float* logits, int v, int parts, const unsigned* rows,
                                                                  u64* best, float* tops, double* sums) {
    __shared__ u64 shared[32];
    grid_wait();
    grid_release();
    int first = blockIdx.x % parts * PART;
    float4 x[TURNS];
    load_part(logits + static_cast<size_t>(rows[blockIdx.x / parts]) * v, first, v, -INFINITY, x);
    u64 top = block_max(best_of(x, first, v), shared);
    Part part = sum_part(x);
    if (threadIdx.x == 0) best[blockIdx.x] = top, tops[blockIdx.x] = part.top, sums[blockIdx.x] = part.sum;
}

// A warp for each target, a place among `rows` and a token: the bits of its log-probability, as softmax_apply leaves it,
// and whether it is the likeliest.
extern "C" __global__ void __launch_bounds__(THREADS)
judge_targets(const float* logits, int v, int parts, const unsigned* rows, const u64* best, const float* tops,
              const double* sums, const uint2* targets, int count, uint2* out) {
    grid_wait();
    grid_release();
    int i = blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (i >= count) return;
    unsigned place = targets[i].x, token = targets[i].y;
    size_t first = static_cast<size_t>(place) * parts;
    u64 likeliest = best_of_parts(best + first, parts);
    Part all = join_parts(tops + first, sums + first, parts);
    if (threadIdx.x % 32 != 0) return;
    float x = __fsub_rn(logits[static_cast<size_t>(rows[place]) * v + token], all.top);
    float log_prob = __fsub_rn(x, __double2float_rn(log(all.sum)));
    bool greedy = likeliest != ~0ull && ~static_cast<unsigned>(likeliest) == token;
    out[i] = make_uint2(__float_as_uint(log_prob), greedy);
}

// What is asked of a row, as the host lays it out: a token, and how many of the likeliest beside it.
struct Asked {
    unsigned row, token, top;
};

// Keys of a thread; most tokens beside the one.
constexpr int KEYS = 4 * TURNS, MOST = 64;

// The `count` largest of the block's keys, falling, then zeros. No two keys are equal but zeros.
__device__ __forceinline__ void falling(const u64 (&keys)[KEYS], unsigned count, u64* out) {
    __shared__ u64 shared[2][32];
    u64 best = 0;
#pragma unroll
    for (int i = 0; i < KEYS; i++) best = larger(best, keys[i]);
    for (unsigned n = 0; n < count; n++) {
        // In turns, as the barrier is before the reading.
        u64 top = block_max(best, shared[n % 2]);
        if (threadIdx.x == 0) out[n] = top;
        if (best != top) continue;
        best = 0;
#pragma unroll
        for (int i = 0; i < KEYS; i++) best = larger(best, keys[i] < top ? keys[i] : 0);
    }
}

// Of each row asked of, part by part: the largest ranks, falling, in keys[asked, part, most], and its sum. NaN is left out.
extern "C" __global__ void __launch_bounds__(THREADS)
likely_parts(const float* logits, int v, int parts, const Asked* asked, int most, u64* keys, float* tops, double* sums) {
    grid_wait();
    grid_release();
    Asked of = asked[blockIdx.x / parts];
    int first = blockIdx.x % parts * PART;
    float4 x[TURNS];
    load_part(logits + static_cast<size_t>(of.row) * v, first, v, __uint_as_float(0x7fc00000u), x);
    u64 own[KEYS];
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        int at = first + 4 * (threadIdx.x + i * THREADS);
        auto take = [&](float& x, int turn) {
            own[4 * i + turn] = isnan(x) ? 0 : rank(x, at + turn);
            if (isnan(x)) x = -INFINITY;
        };
        take(x[i].x, 0), take(x[i].y, 1), take(x[i].z, 2), take(x[i].w, 3);
    }
    falling(own, of.top, keys + static_cast<size_t>(blockIdx.x) * most);
    Part part = sum_part(x);
    if (threadIdx.x == 0) tops[blockIdx.x] = part.top, sums[blockIdx.x] = part.sum;
}

// A block for each row asked of. out[asked, 1 + 2 most]: bits of the token's log-probability, then ids of the likeliest, ~0
// where there are no more, each before the bits of its own.
extern "C" __global__ void __launch_bounds__(THREADS)
likely_rows(const float* logits, int v, int parts, const Asked* asked, int most, const u64* keys, const float* tops,
            const double* sums, unsigned* out) {
    __shared__ u64 likeliest[MOST];
    grid_wait();
    grid_release();
    Asked of = asked[blockIdx.x];
    size_t first = static_cast<size_t>(blockIdx.x) * parts;
    u64 own[KEYS];
#pragma unroll
    for (int i = 0; i < KEYS; i++) {
        unsigned at = threadIdx.x + i * THREADS;
        own[i] = at < parts * of.top ? keys[(first + at / of.top) * most + at % of.top] : 0;
    }
    falling(own, of.top, likeliest);
    __syncthreads();
    Part all = join_parts(tops + first, sums + first, parts);
    double log_sum = log(all.sum);
    auto log_prob = [&](float x) {
        return __float_as_uint(__double2float_rn(static_cast<double>(__fsub_rn(x, all.top)) - log_sum));
    };
    out += static_cast<size_t>(blockIdx.x) * (1 + 2 * most);
    if (threadIdx.x == 0) out[0] = log_prob(logits[static_cast<size_t>(of.row) * v + of.token]);
    if (threadIdx.x < of.top) {
        u64 key = likeliest[threadIdx.x];
        out[1 + 2 * threadIdx.x] = key == 0 ? ~0u : ~static_cast<unsigned>(key);
        out[2 + 2 * threadIdx.x] = log_prob(value_of(key));
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
