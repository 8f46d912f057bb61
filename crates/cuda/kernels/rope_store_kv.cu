// Rotates q and k of each token and stores k and v in the pages; a warp takes one head of a token after another.
// q may go to a place of its own, rounded to 16 bits as attention would: what is in qkv then stays as it was.
#include "dependency.cuh"
#include "rope_head.cuh"

// One head. Channels of a lane: PASSES groups of N, 32 groups apart.
template <int N, int PASSES>
__device__ __forceinline__ void one_head(const HeadArguments& a, int token, int head) {
    int lane = threadIdx.x & 31, heads = a.nq + 2 * a.nkv;
    float* row = a.qkv + ((size_t)token * heads + head) * a.d;
    bool rotates = a.cos_sin && head < a.nq + a.nkv, stores = head >= a.nq, rounds = a.queries && !stores;
    if (!rotates && !stores && !rounds) return;
    Group<N> x[PASSES];
#pragma unroll
    for (int i = 0; i < PASSES; i++) {
        int c = (i * 32 + lane) * N;
        if (c < a.d) x[i].load(row + c);
    }
    if (rotates) {
        Group<N> turned[PASSES];
        unsigned position = a.positions[token];
#pragma unroll
        for (int i = 0; i < PASSES; i++) {
            int c = (i * 32 + lane) * N;
            if (c >= a.d) continue;
            Angles<N> angles;
            angles.load(a, position, c);
            turned[i] = rotated(a, x[i], angles, row, 0, c);
        }
        __syncwarp(); // every lane has read what it needs
#pragma unroll
        for (int i = 0; i < PASSES; i++) {
            int c = (i * 32 + lane) * N;
            if (c < a.d && !a.queries) turned[i].store(row + c);
            x[i] = turned[i];
        }
    }
    if (rounds) store_query(a, x, head, token);
    if (stores) store_vector(a, x, head, a.slots[token]);
}

#define ROPE(NAME, N, PASSES)                                                                                         \
    extern "C" __global__ void __launch_bounds__(128) NAME(                                                           \
        float* qkv, unsigned short* queries, const float* cos_sin, const unsigned* header, const unsigned* positions, \
        const unsigned* slots, void* k, void* v, float* k_scales, float* v_scales, int nq, int nkv, int d, int half,  \
        int interleaved, int kv_type, float k_fixed, float v_fixed) {                                                 \
        const HeadArguments a = {qkv,      queries, cos_sin, header, positions, slots,       k,       v,       k_scales, \
                                 v_scales, nq,      nkv,     d,      half,      interleaved, kv_type, k_fixed, v_fixed}; \
        grid_wait();                                                                                                  \
        grid_release();                                                                                               \
        int warps = blockDim.x >> 5, first = blockIdx.y * warps + (threadIdx.x >> 5);                                 \
        int heads = k ? nq + 2 * nkv : nq; /* without a cache q alone is rounded */                                   \
        for (int head = first; head < heads; head += gridDim.y * warps) one_head<N, PASSES>(a, blockIdx.x, head);     \
    }

// d is a multiple of 4, and so is half unless pairs are neighbours.
ROPE(rope_store_kv_128, 4, 1)
ROPE(rope_store_kv_256, 4, 2)
// Any d up to 256.
ROPE(rope_store_kv_any, 1, 8)
