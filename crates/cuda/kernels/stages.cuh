// Rings of stages in shared memory: where 16 bytes lie in one, and copies into it that pass no register (before sm_80:
// that do, and are done at once).
#pragma once
#include "floats.cuh"

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// Where the 16 bytes `chunk` of `row` are in a stage: eight neighbouring rows of a chunk, and eight chunks of a row, lie
// in eight different groups of four banks.
template <int CHUNKS> __device__ __forceinline__ u32 place(int row, int chunk) {
    static_assert(CHUNKS == 4 || CHUNKS % 8 == 0, "a row is 64 bytes or a multiple of 128");
    int turn = CHUNKS == 4 ? (row >> 1) & 3 : row & 7;
    return (u32)(row * CHUNKS + (chunk ^ turn)) * 16;
}

__device__ __forceinline__ void store_shared16(u32 to, uint4 v) {
    asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
__device__ __forceinline__ uint4 load_shared16(u32 from) {
    uint4 v;
    asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(from));
    return v;
}

// The first `count` of 16 bytes that begin anywhere, then zeros.
__device__ __forceinline__ uint4 first_bytes(const u8* p, int count) {
    u32 words[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < 16; i++)
        if (i < count) words[i / 4] |= (u32)p[i] << (8 * (i % 4));
    return make_uint4(words[0], words[1], words[2], words[3]);
}

// 16 bytes, or zeros if they are not `there`.
__device__ __forceinline__ void copy16(u32 to, const void* from, bool there) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    int bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
#else
    store_shared16(to, there ? *(const uint4*)from : make_uint4(0, 0, 0, 0));
#endif
}
__device__ __forceinline__ void copies_end_group() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int PENDING> __device__ __forceinline__ void wait_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}
