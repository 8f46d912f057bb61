// Where 8-bit codes, once they are widened to f16 in registers, leave the channels of a step of 16.
#pragma once

// Of channel `i`: pairs are the first and third, the second and fourth of four neighbours.
__host__ __device__ constexpr int place_of_code(int i) { return (i / 4) * 2 + ((i & 2) >> 1) + 8 * (i & 1); }
