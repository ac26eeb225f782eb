// SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
// SPDX-License-Identifier: Apache-2.0
// 1 x 1 convolution: a matrix product over pixels, with the same neighbours as the 3 x 3 one.
// Also the moments of a field that another operator made.
#include "conv.h"

#define PIXELS 56 // of a block: a multiple of every register block

static void gather(const Conv *c, long W, long first, long count, const float *factor, const float *offset,
                   int affine, float *A) {
    long total = c->c[0] + c->c[1];
    for (long i = 0; i < count; i++) {
        long y = (first + i) / W, x = (first + i) % W;
        for (int s = 0; s < 2; s++)
            for (long ch = 0; ch < c->c[s]; ch += VL) {
                int n = lanes(c->c[s] - ch);
                long at = (s ? c->c[0] : 0) + ch;
                vf f = {0}, o = {0}, v = {0};
                if (affine) {
                    f = load(factor, at, FLOAT32, n);
                    o = load(offset, at, FLOAT32, n);
                }
                if (c->mode == DOWN) {
                    for (int k = 0; k < 4; k++)
                        v += pixel(c, s, 2 * y + (k >> 1), 2 * x + (k & 1), ch, n, f, o, affine);
                    v *= 0.25f;
                } else
                    v = pixel(c, s, y, x, ch, n, f, o, affine);
                store(A, i * total + at, FLOAT32, n, v);
            }
    }
}

static void finish(const Conv *c, long first, long count, long panel, const float *C, float *part) {
    for (long v = 0; v < 2; v++) {
        long ch = panel * NR + v * VL;
        if (ch >= c->cout)
            return;
        int n = lanes(c->cout - ch);
        vf bias = load(c->bias, ch, FLOAT32, n), pivot = {0}, sum = {0}, squares = {0};
        for (long i = 0; i < count; i++) {
            long at = (first + i) * c->cout + ch;
            vf y = (float)c->gain * ((float)c->factor * load(C, i * NR + v * VL, FLOAT32, VL) + bias);
            if (c->residual)
                y += (float)c->residual_gain * load(c->residual, at, (int)c->residual_type, n);
            store(c->out, at, (int)c->out_type, n, y);
            pivot = i ? pivot : y;
            sum += y - pivot;
            squares += (y - pivot) * (y - pivot);
        }
        if (part) {
            vf mean = sum * (1.0f / (float)count);
            store(part, ch, FLOAT32, n, pivot + mean);
            store(part, c->cout + ch, FLOAT32, n, squares - sum * mean);
        }
    }
}

// 0, or -1 where memory ran out. Up-sampling commutes with it and is left to who reads the result.
int e2c_pointwise(const Conv *c) {
    long down = c->mode == DOWN, H = c->h >> down, W = c->w >> down, total = c->c[0] + c->c[1];
    long blocks = (H * W + PIXELS - 1) / PIXELS, panels = (c->cout + NR - 1) / NR;
    float *affines = malloc(8 * (size_t)total);
    float *parts = c->out_moments ? malloc(4 * (size_t)(blocks * (2 * c->cout + 1))) : NULL;
    if (!affines || (c->out_moments && !parts)) {
        free(affines);
        free(parts);
        return -1;
    }
    int affine = e2c_affine(c, affines, affines + total), failed = 0;
    float *counts = parts ? parts + blocks * 2 * c->cout : NULL;
#pragma omp parallel for schedule(dynamic, 1) num_threads((int)c->threads)
    for (long b = 0; b < blocks; b++) {
        long first = b * PIXELS, count = H * W - first < PIXELS ? H * W - first : PIXELS;
        float *A = e2c_scratch(4 * (size_t)(PIXELS * (total + NR)));
        if (!A) {
            failed = 1;
            continue;
        }
        gather(c, W, first, count, affines, affines + total, affine, A);
        float *C = A + PIXELS * total;
        for (long q = 0; q < panels; q++) {
            const char *weight = (const char *)c->weight + (c->half_weight ? 2 : 4) * q * total * NR;
            e2c_panel((int)count, A, total, weight, (int)c->half_weight, (int)total, C, NR);
            finish(c, first, count, q, C, parts ? parts + b * 2 * c->cout : NULL);
        }
        if (counts)
            counts[b] = (float)count;
    }
    if (parts && !failed)
        e2c_merge(parts, (int)blocks, (int)c->cout, counts, c->out_moments);
    free(affines);
    free(parts);
    return failed ? -1 : 0;
}
