// Gates: act(gate) * up, and its codes, nearly to the last bit of the definition: codes must not flip.
#include "row.cuh"

enum Act { SILU = 0, GELU_TANH = 1 };

// x / (1 + exp(-u)). The quotient is corrected once after a reciprocal that is exact but for its last bit.
__device__ __forceinline__ float sigmoid_product(float x, float u) {
    float d = __fadd_rn(1.f, expf(-u)), r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(d));
    r = fmaf(fmaf(-d, r, 1.f), r, r);
    float q = __fmul_rn(x, r);
    q = fmaf(fmaf(-q, d, x), r, q);
    // Beyond, the reciprocal is 0 and its correction no number; -infinity and NaN must stay NaN.
    return d < 0x1p126f ? q : __fmul_rn(x, 0.f);
}

template <int ACT>
__device__ __forceinline__ float activate(float x) {
    if (ACT == SILU) return sigmoid_product(x, x);
    // sqrt(2 / pi) (x + 0.044715 x x x), rounded after every step as the definition is, the root too.
    float cube = __fmul_rn(__fmul_rn(__fmul_rn(0.044715f, x), x), x);
    float u = __fmul_rn(0.79788452f, __fadd_rn(x, cube));
    return sigmoid_product(x, __fmul_rn(2.f, u));
}

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

template <int VECS, int ACT>
__device__ __forceinline__ void quantized(const float* gate_up, int f, int kind, unsigned char* codes, float* scales) {
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
    quantize_row<VECS>(value, f, kind, codes + row * f, scales + row);
}

#define KERNEL(VECS, ACT, NAME)                                                                              \
    extern "C" __global__ void __launch_bounds__(1024, BLOCKS_OF(VECS)) gated_quantize_##NAME##_##VECS(      \
        const float* gate_up, int f, int kind, unsigned char* codes, float* scales) {                        \
        quantized<VECS, ACT>(gate_up, f, kind, codes, scales);                                               \
    }
KERNEL(0, SILU, silu)
KERNEL(1, SILU, silu)
KERNEL(2, SILU, silu)
KERNEL(8, SILU, silu)
KERNEL(0, GELU_TANH, gelu)
KERNEL(1, GELU_TANH, gelu)
KERNEL(2, GELU_TANH, gelu)
KERNEL(8, GELU_TANH, gelu)

// A cluster for each row, which is cut into BLOCKS parts of `part` chunks; each thread has one. For few rows, and for
// such wide ones that a block alone would fill a multiprocessor.
constexpr int BLOCKS = 8;

template <int ACT>
__device__ __forceinline__ void spread(const float* gate_up, int f, int part, int kind, unsigned char* codes, float* scales) {
    __shared__ unsigned slots[BLOCKS * 32];
    ClusterMax<BLOCKS> cluster_max{slots};
    cluster_max.begin();
    grid_wait();
    grid_release();
    size_t row = blockIdx.x / BLOCKS;
    int first = cluster_max.rank() * part, chunks = min(part, f / 4 - first);
    const float* gate = gate_up + row * 2 * f + 4 * first;
    float4 kept = {};
    if (static_cast<int>(threadIdx.x) < chunks) {
        kept = gate4<ACT>(load4(gate, 4 * threadIdx.x, 4), load4(gate + f, 4 * threadIdx.x, 4));
    }
    float scale = token_scale(cluster_max(magnitude4(kept)), kind);
    if (first == 0 && threadIdx.x == 0) scales[row] = scale;
    auto value = [&](int, int) { return kept; };
    encode_row<1>(value, 4 * max(chunks, 0), scale, kind, codes + row * f + 4 * first, blockDim.x);
}

#define SPREAD(ACT, NAME)                                                                                 \
    extern "C" __global__ void CLUSTER_OF(BLOCKS) __launch_bounds__(1024) gated_quantize_##NAME##_spread( \
        const float* gate_up, int f, int part, int kind, unsigned char* codes, float* scales) {           \
        spread<ACT>(gate_up, f, part, kind, codes, scales);                                               \
    }
SPREAD(SILU, silu)
SPREAD(GELU_TANH, gelu)

// A block for each multiprocessor takes row after row. One warp keeps a ring of pieces in shared memory filled, so that
// memory is read while rows are reduced and encoded; the others have four columns of each piece.
constexpr int STAGES = 6, MOST_TURNS = 8;

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
__device__ __forceinline__ void await(unsigned barrier, unsigned parity) {
    asm volatile(
        "{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra AGAIN;\n}" ::"r"(
            barrier),
        "r"(parity)
        : "memory");
}

__device__ __forceinline__ void copy_bulk(unsigned to, const float* from, unsigned bytes, unsigned barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier)
                 : "memory");
}

struct Ring {
    unsigned full, empty, data, stage, parity;  // addresses in shared memory, and the turn

    __device__ __forceinline__ void next() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};

__device__ __forceinline__ void fill(Ring ring, const float* gate_up, int rows, int f, int width) {
    for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
        const float* gate = gate_up + row * 2 * f;
        for (int first = 0; first < f; first += width, ring.next()) {
            unsigned bytes = 4 * min(width, f - first), full = ring.full + 8 * ring.stage;
            await(ring.empty + 8 * ring.stage, ring.parity ^ 1);
            asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(full), "r"(2 * bytes) : "memory");
            unsigned to = ring.data + ring.stage * 8 * width;
            copy_bulk(to, gate + first, bytes, full);
            copy_bulk(to + 4 * width, gate + f + first, bytes, full);
        }
    }
}

template <int ACT>
__device__ __forceinline__ void drain(Ring ring, const float4* data, int rows, int f, int width, int kind,
                                      unsigned char* codes, float* scales) {
    __shared__ unsigned largest[2][32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = width / 128;
    unsigned side = 0;
    for (size_t row = blockIdx.x; row < rows; row += gridDim.x, side ^= 1) {
        float4 kept[MOST_TURNS];
        unsigned most = 0;
#pragma unroll
        for (int i = 0; i < MOST_TURNS; i++) {
            if (i * width >= f) continue;
            await(ring.full + 8 * ring.stage, ring.parity);
            const float4* from = data + ring.stage * (width / 2) + threadIdx.x;
            float4 gate = from[0], up = from[width / 4];
            __syncwarp();
            if (lane == 0) {
                asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(ring.empty + 8 * ring.stage) : "memory");
            }
            ring.next();
            kept[i] = gate4<ACT>(gate, up);
            if (i * width + 4 * static_cast<int>(threadIdx.x) < f) most = max(most, magnitude4(kept[i]));
        }
        most = warp_max(most);
        if (lane == 0) largest[side][warp] = most;
        asm volatile("bar.sync 1, %0;" ::"r"(32 * warps) : "memory");
        float scale = token_scale(warp_max(lane < warps ? largest[side][lane] : 0), kind);
        if (threadIdx.x == 0) scales[row] = scale;
        auto value = [&](int i, int) { return kept[i]; };
        encode_row<MOST_TURNS>(value, f, scale, kind, codes + row * f, width / 4);
    }
}
#endif

template <int ACT>
__device__ __forceinline__ void stream(const float* gate_up, int rows, int f, int width, int kind, unsigned char* codes,
                                       float* scales) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    extern __shared__ float4 data[];
    __shared__ unsigned long long full[STAGES], empty[STAGES];
    auto address = [](const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); };
    Ring ring = {address(full), address(empty), address(data), 0, 0};
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(ring.full + 8 * i) : "memory");
            asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(ring.empty + 8 * i), "r"(width / 128) : "memory");
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();
    grid_wait();
    grid_release();
    if (4 * static_cast<int>(threadIdx.x) < width) {
        drain<ACT>(ring, data, rows, f, width, kind, codes, scales);
    } else if (threadIdx.x % 32 == 0) {
        fill(ring, gate_up, rows, f, width);
    }
#endif
}

// width: columns of a piece, a multiple of 128: four for each thread but those of the last warp.
#define STREAM(ACT, NAME)                                                                                        \
    extern "C" __global__ void __launch_bounds__(1024) gated_quantize_##NAME##_stream(                          \
        const float* gate_up, int rows, int f, int width, int kind, unsigned char* codes, float* scales) {       \
        stream<ACT>(gate_up, rows, f, width, kind, codes, scales);                                               \
    }
STREAM(SILU, silu)
STREAM(GELU_TANH, gelu)
