// The matrix instructions of attention on sm_90a: 64 query rows by 128 keys, and weights by 64 or 128 channels of values.
#pragma once

// A matrix of rows of 128 swizzled bytes in shared memory; `across` is the distance of blocks of 64 columns, which only
// matters where rows are steps of the sum.
__device__ __forceinline__ unsigned long long matrix(unsigned at, unsigned across) {
    return (unsigned long long)((at & 0x3FFFF) >> 4) | (unsigned long long)(across >> 4) << 16 | 64ull << 32 | 1ull << 62;
}

#define FOUR(x, i) "+f"(x[i]), "+f"(x[i + 1]), "+f"(x[i + 2]), "+f"(x[i + 3])
#define SIXTEEN(x, i) FOUR(x, i), FOUR(x, i + 4), FOUR(x, i + 8), FOUR(x, i + 12)
#define NAMES_32                                                                                                      \
    "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,"     \
    "%29,%30,%31}"
#define NAMES_64                                                                                                      \
    "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,"     \
    "%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,"    \
    "%56,%57,%58,%59,%60,%61,%62,%63}"

// Scores of 64 rows and 128 keys: adds a step of 16 channels, or starts with it. Over codes all is in f16, else in bf16.
template <class Cache>
__device__ __forceinline__ void score_step(float (&s)[64], unsigned long long q, unsigned long long k, int add) {
#define STEP(TYPE)                                                                                                    \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %66, 0;\n"                                                            \
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE " " NAMES_64                            \
                 ", %64, %65, p, 1, 1, 0, 0;}"                                                                        \
                 : SIXTEEN(s, 0), SIXTEEN(s, 16), SIXTEEN(s, 32), SIXTEEN(s, 48)                                      \
                 : "l"(q), "l"(k), "r"(add))
    if constexpr (Cache::CODES) STEP("f16");
    else STEP("bf16");
#undef STEP
}
// Adds 16 keys times their weights, or starts with them.
template <class Cache>
__device__ __forceinline__ void value_step(float (&o)[64], const unsigned (&p)[4], unsigned long long v, int add) {
#define STEP(TYPE)                                                                                                    \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %69, 0;\n"                                                            \
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE " " NAMES_64                            \
                 ", {%64,%65,%66,%67}, %68, p, 1, 1, 1;}"                                                             \
                 : SIXTEEN(o, 0), SIXTEEN(o, 16), SIXTEEN(o, 32), SIXTEEN(o, 48)                                      \
                 : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(v), "r"(add))
    if constexpr (Cache::CODES) STEP("f16");
    else STEP("bf16");
#undef STEP
}
template <class Cache>
__device__ __forceinline__ void value_step(float (&o)[32], const unsigned (&p)[4], unsigned long long v, int add) {
#define STEP(TYPE)                                                                                                    \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %37, 0;\n"                                                            \
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE " " NAMES_32                             \
                 ", {%32,%33,%34,%35}, %36, p, 1, 1, 1;}"                                                             \
                 : SIXTEEN(o, 0), SIXTEEN(o, 16)                                                                      \
                 : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(v), "r"(add))
    if constexpr (Cache::CODES) STEP("f16");
    else STEP("bf16");
#undef STEP
}
__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Registers pass through, so that nothing is read before.
template <int N>
__device__ __forceinline__ void products_wait(float (&x)[N]) {
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(x[i])::"memory");
}
