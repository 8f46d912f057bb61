// The warpgroup matrix instructions of sm_90a: D[64, N] (+)= A[64, 32 bytes] . B[N, 32 bytes]^T, both operands in
// 128-byte-swizzled shared memory with k contiguous. One struct for each N, because the registers of D are spelled out.
#pragma once
#include <stdint.h>

enum class Element { S8, E4M3, E5M2, BF16 };

// Operands: the weights are A (64 channels), the activations B (N tokens).
template <Element W, Element X, int N> struct Wgmma;

// Start address, 1024 bytes between groups of eight rows, 128-byte swizzle.
__device__ __forceinline__ uint64_t operand_descriptor(uint32_t address) {
    return (uint64_t)((address & 0x3FFFF) >> 4) | ((uint64_t)1 << 16) | ((uint64_t)64 << 32) | ((uint64_t)1 << 62);
}
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING> __device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

#define D4(c, i) c(d[i]), c(d[i + 1]), c(d[i + 2]), c(d[i + 3])
#define D16(c, i) D4(c, i), D4(c, i + 4), D4(c, i + 8), D4(c, i + 12)
#define D64(c, i) D16(c, i), D16(c, i + 16), D16(c, i + 32), D16(c, i + 48)
#define INT_REGISTER(x) "+r"(x)
#define FLOAT_REGISTER(x) "+f"(x)

#define LIST_8 \
    "%0, %1, %2, %3"
#define LIST_16 \
    "%0, %1, %2, %3, %4, %5, %6, %7"
#define LIST_32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define LIST_64 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define LIST_96 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define LIST_128 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define LIST_192 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define LIST_256 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

#define OPERANDS_8(c) D4(c, 0)
#define OPERANDS_16(c) D4(c, 0), D4(c, 4)
#define OPERANDS_32(c) D16(c, 0)
#define OPERANDS_64(c) D16(c, 0), D16(c, 16)
#define OPERANDS_96(c) D16(c, 0), D16(c, 16), D16(c, 32)
#define OPERANDS_128(c) D64(c, 0)
#define OPERANDS_192(c) D64(c, 0), D16(c, 64), D16(c, 80)
#define OPERANDS_256(c) D64(c, 0), D64(c, 64)

// `tail` holds what the floating kinds add: both signs, and for bf16 that neither operand is transposed.
#define DEFINE_WGMMA(W, X, N, acc, kind, constraint, A, B, P, tail)                                                \
    template <> struct Wgmma<Element::W, Element::X, N> {                                                          \
        using Acc = acc;                                                                                           \
        static __device__ __forceinline__ void run(Acc (&d)[N / 2], uint64_t a, uint64_t b, int accumulate) {      \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " P ", 0;\n"                                             \
                         "wgmma.mma_async.sync.aligned.m64n" #N kind " {" LIST_##N "}, " A ", " B ", p" tail ";\n}" \
                         : OPERANDS_##N(constraint)                                                                \
                         : "l"(a), "l"(b), "r"(accumulate));                                                       \
        }                                                                                                          \
    };
#define DEFINE_WGMMAS(N, A, B, P)                                                                                  \
    DEFINE_WGMMA(S8, S8, N, int, "k32.s32.s8.s8", INT_REGISTER, A, B, P, "")                                       \
    DEFINE_WGMMA(E4M3, E4M3, N, float, "k32.f32.e4m3.e4m3", FLOAT_REGISTER, A, B, P, ", 1, 1")                     \
    DEFINE_WGMMA(E5M2, E4M3, N, float, "k32.f32.e5m2.e4m3", FLOAT_REGISTER, A, B, P, ", 1, 1")                     \
    DEFINE_WGMMA(E4M3, E5M2, N, float, "k32.f32.e4m3.e5m2", FLOAT_REGISTER, A, B, P, ", 1, 1")                     \
    DEFINE_WGMMA(E5M2, E5M2, N, float, "k32.f32.e5m2.e5m2", FLOAT_REGISTER, A, B, P, ", 1, 1")                     \
    DEFINE_WGMMA(BF16, BF16, N, float, "k16.f32.bf16.bf16", FLOAT_REGISTER, A, B, P, ", 1, 1, 0, 0")

DEFINE_WGMMAS(8, "%4", "%5", "%6")
DEFINE_WGMMAS(16, "%8", "%9", "%10")
DEFINE_WGMMAS(32, "%16", "%17", "%18")
DEFINE_WGMMAS(64, "%32", "%33", "%34")
DEFINE_WGMMAS(96, "%48", "%49", "%50")
DEFINE_WGMMAS(128, "%64", "%65", "%66")
DEFINE_WGMMAS(192, "%96", "%97", "%98")
DEFINE_WGMMAS(256, "%128", "%129", "%130")
