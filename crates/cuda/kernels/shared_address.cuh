// Addresses within a block's shared memory, as instructions take them.
#pragma once
#include <stdint.h>

__device__ __forceinline__ uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
