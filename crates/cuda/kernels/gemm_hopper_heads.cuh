// What a product of queries, keys and values does in place of storing its sums: as rope_store_kv.cu, bit for bit, for
// heads of 64 or 128 channels that rotate whole, in pairs (i, i + d / 2). CHUNK tokens of a tile at a time come together in
// shared memory; there a warp has TOKENS of them, and a lane four neighbouring channels.
#pragma once
#include "gemm_hopper.cuh"
#include "quotients.cuh"

template <class Gemm> struct HeadsOf<Gemm, true> {
    static constexpr int CHUNK = 32, TOKENS = 4, CHUNKS = Gemm::TOKENS / CHUNK, ROWS = Gemm::ROWS;
    static_assert(ROWS == 128 && CHUNKS % 2 == 0 && Gemm::STORE_BYTES >= 2 * CHUNK * ROWS * 4, "two chunks fit");

    static constexpr int ROOM = CHUNK * 128 * 4, CHUNKS_OF_STAGE = Gemm::STAGE / ROOM; // the angles of a chunk, at most
    static constexpr int STAGES_OF_ANGLES = (CHUNKS + CHUNKS_OF_STAGE - 1) / CHUNKS_OF_STAGE;

    // Brings the angles of some chunks of a tile to a stage of the ring, the rows of their tokens one after the other. All
    // lanes call; tokens that are not there get angles too.
    static __device__ void load_angles(
        const HeadArguments& h, const typename Gemm::Shared& s, int part, int stage, int t0, int t, int lane) {
        const uint32_t barrier = s.full + 8 * stage, row = h.d * 4;
        const int first = part * CHUNKS_OF_STAGE, count = min(CHUNKS_OF_STAGE, CHUNKS - first);
        unsigned positions[CHUNKS_OF_STAGE];
#pragma unroll
        for (int i = 0; i < CHUNKS_OF_STAGE; ++i) {
            const int token = t0 + (first + i) * CHUNK + lane;
            positions[i] = i < count && token < t ? h.positions[token] : 0;
        }
        if (lane == 0) barrier_expect(barrier, count * CHUNK * row);
        __syncwarp();
#pragma unroll
        for (int i = 0; i < CHUNKS_OF_STAGE; ++i) {
            if (i >= count) break;
            const uint32_t to = s.stages + stage * Gemm::STAGE + i * ROOM;
            const float* from = h.cos_sin + (size_t)positions[i] * h.d;
            const unsigned start = __shfl_sync(~0u, positions[i], 0);
            if (!__all_sync(~0u, positions[i] == start + lane)) load_run(to + lane * row, from, row, barrier);
            else if (lane == 0) load_run(to, from, CHUNK * row, barrier);
        }
    }

    const HeadArguments& h;
    float* chunks;      // in shared memory, two by turns
    const float* stages; // the ring
    int first, left;    // token of the tile's first, and how many there are from it on
    int channel, quad;  // of the sums of this lane: in the tile; pair of tokens
    int own, lane, c;   // first of this warp's tokens in a chunk; this lane; the first of its channels in the head
    int role, head;     // of this lane's: 0 query, 1 key, 2 value; among those of the role
    unsigned slot, page_size; // of one of the warp's tokens in each lane; asked for before the product, and used after it

    __device__ HeadsOf(
        const HeadArguments& arguments, const GemmArguments& a, const typename Gemm::Lane& l, const typename Gemm::Shared& s,
        int n0, int t0)
        : h(arguments), chunks(s.xs - Gemm::STORE_BYTES / 4), stages(chunks - Gemm::STAGES * Gemm::STAGE / 4), first(t0),
          left(n0 < a.n ? a.t - t0 : 0), channel(l.warpgroup * 64 + l.warp * 16 + l.lane / 4), quad(l.lane & 3), own((l.warpgroup * 4 + l.warp) * TOKENS),
          lane(l.lane), c(4 * l.lane & (h.d - 1)) {
        head = (n0 + 4 * lane) / h.d;
        role = head < h.nq ? 0 : head < h.nq + h.nkv ? 1 : 2;
        head -= role == 0 ? 0 : role == 1 ? h.nq : h.nq + h.nkv;
        const int token = lane / TOKENS * CHUNK + own + lane % TOKENS;
        const bool some = token < Gemm::TOKENS && token < left;
        slot = some && role > 0 ? h.slots[first + token] : 0;
        page_size = h.header[4];
    }

    template <class Acc, int N>
    __device__ void store(
        const Acc (&acc)[1][N], const typename Gemm::Scales& v, const typename Gemm::Shared& s, const typename Gemm::Peers& p,
        const typename Gemm::Lane& l, bool angles, int& stage, int& parity) const {
        // Of one of the warp's tokens in each lane: its first vector of the cache.
        const unsigned vector = slot / page_size * h.nkv * page_size + slot % page_size;
        put(0, acc, v, s.xs + l.warpgroup * Gemm::TOKENS);
#pragma unroll 1
        for (int chunk = 0; chunk < CHUNKS; ++chunk) {
            const int within = chunk % CHUNKS_OF_STAGE;
            consumers_sync<256>(); // also: all have left the chunk that the next one is put over
            Chunk x;
            take(x, chunk);
            // What is taken comes while the next chunk is put.
            if (chunk + 1 < CHUNKS) put(chunk + 1, acc, v, s.xs + l.warpgroup * Gemm::TOKENS);
            if (angles && within == 0) barrier_wait(s.full + 8 * stage, parity);
            turn(x, stages + (stage * Gemm::STAGE + within * ROOM) / 4);
            if (angles && (within == CHUNKS_OF_STAGE - 1 || chunk == CHUNKS - 1)) {
                copy_engine_fence(); // which writes next where the angles were read
                __syncwarp();
                Gemm::release(s, p, l, stage);
                if (++stage == Gemm::STAGES) stage = 0, parity ^= 1;
            }
            if (role == 0) keep_queries(chunk, x.own);
            else keep_vectors(chunk, vector, x.own);
        }
    }

    // Channel n of a token lies at `n ^ turn`: neither what is put nor what is taken meets a bank twice.
    static __device__ int turn_of(int token) { return (token >> 1 & 3) << 3; }
    // Converted here, and not before the loop over chunks, where they would take as many registers again.
    static __device__ float here_as_float(int sum) {
        asm volatile("" : "+r"(sum));
        return (float)sum;
    }
    static __device__ float here_as_float(float sum) { return sum; }
    // Which registers a chunk is in is said by the branches that are taken to it.
    template <int FROM = 0, int TO = CHUNKS, class Acc, int N>
    __device__ __forceinline__ void put(int chunk, const Acc (&acc)[1][N], const typename Gemm::Scales& v, const float* xs) const {
        constexpr int MIDDLE = (FROM + TO) / 2;
        if constexpr (TO - FROM > 1) {
            if (chunk < MIDDLE) put<FROM, MIDDLE>(chunk, acc, v, xs);
            else put<MIDDLE, TO>(chunk, acc, v, xs);
        } else {
            float* to = chunks + (chunk % 2 * CHUNK + 2 * quad) * ROWS;
            float *low = to + (channel ^ turn_of(2 * quad)), *high = to + ((channel + 8) ^ turn_of(2 * quad));
            xs += FROM * CHUNK + 2 * quad;
#pragma unroll
            for (int j = 0; j < CHUNK / 8; ++j) {
                const float2 x = *(const float2*)(xs + 8 * j);
                const int at = FROM * CHUNK / 2 + 4 * j;
                low[8 * j * ROWS] = Gemm::scale(here_as_float(acc[0][at]), x.x, v.ws[0][0], v.bias[0][0]);
                low[(8 * j + 1) * ROWS] = Gemm::scale(here_as_float(acc[0][at + 1]), x.y, v.ws[0][0], v.bias[0][0]);
                high[8 * j * ROWS] = Gemm::scale(here_as_float(acc[0][at + 2]), x.x, v.ws[0][1], v.bias[0][1]);
                high[(8 * j + 1) * ROWS] = Gemm::scale(here_as_float(acc[0][at + 3]), x.y, v.ws[0][1], v.bias[0][1]);
            }
        }
    }

    // Four channels of each of the warp's tokens, those that they rotate with, and the angles.
    struct Chunk {
        float4 own[TOKENS], other[TOKENS];
    };
    __device__ __forceinline__ void take(Chunk& x, int chunk) const {
        const float* rows = chunks + chunk % 2 * CHUNK * ROWS + own * ROWS;
#pragma unroll
        for (int i = 0; i < TOKENS; ++i) x.own[i] = *(const float4*)(rows + i * ROWS + (4 * lane ^ turn_of(own + i)));
        if (role == 2) return;
#pragma unroll
        for (int i = 0; i < TOKENS; ++i)
            x.other[i] = *(const float4*)(rows + i * ROWS + (4 * lane ^ h.half ^ turn_of(own + i)));
    }
    __device__ __forceinline__ void turn(Chunk& x, const float* angles) const {
        if (role == 2) return;
        angles += own * h.d + (c & (h.half - 1));
        const unsigned sign = c < h.half ? 0x80000000u : 0; // the first of a pair loses what the second gains
        auto turned = [&](float x, float other, float co, float si) {
            const float gain = __fmul_rn(other, si);
            return __fadd_rn(__fmul_rn(x, co), __uint_as_float(__float_as_uint(gain) ^ sign));
        };
#pragma unroll
        for (int i = 0; i < TOKENS; ++i) {
            const float4 y = x.own[i], o = x.other[i];
            const float4 co = *(const float4*)(angles + i * h.d), si = *(const float4*)(angles + i * h.d + h.half);
            x.own[i] = make_float4(turned(y.x, o.x, co.x, si.x), turned(y.y, o.y, co.y, si.y),
                                   turned(y.z, o.z, co.z, si.z), turned(y.w, o.w, co.w, si.w));
        }
    }
    __device__ __forceinline__ bool is_there(int chunk, int i) const { return chunk * CHUNK + own + i < left; }

    __device__ __forceinline__ void keep_queries(int chunk, const float4 (&x)[TOKENS]) const {
        const int token = first + chunk * CHUNK + own, width = h.nq * h.d, at = head * h.d + c;
        if (!h.queries) {
            const int row = (h.nq + 2 * h.nkv) * h.d;
            float* to = h.qkv + (size_t)token * row + at;
#pragma unroll
            for (int i = 0; i < TOKENS; ++i)
                if (is_there(chunk, i)) *(float4*)(to + i * row) = x[i];
        } else if (h.kv_type >= KV_I8) {
            unsigned short* to = h.queries + (size_t)token * width + (at & ~15) + place_of_code(at & 15);
            unsigned even[TOKENS], odd[TOKENS];
#pragma unroll
            for (int i = 0; i < TOKENS; ++i) even[i] = f16_pair(x[i].x, x[i].z), odd[i] = f16_pair(x[i].y, x[i].w);
#pragma unroll
            for (int i = 0; i < TOKENS; ++i)
                if (is_there(chunk, i)) *(unsigned*)(to + i * width) = even[i], *(unsigned*)(to + i * width + 8) = odd[i];
        } else {
            unsigned short* to = h.queries + (size_t)token * width + at;
#pragma unroll
            for (int i = 0; i < TOKENS; ++i) {
                const uint2 near = make_uint2(two_bf16(x[i].x, x[i].y), two_bf16(x[i].z, x[i].w));
                if (is_there(chunk, i)) *(uint2*)(to + i * width) = near;
            }
        }
    }

    __device__ __forceinline__ void keep_vectors(int chunk, unsigned vector, const float4 (&x)[TOKENS]) const {
        unsigned place[TOKENS];
#pragma unroll
        for (int i = 0; i < TOKENS; ++i) place[i] = __shfl_sync(~0u, vector, chunk * TOKENS + i) + head * page_size;
        void* to = role == 1 ? h.k : h.v;
        if (h.kv_type == KV_F32) {
#pragma unroll
            for (int i = 0; i < TOKENS; ++i)
                if (is_there(chunk, i)) *(float4*)((float*)to + (size_t)place[i] * h.d + c) = x[i];
        } else if (h.kv_type == KV_BF16) {
#pragma unroll
            for (int i = 0; i < TOKENS; ++i) {
                const uint2 near = make_uint2(bf16_pair(x[i].x, x[i].y), bf16_pair(x[i].z, x[i].w));
                if (is_there(chunk, i)) *(uint2*)((unsigned short*)to + (size_t)place[i] * h.d + c) = near;
            }
        } else {
            unsigned codes[TOKENS];
            float scales[TOKENS];
            quantize(x, codes, scales);
#pragma unroll
            for (int i = 0; i < TOKENS; ++i) {
                if (!is_there(chunk, i)) continue;
                *(unsigned*)((unsigned char*)to + (size_t)place[i] * h.d + c) = codes[i];
                if (c == 0) (role == 1 ? h.k_scales : h.v_scales)[place[i]] = scales[i];
            }
        }
    }
    // The tokens one beside the other, so that no step waits for the one before it.
    __device__ __forceinline__ void quantize(
        const float4 (&x)[TOKENS], unsigned (&codes)[TOKENS], float (&scales)[TOKENS]) const {
        unsigned most[TOKENS]; // as bits, NaN is above infinity
        auto bits = [](float v) { return __float_as_uint(v) & 0x7FFFFFFFu; };
#pragma unroll
        for (int i = 0; i < TOKENS; ++i) most[i] = max(max(bits(x[i].x), bits(x[i].y)), max(bits(x[i].z), bits(x[i].w)));
#pragma unroll
        for (int apart = 1; apart < 32; apart *= 2)
#pragma unroll
            for (int i = 0; i < TOKENS; ++i) {
                const unsigned other = __shfl_xor_sync(~0u, most[i], apart);
                if (4 * apart < h.d) most[i] = max(most[i], other);
            }
        const float fixed = role == 1 ? h.k_fixed : h.v_fixed, range = h.kv_type == KV_I8 ? 127.0f : 448.0f;
        const float least = h.kv_type == KV_I8 ? -128.0f : -448.0f;
        // Lanes divide for one token each: a division takes as long as all the rest.
        const unsigned its = lane & 2 ? (lane & 1 ? most[3] : most[2]) : (lane & 1 ? most[1] : most[0]);
        const Scale one(fixed != 0.0f ? fixed : __fdiv_rn(__uint_as_float(its), range));
        const bool ordinary = __all_sync(~0u, one.is_ordinary());
        float4 units[TOKENS];
#pragma unroll
        for (int i = 0; i < TOKENS; ++i) {
            Scale scale = one;
            scale.scale = __shfl_sync(~0u, one.scale, (lane & ~3) + i);
            scale.inverse = __shfl_sync(~0u, one.inverse, (lane & ~3) + i);
            scales[i] = scale.scale, units[i] = scale.quotients(x[i]);
        }
        if (!ordinary) {
#pragma unroll
            for (int i = 0; i < TOKENS; ++i)
                units[i] = make_float4(__fdiv_rn(x[i].x, scales[i]), __fdiv_rn(x[i].y, scales[i]),
                                       __fdiv_rn(x[i].z, scales[i]), __fdiv_rn(x[i].w, scales[i]));
        }
        auto within = [&](float u) { return fminf(fmaxf(u, least), range); };
#pragma unroll
        for (int i = 0; i < TOKENS; ++i) {
            const float4 u = {within(units[i].x), within(units[i].y), within(units[i].z), within(units[i].w)};
            codes[i] = h.kv_type == KV_I8 ? int8_quad(u) : fp8_quad<3>(u) | signs4(x[i]);
            const bool finite = most[i] < 0x7F800000u;
            if (!finite || scales[i] == 0.0f) codes[i] = 0;
            if (!finite) scales[i] = __uint_as_float(0x7FC00000u);
        }
    }
};
