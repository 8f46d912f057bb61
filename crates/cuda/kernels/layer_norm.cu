// The norm of rows about their mean: a block for each. Sums are in f64, so that the order of a sum does not show.
#include "row.cuh"

extern "C" __global__ void __launch_bounds__(1024)
layer_norm(const float* x, const float* weight, const float* bias, float eps, int h, float* out) {
    __shared__ double sums[32], squares[32];
    grid_wait();
    grid_release();
    size_t row = blockIdx.x;
    x += row * h, out += row * h;
    double sum = 0.0, square = 0.0;
    for (int i = threadIdx.x; i < h; i += blockDim.x) sum += x[i];
    float mean = __double2float_rn(block_sum(sum, sums) / h);
    for (int i = threadIdx.x; i < h; i += blockDim.x) {
        double apart = __fsub_rn(x[i], mean);
        square = fma(apart, apart, square);
    }
    float variance = __double2float_rn(block_sum(square, squares) / h);
    float factor = __fdiv_rn(1.f, __fsqrt_rn(__fadd_rn(variance, eps)));
    for (int i = threadIdx.x; i < h; i += blockDim.x) {
        out[i] = __fadd_rn(__fmul_rn(__fmul_rn(__fsub_rn(x[i], mean), factor), weight[i]), bias[i]);
    }
}
