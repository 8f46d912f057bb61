// The rotation and storing of heads of 128 channels that rotate whole, in pairs (i, i + d / 2). A lane has four pairs: four
// neighbours of each half of a head; sixteen lanes have a head of a token. What the reference divides is multiplied by the
// inverse and corrected, and codes are made by the chip's conversions, to the same bits.
#pragma once
#include "dependency.cuh"
#include "floats.cuh"
#include "quotients.cuh"
#include "rope_head.cuh"

// Four neighbours of the first half of a head, and those that they rotate with.
struct Pairs {
    float4 low, high;

    __device__ __forceinline__ void load(const float* head, int c, int half) {
        low = *(const float4*)(head + c), high = *(const float4*)(head + half + c);
    }
    __device__ __forceinline__ void store(float* head, int c, int half) const {
        *(float4*)(head + c) = low, *(float4*)(head + half + c) = high;
    }
    // low, high: cosines, sines.
    __device__ __forceinline__ void turn(const Pairs& angles) {
        auto turned = [](float& x, float& y, float co, float si) {
            const float first = __fsub_rn(__fmul_rn(x, co), __fmul_rn(y, si));
            y = __fadd_rn(__fmul_rn(y, co), __fmul_rn(x, si));
            x = first;
        };
        turned(low.x, high.x, angles.low.x, angles.high.x), turned(low.y, high.y, angles.low.y, angles.high.y);
        turned(low.z, high.z, angles.low.z, angles.high.z), turned(low.w, high.w, angles.low.w, angles.high.w);
    }
    // The largest magnitude as bits: NaN is above infinity.
    __device__ __forceinline__ unsigned most() const {
        auto of = [](float4 v) {
            auto bits = [](float x) { return __float_as_uint(x) & 0x7FFFFFFFu; };
            return max(max(bits(v.x), bits(v.y)), max(bits(v.z), bits(v.w)));
        };
        return max(of(low), of(high));
    }
};

// Four queries as f16, in the places that widened codes have: the first and third together, the second and fourth eight
// places on. Two lanes exchange what makes one access of each; all lanes call. `within`: none is beyond f16.
__device__ __forceinline__ void store_places(float4 x, bool within, unsigned short* row, int c) {
    if (!within) x = make_float4(within_f16(x.x), within_f16(x.y), within_f16(x.z), within_f16(x.w));
    const unsigned even = two_f16(x.x, x.z), odd = two_f16(x.y, x.w);
    const bool second = c & 4;
    const unsigned given = __shfl_xor_sync(~0u, second ? even : odd, 1);
    const uint2 both = second ? make_uint2(given, odd) : make_uint2(even, given);
    *(uint2*)(row + (c & ~15) + (c & 8) / 2 + (second ? 8 : 0)) = both;
}

// Heads of a token, HEADS of one role by a warp at a time. The roles' numbers of heads are multiples of HEADS.
struct PairsOfToken {
    static constexpr int D = 128, HALF = D / 2, LANES = D / 8, HEADS = 32 / LANES;
    const HeadArguments& a;
    int token, c;       // the first of this lane's channels
    unsigned page_size;
    unsigned vector;    // of the cache: of the first key head, or the first value head
    Pairs angles;       // cosines, sines

    __device__ __forceinline__ PairsOfToken(const HeadArguments& arguments, int token)
        : a(arguments), token(token), c(threadIdx.x % LANES * 4), page_size(a.header[4]) {
        const unsigned slot = a.slots[token];
        vector = slot / page_size * a.nkv * page_size + slot % page_size;
        angles.load(a.cos_sin + (size_t)a.positions[token] * D, c, HALF);
    }
    __device__ __forceinline__ float* of_token(int head) const {
        return a.qkv + ((size_t)token * (a.nq + 2 * a.nkv) + head) * D;
    }
    __device__ __forceinline__ Pairs load(int head) const {
        Pairs x;
        x.load(of_token(head), c, HALF);
        return x;
    }
    __device__ __forceinline__ void keep(Pairs x, int head) const {
        if (head < a.nq + a.nkv) {
            x.turn(angles);
            if (!a.queries) x.store(of_token(head), c, HALF);
        }
        if (head >= a.nq) keep_vector(x, head - a.nq);
        else if (a.queries) keep_query(x, a.queries + ((size_t)token * a.nq + head) * D);
    }
    __device__ __forceinline__ void keep_query(const Pairs& x, unsigned short* row) const {
        if (a.kv_type >= KV_I8) {
            const bool within = x.most() < 0x477FF000u; // 65520, which rounds to infinity
            store_places(x.low, within, row, c), store_places(x.high, within, row, HALF + c);
        } else {
            store_bf16(x, row);
        }
    }
    __device__ __forceinline__ void store_bf16(const Pairs& x, unsigned short* row) const {
        *(uint2*)(row + c) = make_uint2(two_bf16(x.low.x, x.low.y), two_bf16(x.low.z, x.low.w));
        *(uint2*)(row + HALF + c) = make_uint2(two_bf16(x.high.x, x.high.y), two_bf16(x.high.z, x.high.w));
    }
    // `head`: of the keys, and then of the values.
    __device__ __forceinline__ void keep_vector(const Pairs& x, int head) const {
        const bool value = head >= a.nkv;
        const size_t at = vector + (size_t)(value ? head - a.nkv : head) * page_size;
        void* to = value ? a.v : a.k;
        if (a.kv_type == KV_F32) x.store((float*)to + at * D, c, HALF);
        else if (a.kv_type == KV_BF16) store_bf16(x, (unsigned short*)to + at * D);
        else keep_codes(x, value ? a.v_fixed : a.k_fixed, (unsigned char*)to + at * D, (value ? a.v_scales : a.k_scales) + at);
    }
    __device__ __forceinline__ void keep_codes(const Pairs& x, float fixed, unsigned char* to, float* to_scale) const {
        unsigned most = x.most();
#pragma unroll
        for (int apart = LANES / 2; apart; apart /= 2) most = max(most, __shfl_xor_sync(~0u, most, apart));
        const bool integers = a.kv_type == KV_I8, finite = most < 0x7F800000u;
        const float range = integers ? 127.0f : 448.0f, least = integers ? -128.0f : -448.0f;
        // The checkpoint's own scale, or the head's.
        const Scale by(fixed != 0.0f ? fixed : __fdiv_rn(__uint_as_float(most), range));
        auto codes = [&](float4 v) -> unsigned {
            if (!finite || by.scale == 0.0f) return 0;
            float4 u = by.quotients(v);
            if (!by.is_ordinary())
                u = make_float4(__fdiv_rn(v.x, by.scale), __fdiv_rn(v.y, by.scale), __fdiv_rn(v.z, by.scale),
                                __fdiv_rn(v.w, by.scale));
            auto within = [&](float x) { return fminf(fmaxf(x, least), range); };
            u = make_float4(within(u.x), within(u.y), within(u.z), within(u.w));
            return integers ? int8_quad(u) : fp8_quad<3>(u) | signs4(v);
        };
        *(unsigned*)(to + c) = codes(x.low), *(unsigned*)(to + HALF + c) = codes(x.high);
        if (c == 0) *to_scale = finite ? by.scale : __uint_as_float(0x7FC00000u);
    }
};

// A block for a token, or some for one with fewer heads each. Heads of AT_ONCE turns are asked for before the first is kept.
template <int AT_ONCE> __device__ __forceinline__ void heads_of_token(const HeadArguments& a) {
    grid_wait();
    grid_release();
    const int warps = blockDim.x / 32, step = gridDim.y * warps * PairsOfToken::HEADS, heads = a.nq + 2 * a.nkv;
    const int warp_head = (blockIdx.y * warps + threadIdx.x / 32) * PairsOfToken::HEADS, within = threadIdx.x % 32 / PairsOfToken::LANES;
    const PairsOfToken of(a, blockIdx.x);
    for (int first = warp_head; first < heads; first += AT_ONCE * step) {
        Pairs x[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            if (first + i * step < heads) x[i] = of.load(first + i * step + within);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            if (first + i * step < heads) of.keep(x[i], first + i * step + within);
    }
}
