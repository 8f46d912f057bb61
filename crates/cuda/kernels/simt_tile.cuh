// One block's tile of a product by plain instructions: fused multiply-adds in f32, or sums of four 8-bit products.
// Words (an f32, or four codes) stand in shared memory by k; a thread has 8 rows and 8 tokens. A sum's terms are added
// in ascending k, so that f32 products equal the reference's bit for bit.
#pragma once
#include "dependency.cuh"
#include "floats.cuh"

// Four words of an operand: `count` elements are left from `p` on, and `aligned` says that whole quads may be read.
template <class From> struct Floats {
    typedef From Element;
    typedef float Word;
    typedef float Sum;
    static constexpr int PER_WORD = 1;
    static __device__ __forceinline__ void read(const From* p, int count, bool aligned, float (&v)[4]) {
        if (aligned && count >= 4) {
            if constexpr (sizeof(From) == 4) {
                float4 q = *(const float4*)p;
                v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
            } else {
                uint2 q = *(const uint2*)p;
                v[0] = widened(From{(u16)q.x}), v[1] = widened(From{(u16)(q.x >> 16)});
                v[2] = widened(From{(u16)q.y}), v[3] = widened(From{(u16)(q.y >> 16)});
            }
            return;
        }
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = i < count ? widened(p[i]) : 0.0f;
    }
    static __device__ __forceinline__ void add(float& sum, float a, float b) { sum = fmaf(a, b, sum); }
};
struct Codes {
    typedef u8 Element;
    typedef int Word;
    typedef int Sum;
    static constexpr int PER_WORD = 4;
    static __device__ __forceinline__ void read(const u8* p, int count, bool aligned, int (&v)[4]) {
        if (aligned && count >= 16) {
            int4 q = *(const int4*)p;
            v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
            return;
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            u32 word = 0;
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (4 * i + j < count) word |= (u32)p[4 * i + j] << (8 * j);
            v[i] = (int)word;
        }
    }
    static __device__ __forceinline__ void add(int& sum, int a, int b) { sum = __dp4a(a, b, sum); }
};

// A warp has 64 rows and 32 tokens.
template <int ROW_WARPS_, int TOKEN_WARPS_> struct PlainTile {
    static constexpr int ROW_WARPS = ROW_WARPS_, TOKEN_WARPS = TOKEN_WARPS_;
    static constexpr int THREADS = 32 * ROW_WARPS * TOKEN_WARPS, ROWS = 64 * ROW_WARPS, TOKENS = 32 * TOKEN_WARPS;
    static constexpr int WORDS = 16;
};

// An operand's share of a stage: quads of words, a thread's in neighbouring rows.
template <class Kind, int ROWS, class T> struct Quads {
    static constexpr int COUNT = ROWS * (T::WORDS / 4) / T::THREADS;
    typedef typename Kind::Element Element;
    const Element* from;
    int rows, k;
    bool aligned;
    typename Kind::Word held[COUNT][4];
    __device__ __forceinline__ Quads(const void* matrix, int first, int all, int k_)
        : from((const Element*)matrix + (long long)first * k_), rows(all - first), k(k_),
          aligned(k_ % (4 * Kind::PER_WORD) == 0) {}
    __device__ __forceinline__ void fetch(int stage) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const int at = (int)threadIdx.x + i * T::THREADS, row = at % ROWS, quad = at / ROWS;
            const int column = (stage * T::WORDS + quad * 4) * Kind::PER_WORD;
#pragma unroll
            for (int j = 0; j < 4; j++) held[i][j] = 0;
            if (row < rows && column < k) Kind::read(from + (long long)row * k + column, k - column, aligned, held[i]);
        }
    }
    __device__ __forceinline__ void put(typename Kind::Word (*stage)[ROWS + 4]) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const int at = (int)threadIdx.x + i * T::THREADS, row = at % ROWS, quad = at / ROWS;
#pragma unroll
            for (int j = 0; j < 4; j++) stage[quad * 4 + j][row] = held[i][j];
        }
    }
};

template <class Word> __device__ __forceinline__ void read_four(const Word* p, Word (&v)[8], int at) {
    int4 q = *(const int4*)p;
    const Word* words = (const Word*)&q;
#pragma unroll
    for (int i = 0; i < 4; i++) v[at + i] = words[i];
}

// Calls `out(row, token, c)` as tensor_core_product does.
template <class WeightKind, class TokenKind, class T, class Out>
__device__ __forceinline__ void plain_product(const void* w, const void* x, int t, int n, int k, Out out) {
    typedef typename WeightKind::Word Word;
    typedef typename WeightKind::Sum Sum;
    __shared__ __align__(16) Word weight_stage[2][T::WORDS][T::ROWS + 4];
    __shared__ __align__(16) Word token_stage[2][T::WORDS][T::TOKENS + 4];
    const int token_tiles = (t + T::TOKENS - 1) / T::TOKENS;
    const int first_token = (int)blockIdx.x % token_tiles * T::TOKENS, first_row = (int)blockIdx.x / token_tiles * T::ROWS;
    Quads<WeightKind, T::ROWS, T> weights(w, first_row, n, k);
    Quads<TokenKind, T::TOKENS, T> tokens(x, first_token, t, k);
    const int stage_width = T::WORDS * WeightKind::PER_WORD, count = (k + stage_width - 1) / stage_width;
    weights.fetch(0);
    grid_wait();
    grid_release();
    tokens.fetch(0);
    weights.put(weight_stage[0]);
    tokens.put(token_stage[0]);

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // Rows r..r+3 and r+8..r+11: gate and up of a channel meet in one thread.
    const int row = warp % T::ROW_WARPS * 64 + lane % 8 / 2 * 16 + lane % 2 * 4;
    const int token = warp / T::ROW_WARPS * 32 + lane / 8 * 4;
    Sum sums[8][8] = {};
    for (int i = 0; i < count; i++) {
        __syncthreads();
        if (i + 1 < count) {
            weights.fetch(i + 1);
            tokens.fetch(i + 1);
        }
#pragma unroll
        for (int word = 0; word < T::WORDS; word++) {
            Word a[8], b[8];
            read_four(&weight_stage[i % 2][word][row], a, 0);
            read_four(&weight_stage[i % 2][word][row + 8], a, 4);
            read_four(&token_stage[i % 2][word][token], b, 0);
            read_four(&token_stage[i % 2][word][token + 16], b, 4);
#pragma unroll
            for (int r = 0; r < 8; r++)
#pragma unroll
                for (int c = 0; c < 8; c++) WeightKind::add(sums[r][c], a[r], b[c]);
        }
        if (i + 1 < count) {
            weights.put(weight_stage[(i + 1) % 2]);
            tokens.put(token_stage[(i + 1) % 2]);
        }
    }
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
        for (int c = 0; c < 8; c += 2) {
            const Sum four[4] = {sums[r][c], sums[r][c + 1], sums[r + 4][c], sums[r + 4][c + 1]};
            out(first_row + row + r, first_token + token + c / 4 * 16 + c % 4, four);
        }
}
