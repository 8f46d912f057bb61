// The warps of the kernel for many rows on Hopper that bring keys, values and queries to those that multiply.
#pragma once
#include "attention_hopper_ring.cuh"

template <class Cache, int D>
struct HopperCopies : Hopper<Cache, D> {
    using H = Hopper<Cache, D>;
    using H::ROWS, H::BLOCKS, H::UNIT, H::CHUNKS, H::STAGES, H::RAW, H::RAW_UNIT, H::Q, H::QS, H::SCALED, H::CHECKS;
    using H::ring, H::queries, H::raw, H::scales, H::full, H::empty, H::q_full, H::q_empty, H::checked, H::memory, H::info;

    // ---- queries, by the copy engine

    // One warp calls. Boxes of the heads of whole tokens and 64 channels, past the end of the tile too.
    __device__ __forceinline__ void copy_queries(
        const Attention& a, const TensorMap* map, const Tile& tile, int kv_head, int turn) const {
        int lane = threadIdx.x & 31, slot = turn % QS, group = a.nq / a.nkv;
        unsigned barrier = q_full + slot * 8;
        barrier_wait(q_empty + slot * 8, (turn / QS & 1) ^ 1);
        H::tell(a, tile, kv_head, slot);
        if (tile.rows > 0 && lane == 0) barrier_expect(barrier, ROWS / group * group * D * 2);
        else barrier_arrive(barrier);
        if (tile.rows > 0 && lane < BLOCKS) {
            unsigned to = queries + slot * Q + lane * ROWS * 128;
            load_box_of_heads(to, map, lane * 64, kv_head * group, tile.token + tile.first / group, barrier);
        }
        __syncwarp();
    }

    // Of all tiles; at last an end without rows.
    __device__ void copy_all_queries(const Attention& a, const TensorMap* map) const {
        int turn = 0, next = 0;
        for (int flat = blockIdx.x; flat < a.tiles * a.nkv; flat = __shfl_sync(~0u, next, 0)) {
            Tile tile = H::nth_tile(a, flat);
            if (tile.rows > 0) copy_queries(a, map, tile, flat % a.nkv, turn++);
            if ((threadIdx.x & 31) == 0) next = H::take_tile(a);
        }
        copy_queries(a, map, Tile{}, 0, turn);
    }

    // ---- codes: a warpgroup copies and widens keys and values

    // Units are numbered on and on over a block's tiles: keys are even, values odd. This copies those of codes.
    struct Copier {
        const Attention& a;
        const HopperCopies& s;
        int issued, given; // copies queued; units of codes handed over
        Tile tile;
        unsigned vector; // of this lane's key

        // Queues the copy of a segment's keys or values.
        __device__ __forceinline__ void issue(const Pages& pages, int segment) {
            int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
            bool values = issued & 1;
            int key = segment * SEGMENT + warp * 32 + lane;
            if (!values) vector = key >= tile.lo && key < tile.hi ? pages.vector(key) : ~0u;
            unsigned to = s.raw + issued % RAW * RAW_UNIT;
            // A lane has one chunk of every few rows. The rows' numbers first, all on their way at once.
            constexpr int STRIDE = 32 / CHUNKS, BATCH = CHUNKS < 8 ? CHUNKS : 8;
            int chunk = lane % CHUNKS, first = lane / CHUNKS;
            const char* from = (const char*)(values ? a.v : a.k) + chunk * 16;
#pragma unroll
            for (int n = 0; n < CHUNKS; n += BATCH) {
                unsigned its[BATCH];
#pragma unroll
                for (int i = 0; i < BATCH; i++) its[i] = __shfl_sync(~0u, vector, (n + i) * STRIDE + first);
#pragma unroll
                for (int i = 0; i < BATCH; i++) {
                    int line = warp * 32 + (n + i) * STRIDE + first;
                    // Where there is none nothing is read, and zeros are written.
                    copy_16(to + (line * CHUNKS + chunk) * 16, from + (size_t)its[i] * (CHUNKS * 16), its[i] != ~0u);
                }
            }
            if (!values) {
                unsigned at = s.scales + (issued / 2 % SCALED * 2 * SEGMENT + warp * 32 + lane) * 4;
                copy_4(at, a.k_scales + vector, vector != ~0u);
                copy_4(at + SEGMENT * 4, a.v_scales + vector, vector != ~0u);
            }
            commit_copies();
            issued++;
        }

        // Each thread widens the chunks of unit `given` that it copied itself.
        __device__ __forceinline__ void give() {
            int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
            const char* from = s.memory + (s.raw - s.ring) + given % RAW * RAW_UNIT;
            char* to = s.memory + given % STAGES * UNIT;
            barrier_wait(s.empty + given % STAGES * 8, (given / STAGES & 1) ^ 1);
            // Channels take the places of `place_of`: in q too, and in the output they are put back. Codes of a few chunks are
            // on their way at once.
            constexpr int BATCH = CHUNKS < 4 ? CHUNKS : 4;
#pragma unroll 1
            for (int n = 0; n < CHUNKS; n += BATCH) {
                uint4 codes[BATCH];
#pragma unroll
                for (int i = 0; i < BATCH; i++) codes[i] = *(const uint4*)(from + (warp * 32 * CHUNKS + (n + i) * 32 + lane) * 16);
#pragma unroll
                for (int i = 0; i < BATCH; i++) {
                    int at = (n + i) * 32 + lane, line = warp * 32 + at / CHUNKS, chunk = at % CHUNKS;
                    uint4 even, odd;
                    widen<Cache>(codes[i].x, even.x, odd.x);
                    widen<Cache>(codes[i].y, even.y, odd.y);
                    widen<Cache>(codes[i].z, even.z, odd.z);
                    widen<Cache>(codes[i].w, even.w, odd.w);
                    *(uint4*)(to + H::place_of_chunk(SEGMENT, line, 2 * chunk)) = even;
                    *(uint4*)(to + H::place_of_chunk(SEGMENT, line, 2 * chunk + 1)) = odd;
                }
            }
            barrier_arrive(s.full + given % STAGES * 8);
            given++;
        }
    };

    __device__ void copy_codes(const Attention& a) const {
        Copier copier{a, *this, 0, 0, Tile{}, ~0u};
        for (int turn = 0;; turn++) {
            Task task = H::next_task(turn);
            if (task.tile.rows == 0) break;
            copier.tile = task.tile;
            Pages pages(a, task.tile.seq, task.kv_head);
            Run span(task.tile, 1, 0);
            for (int unit = 2 * span.begin; unit < 2 * span.end; unit++) {
                copier.issue(pages, unit / 2);
                if (copier.issued - copier.given == RAW) {
                    wait_copies<RAW - 1>();
                    copier.give();
                }
            }
        }
        wait_copies<0>();
        while (copier.given < copier.issued) copier.give();
    }

    // ---- bf16: a warp has the copy engine bring keys and values, two others look at values

    // Units of a box of each page and 64 channels; each lane sees to the keys of a box. Where no row sees any key of a box
    // the ring keeps what it held, which the checks see to.
    __device__ void copy_boxes(const Attention& a, const TensorMap* k_map, const TensorMap* v_map) const {
        int lane = threadIdx.x & 31, unit = 0;
        for (int turn = 0;; turn++) {
            Task task = H::next_task(turn);
            const Tile& tile = task.tile;
            if (tile.rows == 0) return;
            Pages pages(a, tile.seq, task.kv_head);
            int keys = min(pages.page_size, SEGMENT);
            Run span(tile, 1, 0);
            for (int segment = span.begin; segment < span.end; segment++) {
                int key = segment * SEGMENT + lane * keys;
                bool some = lane * keys < SEGMENT && key < tile.hi && key + keys > tile.lo;
                unsigned row = some ? pages.vector(key) : 0, boxes = __popc(__ballot_sync(~0u, some));
                for (int values = 0; values < 2; values++, unit++) {
                    unsigned barrier = full + unit % STAGES * 8, to = ring + unit % STAGES * UNIT + lane * keys * 128;
                    barrier_wait(empty + unit % STAGES * 8, (unit / STAGES & 1) ^ 1);
                    if (lane == 0) barrier_expect(barrier, boxes * keys * D * 2);
                    __syncwarp();
                    for (int block = 0; block < BLOCKS && some; block++) {
                        const TensorMap* map = values ? v_map : k_map;
                        load_box(to + block * SEGMENT * 128, map, block * 64, row, barrier, 0, policy_evict_unchanged());
                    }
                }
            }
        }
    }

    // Looks for NaN and infinities among the values of segments that not every row sees all of.
    __device__ void check_values(const Attention& a) const {
        int unit = 0, edges = 0;
        for (int turn = 0;; turn++) {
            int slot = turn % QS;
            barrier_wait(q_full + slot * 8, turn / QS & 1);
            Tile tile = info[slot].tile;
            if (tile.rows == 0) return;
            Seen seen = H::seen_by(a, slot, tile.rows);
            barrier_arrive(q_empty + slot * 8);
            Run span(tile, 1, 0);
            for (int segment = span.begin; segment < span.end; segment++, unit += 2) {
                if (seen.edge(segment)) check_unit(unit + 1, edges++);
            }
        }
    }
    __device__ __forceinline__ void check_unit(int unit, int edge) const {
        int warp = threadIdx.x >> 5;
        const char* values = memory + unit % STAGES * UNIT;
        barrier_wait(full + unit % STAGES * 8, unit / STAGES & 1);
        unsigned carries = 0; // a halfword's top bit is set by an exponent of ones alone
#pragma unroll 4
        for (int i = threadIdx.x - 64; i < SEGMENT * D / 8; i += H::CHECKING) {
            uint4 x = *(const uint4*)(values + i * 16);
            carries |= ((x.x & 0x7F807F80u) + 0x00800080u) | ((x.y & 0x7F807F80u) + 0x00800080u);
            carries |= ((x.z & 0x7F807F80u) + 0x00800080u) | ((x.w & 0x7F807F80u) + 0x00800080u);
        }
        bool some = __any_sync(~0u, (carries & 0x80008000u) != 0);
        if ((threadIdx.x & 31) == 0) H::found[edge % CHECKS * 4 + warp] = some;
        __syncwarp();
        barrier_arrive(checked + edge % CHECKS * 8);
    }
};
