// A weight that is being changed on the device: widened to f32, its columns multiplied and its rows divided.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "dependency.cuh"

template <class From>
__device__ void widened(const From* from, float* to, long long count) {
    grid_wait();
    long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) to[i] = (float)from[i];
}

// `rows * columns` elements.
extern "C" __global__ void gptq_widen_bf16(const __nv_bfloat16* from, float* to, int rows, int columns) {
    widened(from, to, (long long)rows * columns);
}

extern "C" __global__ void gptq_widen_f16(const __half* from, float* to, int rows, int columns) {
    widened(from, to, (long long)rows * columns);
}

// w[i][j] * columns[j], or w[i][j] / rows[i]; the operand that is not there is null. A block a row.
extern "C" __global__ void gptq_scale(float* w, const float* columns, const float* rows, int k) {
    grid_wait();
    float* row = w + (size_t)blockIdx.x * k;
    float divisor = rows ? rows[blockIdx.x] : 1.f;
    for (int j = threadIdx.x; j < k; j += blockDim.x) {
        float value = row[j];
        if (columns) value = __fmul_rn(value, columns[j]);
        if (rows) value = __fdiv_rn(value, divisor);
        row[j] = value;
    }
}
