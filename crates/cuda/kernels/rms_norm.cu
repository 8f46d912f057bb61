// `x += delta`, the norm of x, and its codes: a block for each row, which is read once. Squares are summed in f64, so
// that the order of the sum does not show: with another order codes would flip.
#include "row.cuh"

__device__ __forceinline__ float4 sum4(float4 a, float4 b) {
    return make_float4(__fadd_rn(a.x, b.x), __fadd_rn(a.y, b.y), __fadd_rn(a.z, b.z), __fadd_rn(a.w, b.w));
}

__device__ __forceinline__ float4 scaled4(float4 v, float factor, float4 w) {
    return make_float4(__fmul_rn(__fmul_rn(v.x, factor), w.x), __fmul_rn(__fmul_rn(v.y, factor), w.y),
                       __fmul_rn(__fmul_rn(v.z, factor), w.z), __fmul_rn(__fmul_rn(v.w, factor), w.w));
}

__device__ __forceinline__ double squares(float4 v) {
    double x = v.x, y = v.y, z = v.z, w = v.w;
    return fma(x, x, y * y) + fma(z, z, w * w);
}

// delta may be 0; out is f32 for the kind PLAIN, codes otherwise.
template <int VECS>
__device__ __forceinline__ void norm(float* x, const float* delta, const float* weight, float eps, int h, int kind,
                                     float fixed, void* out, float* scales) {
    __shared__ double sums[32];
    // Where a thread keeps few values, the weight comes while the kernel before this one ends.
    constexpr bool EARLY = VECS == 1 || VECS == 4;
    constexpr int KEPT = VECS ? VECS : 1;
    int chunks = (h + 3) / 4;
    auto load = [&](const float* from, int chunk) { return load4(from, 4 * chunk, width_of<VECS>(h)); };
    auto store = [&](float* to, int chunk, float4 v) { store4(to, 4 * chunk, width_of<VECS>(h), v); };
    float4 kept[KEPT], early[KEPT];
    if (EARLY) each_chunk<VECS>(chunks, [&](int i, int chunk) { early[i] = load(weight, chunk); });
    double per_column = 1.0 / h;
    grid_wait();
    grid_release();
    size_t row = blockIdx.x;
    x += row * h;
    if (VECS) each_chunk<VECS>(chunks, [&](int i, int chunk) { kept[i] = load(x, chunk); });
    if (delta) {
        delta += row * h;
        float4 more[KEPT];
        if (VECS) each_chunk<VECS>(chunks, [&](int i, int chunk) { more[i] = load(delta, chunk); });
        each_chunk<VECS>(chunks, [&](int i, int chunk) {
            if (!VECS) kept[i] = load(x, chunk), more[i] = load(delta, chunk);
            kept[i] = sum4(kept[i], more[i]);
            store(x, chunk, kept[i]);
        });
    }
    double sum = 0.0;
    each_chunk<VECS>(chunks, [&](int i, int chunk) { sum += squares(VECS ? kept[i] : load(x, chunk)); });
    float mean = __double2float_rn(block_sum(sum, sums) * per_column);
    float factor = __fdiv_rn(1.f, __fsqrt_rn(__fadd_rn(mean, eps)));
    auto normed = [&](float4 v, int i, int chunk) { return scaled4(v, factor, EARLY ? early[i] : load(weight, chunk)); };
    if (VECS) each_chunk<VECS>(chunks, [&](int i, int chunk) { kept[i] = normed(kept[i], i, chunk); });
    auto value = [&](int i, int chunk) { return VECS ? kept[i] : normed(load(x, chunk), i, chunk); };
    if (kind != PLAIN) return quantize_row<VECS>(value, h, kind, fixed, static_cast<unsigned char*>(out) + row * h, scales + row);
    float* to = static_cast<float*>(out) + row * h;
    each_chunk<VECS>(chunks, [&](int i, int chunk) { store(to, chunk, value(i, chunk)); });
}

#define KERNEL(VECS)                                                                                          \
    extern "C" __global__ void __launch_bounds__(1024, BLOCKS_OF(VECS)) norm_##VECS(                          \
        float* x, const float* delta, const float* weight, float eps, int h, int kind, float fixed, void* out, float* scales) { \
        norm<VECS>(x, delta, weight, eps, h, kind, fixed, out, scales);                                              \
    }
KERNEL(0)
KERNEL(1)
KERNEL(4)
KERNEL(8)

// Codes of norms of rows that give each thread of their block four chunks. Of MANY rows the weight comes late, in fewer
// registers, so that more blocks share a multiprocessor; of few, without a delta, while the kernel before this one ends.
template <bool MANY>
__device__ __forceinline__ void norm_filled(float* x, const float* delta, const float* weight, float eps, int h, double per_column,
                                            int kind, float fixed, unsigned char* codes, float* scales) {
    __shared__ double sums[32];
    __shared__ unsigned largest[32];
    float4 kept[4], weights[4];
    auto load_weights = [&] {
        each_chunk<4, true>(0, [&](int i, int at) { weights[i] = reinterpret_cast<const float4*>(weight)[at]; });
    };
    if (!MANY) load_weights();
    grid_wait();
    grid_release();
    const size_t row = blockIdx.x;
    float4* from = reinterpret_cast<float4*>(x + row * h);
    each_chunk<4, true>(0, [&](int i, int at) { kept[i] = from[at]; });
    if (MANY && delta) {
        const float4* more = reinterpret_cast<const float4*>(delta + row * h);
        each_chunk<4, true>(0, [&](int i, int at) { from[at] = kept[i] = sum4(kept[i], more[at]); });
    }
    double sum = 0.0;
    each_chunk<4, true>(0, [&](int i, int) { sum += squares(kept[i]); });
    const float mean = __double2float_rn(block_sum(sum, sums) * per_column);
    const float factor = __fdiv_rn(1.f, __fsqrt_rn(__fadd_rn(mean, eps)));
    if (MANY) load_weights();
    unsigned most = 0;
    each_chunk<4, true>(0, [&](int i, int) {
        kept[i] = scaled4(kept[i], factor, weights[i]);
        most = max(most, magnitude4(kept[i]));
    });
    const float scale = token_scale(block_max(most, largest), kind, fixed);
    if (threadIdx.x == 0) scales[row] = scale;
    unsigned* to = reinterpret_cast<unsigned*>(codes + row * h);
    with_encoder(scale, kind, fixed, [&](auto encode) {
        each_chunk<4, true>(0, [&](int i, int at) { to[at] = encode(kept[i]); });
    });
}

#define FILLED(NAME, MANY, BLOCKS)                                                                                    \
    extern "C" __global__ void __launch_bounds__(512, BLOCKS) NAME(                                                   \
        float* x, const float* delta, const float* weight, float eps, int h, double per_column, int kind, float fixed, \
        unsigned char* codes, float* scales) {                                                                        \
        norm_filled<MANY>(x, delta, weight, eps, h, per_column, kind, fixed, codes, scales);                          \
    }
FILLED(norm_filled_few, false, 1)
FILLED(norm_filled_many, true, BLOCKS_OF_512)

// Norms inside of rows of `cols` columns, in place: a block for each of `count` neighbouring stretches of w columns, the
// first of which begins at column `first`.
extern "C" __global__ void __launch_bounds__(1024)
rms_norm_stretches(float* x, int cols, int first, int count, const float* weight, float eps, int w) {
    __shared__ double sums[32];
    grid_wait();
    grid_release();
    x += static_cast<size_t>(blockIdx.x / count) * cols + first + blockIdx.x % count * w;
    double sum = 0.0;
    for (int i = threadIdx.x; i < w; i += blockDim.x) sum = fma(static_cast<double>(x[i]), static_cast<double>(x[i]), sum);
    float mean = __double2float_rn(block_sum(sum, sums) / w);
    float factor = __fdiv_rn(1.f, __fsqrt_rn(__fadd_rn(mean, eps)));
    for (int i = threadIdx.x; i < w; i += blockDim.x) x[i] = __fmul_rn(__fmul_rn(x[i], factor), weight[i]);
}
