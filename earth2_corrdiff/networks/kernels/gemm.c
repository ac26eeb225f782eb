// SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
// SPDX-License-Identifier: Apache-2.0
// The matrix product at the bottom, and the statistics that the norm before a convolution needs.
#include "conv.h"

#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#endif

// VL weights, float32 or IEEE half.
INLINE vf weights(const void *B, long i, int half) {
    if (!half)
        return load(B, i, FLOAT32, VL);
    const uint16_t *h = (const uint16_t *)B + i;
#if VL == 16
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)h));
#elif defined(__F16C__) && VL == 8
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)h));
#else
    _Float16 one[VL];
    vf v;
    memcpy(one, h, sizeof one);
    for (int k = 0; k < VL; k++)
        v[k] = (float)one[k];
    return v;
#endif
}

INLINE void block(const int rows, const float *A, long lda, const void *B, const int half, int K, float *C, long ldc) {
    vf acc[MR][2];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
        acc[i][0] = acc[i][1] = (vf){0};
    for (int k = 0; k < K; k++) {
        __builtin_prefetch((const char *)B + (half ? 2 : 4) * (long)(K + k) * NR, 0, 2); // the next panel
        vf b0 = weights(B, (long)k * NR, half), b1 = weights(B, (long)k * NR + VL, half);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            float a = A[i * lda + k];
            acc[i][0] += a * b0;
            acc[i][1] += a * b1;
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        store(C, i * ldc, FLOAT32, VL, acc[i][0]);
        store(C, i * ldc + VL, FLOAT32, VL, acc[i][1]);
    }
}

INLINE int rows_of(int left) {
    const int sizes[] = {MR, 7, 4, 2, 1};
    for (int i = 0; i < 4; i++)
        if (sizes[i] <= MR && sizes[i] <= left)
            return sizes[i];
    return 1;
}

INLINE void panel(int rows, const float *A, long lda, const void *B, const int half, int K, float *C, long ldc) {
    for (int i = 0, n; i < rows; i += n) {
        n = rows_of(rows - i);
        const float *a = A + i * lda;
        float *c = C + i * ldc;
        switch (n) {
        case MR: block(MR, a, lda, B, half, K, c, ldc); break;
#if MR > 7
        case 7: block(7, a, lda, B, half, K, c, ldc); break;
#endif
        case 4: block(4, a, lda, B, half, K, c, ldc); break;
        case 2: block(2, a, lda, B, half, K, c, ldc); break;
        default: block(1, a, lda, B, half, K, c, ldc);
        }
    }
}

void e2c_panel(int rows, const float *A, long lda, const void *B, int half, int K, float *C, long ldc) {
    if (half)
        panel(rows, A, lda, B, 1, K, C, ldc);
    else
        panel(rows, A, lda, B, 0, K, C, ldc);
}

int e2c_affine(const Conv *c, float *factor, float *offset) {
    long total = c->c[0] + c->c[1];
    if (!c->gamma) {
        if (!c->scale)
            return 0;
        memcpy(factor, c->scale, 4 * (size_t)total);
        memset(offset, 0, 4 * (size_t)total);
        return 1;
    }
    long size = total / c->groups;
    double pixels = (double)(c->h * c->w);
    for (long g = 0; g < c->groups; g++) {
        double mean = 0, squares = 0;
        for (long ch = g * size; ch < (g + 1) * size; ch++) {
            int s = ch >= c->c[0];
            mean += c->moments[s][ch - (s ? c->c[0] : 0)] / (double)size;
        }
        for (long ch = g * size; ch < (g + 1) * size; ch++) {
            int s = ch >= c->c[0];
            long i = ch - (s ? c->c[0] : 0);
            double away = c->moments[s][i] - mean;
            squares += c->moments[s][c->c[s] + i] + pixels * away * away;
        }
        double variance = squares / (pixels * (double)size - (c->unbiased ? 1 : 0));
        double rstd = 1 / sqrt(variance + c->eps);
        for (long ch = g * size; ch < (g + 1) * size; ch++) {
            factor[ch] = (float)(rstd * c->gamma[ch]);
            offset[ch] = (float)(c->beta[ch] - mean * rstd * c->gamma[ch]);
        }
    }
    return 1;
}

void e2c_merge(const float *parts, int blocks, int channels, const float *counts, float *moments) {
    for (int ch = 0; ch < channels; ch++) {
        double n = 0, mean = 0, squares = 0;
        for (int b = 0; b < blocks; b++) {
            const float *part = parts + (long)b * 2 * channels;
            double m = counts[b], away = part[ch] - mean;
            n += m;
            mean += away * m / n;
            squares += part[channels + ch] + away * away * m * (n - m) / n;
        }
        moments[ch] = (float)mean;
        moments[channels + ch] = (float)squares;
    }
}
