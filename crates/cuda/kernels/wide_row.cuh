// Rows that one block does not do well by: spread over a cluster of blocks, or streamed through a block that fetches
// ahead. A row of x is OPERANDS vectors of f elements one after the other, which `Combine` makes one of. From sm_90 on.
#pragma once
#include "row.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define CLUSTER_OF(n) __cluster_dims__(n, 1, 1)
#else
#define CLUSTER_OF(n)
#endif

// A reduction over the blocks of a cluster, for rows that are spread over several multiprocessors. Each warp hands its
// value to every block, so that one barrier is enough; `begin` is called at the kernel's start, as a block's shared memory
// may be written only once it runs. From sm_90 on.
template <int BLOCKS>
struct ClusterMax {
    unsigned (&slots)[BLOCKS * 32];

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    __device__ __forceinline__ void begin() const { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }

    __device__ __forceinline__ unsigned rank() const {
        unsigned rank;
        asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
        return rank;
    }

    // The largest of all threads' values, in every thread.
    __device__ __forceinline__ unsigned operator()(unsigned v) const {
        v = warp_max(v);
        unsigned lane = threadIdx.x % 32, warps = blockDim.x / 32;
        asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
        if (lane < BLOCKS) {
            unsigned own = static_cast<unsigned>(__cvta_generic_to_shared(slots + rank() * warps + threadIdx.x / 32)), to;
            asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(own), "r"(lane));
            asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(to), "r"(v) : "memory");
        }
        asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
        asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
        unsigned most = 0;
        for (unsigned i = lane; i < BLOCKS * warps; i += 32) most = max(most, slots[i]);
        return warp_max(most);
    }
#else
    __device__ __forceinline__ void begin() const {}
    __device__ __forceinline__ unsigned rank() const { return 0; }
    __device__ __forceinline__ unsigned operator()(unsigned v) const { return v; }
#endif
};

// A cluster for each row, which is cut into BLOCKS parts of `part` chunks; each thread has one. For few rows.
constexpr int BLOCKS = 8;

template <class Combine>
__device__ __forceinline__ void spread_rows(const typename Combine::Element* x, int f, int part, int kind, float fixed, unsigned char* codes, float* scales) {
    __shared__ unsigned slots[BLOCKS * 32];
    ClusterMax<BLOCKS> cluster_max{slots};
    cluster_max.begin();
    grid_wait();
    grid_release();
    size_t row = blockIdx.x / BLOCKS;
    int first = cluster_max.rank() * part, chunks = min(part, f / 4 - first);
    x += row * Combine::OPERANDS * f + 4 * first;
    float4 kept = {};
    if (static_cast<int>(threadIdx.x) < chunks) {
        float4 operands[Combine::OPERANDS];
#pragma unroll
        for (int o = 0; o < Combine::OPERANDS; o++) operands[o] = load4(x + static_cast<size_t>(o) * f, 4 * threadIdx.x, 4);
        kept = Combine()(operands);
    }
    float scale = token_scale(cluster_max(magnitude4(kept)), kind, fixed);
    if (first == 0 && threadIdx.x == 0) scales[row] = scale;
    auto value = [&](int, int) { return kept; };
    encode_row<1>(value, 4 * max(chunks, 0), scale, kind, fixed, codes + row * f + 4 * first, blockDim.x);
}

#define SPREAD(NAME, COMBINE)                                                                \
    extern "C" __global__ void CLUSTER_OF(BLOCKS) __launch_bounds__(1024)                    \
        NAME(const COMBINE::Element* x, int f, int part, int kind, float fixed, unsigned char* codes, float* scales) { \
        spread_rows<COMBINE>(x, f, part, kind, fixed, codes, scales);                               \
    }

// A block for each multiprocessor takes row after row. One warp keeps a ring of pieces in shared memory filled, so that
// memory is read while rows are reduced and encoded; the others have four columns of each piece.
constexpr int STAGES = 6, MOST_TURNS = 8;

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
__device__ __forceinline__ void await(unsigned barrier, unsigned parity) {
    asm volatile(
        "{\n.reg .pred done;\nAGAIN:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra AGAIN;\n}" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

__device__ __forceinline__ void copy_bulk(unsigned to, const void* from, unsigned bytes, unsigned barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier)
                 : "memory");
}

// Addresses in shared memory, and the turn.
struct Ring {
    unsigned full, empty, data, stage, parity;

    __device__ __forceinline__ void next() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};

template <int OPERANDS, class T>
__device__ __forceinline__ void fill(Ring ring, const T* x, int rows, int f, int width) {
    constexpr unsigned SIZE = sizeof(T);
    for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
        const T* from = x + row * OPERANDS * f;
        for (int first = 0; first < f; first += width, ring.next()) {
            unsigned bytes = SIZE * min(width, f - first), full = ring.full + 8 * ring.stage;
            await(ring.empty + 8 * ring.stage, ring.parity ^ 1);
            asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(full), "r"(OPERANDS * bytes)
                         : "memory");
            unsigned to = ring.data + ring.stage * OPERANDS * SIZE * width;
            for (int o = 0; o < OPERANDS; o++) {
                copy_bulk(to + o * SIZE * width, from + static_cast<size_t>(o) * f + first, bytes, full);
            }
        }
    }
}

template <class Combine>
__device__ __forceinline__ void drain(Ring ring, const void* data, int rows, int f, int width, int kind,
                                      float fixed, unsigned char* codes, float* scales) {
    using Four = typename Neighbours<typename Combine::Element>::Type;
    // In turns, so that a warp may be a row ahead.
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
            const Four* from = static_cast<const Four*>(data) + ring.stage * Combine::OPERANDS * (width / 4) + threadIdx.x;
            float4 operands[Combine::OPERANDS];
#pragma unroll
            for (int o = 0; o < Combine::OPERANDS; o++) operands[o] = widened4(from[o * (width / 4)]);
            __syncwarp();
            if (lane == 0) {
                asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(ring.empty + 8 * ring.stage) : "memory");
            }
            ring.next();
            // Past the end of a row lie pieces of earlier ones.
            kept[i] = Combine()(operands);
            if (i * width + 4 * static_cast<int>(threadIdx.x) < f) most = max(most, magnitude4(kept[i]));
        }
        most = warp_max(most);
        if (lane == 0) largest[side][warp] = most;
        asm volatile("bar.sync 1, %0;" ::"r"(32 * warps) : "memory");
        float scale = token_scale(warp_max(lane < warps ? largest[side][lane] : 0), kind, fixed);
        if (threadIdx.x == 0) scales[row] = scale;
        auto value = [&](int i, int) { return kept[i]; };
        encode_row<MOST_TURNS>(value, f, scale, kind, fixed, codes + row * f, width / 4);
    }
}
#endif

// width: columns of a piece, a multiple of 128: four for each thread but those of the last warp.
template <class Combine>
__device__ __forceinline__ void stream_rows(const typename Combine::Element* x, int rows, int f, int width, int kind,
                                            float fixed, unsigned char* codes, float* scales) {
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
        drain<Combine>(ring, data, rows, f, width, kind, fixed, codes, scales);
    } else if (threadIdx.x % 32 == 0) {
        fill<Combine::OPERANDS>(ring, x, rows, f, width);
    }
#endif
}

#define STREAM(NAME, COMBINE)                                                                            \
    extern "C" __global__ void __launch_bounds__(1024)                                                   \
        NAME(const COMBINE::Element* x, int rows, int f, int width, int kind, float fixed, unsigned char* codes,      \
             float* scales) {                                                                             \
        stream_rows<COMBINE>(x, rows, f, width, kind, fixed, codes, scales);                                    \
    }
