// The 8-bit grids of weights on any architecture, with the rounding of planish_tensor::q8: to nearest even, saturating.
#pragma once

struct Int8 {
    static constexpr float RANGE = 127.5f;
    // The grid value nearest to `units`, and its code.
    static __device__ __forceinline__ float nearest(float units, unsigned& code) {
        float r = rintf(fminf(fmaxf(units, -128.f), 127.f));
        code = (unsigned)(int)r & 0xffu;
        return r;
    }
    static __device__ __forceinline__ float decode(unsigned code) { return (float)(signed char)code; }
};

template <int MANTISSA, int MIN_EXPONENT>
struct Float8 {
    static __device__ __forceinline__ float nearest_below(float units, float most, unsigned& code) {
        if (units != units) {
            code = 0;
            return 0.f;
        }
        float magnitude = fminf(fabsf(units), most);
        int exponent = max((int)(__float_as_uint(magnitude) >> 23) - 127, MIN_EXPONENT);
        float step = __uint_as_float((unsigned)(exponent - MANTISSA + 127) << 23);
        float inverse = __uint_as_float((unsigned)(MANTISSA - exponent + 127) << 23);
        float multiple = rintf(magnitude * inverse);  // both are powers of two: exact
        // A multiple of 2^(mantissa + 1) carries into the exponent by plain addition.
        code = ((unsigned)(exponent - MIN_EXPONENT) << MANTISSA) + (unsigned)multiple;
        code |= (__float_as_uint(units) >> 24) & 0x80u;
        return copysignf(multiple * step, units);
    }
    static __device__ __forceinline__ float decode(unsigned code) {
        int magnitude = code & 0x7f, field = magnitude >> MANTISSA, fraction = magnitude & ((1 << MANTISSA) - 1);
        int exponent = max(field - 1, 0) + MIN_EXPONENT - MANTISSA;
        float whole = (float)(fraction + (field ? 1 << MANTISSA : 0));
        float value = whole * __uint_as_float((unsigned)(exponent + 127) << 23);
        return code & 0x80u ? -value : value;
    }
};

struct E4M3 : Float8<3, -6> {
    static constexpr float RANGE = 448.f;
    static __device__ __forceinline__ float nearest(float units, unsigned& code) {
        return nearest_below(units, RANGE, code);
    }
};

struct E5M2 : Float8<2, -14> {
    static constexpr float RANGE = 57344.f;
    static __device__ __forceinline__ float nearest(float units, unsigned& code) {
        return nearest_below(units, RANGE, code);
    }
};

// `w / s` on the grid, times `s`, each operation rounded by itself as on the host.
template <class Grid>
__device__ __forceinline__ float on_grid(float w, float scale, unsigned& code) {
    return __fmul_rn(Grid::nearest(__fdiv_rn(w, scale), code), scale);
}
