// Attention in f32 fused multiply-adds: caches of F32, heads of any width up to 256, and GPUs without bf16 tensor
// cores. Four warps of four query rows; a lane has a key for the scores, and channels for the output.
#include "attention.cuh"

enum KvType { KV_F32 = 0, KV_BF16 = 1, KV_I8 = 2, KV_E4M3 = 3 };

constexpr int STEP = 32; // keys in shared memory at a time

__device__ __forceinline__ float element(const void* from, size_t i, int type) {
    if (type == KV_F32) return ((const float*)from)[i];
    if (type == KV_BF16) return __uint_as_float((unsigned)((const unsigned short*)from)[i] << 16);
    if (type == KV_I8) return (float)((const signed char*)from)[i];
    unsigned code = ((const unsigned char*)from)[i];
    // e4m3's exponent starts at -6, f32's at -126.
    return __fmul_rn(__uint_as_float((code & 0x80) << 24 | (code & 0x7F) << 20), 0x1p120f);
}

// CHANNELS of a lane: d is at most 32 times that.
template <int CHANNELS>
struct Plain {
    // Four rows of a warp.
    float o[4][CHANNELS], m[4], l[4];

    __device__ void clear() {
#pragma unroll
        for (int r = 0; r < 4; r++) {
            m[r] = NEVER;
            l[r] = 0.0f;
#pragma unroll
            for (int j = 0; j < CHANNELS; j++) o[r][j] = 0.0f;
        }
    }

    __device__ void merge(const Plain& later) {
#pragma unroll
        for (int r = 0; r < 4; r++) {
            float x, y;
            merge_factors(m[r], later.m[r], x, y);
            l[r] = merged(l[r], x, later.l[r], y);
#pragma unroll
            for (int j = 0; j < CHANNELS; j++) o[r][j] = merged(o[r][j], x, later.o[r][j], y);
        }
    }

    __device__ void write(const Attention& a, const Tile& tile, int index, int kv_head, int slot) const {
        int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
        for (int r = 0; r < 4; r++) {
            if (4 * warp + r >= tile.rows) continue;
            RowOf row = row_of(a, tile, kv_head, 4 * warp + r);
            size_t at = slot < 0 ? (size_t)row.token * a.nq + row.head : slot_of(a, index, kv_head, slot) + 4 * warp + r;
            if (slot >= 0 && lane == 0) a.part_ml[at] = make_float2(m[r], l[r]);
#pragma unroll
            for (int j = 0; j < CHANNELS; j++) {
                int c = lane + 32 * j;
                if (c >= a.d) continue;
                if (slot < 0) a.put(at * a.d + c, finished(o[r][j], l[r]));
                else a.part_o[at * a.d + c] = o[r][j];
            }
        }
    }

    // Brings the vectors of up to 32 keys to shared memory, rows of `pitch`, zeros where there is none.
    __device__ static void stage(
        const Attention& a, const Pages& pages, const Tile& tile, const void* from, int first, float* to, int pitch) {
        int lane = threadIdx.x & 31;
        for (int j = threadIdx.x >> 5; j < STEP; j += 4) {
            int key = first + j;
            bool some = key >= tile.lo && key < tile.hi;
            size_t at = some ? (size_t)pages.vector(key) * a.d : 0;
            for (int c = lane; c < pitch; c += 32) {
                to[j * pitch + c] = some && c < a.d ? element(from, at + c, a.kv_type) : 0.0f;
            }
        }
    }

    __device__ static void run(const Attention& a) {
        extern __shared__ __align__(16) float shared[];
        int even = (a.d + 3) & ~3, pitch = even + 1;
        float *q = shared, *p = q + 16 * even, *block = p + 16 * SEGMENT;
        __shared__ unsigned flags[16];
        int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, index = blockIdx.x, kv_head = blockIdx.y;
        grid_wait();
        Tile tile = find_tile(a, index, 16, kv_head);
        Run span(tile, a.splits, blockIdx.z);
        if (tile.rows == 0 || span.begin >= span.end) return grid_release();
        Pages pages(a, tile.seq, kv_head);
        RowOf row[4];
#pragma unroll
        for (int r = 0; r < 4; r++) {
            row[r] = row_of(a, tile, kv_head, 4 * warp + r);
            const float* from = a.qkv + (size_t)row[r].token * (a.nq + 2 * a.nkv) * a.d + row[r].head * a.d;
            bool some = 4 * warp + r < tile.rows;
            for (int c = lane; c < even; c += 32) q[(4 * warp + r) * even + c] = some && c < a.d ? from[c] : 0.0f;
        }
        Plain all, part;
        all.clear();
        for (int segment = span.begin; segment < span.end; segment++) {
            part.clear();
            float s[4][4], v_scale[4];
#pragma unroll
            for (int step = 0; step < 4; step++) {
                int first = segment * SEGMENT + step * STEP, key = first + lane;
                v_scale[step] = 1.0f;
#pragma unroll
                for (int r = 0; r < 4; r++) s[step][r] = NEVER;
                if (first >= tile.hi || first + STEP <= tile.lo) continue;
                __syncthreads();
                stage(a, pages, tile, a.k, first, block, pitch);
                __syncthreads();
                float dot[4] = {};
                for (int c = 0; c < even; c += 4) {
                    float k[4];
#pragma unroll
                    for (int i = 0; i < 4; i++) k[i] = block[lane * pitch + c + i];
#pragma unroll
                    for (int r = 0; r < 4; r++) {
                        float4 x = *(const float4*)(q + (4 * warp + r) * even + c);
                        dot[r] = __fmaf_rn(x.x, k[0], dot[r]);
                        dot[r] = __fmaf_rn(x.y, k[1], dot[r]);
                        dot[r] = __fmaf_rn(x.z, k[2], dot[r]);
                        dot[r] = __fmaf_rn(x.w, k[3], dot[r]);
                    }
                }
                float k_scale = 1.0f;
                if (a.k_scales && key >= tile.lo && key < tile.hi) {
                    unsigned vector = pages.vector(key);
                    k_scale = a.k_scales[vector];
                    v_scale[step] = a.v_scales[vector];
                }
#pragma unroll
                for (int r = 0; r < 4; r++) {
                    float x = __fmul_rn(dot[r], __fmul_rn(k_scale, a.scale));
                    if (a.softcap != 0.0f) x = __fmul_rn(tanhf(__fdiv_rn(x, a.softcap)), a.softcap);
                    s[step][r] = key >= row[r].start && key < row[r].end ? __fmul_rn(x, LOG2_E) : NEVER;
                }
            }
#pragma unroll
            for (int r = 0; r < 4; r++) {
                float most = fmaxf(fmaxf(s[0][r], s[1][r]), fmaxf(s[2][r], s[3][r])), sum = 0.0f;
                for (int i = 16; i; i /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, i));
                float base = most == NEVER ? 0.0f : most;
                part.m[r] = most;
#pragma unroll
                for (int step = 0; step < 4; step++) {
                    float w = exp2f(__fsub_rn(s[step][r], base));
                    sum = __fadd_rn(sum, w);
                    p[(4 * warp + r) * SEGMENT + step * STEP + lane] = __fmul_rn(w, v_scale[step]);
                }
                for (int i = 16; i; i /= 2) sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, i));
                part.l[r] = sum;
            }
            for (int step = 0; step < 4; step++) {
                int first = segment * SEGMENT + step * STEP;
                if (first >= tile.hi || first + STEP <= tile.lo) continue;
                __syncthreads();
                stage(a, pages, tile, a.v, first, block, pitch);
                __syncthreads();
                part.add_values(p + 4 * warp * SEGMENT + step * STEP, block, pitch, row, first);
            }
            if (blockIdx.z == 0) {
                all.merge(part);
            } else {
                part.write(a, tile, index, kv_head, segment - span.end_of_first + 1);
            }
        }
        grid_release();
        if (blockIdx.z == 0) all.write(a, tile, index, kv_head, span.active > 1 ? 0 : -1);
        finish_tile(a, index, tile, kv_head, span, flags);
    }

    // Only the keys that a row sees are added to it.
    __device__ void add_values(const float* p, const float* block, int pitch, const RowOf (&row)[4], int first) {
        int lane = threadIdx.x & 31;
        bool whole = true;
#pragma unroll
        for (int r = 0; r < 4; r++) whole &= row[r].start <= first && row[r].end >= first + STEP;
        for (int j = 0; j < STEP; j++) {
            float v[CHANNELS];
#pragma unroll
            for (int i = 0; i < CHANNELS; i++) v[i] = lane + 32 * i < pitch ? block[j * pitch + lane + 32 * i] : 0.0f;
#pragma unroll
            for (int r = 0; r < 4; r++) {
                if (!whole && (first + j < row[r].start || first + j >= row[r].end)) continue;
                float w = p[r * SEGMENT + j];
#pragma unroll
                for (int i = 0; i < CHANNELS; i++) o[r][i] = __fmaf_rn(w, v[i], o[r][i]);
            }
        }
    }
};

#define PLAIN(CHANNELS)                                                                                               \
    extern "C" __global__ void __launch_bounds__(128) attention_plain_##CHANNELS(ATTENTION_PARAMETERS) {              \
        const Attention a = ATTENTION_ARGUMENTS;                                                                      \
        Plain<CHANNELS>::run(a);                                                                                      \
    }
PLAIN(2)
PLAIN(4)
PLAIN(8)
