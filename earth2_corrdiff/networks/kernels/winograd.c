// SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
// SPDX-License-Identifier: Apache-2.0
// 3 x 3 convolution by Winograd's F(4 x 4, 3 x 3) in float32: a quarter of the multiplications.
// Lavin and Gray, arXiv 1509.09308, with the points 0, +-2/3, +-3/2, inf: 8e-7 relative error per convolution,
// where the usual 0, +-1, +-2, inf give 2e-6.
#include "conv.h"

#define TILE 4
#define FREQS 36
#define GROUP 2     // panels of output channels that share a pass over the transformed input
#define MAX_TILES 28
#define PAD 16       // between frequencies, whose rows would otherwise share a few sets of the cache

typedef struct {
    long H, W, th, tw, R, S, nr, nc; // tiles in all, tiles of a block, blocks
} Plan;

INLINE void transform_in(const vf d[6], vf v[6]) {
    vf even = 729.0f / 520 * d[2] - 81.0f / 130 * d[4], odd = 243.0f / 260 * d[1] - 27.0f / 65 * d[3];
    vf even2 = 8.0f / 65 * d[4] - 32.0f / 585 * d[2], odd2 = 12.0f / 65 * d[3] - 16.0f / 195 * d[1];
    v[0] = d[0] - 97.0f / 36 * d[2] + d[4];
    v[1] = even + odd;
    v[2] = even - odd;
    v[3] = even2 + odd2;
    v[4] = even2 - odd2;
    v[5] = d[1] - 97.0f / 36 * d[3] + d[5];
}

INLINE void transform_out(const vf m[6], vf y[4]) {
    vf s12 = m[1] + m[2], d12 = m[1] - m[2], s34 = m[3] + m[4], d34 = m[3] - m[4];
    y[0] = m[0] + s12 + s34;
    y[1] = 2.0f / 3 * d12 + 3.0f / 2 * d34;
    y[2] = 4.0f / 9 * s12 + 9.0f / 4 * s34;
    y[3] = 8.0f / 27 * d12 + 27.0f / 8 * d34 + m[5];
}

// One row of the block's pixels, VL channels each: after norm and activation comes the change of resolution.
// All that the loop looks at is in arguments: behind a pointer the compiler would load it again for each pixel.
INLINE void fill_row(float *row, long x0, long cols, long W, const void *src, long base, long pitch, long C, int type,
                     int mode, int n, int affine, int activate, vf f, vf o) {
    for (long j = 0; j < cols; j++) {
        long x = x0 + j;
        vf v = {0};
        if (x >= 0 && x < W && mode == DOWN) {
            for (int k = 0; k < 4; k++) {
                vf one = load(src, base + (k >> 1) * pitch + (2 * x + (k & 1)) * C, type, n);
                one = affine ? one * f + o : one;
                v += activate ? silu(one) : one;
            }
            v *= 0.25f;
        } else if (x >= 0 && x < W) {
            v = load(src, base + (mode == UP ? x >> 1 : x) * C, type, n);
            v = affine ? v * f + o : v;
            v = activate ? silu(v) : v;
        }
        store(row, j * VL, FLOAT32, VL, v);
    }
}

static void fill(const Conv *c, const Plan *p, int s, long y0, long x0, long rows, long cols, long ch, int n,
                 int affine, vf f, vf o, float *strip) {
    long C = c->c[s], pitch = c->w * C;
    int act = (int)c->activate;
    for (long i = 0; i < rows; i++) {
        long y = y0 + i;
        float *row = strip + i * cols * VL;
        if (y < 0 || y >= p->H) {
            memset(row, 0, 4 * (size_t)(cols * VL));
            continue;
        }
        long base = (c->mode == UP ? y >> 1 : c->mode == DOWN ? 2 * y : y) * pitch + ch;
#define ROW(TYPE, MODE, N) fill_row(row, x0, cols, p->W, c->x[s], base, pitch, C, TYPE, MODE, N, affine, act, f, o)
#define ROWS(TYPE)                                                                                                     \
    if (n < VL)                                                                                                        \
        ROW(TYPE, (int)c->mode, n);                                                                                    \
    else if (c->mode == SAME)                                                                                          \
        ROW(TYPE, SAME, VL);                                                                                           \
    else if (c->mode == UP)                                                                                            \
        ROW(TYPE, UP, VL);                                                                                             \
    else                                                                                                               \
        ROW(TYPE, DOWN, VL)
        if (c->type[s] == FLOAT32) {
            ROWS(FLOAT32);
        } else {
            ROWS(BFLOAT16);
        }
    }
}

// V[freq][tile][channel] of the block's tiles; strip holds its pixels for VL channels.
static void transform_block(const Conv *c, const Plan *p, long r0, long s0, long R, long S, const float *factor,
                            const float *offset, int affine, float *strip, float *V) {
    long total = c->c[0] + c->c[1], T = R * S, cols = TILE * S + 2, rows = TILE * R + 2, pitch = T * total + PAD;
    for (int s = 0; s < 2; s++)
        for (long ch = 0; ch < c->c[s]; ch += VL) {
            int n = lanes(c->c[s] - ch);
            long at = (s ? c->c[0] : 0) + ch;
            vf f = {0}, o = {0};
            if (affine) {
                f = load(factor, at, FLOAT32, n);
                o = load(offset, at, FLOAT32, n);
            }
            fill(c, p, s, TILE * r0 - 1, TILE * s0 - 1, rows, cols, ch, n, affine, f, o, strip);
            for (long t = 0; t < T; t++) {
                const float *corner = strip + (TILE * (t / S) * cols + TILE * (t % S)) * VL;
                vf half[6][6];
                for (int x = 0; x < 6; x++) {
                    vf d[6], v[6];
                    for (int y = 0; y < 6; y++)
                        d[y] = load(corner, (y * cols + x) * VL, FLOAT32, VL);
                    transform_in(d, v);
                    for (int y = 0; y < 6; y++)
                        half[y][x] = v[y];
                }
                for (int y = 0; y < 6; y++) {
                    vf v[6];
                    transform_in(half[y], v);
                    for (int x = 0; x < 6; x++)
                        store(V, (y * 6 + x) * pitch + t * total + at, FLOAT32, n, v[x]);
                }
            }
        }
}

// Output pixels of one tile for VL channels, with bias, gain and residual; their sums about a pivot.
INLINE void finish_tile(const Conv *c, const Plan *p, const float *M, long stride, long y0, long x0, long ch, int n,
                        vf bias, vf *pivot, vf *sum, vf *squares, int first) {
    vf half[4][6], y[4];
    for (int x = 0; x < 6; x++) {
        vf m[6];
        for (int f = 0; f < 6; f++)
            m[f] = load(M, (f * 6 + x) * stride, FLOAT32, VL);
        transform_out(m, y);
        for (int i = 0; i < 4; i++)
            half[i][x] = y[i];
    }
    for (int i = 0; i < 4 && y0 + i < p->H; i++) {
        transform_out(half[i], y);
        for (int j = 0; j < 4 && x0 + j < p->W; j++) {
            vf v = (float)c->gain * ((float)c->factor * y[j] + bias);
            if (c->residual) {
                long up = c->residual_up, width = up ? p->W >> 1 : p->W;
                long at = (((y0 + i) >> up) * width + ((x0 + j) >> up)) * c->cout + ch;
                v += (float)c->residual_gain * load(c->residual, at, (int)c->residual_type, n);
            }
            store(c->out, ((y0 + i) * p->W + x0 + j) * c->cout + ch, (int)c->out_type, n, v);
            if (first && i == 0 && j == 0)
                *pivot = v;
            vf away = v - *pivot;
            *sum += away;
            *squares += away * away;
        }
    }
}

INLINE long least(long a, long b) { return a < b ? a : b; }

static void finish_block(const Conv *c, const Plan *p, long r0, long s0, long R, long S, long panel, const float *M,
                         float *part) {
    long T = R * S, n_pixels = least(p->H - TILE * r0, TILE * R) * least(p->W - TILE * s0, TILE * S);
    for (long v = 0; v < 2; v++) {
        long ch = panel * NR + v * VL;
        if (ch >= c->cout)
            return;
        int n = lanes(c->cout - ch);
        vf bias = load(c->bias, ch, FLOAT32, n), pivot = {0}, sum = {0}, squares = {0};
        for (long t = 0; t < T; t++)
            finish_tile(c, p, M + t * NR + v * VL, T * NR, TILE * (r0 + t / S), TILE * (s0 + t % S), ch, n, bias,
                        &pivot, &sum, &squares, t == 0);
        if (part) {
            vf mean = sum * (1.0f / (float)n_pixels);
            store(part, ch, FLOAT32, n, pivot + mean);
            store(part, c->cout + ch, FLOAT32, n, squares - sum * mean);
        }
    }
}

// Blocks of at most MAX_TILES tiles: a function of the image alone, so that the sums always have the same order.
static Plan plan_of(const Conv *c) {
    Plan p = {.H = c->h, .W = c->w};
    if (c->mode == UP)
        p.H *= 2, p.W *= 2;
    if (c->mode == DOWN)
        p.H /= 2, p.W /= 2;
    p.th = (p.H + TILE - 1) / TILE, p.tw = (p.W + TILE - 1) / TILE;
    long parts = (p.tw + 13) / 14;
    p.S = (p.tw + parts - 1) / parts;
    p.R = least(MAX_TILES / p.S, (p.th + 1) / 2);
    p.R = p.R < 1 ? 1 : p.R;
    p.nr = (p.th + p.R - 1) / p.R, p.nc = (p.tw + p.S - 1) / p.S;
    return p;
}

// 0, or -1 where memory ran out.
int e2c_winograd(const Conv *c) {
    Plan p = plan_of(c);
    long total = c->c[0] + c->c[1], panels = (c->cout + NR - 1) / NR, blocks = p.nr * p.nc;
    long splits = blocks < 2 * c->threads ? least(panels, 2 * c->threads / blocks) : 1;
    long width = (panels + splits - 1) / splits;
    float *affines = malloc(8 * (size_t)total);
    float *parts = c->out_moments ? malloc(4 * (size_t)(blocks * (2 * c->cout + 1))) : NULL;
    if (!affines || (c->out_moments && !parts)) {
        free(affines);
        free(parts);
        return -1;
    }
    int affine = e2c_affine(c, affines, affines + total), failed = 0;
    float *counts = parts ? parts + blocks * 2 * c->cout : NULL;
    size_t weight_size = c->half_weight ? 2 : 4;
#pragma omp parallel for schedule(dynamic, 1) collapse(2) num_threads((int)c->threads)
    for (long b = 0; b < blocks; b++)
        for (long k = 0; k < splits; k++) {
            long r0 = b / p.nc * p.R, s0 = b % p.nc * p.S;
            long R = least(p.R, p.th - r0), S = least(p.S, p.tw - s0), T = R * S;
            long strip_size = (TILE * R + 2) * (TILE * S + 2) * VL;
            float *strip = e2c_scratch(4 * (size_t)(strip_size + FREQS * (T * (total + GROUP * NR) + PAD)));
            if (!strip) {
                failed = 1;
                continue;
            }
            float *V = strip + strip_size, *M = V + FREQS * (T * total + PAD);
            transform_block(c, &p, r0, s0, R, S, affines, affines + total, affine, strip, V);
            for (long q = k * width; q < least((k + 1) * width, panels); q += GROUP) {
                long count = least(GROUP, least((k + 1) * width, panels) - q);
                for (long f = 0; f < FREQS; f++)
                    for (long g = 0; g < count; g++)
                        e2c_panel((int)T, V + f * (T * total + PAD), total,
                                  (const char *)c->weight + weight_size * (size_t)(((q + g) * FREQS + f) * total * NR),
                                  (int)c->half_weight, (int)total, M + (g * FREQS + f) * T * NR, NR);
                for (long g = 0; g < count; g++)
                    finish_block(c, &p, r0, s0, R, S, q + g, M + g * FREQS * T * NR,
                                 parts ? parts + b * 2 * c->cout : NULL);
            }
            if (counts && k == 0)
                counts[b] = (float)(least(p.H - TILE * r0, TILE * R) * least(p.W - TILE * s0, TILE * S));
        }
    if (parts && !failed)
        e2c_merge(parts, (int)blocks, (int)c->cout, counts, c->out_moments);
    free(affines);
    free(parts);
    return failed ? -1 : 0;
}
