// What a block of the kernel for many rows on Hopper holds in shared memory, and the order in which blocks take tiles.
#pragma once
#define CONVERTS_E4M3
#include "attention_mma.cuh"
#include "copy_engine.cuh"

// A tile and the key head it is of.
struct Task {
    Tile tile;
    int kv_head, unused;
};

// What the rows of a tile see: all of them the keys from `from` to `to`.
struct Seen {
    int from, to;
    // Whether some row does not see all keys of a segment.
    __device__ bool edge(int segment) const { return segment * SEGMENT < from || (segment + 1) * SEGMENT > to; }
};

template <class Cache, int D>
struct Hopper {
    static constexpr int ROWS = 128, BLOCKS = D / 64;
    static constexpr int UNIT = SEGMENT * D * 2;                   // a segment's keys or values
    static constexpr int CHUNKS = D * Cache::BYTES / 16;           // of a vector
    static constexpr int STAGES = D == 64 ? 6 : Cache::CODES ? 3 : 5;
    static constexpr int RAW = Cache::CODES ? 3 : 1;               // units of codes
    static constexpr int RAW_UNIT = Cache::CODES ? SEGMENT * D : 0;
    static constexpr int Q = ROWS * D * 2, QS = 2;                 // buffers of queries
    // Of so many segments: copies run ahead by all units of both rings.
    static constexpr int SCALED = 8, SCALES = Cache::CODES ? SCALED * 2 * SEGMENT * 4 : 0;
    static constexpr int ENDS = QS * ROWS * 4, INFO = QS * sizeof(Task);
    static constexpr int CHECKS = 4; // more than there can be values of edges in the ring
    static constexpr int SHARED = STAGES * UNIT + QS * Q + RAW * RAW_UNIT + SCALES + ENDS + INFO + 256 + 1024;

    // A warp brings queries and tells of tiles; others bring keys and values, and need not find tiles between their copies.
    static constexpr int BRINGING = Cache::CODES ? 256 : 128, WORKING = 256, THREADS = BRINGING + WORKING;
    static constexpr int WORK_REGISTERS = Cache::CODES ? 208 : 232;
    static constexpr int BRING_REGISTERS = Cache::CODES ? 24 : 40, WIDEN_REGISTERS = Cache::CODES ? 72 : 0;
    static_assert(WORK_REGISTERS * WORKING + (BRING_REGISTERS + WIDEN_REGISTERS) * 128 <= 65536 / THREADS / 8 * 8 * THREADS,
                  "more than a block gets");
    static constexpr int COPYING = Cache::CODES ? 128 : 32;   // threads that bring keys and values
    static constexpr int CHECKING = Cache::CODES ? 0 : 64;     // and that look for what is not a number
    static constexpr int Q_READERS = WORKING + COPYING + CHECKING;

    unsigned ring, queries, raw, scales, full, empty, q_full, q_empty, checked; // addresses in shared memory
    char* memory;
    int *ends, *found;
    Task* info;

    __device__ void place(char* at) {
        unsigned base = shared_address(at), up = (1024 - base % 1024) % 1024;
        memory = at + up;
        ring = base + up;
        queries = ring + STAGES * UNIT;
        raw = queries + QS * Q;
        scales = raw + RAW * RAW_UNIT;
        ends = (int*)(memory + (scales - ring) + SCALES);
        info = (Task*)((char*)ends + ENDS);
        full = scales + SCALES + ENDS + INFO;
        empty = full + STAGES * 8;
        q_full = empty + STAGES * 8;
        q_empty = q_full + QS * 8;
        checked = q_empty + QS * 8;
        found = (int*)(memory + (checked - ring) + CHECKS * 8);
    }

    // One thread makes all barriers.
    __device__ void make_barriers() const {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + i * 8, Cache::CODES ? 128 : 1);
            barrier_init(empty + i * 8, WORKING);
        }
        for (int i = 0; i < QS; i++) {
            barrier_init(q_full + i * 8, 32);
            barrier_init(q_empty + i * 8, Q_READERS);
        }
        for (int i = 0; i < CHECKS && CHECKING > 0; i++) barrier_init(checked + i * 8, CHECKING);
        barrier_init_done();
        copy_engine_fence();
    }

    // Where a chunk of eight 16-bit numbers stands in a matrix of `rows`.
    __device__ __forceinline__ static unsigned place_of_chunk(int rows, int row, int chunk) {
        return (chunk >> 3) * rows * 128 + row * 128 + ((chunk & 7) ^ (row & 7)) * 16;
    }

    // What is masked counts times 0, which must not meet NaN.
    __device__ void clear_ring() const {
        for (int i = threadIdx.x; i < STAGES * UNIT / 16; i += blockDim.x) ((uint4*)memory)[i] = make_uint4(0, 0, 0, 0);
        copy_engine_fence();
    }

    // Blocks take the next tile and head when they are ready for it: what tiles have to do differs. One thread calls; the last
    // call of all leaves the counter at zero.
    __device__ static int take_tile(const Attention& a) {
        int taken = atomicAdd(a.counters, 1);
        if (taken == a.tiles * a.nkv - 1) *a.counters = 0;
        return gridDim.x + taken;
    }
    // The last tiles of a sequence have the most to do, and come first. Tiles have whole tokens; there may be some without rows.
    __device__ static Tile nth_tile(const Attention& a, int flat) {
        int group = a.nq / a.nkv;
        return find_tile(a, a.tiles - 1 - flat / a.nkv, ROWS / group * group, flat % a.nkv);
    }

    __device__ static int start_of(const Attention& a, int end) { return a.window ? max(end - a.window, 0) : 0; }
    __device__ __forceinline__ Seen seen_by(const Attention& a, int slot, int rows) const {
        const int* its = ends + slot * ROWS;
        return {start_of(a, its[rows - 1]), its[0]};
    }
    // The next tile that is told of, to who asks for that alone; the last one has no rows. Its threads are among Q_READERS.
    __device__ __forceinline__ Task next_task(int turn) const {
        int slot = turn % QS;
        barrier_wait(q_full + slot * 8, turn / QS & 1);
        Task task = info[slot];
        barrier_arrive(q_empty + slot * 8);
        return task;
    }
    // Tells which tile it is and what its rows see. One warp calls.
    __device__ __forceinline__ void tell(const Attention& a, const Tile& tile, int kv_head, int slot) const {
        int lane = threadIdx.x & 31;
        if (lane == 0) info[slot] = {tile, kv_head, 0};
        if (tile.rows == 0) return;
        for (int row = lane; row < ROWS; row += 32) ends[slot * ROWS + row] = row_of(a, tile, kv_head, row).end;
    }
};
