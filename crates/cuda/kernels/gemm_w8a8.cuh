// What becomes of the unscaled sums of a W8A8 product: y = (sum * xs) * ws + bias, in this order and without fused
// multiply-adds, as the definition has it; stored, or gate and up joined.
#pragma once
#include "activation.cuh"
#include "floats.cuh"

// Stores of sums: rows as they are; rows of gate and up by turns of 8 put back in order, gate then up; or joined.
enum Mode { PLAIN = 0, WOVEN = 1, SILU = 2, GELU = 3 };
enum OutType { OUT_F32 = 0, OUT_BF16 = 1, OUT_F16 = 2 };

struct Scaled {
    const float *xs, *ws, *bias;
    void* out;
    int t, n, mode, type;

    __device__ __forceinline__ void store(long long at, float v) const {
        if (type == OUT_F32) ((float*)out)[at] = v;
        if (type == OUT_BF16) round_to(v, ((bf16*)out)[at]);
        if (type == OUT_F16) round_to(v, ((f16*)out)[at]);
    }
    __device__ __forceinline__ float channel_bias(int row) const { return bias ? bias[row] : 0.0f; }
    static __device__ __forceinline__ float scaled(float sum, float x, float w, float b) {
        return __fadd_rn(__fmul_rn(__fmul_rn(sum, x), w), b);
    }

    // Sums of rows `row` and `row + 8` for tokens `token` and `token + 1`. `row % 16 < 8` where rows go by turns.
    template <class Sum> __device__ __forceinline__ void operator()(int row, int token, const Sum (&c)[4]) const {
        if (row >= n || token >= t) return;
        const bool low_row = row + 8 < n, next_token = token + 1 < t;
        const float x0 = xs[token], x1 = next_token ? xs[token + 1] : 0.0f;
        const float w0 = ws[row], b0 = channel_bias(row);
        const float w1 = low_row ? ws[row + 8] : 0.0f, b1 = low_row ? channel_bias(row + 8) : 0.0f;
        const float upper0 = scaled((float)c[0], x0, w0, b0), upper1 = scaled((float)c[1], x1, w0, b0);
        const float lower0 = scaled((float)c[2], x0, w1, b1), lower1 = scaled((float)c[3], x1, w1, b1);
        if (mode >= SILU) {
            const long long at = (long long)token * (n / 2) + row / 16 * 8 + row % 8;
            store(at, __fmul_rn(activated(upper0, mode == GELU), lower0));
            if (next_token) store(at + n / 2, __fmul_rn(activated(upper1, mode == GELU), lower1));
            return;
        }
        const int column = mode == WOVEN ? row / 16 * 8 + row % 8 : row;
        const int below = mode == WOVEN ? n / 2 : 8;
        const long long at = (long long)token * n + column;
        store(at, upper0);
        if (low_row) store(at + below, lower0);
        if (next_token) {
            store(at + n, upper1);
            if (low_row) store(at + n + below, lower1);
        }
    }
};
