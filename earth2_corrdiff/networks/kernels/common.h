// SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
// SPDX-License-Identifier: Apache-2.0
// Vectors of floats for any machine that GCC or Clang compile for, and what the kernels do with them.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define VL 16 // floats in a vector register
#elif defined(__AVX__)
#define VL 8
#else
#define VL 4
#endif

#if VL == 16
#include <immintrin.h> // where GCC makes many instructions of a vector expression that is one
#endif

#define INLINE static inline __attribute__((always_inline))
typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef uint32_t vu __attribute__((vector_size(VL * 4)));
typedef uint16_t vh __attribute__((vector_size(VL * 2)));

enum { FLOAT32 = 0, BFLOAT16 = 1 };

INLINE vf splat(float a) { return a - (vf){0}; }
INLINE vf choose(vi mask, vf a, vf b) { return (vf)(((vi)a & mask) | ((vi)b & ~mask)); }

// n lanes (the rest zero) at element i of an array of either type.
INLINE vf load(const void *p, long i, int type, int n) {
    if (type == FLOAT32) {
        vf v = {0};
        if (n == VL)
            memcpy(&v, (const float *)p + i, sizeof v);
        else
            memcpy(&v, (const float *)p + i, 4 * (size_t)n);
        return v;
    }
    vh h = {0};
#if VL == 16
    if (n == VL)
        return (vf)((vu)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)((const uint16_t *)p + i))) << 16);
#endif
    if (n == VL)
        memcpy(&h, (const uint16_t *)p + i, sizeof h);
    else
        memcpy(&h, (const uint16_t *)p + i, 2 * (size_t)n);
    return (vf)(__builtin_convertvector(h, vu) << 16);
}

// Round to nearest even, as PyTorch does; NaN stays NaN.
INLINE void store(void *p, long i, int type, int n, vf v) {
    if (type == FLOAT32) {
        if (n == VL)
            memcpy((float *)p + i, &v, sizeof v);
        else
            memcpy((float *)p + i, &v, 4 * (size_t)n);
        return;
    }
    vu u = (vu)v;
    vu rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    vi ordered = v == v;
    rounded = (rounded & (vu)ordered) | (0x7fc0 & ~(vu)ordered);
#if VL == 16
    vh h = (vh)_mm512_cvtepi32_epi16((__m512i)rounded);
#else
    vh h = __builtin_convertvector(rounded, vh);
#endif
    if (n == VL)
        memcpy((uint16_t *)p + i, &h, sizeof h);
    else
        memcpy((uint16_t *)p + i, &h, 2 * (size_t)n);
}

// NaN stays NaN: the constant is the first operand, and min and max return the second.
INLINE vf clamp(vf x, float low, float high) {
#if VL == 16
    return (vf)_mm512_max_ps((__m512)splat(low), _mm512_min_ps((__m512)splat(high), (__m512)x));
#else
    x = choose(x > splat(high), splat(high), x);
    return choose(x < splat(low), splat(low), x);
#endif
}

// exp(x) to 2 ulp: x = k ln 2 + r, the polynomial of Cephes' expf in r, and k into the exponent.
INLINE vf vexp(vf x) {
    x = clamp(x, -87.0f, 88.0f);
    vf k = x * 1.44269504f + 12582912.0f; // 1.5 * 2^23: rounds to an integer in the low bits
    vi bits = (vi)k << 23;
    k -= 12582912.0f;
    vf r = x - k * 0.693359375f; // ln 2 in two parts
    r += k * 2.12194440e-4f;
    vf r2 = r * r, high = r * 1.9875691500e-4f + 1.3981999507e-3f, low = r * 4.1665795894e-2f + 1.6666665459e-1f;
    high = (high * r + 8.3334519073e-3f) * r2 + low; // two short chains instead of one long
    vf p = (high * r + 5.0000001201e-1f) * r2 + (r + 1.0f);
    return (vf)((vi)p + bits);
}

INLINE vf sigmoid(vf x) { return 1.0f / (1.0f + vexp(-x)); }
INLINE vf silu(vf x) { return x / (1.0f + vexp(-x)); }

// Scratch memory of this thread, kept because fresh pages cost more than what is computed in them; NULL
// where there is none left.
void *e2c_scratch(size_t bytes);
