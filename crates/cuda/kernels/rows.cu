// Look-ups of rows, and sums.
#include "row.cuh"

__device__ __forceinline__ float widen(float x) { return x; }

struct Half { unsigned short bits; };
struct Brain { unsigned short bits; };

__device__ __forceinline__ float widen(Half x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

__device__ __forceinline__ float widen(Brain x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

template <class T>
struct alignas(4 * sizeof(T)) Quad {
    T x, y, z, w;
};

template <class T>
__device__ __forceinline__ float4 widen4(const T* row, int at, int cols) {
    if (cols % 4 == 0) {
        Quad<T> q = *reinterpret_cast<const Quad<T>*>(row + at);
        return make_float4(widen(q.x), widen(q.y), widen(q.z), widen(q.w));
    }
    float4 v = {widen(row[at]), 0.f, 0.f, 0.f};
    if (at + 1 < cols) v.y = widen(row[at + 1]);
    if (at + 2 < cols) v.z = widen(row[at + 2]);
    if (at + 3 < cols) v.w = widen(row[at + 3]);
    return v;
}

// In a number's place: it stands among those chosen, at what the lower bits say. There is room for so many.
constexpr unsigned CHOSEN = 1u << 31, MOST_CHOSEN = 1u << 14;

// out[i] = table[ids[i]] * scale; NaN where the table has no such row: nothing is read there. `chosen` may be 0.
template <class T>
__device__ __forceinline__ void look_up(const T* table, int rows, int cols, const unsigned* ids, const unsigned* chosen,
                                        float scale, int parts, float* out) {
    grid_wait();
    grid_release();
    size_t i = blockIdx.x / parts;
    int at = 4 * (blockIdx.x % parts * blockDim.x + threadIdx.x);
    if (at >= cols) return;
    size_t id = ids[i];
    if (chosen && id - CHOSEN < MOST_CHOSEN) id = chosen[id - CHOSEN];
    float nan = __uint_as_float(0x7fc00000u);
    float4 v = {nan, nan, nan, nan};
    if (id < static_cast<size_t>(rows)) v = widen4(table + id * cols, at, cols);
    if (scale != 1.f) {
        v = make_float4(__fmul_rn(v.x, scale), __fmul_rn(v.y, scale), __fmul_rn(v.z, scale), __fmul_rn(v.w, scale));
    }
    store4(out + i * cols, at, cols, v);
}

#define KERNEL(NAME, T)                                                                                          \
    extern "C" __global__ void NAME(const T* table, int rows, int cols, const unsigned* ids, const unsigned* chosen, \
                                    float scale, int parts, float* out) {                                        \
        look_up<T>(table, rows, cols, ids, chosen, scale, parts, out);                                                   \
    }
KERNEL(look_up_f32, float)
KERNEL(look_up_f16, Half)
KERNEL(look_up_bf16, Brain)

// x[i] += table[ids[i] + offset]; NaN where the table has no such row.
template <class T>
__device__ __forceinline__ void add_looked_up(const T* table, int rows, int cols, const unsigned* ids, int offset,
                                              int parts, float* x) {
    grid_wait();
    grid_release();
    size_t i = blockIdx.x / parts;
    int at = 4 * (blockIdx.x % parts * blockDim.x + threadIdx.x);
    if (at >= cols) return;
    size_t id = static_cast<size_t>(ids[i]) + offset;
    float nan = __uint_as_float(0x7fc00000u);
    float4 v = {nan, nan, nan, nan};
    if (id < static_cast<size_t>(rows)) v = widen4(table + id * cols, at, cols);
    float4 y = load4(x + i * cols, at, cols);
    store4(x + i * cols, at, cols,
           make_float4(__fadd_rn(y.x, v.x), __fadd_rn(y.y, v.y), __fadd_rn(y.z, v.z), __fadd_rn(y.w, v.w)));
}

#define ADD_KERNEL(NAME, T)                                                                                         \
    extern "C" __global__ void NAME(const T* table, int rows, int cols, const unsigned* ids, int offset, int parts, \
                                    float* x) {                                                                     \
        add_looked_up<T>(table, rows, cols, ids, offset, parts, x);                                                 \
    }
ADD_KERNEL(add_positions_f32, float)
ADD_KERNEL(add_positions_f16, Half)
ADD_KERNEL(add_positions_bf16, Brain)

// Rows lie one after the other: their ends do not matter here.
extern "C" __global__ void __launch_bounds__(256) add_rows(float* x, const float* y, int rows, int cols) {
    size_t n = static_cast<size_t>(rows) * cols, quads = n / 4;
    size_t at = static_cast<size_t>(blockIdx.x) * (4 * blockDim.x) + threadIdx.x;
    grid_wait();
    grid_release();
    float4* to = reinterpret_cast<float4*>(x);
    const float4* from = reinterpret_cast<const float4*>(y);
    float4 a[4], b[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        size_t quad = at + i * blockDim.x;
        if (quad < quads) a[i] = to[quad], b[i] = from[quad];
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        size_t quad = at + i * blockDim.x;
        if (quad < quads) {
            to[quad] = make_float4(a[i].x + b[i].x, a[i].y + b[i].y, a[i].z + b[i].z, a[i].w + b[i].w);
        }
    }
    size_t rest = 4 * quads + threadIdx.x;
    if (blockIdx.x == 0 && rest < n) x[rest] += y[rest];
}
