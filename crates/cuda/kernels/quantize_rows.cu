// Tokens to 8 bits: each row is read once.
#include "wide_row.cuh"

template <int VECS, class T>
__device__ __forceinline__ void quantize(const T* x, int cols, int kind, float fixed, unsigned char* codes,
                                         float* scales) {
    grid_wait();
    grid_release();
    size_t row = blockIdx.x;
    x += row * cols;
    auto load = [&](int chunk) { return load4(x, 4 * chunk, width_of<VECS>(cols)); };
    float4 kept[VECS ? VECS : 1];
    if (VECS) each_chunk<VECS>((cols + 3) / 4, [&](int i, int chunk) { kept[i] = load(chunk); });
    auto value = [&](int i, int chunk) { return VECS ? kept[i] : load(chunk); };
    quantize_row<VECS>(value, cols, kind, fixed, codes + row * cols, scales + row);
}

template <class T>
struct Same {
    using Element = T;
    static constexpr int OPERANDS = 1;

    __device__ __forceinline__ float4 operator()(const float4 (&x)[1]) const { return x[0]; }
};

#define KERNEL(NAME, T, VECS)                                                                               \
    extern "C" __global__ void __launch_bounds__(1024, BLOCKS_OF(VECS)) NAME##_##VECS(                      \
        const T* x, int cols, int kind, float fixed, unsigned char* codes, float* scales) {                 \
        quantize<VECS>(x, cols, kind, fixed, codes, scales);                                                \
    }
#define KERNELS(NAME, T)         \
    KERNEL(NAME, T, 0)           \
    KERNEL(NAME, T, 1)           \
    KERNEL(NAME, T, 2)           \
    KERNEL(NAME, T, 8)           \
    SPREAD(NAME##_spread, Same<T>) \
    STREAM(NAME##_stream, Same<T>)

KERNELS(quantize_rows, float)
KERNELS(quantize_rows_bf16, bf16)
