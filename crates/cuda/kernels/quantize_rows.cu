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

// Rows in bf16, eight neighbours a thread and turn, which stay as they are until they are encoded. Widths are multiples of 8.
// FILLED: each thread has eight in each turn, and need not ask.
template <int VECS, bool FILLED>
__device__ __forceinline__ void quantize_packed(const bf16* x, int cols, int kind, float fixed, unsigned char* codes,
                                                float* scales) {
    __shared__ unsigned largest[32];
    grid_wait();
    grid_release();
    size_t row = blockIdx.x;
    const uint4* from = reinterpret_cast<const uint4*>(x + row * cols);
    uint2* to = reinterpret_cast<uint2*>(codes + row * cols);
    int eights = FILLED ? VECS * blockDim.x : cols / 8;
    uint4 kept[VECS];
    each_chunk<VECS, FILLED>(eights, [&](int i, int eight) { kept[i] = from[eight]; });
    unsigned most = 0; // of the low halves and of the high ones
    each_chunk<VECS, FILLED>(eights, [&](int i, int) {
        unsigned low = __vmaxu2(kept[i].x & 0x7fff7fffu, kept[i].y & 0x7fff7fffu);
        unsigned high = __vmaxu2(kept[i].z & 0x7fff7fffu, kept[i].w & 0x7fff7fffu);
        most = __vmaxu2(most, __vmaxu2(low, high));
    });
    float scale = token_scale(block_max(max(most << 16, most & 0xffff0000u), largest), kind, fixed);
    if (threadIdx.x == 0) scales[row] = scale;
    with_encoder(scale, kind, fixed, [&](auto encode) {
        each_chunk<VECS, FILLED>(eights, [&](int i, int eight) {
            unsigned low = encode(widened4(make_uint2(kept[i].x, kept[i].y)));
            to[eight] = make_uint2(low, encode(widened4(make_uint2(kept[i].z, kept[i].w))));
        });
    });
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

KERNEL(quantize_rows, float, 0)
KERNEL(quantize_rows, float, 1)
KERNEL(quantize_rows, float, 4)
KERNEL(quantize_rows, float, 8)
SPREAD(quantize_rows_spread, Same<float>)
STREAM(quantize_rows_stream, Same<float>)
KERNEL(quantize_rows_bf16, bf16, 0)
SPREAD(quantize_rows_bf16_spread, Same<bf16>)

#define PACKED(NAME, VECS, FILLED, THREADS, BLOCKS)                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) NAME(                                     \
        const bf16* x, int cols, int kind, float fixed, unsigned char* codes, float* scales) {              \
        quantize_packed<VECS, FILLED>(x, cols, kind, fixed, codes, scales);                                 \
    }
PACKED(quantize_rows_bf16_packed_1, 1, false, 1024, BLOCKS_OF(1))
PACKED(quantize_rows_bf16_packed_4, 4, false, 1024, 1)
PACKED(quantize_rows_bf16_filled_4, 4, true, 512, BLOCKS_OF_512)
