// Tokens to 8 bits: a block for each row, which is read once.
#include "row.cuh"

template <int VECS>
__device__ __forceinline__ void quantize(const float* x, int cols, int kind, unsigned char* codes, float* scales) {
    grid_wait();
    grid_release();
    size_t row = blockIdx.x;
    x += row * cols;
    float4 kept[VECS ? VECS : 1];
    if (VECS) each_chunk<VECS>((cols + 3) / 4, [&](int i, int chunk) { kept[i] = load4(x, 4 * chunk, cols); });
    auto value = [&](int i, int chunk) { return VECS ? kept[i] : load4(x, 4 * chunk, cols); };
    quantize_row<VECS>(value, cols, kind, codes + row * cols, scales + row);
}

#define KERNEL(VECS)                                                                                        \
    extern "C" __global__ void __launch_bounds__(VECS % 8 ? 512 : 1024) quantize_rows_##VECS(               \
        const float* x, int cols, int kind, unsigned char* codes, float* scales) {                          \
        quantize<VECS>(x, cols, kind, codes, scales);                                                       \
    }
KERNEL(0)
KERNEL(1)
KERNEL(2)
KERNEL(4)
KERNEL(8)
