// SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
// SPDX-License-Identifier: Apache-2.0
// One convolution of the U-Net with all that stands before and behind it (fields as in cpu_conv.py).
#pragma once
#include "common.h"

enum { SAME = 0, UP = 1, DOWN = 2 };

typedef struct {
    const void *x[2];       // sources, [h, w, c[i]] each; the second may be missing
    const float *moments[2]; // of each source: means [c], then sums of squared deviations [c]
    const float *gamma, *beta; // group norm; NULL for none
    const float *scale;     // without norm: factor of each input channel; NULL for none
    const void *weight;     // packed, see cpu_conv.py
    const float *bias;      // [cout]
    const void *residual;   // [H, W, cout], or at half the resolution; NULL for none
    void *out;              // [H, W, cout]
    float *out_moments;     // of out; NULL if not wanted
    int64_t c[2], type[2], h, w, mode;
    int64_t groups, unbiased, activate;
    int64_t cout, half_weight, residual_type, residual_up, out_type;
    double eps, factor; // of the weights: they are stored divided by it
    double gain, residual_gain; // out = gain * (conv + bias) + residual_gain * residual
    int64_t threads;
} Conv;

#define NR (2 * VL) // output channels of a panel of weights
#if VL == 16
#define MR 14 // rows (tiles or pixels) of a register block
#else
#define MR 6
#endif

// C[rows, NR] = A[rows, K] B[K, NR]
void e2c_panel(int rows, const float *A, long lda, const void *B, int half, int K, float *C, long ldc);
// per-channel factor and offset of norm (or scale); 0 where there is neither
int e2c_affine(const Conv *c, float *factor, float *offset);
// merge the moments of blocks: parts[block][count row, mean row, M2 row]
void e2c_merge(const float *parts, int blocks, int channels, const float *counts, float *moments);

INLINE int lanes(long left) { return left < VL ? (int)left : VL; }

// VL channels of source pixel (y, x), normalised and activated; zero outside.
INLINE vf pixel(const Conv *c, int s, long y, long x, long ch, int n, vf factor, vf offset, int affine) {
    vf v = load(c->x[s], (y * c->w + x) * c->c[s] + ch, (int)c->type[s], n);
    if (affine)
        v = v * factor + offset;
    return c->activate ? silu(v) : v;
}
