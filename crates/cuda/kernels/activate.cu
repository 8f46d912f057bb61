// Nonlinearities of MLPs without a gate, by element.
#include "dependency.cuh"
#include "nonlinearity.cuh"

template <int ACT>
__device__ __forceinline__ void each(const float* x, long long n, float* out) {
    grid_wait();
    grid_release();
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (long long)blockDim.x) {
        out[i] = activate<ACT>(x[i]);
    }
}

#define KERNEL(NAME, ACT)                                                                               \
    extern "C" __global__ void __launch_bounds__(256) activate_##NAME(const float* x, int rows, int cols, float* out) { \
        each<ACT>(x, (long long)rows * cols, out);                                                      \
    }
KERNEL(silu, SILU)
KERNEL(gelu, GELU_TANH)
KERNEL(gelu_erf, GELU)
KERNEL(relu, RELU)
