// Tokens to 8 bits: each row is read once.
#include "wide_row.cuh"

template <int VECS>
__device__ __forceinline__ void quantize(const float* x, int cols, int kind, float fixed, unsigned char* codes,
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

#define KERNEL(VECS)                                                                                        \
    extern "C" __global__ void __launch_bounds__(1024, BLOCKS_OF(VECS)) quantize_rows_##VECS(               \
        const float* x, int cols, int kind, float fixed, unsigned char* codes, float* scales) {             \
        quantize<VECS>(x, cols, kind, fixed, codes, scales);                                                       \
    }
KERNEL(0)
KERNEL(1)
KERNEL(2)
KERNEL(8)

struct Same {
    static constexpr int OPERANDS = 1;

    __device__ __forceinline__ float4 operator()(const float4 (&x)[1]) const { return x[0]; }
};

SPREAD(quantize_rows_spread, Same)
STREAM(quantize_rows_stream, Same)
