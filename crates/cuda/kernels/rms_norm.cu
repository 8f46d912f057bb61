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
                                     void* out, float* scales) {
    __shared__ double sums[32];
    // Where a thread keeps few values, the weight comes while the kernel before this one ends.
    constexpr bool EARLY = VECS >= 1 && VECS <= 4;
    constexpr int KEPT = VECS ? VECS : 1;
    int chunks = (h + 3) / 4;
    float4 kept[KEPT], early[KEPT];
    if (EARLY) each_chunk<VECS>(chunks, [&](int i, int chunk) { early[i] = load4(weight, 4 * chunk, h); });
    grid_wait();
    grid_release();
    size_t row = blockIdx.x;
    x += row * h;
    if (VECS) each_chunk<VECS>(chunks, [&](int i, int chunk) { kept[i] = load4(x, 4 * chunk, h); });
    if (delta) {
        delta += row * h;
        float4 more[KEPT];
        if (VECS) each_chunk<VECS>(chunks, [&](int i, int chunk) { more[i] = load4(delta, 4 * chunk, h); });
        each_chunk<VECS>(chunks, [&](int i, int chunk) {
            if (!VECS) kept[i] = load4(x, 4 * chunk, h), more[i] = load4(delta, 4 * chunk, h);
            kept[i] = sum4(kept[i], more[i]);
            store4(x, 4 * chunk, h, kept[i]);
        });
    }
    double sum = 0.0;
    each_chunk<VECS>(chunks, [&](int i, int chunk) { sum += squares(VECS ? kept[i] : load4(x, 4 * chunk, h)); });
    float mean = __double2float_rn(block_sum(sum, sums) / h);
    float factor = __fdiv_rn(1.f, __fsqrt_rn(__fadd_rn(mean, eps)));
    if (VECS) {
        each_chunk<VECS>(chunks, [&](int i, int chunk) {
            kept[i] = scaled4(kept[i], factor, EARLY ? early[i] : load4(weight, 4 * chunk, h));
        });
    }
    auto value = [&](int i, int chunk) {
        return VECS ? kept[i] : scaled4(load4(x, 4 * chunk, h), factor, load4(weight, 4 * chunk, h));
    };
    if (kind != PLAIN) return quantize_row<VECS>(value, h, kind, static_cast<unsigned char*>(out) + row * h, scales + row);
    float* to = static_cast<float*>(out) + row * h;
    each_chunk<VECS>(chunks, [&](int i, int chunk) { store4(to, 4 * chunk, h, value(i, chunk)); });
}

#define KERNEL(VECS)                                                                                          \
    extern "C" __global__ void __launch_bounds__(VECS % 8 ? 512 : 1024) norm_##VECS(                          \
        float* x, const float* delta, const float* weight, float eps, int h, int kind, void* out, float* scales) { \
        norm<VECS>(x, delta, weight, eps, h, kind, out, scales);                                              \
    }
KERNEL(0)
KERNEL(1)
KERNEL(2)
KERNEL(4)
KERNEL(8)
