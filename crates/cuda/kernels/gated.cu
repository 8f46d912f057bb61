// Gates: act(gate) * up, and its codes, nearly to the last bit of the definition: codes must not flip.
#include "nonlinearity.cuh"
#include "wide_row.cuh"

template <int ACT>
__device__ __forceinline__ float4 gate4(float4 gate, float4 up) {
    return make_float4(__fmul_rn(activate<ACT>(gate.x), up.x), __fmul_rn(activate<ACT>(gate.y), up.y),
                       __fmul_rn(activate<ACT>(gate.z), up.z), __fmul_rn(activate<ACT>(gate.w), up.w));
}

// A row's gates and ups are multiples of 4 apart only if f is; `load4` reads one by one otherwise.
template <int ACT>
__device__ __forceinline__ void plain(const float* gate_up, int f, int parts, float* out) {
    grid_wait();
    grid_release();
    size_t row = blockIdx.x / parts;
    int chunk = blockIdx.x % parts * blockDim.x + threadIdx.x;
    if (4 * chunk >= f) return;
    const float* gate = gate_up + row * 2 * f;
    float4 value = gate4<ACT>(load4(gate, 4 * chunk, f), load4(gate + f, 4 * chunk, f));
    store4(out + row * f, 4 * chunk, f, value);
}

extern "C" __global__ void gated_silu(const float* gate_up, int f, int parts, float* out) {
    plain<SILU>(gate_up, f, parts, out);
}

extern "C" __global__ void gated_gelu(const float* gate_up, int f, int parts, float* out) {
    plain<GELU_TANH>(gate_up, f, parts, out);
}

extern "C" __global__ void gated_gelu_erf(const float* gate_up, int f, int parts, float* out) {
    plain<GELU>(gate_up, f, parts, out);
}

extern "C" __global__ void gated_relu(const float* gate_up, int f, int parts, float* out) {
    plain<RELU>(gate_up, f, parts, out);
}

template <int VECS, int ACT>
__device__ __forceinline__ void quantized(const float* gate_up, int f, int kind, float fixed, unsigned char* codes, float* scales) {
    grid_wait();
    grid_release();
    size_t row = blockIdx.x;
    const float* gate = gate_up + row * 2 * f;
    auto load = [&](int chunk) { return load4(gate, 4 * chunk, width_of<VECS>(f)); };
    auto load_up = [&](int chunk) { return load4(gate + f, 4 * chunk, width_of<VECS>(f)); };
    auto product = [&](int chunk) { return gate4<ACT>(load(chunk), load_up(chunk)); };
    float4 kept[VECS ? VECS : 1];
    if (VECS) {
        float4 ups[VECS ? VECS : 1];
        each_chunk<VECS>((f + 3) / 4, [&](int i, int chunk) { kept[i] = load(chunk), ups[i] = load_up(chunk); });
        each_chunk<VECS>((f + 3) / 4, [&](int i, int chunk) { kept[i] = gate4<ACT>(kept[i], ups[i]); });
    }
    auto value = [&](int i, int chunk) { return VECS ? kept[i] : product(chunk); };
    quantize_row<VECS>(value, f, kind, fixed, codes + row * f, scales + row);
}

#define KERNEL(VECS, ACT, NAME)                                                                              \
    extern "C" __global__ void __launch_bounds__(1024, BLOCKS_OF(VECS)) gated_quantize_##NAME##_##VECS(      \
        const float* gate_up, int f, int kind, float fixed, unsigned char* codes, float* scales) {                        \
        quantized<VECS, ACT>(gate_up, f, kind, fixed, codes, scales);                                               \
    }
KERNEL(0, SILU, silu)
KERNEL(1, SILU, silu)
KERNEL(4, SILU, silu)
KERNEL(8, SILU, silu)
KERNEL(0, GELU_TANH, gelu)
KERNEL(1, GELU_TANH, gelu)
KERNEL(4, GELU_TANH, gelu)
KERNEL(8, GELU_TANH, gelu)

template <int ACT>
struct Gate {
    using Element = float;
    static constexpr int OPERANDS = 2;

    __device__ __forceinline__ float4 operator()(const float4 (&x)[2]) const { return gate4<ACT>(x[0], x[1]); }
};

SPREAD(gated_quantize_silu_spread, Gate<SILU>)
SPREAD(gated_quantize_gelu_spread, Gate<GELU_TANH>)
STREAM(gated_quantize_silu_stream, Gate<SILU>)
STREAM(gated_quantize_gelu_stream, Gate<GELU_TANH>)
