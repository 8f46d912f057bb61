// Programmatic dependent launch: a kernel may start while the one before it finishes. It must call grid_wait() before
// it touches memory that an earlier kernel writes or reads, in every block, and grid_release() when it needs few
// resources any more. Before sm_90 kernels run one after the other anyway.
#pragma once

__device__ __forceinline__ void grid_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void grid_release() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
