// 128 columns that must be found one after the other, each from all before it: a thread walks along one row, 32 columns
// at a time in registers, against a triangular 128 x 128 block of coefficients that all rows share.
#pragma once

constexpr int STEP = 32;           // columns in registers
constexpr int PANEL_ROWS = 64;     // rows, and threads, of a block
constexpr int PANEL_STRIDE = STEP + 4;

// Coefficients of columns [to, to + 32) with respect to columns [0, to + 32), transposed: `memory[from][column]`.
__device__ __forceinline__ void panel_coefficients(const float* block, size_t ld, int to, float (*memory)[PANEL_STRIDE]) {
    __syncthreads();
    for (int i = threadIdx.x; i < STEP * (to + STEP) / 4; i += PANEL_ROWS) {
        int column = i % STEP, from = i / STEP * 4;
        float4 v = *(const float4*)(block + (size_t)(to + column) * ld + from);
#pragma unroll
        for (int j = 0; j < 4; j++) memory[from + j][column] = (&v.x)[j];
    }
    __syncthreads();
}

// `row[c] += sign * sum over from < to of found[from] * coefficient[from][c]`, for 32 columns from `to`.
template <int SIGN>
__device__ __forceinline__ void panel_before(const float* found, int to, const float (*memory)[PANEL_STRIDE],
                                             float (&row)[STEP]) {
    for (int from = 0; from < to; from += 4) {
        float4 e4 = *(const float4*)(found + from);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float e = SIGN * (&e4.x)[j];
#pragma unroll
            for (int c = 0; c < STEP; c += 4) {
                float4 m = *(const float4*)&memory[from + j][c];
                row[c] += e * m.x;
                row[c + 1] += e * m.y;
                row[c + 2] += e * m.z;
                row[c + 3] += e * m.w;
            }
        }
    }
}

// The same for the columns after `c`, from the one column `c` of these 32.
template <int SIGN>
__device__ __forceinline__ void panel_after(float found, int c, const float* coefficients, float (&row)[STEP]) {
    float e = SIGN * found;
#pragma unroll
    for (int to = 0; to < STEP; to++)
        if (to > c) row[to] += e * coefficients[to];
}

__device__ __forceinline__ void load_row(const float* from, float (&row)[STEP]) {
#pragma unroll
    for (int c = 0; c < STEP; c += 4) *(float4*)&row[c] = *(const float4*)(from + c);
}

__device__ __forceinline__ void store_row(const float (&row)[STEP], float* to) {
#pragma unroll
    for (int c = 0; c < STEP; c += 4) *(float4*)(to + c) = *(const float4*)&row[c];
}
