// A block works on a row: four neighbours a thread and turn, kept in registers between the passes over a row where
// they fit and widths are multiples of 4 (VECS turns). 0 turns: read again in each pass, one by one if need be.
#pragma once
#include "codes.cuh"
#include "dependency.cuh"
#include "floats.cuh"

// Four neighbours as they lie in memory.
template <class T> struct Neighbours;
template <> struct Neighbours<float> {
    using Type = float4;
};
template <> struct Neighbours<bf16> {
    using Type = uint2;
};

__device__ __forceinline__ float4 widened4(float4 v) { return v; }
__device__ __forceinline__ float4 widened4(uint2 v) {
    return make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u), __uint_as_float(v.y << 16),
                       __uint_as_float(v.y & 0xffff0000u));
}

template <class T>
__device__ __forceinline__ float4 load4(const T* row, int at, int cols) {
    if (cols % 4 == 0) return widened4(*reinterpret_cast<const typename Neighbours<T>::Type*>(row + at));
    float4 v = {widened(row[at]), 0.f, 0.f, 0.f};
    if (at + 1 < cols) v.y = widened(row[at + 1]);
    if (at + 2 < cols) v.z = widened(row[at + 2]);
    if (at + 3 < cols) v.w = widened(row[at + 3]);
    return v;
}

__device__ __forceinline__ void store4(float* row, int at, int cols, float4 v) {
    if (cols % 4 == 0) {
        *reinterpret_cast<float4*>(row + at) = v;
        return;
    }
    row[at] = v.x;
    if (at + 1 < cols) row[at + 1] = v.y;
    if (at + 2 < cols) row[at + 2] = v.z;
    if (at + 3 < cols) row[at + 3] = v.w;
}

__device__ __forceinline__ void store_codes(unsigned char* row, int at, int cols, unsigned quad) {
    if (cols % 4 == 0) {
        *reinterpret_cast<unsigned*>(row + at) = quad;
        return;
    }
    for (int i = 0; i < 4 && at + i < cols; i++) row[at + i] = static_cast<unsigned char>(quad >> 8 * i);
}

// As integers, magnitudes order as they do as numbers, and infinity and NaN are larger than all others.
__device__ __forceinline__ unsigned magnitude(float x) { return __float_as_uint(x) & 0x7fffffffu; }

// The larger of two magnitudes, NaN above all.
__device__ __forceinline__ float larger_magnitude(float a, float b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    float larger;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(fabsf(a)), "f"(fabsf(b)));
    return larger;
#else
    return __uint_as_float(max(magnitude(a), magnitude(b)));
#endif
}

__device__ __forceinline__ unsigned magnitude4(float4 v) {
    return __float_as_uint(larger_magnitude(larger_magnitude(v.x, v.y), larger_magnitude(v.z, v.w)));
}

__device__ __forceinline__ unsigned warp_max(unsigned v) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    return __reduce_max_sync(0xffffffffu, v);
#else
    for (int step = 16; step > 0; step /= 2) v = max(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
#endif
}

// Both reductions end with the result in every thread. Each call needs a `shared` of its own: the barrier is before
// the reading.
__device__ __forceinline__ unsigned block_max(unsigned v, unsigned (&shared)[32]) {
    v = warp_max(v);
    unsigned lane = threadIdx.x % 32;
    if (lane == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_max(lane < blockDim.x / 32 ? shared[lane] : 0);
}

__device__ __forceinline__ double warp_sum(double v) {
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

__device__ __forceinline__ double block_sum(double v, double (&shared)[32]) {
    v = warp_sum(v);
    unsigned lane = threadIdx.x % 32;
    if (lane == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_sum(lane < blockDim.x / 32 ? shared[lane] : 0.0);
}

// A token's scale from the bits of its largest magnitude, or the one that all tokens have (`fixed`, if it is not 0): NaN
// for a row with NaN or infinity.
__device__ __forceinline__ float token_scale(unsigned largest, int kind, float fixed) {
    float scale = fixed != 0.f ? fixed : __fdiv_rn(__uint_as_float(largest), activation_range(kind));
    return largest < 0x7f800000u ? scale : __uint_as_float(0x7fc00000u);
}

// Blocks of 1024 threads that share a multiprocessor at least: few turns need few registers. Some chips' have room for
// one alone.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 700 || __CUDA_ARCH__ == 800 || __CUDA_ARCH__ == 900)
#define BLOCKS_OF(VECS) (VECS == 1 ? 2 : 1)
#else
#define BLOCKS_OF(VECS) 1
#endif

// The same of blocks of 512.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 750
#define BLOCKS_OF_512 2
#else
#define BLOCKS_OF_512 3
#endif

// Passes over the turns of this thread, one of `threads`: `body(turn, chunk)`, a chunk being four columns. FILLED: it has a
// chunk in each turn. (Where it must ask, the compiler puts into each answer what all have in common, divisions too.)
template <int VECS, bool FILLED = false, class Body>
__device__ __forceinline__ void each_chunk(int chunks, int threads, Body body) {
    if (VECS == 0) {
        for (int chunk = threadIdx.x; chunk < chunks; chunk += threads) body(0, chunk);
    } else {
#pragma unroll
        for (int i = 0; i < VECS; i++) {
            int chunk = threadIdx.x + i * threads;
            if (FILLED || chunk < chunks) body(i, chunk);
        }
    }
}

// The width that load4 and its like are told: where rows are kept, that it is a multiple of 4.
template <int VECS>
__device__ __forceinline__ int width_of(int cols) {
    return VECS ? 4 : cols;
}

template <int VECS, bool FILLED = false, class Body>
__device__ __forceinline__ void each_chunk(int chunks, Body body) {
    each_chunk<VECS, FILLED>(chunks, blockDim.x, body);
}

// Calls `each` with what makes codes of four values on a scale: by the quickest way that its kind and the scale allow. A scale
// of 0 or NaN gives codes 0; beyond a fixed scale's range they saturate.
template <class Each>
__device__ __forceinline__ void with_encoder(float by, int kind, float fixed, Each each) {
    Scale scale(by);
    if (fixed != 0.f || !scale.is_ordinary()) return each([&](float4 v) { return divided_codes(v, by, kind); });
    switch (kind) {
        case INT8: return each([&](float4 v) { return codes4<INT8>(scale, v); });
        case E4M3: return each([&](float4 v) { return codes4<E4M3>(scale, v); });
        case E5M2: return each([&](float4 v) { return codes4<E5M2>(scale, v); });
        case E4M3_BITS: return each([&](float4 v) { return codes4<E4M3_BITS>(scale, v); });
        default: return each([&](float4 v) { return codes4<E5M2_BITS>(scale, v); });
    }
}

// Codes of a row whose chunks are `value(turn, chunk)`.
template <int VECS, class Value>
__device__ __forceinline__ void encode_row(Value value, int cols, float by, int kind, float fixed, unsigned char* codes,
                                           int threads) {
    with_encoder(by, kind, fixed, [&](auto encode) {
        each_chunk<VECS>((cols + 3) / 4, threads, [&](int i, int chunk) {
            store_codes(codes, 4 * chunk, width_of<VECS>(cols), encode(value(i, chunk)));
        });
    });
}

// Codes and scale of a row whose chunks are `value(turn, chunk)`, all past the end 0.
template <int VECS, class Value>
__device__ __forceinline__ void quantize_row(Value value, int cols, int kind, float fixed, unsigned char* codes, float* xs) {
    __shared__ unsigned largest[32];
    unsigned most = 0;
    each_chunk<VECS>((cols + 3) / 4, [&](int i, int chunk) { most = max(most, magnitude4(value(i, chunk))); });
    float scale = token_scale(block_max(most, largest), kind, fixed);
    if (threadIdx.x == 0) *xs = scale;
    encode_row<VECS>(value, cols, scale, kind, fixed, codes, blockDim.x);
}
