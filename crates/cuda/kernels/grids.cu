// Codes on grids other than a scale for each token, and their products, in the order of the definition: scales for groups
// of channels, zero points. One thread has a channel of a few tokens: for the rarer checkpoints, not for speed.
#include "floats.cuh"
#include "row.cuh"

// Types of results, as the launch file numbers them.
enum OutType { OUT_F32 = 0, OUT_BF16 = 1, OUT_F16 = 2 };

__device__ __forceinline__ float not_a_number() { return __uint_as_float(0x7fc00000u); }

__device__ __forceinline__ u8 code_of(float x, float scale, int kind) {
    return static_cast<u8>(divided_codes(make_float4(x, 0.f, 0.f, 0.f), scale, kind));
}

// The power of two that holds a group of this largest magnitude, given as bits.
__device__ __forceinline__ float power_scale(unsigned largest, int kind) {
    if (largest >= 0x7f800000u) return not_a_number();
    if (largest == 0) return 0.f;
    int top = kind == E5M2 || kind == E5M2_BITS ? 15 : 8;
    int code = static_cast<int>(largest >> 23) + ((largest & 0x7fffffu) >= 0x600000u) - top;
    return code <= 0 ? __uint_as_float(1u << 22) : __uint_as_float(static_cast<unsigned>(code) << 23);
}

// A warp for each group of `size` channels; `powers`: scales are powers of two.
extern "C" __global__ void __launch_bounds__(256)
quantize_groups(const float* x, int t, int k, int size, int powers, int kind, u8* codes, float* scales) {
    grid_wait();
    grid_release();
    int groups = (k + size - 1) / size, lane = threadIdx.x % 32;
    long long index = blockIdx.x * 8ll + threadIdx.x / 32;
    if (index >= static_cast<long long>(t) * groups) return;
    int first = static_cast<int>(index % groups) * size, count = min(size, k - first);
    x += index / groups * k + first, codes += index / groups * k + first;
    unsigned most = 0;
    for (int i = lane; i < count; i += 32) most = max(most, magnitude(x[i]));
    most = warp_max(most);
    float scale = powers ? power_scale(most, kind) : token_scale(most, kind, 0.f);
    if (lane == 0) scales[index] = scale;
    for (int i = lane; i < count; i += 32) codes[i] = code_of(x[i], scale, kind);
}

__device__ __forceinline__ float extreme(float v, bool largest, float (&shared)[32]) {
    auto better = [&](float a, float b) { return largest ? fmaxf(a, b) : fminf(a, b); };
    for (int step = 16; step > 0; step /= 2) v = better(v, __shfl_xor_sync(0xffffffffu, v, step));
    unsigned lane = threadIdx.x % 32;
    if (lane == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    v = lane < blockDim.x / 32 ? shared[lane] : 0.f;
    for (int step = 16; step > 0; step /= 2) v = better(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}

// INT8 with a zero point: a block for each token, whose own range decides, unless `fixed` is not 0: the scale of all.
extern "C" __global__ void __launch_bounds__(256)
quantize_shifted(const float* x, int k, float fixed, int fixed_zero, u8* codes, float* scales, int* zeros) {
    __shared__ float lows[32], highs[32];
    __shared__ unsigned largest[32];
    grid_wait();
    grid_release();
    x += static_cast<size_t>(blockIdx.x) * k, codes += static_cast<size_t>(blockIdx.x) * k;
    // The range includes 0.
    float low = 0.f, high = 0.f;
    unsigned most = 0;
    for (int i = threadIdx.x; i < k; i += blockDim.x) {
        low = fminf(low, x[i]), high = fmaxf(high, x[i]), most = max(most, magnitude(x[i]));
    }
    low = extreme(low, false, lows), high = extreme(high, true, highs);
    float scale = fixed, zero = static_cast<float>(fixed_zero);
    if (fixed == 0.f) {
        float range = __fsub_rn(high, low);
        bool finite = magnitude(range) < 0x7f800000u;
        scale = finite ? __fdiv_rn(range, 255.f) : __fsub_rn(__fdiv_rn(high, 255.f), __fdiv_rn(low, 255.f));
        zero = scale == 0.f ? -128.f : fminf(fmaxf(rintf(__fsub_rn(-128.f, __fdiv_rn(low, scale))), -128.f), 127.f);
    }
    bool odd = block_max(most, largest) >= 0x7f800000u;
    if (odd) {
        scale = not_a_number();
        if (fixed == 0.f) zero = 0.f;
    }
    if (threadIdx.x == 0) {
        scales[blockIdx.x] = scale;
        if (zeros) zeros[blockIdx.x] = static_cast<int>(zero);
    }
    for (int i = threadIdx.x; i < k; i += blockDim.x) {
        float unit = odd ? 0.f : scale == 0.f ? zero : __fadd_rn(__fdiv_rn(x[i], scale), zero);
        codes[i] = static_cast<u8>(static_cast<int>(rintf(fminf(fmaxf(unit, -128.f), 127.f))));
    }
}

struct S8 {
    typedef int Sum;
    static __device__ __forceinline__ int value(u8 code) { return static_cast<i8>(code); }
    static __device__ __forceinline__ int add(int sum, int x, int w) { return sum + x * w; }
};
struct FloatSum {
    typedef float Sum;
    static __device__ __forceinline__ float add(float sum, float x, float w) { return fmaf(x, w, sum); }
};
struct F8E5M2 : FloatSum {
    static __device__ __forceinline__ float value(u8 code) { return widened(f16{static_cast<u16>(code << 8)}); }
};
struct F8E4M3 : FloatSum {
    // Its exponent is 8 less than that of the f16 with these digits.
    static __device__ __forceinline__ float value(u8 code) {
        float v = __fmul_rn(widened(f16{static_cast<u16>((code & 0x80) << 8 | (code & 0x7f) << 7)}), 256.f);
        return (code & 0x7f) == 0x7f ? not_a_number() : v;
    }
};

// y = sum over groups of (acc * xs) * ws, groups and channels ascending; acc is over (x - zero) * w.
template <class X, class W>
__device__ __forceinline__ void product(const u8* w, const u8* x, const float* xs, const int* zeros, int zero,
                                        const float* ws, const float* bias, void* out, int t, int n, int k, int size,
                                        int woven, int type) {
    constexpr int TOKENS = 4;
    int blocks = (n + 127) / 128, groups = (k + size - 1) / size;
    int row = blockIdx.x % blocks * 128 + threadIdx.x, first = blockIdx.x / blocks * TOKENS;
    grid_wait();
    grid_release();
    if (row >= n) return;
    w += static_cast<long long>(row) * k, ws += static_cast<long long>(row) * groups;
    float sums[TOKENS] = {};
    for (int g = 0; g < groups; g++) {
        typename X::Sum acc[TOKENS] = {};
        for (int i = g * size; i < min(k, (g + 1) * size); i++) {
            auto weight = W::value(w[i]);
#pragma unroll
            for (int c = 0; c < TOKENS; c++) {
                int token = min(first + c, t - 1);
                int shift = zeros ? zeros[token] : zero;
                acc[c] = X::add(acc[c], X::value(x[static_cast<long long>(token) * k + i]) - shift, weight);
            }
        }
#pragma unroll
        for (int c = 0; c < TOKENS; c++) {
            float scale = xs[static_cast<long long>(min(first + c, t - 1)) * groups + g];
            float term = __fmul_rn(__fmul_rn(static_cast<float>(acc[c]), scale), ws[g]);
            sums[c] = g == 0 ? term : __fadd_rn(sums[c], term);
        }
    }
    // Rows of gate and up by turns of 8 go back in order.
    int column = woven ? row / 8 % 2 * (n / 2) + row / 16 * 8 + row % 8 : row;
    for (int c = 0; c < TOKENS && first + c < t; c++) {
        long long at = static_cast<long long>(first + c) * n + column;
        float y = bias ? __fadd_rn(sums[c], bias[row]) : sums[c];
        if (type == OUT_F32) static_cast<float*>(out)[at] = y;
        if (type == OUT_BF16) round_to(y, static_cast<bf16*>(out)[at]);
        if (type == OUT_F16) round_to(y, static_cast<f16*>(out)[at]);
    }
}

// Names: the weight's type, then the tokens'.
#define PRODUCT(NAME, W, X)                                                                                       \
    extern "C" __global__ void __launch_bounds__(128)                                                             \
        grid_product_##NAME(const u8* w, const u8* x, const float* xs, const int* zeros, int zero, const float* ws, \
                            const float* bias, void* out, int t, int n, int k, int size, int woven, int type) {    \
        product<X, W>(w, x, xs, zeros, zero, ws, bias, out, t, n, k, size, woven, type);                           \
    }
PRODUCT(int8_int8, S8, S8)
PRODUCT(e4m3_e4m3, F8E4M3, F8E4M3)
PRODUCT(e4m3_e5m2, F8E4M3, F8E5M2)
PRODUCT(e5m2_e4m3, F8E5M2, F8E4M3)
PRODUCT(e5m2_e5m2, F8E5M2, F8E5M2)
