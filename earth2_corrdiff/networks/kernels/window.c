// SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
// SPDX-License-Identifier: Apache-2.0
// Neighbourhood attention: VL queries of a row side by side in a vector, against the union of their windows.
// Keys and values of a part of the grid are first packed as float32, [row][column][dim].
#include "common.h"

#define ROWS 16 // of queries in a part
#define COLUMNS 64
#if VL == 16
#define NB 16 // accumulators in registers
#else
#define NB 8
#endif

typedef struct {
    const void *q, *k, *v;
    void *out;
    int64_t batch, h, w, heads, dim, kh, kw, type, threads;
    int64_t sq[4], sk[4], sv[4], so[4]; // strides of batch, row, column, head
    double scale;
} Window;

INLINE long least(long a, long b) { return a < b ? a : b; }
INLINE long start(long i, long k, long n) { return i < k / 2 ? 0 : least(i - k / 2, n - k); }

static void pack(const void *x, const int64_t *stride, long at, int type, long y0, long ny, long x0, long nx, long dim,
                 float *to) {
    for (long y = y0; y < y0 + ny; y++)
        for (long i = x0; i < x0 + nx; i++, to += dim)
            for (long d = 0; d < dim; d += VL)
                store(to, d, FLOAT32, VL, load(x, at + y * stride[1] + i * stride[2] + d, type, VL));
}

// Products of n keys with the queries: [dim] scalars each, times [dim][VL].
INLINE void products(const int n, const float *K, long dim, const float *Q, float *S) {
    vf acc[NB];
#pragma GCC unroll 16
    for (int i = 0; i < n; i++)
        acc[i] = (vf){0};
    for (long d = 0; d < dim; d++) {
        vf q = load(Q, d * VL, FLOAT32, VL);
#pragma GCC unroll 16
        for (int i = 0; i < n; i++)
            acc[i] += K[i * dim + d] * q;
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; i++)
        store(S, i * VL, FLOAT32, VL, acc[i]);
}

static void scores(const float *K, long n, long dim, const float *Q, float *S) {
    long i = 0;
    for (; i + NB <= n; i += NB)
        products(NB, K + i * dim, dim, Q, S + i * VL);
    for (; i + 4 <= n; i += 4)
        products(4, K + i * dim, dim, Q, S + i * VL);
    for (; i < n; i++)
        products(1, K + i * dim, dim, Q, S + i * VL);
}

// NB channels of the values, weighted: [rows][n][VL] times [rows][n][dim].
static void mix(const float *P, const float *V, long rows, long n, long next, long dim, vf factor, float *out) {
    vf acc[NB];
#pragma GCC unroll 16
    for (int i = 0; i < NB; i++)
        acc[i] = (vf){0};
    for (long r = 0; r < rows; r++, V += next)
        for (long x = 0; x < n; x++, P += VL) {
            vf p = load(P, 0, FLOAT32, VL);
            const float *v = V + x * dim;
#pragma GCC unroll 16
            for (int i = 0; i < NB; i++)
                acc[i] += v[i] * p;
        }
#pragma GCC unroll 16
    for (int i = 0; i < NB; i++)
        store(out, i * VL, FLOAT32, VL, acc[i] * factor);
}

// Scores → exp(score - largest), zero outside a query's window; 1 / sum.
static vf softmax(float *S, long rows, long n, const vi *seen) {
    vf most = splat(-INFINITY), sum = {0};
    for (long i = 0; i < rows; i++)
        for (long x = 0; x < n; x++) {
            vf s = choose(seen[x], load(S, (i * n + x) * VL, FLOAT32, VL), splat(-INFINITY));
            most = choose(most > s, most, s);
        }
    for (long i = 0; i < rows; i++)
        for (long x = 0; x < n; x++) {
            vf p = vexp(load(S, (i * n + x) * VL, FLOAT32, VL) - most);
            p = choose(seen[x], p, (vf){0});
            store(S, (i * n + x) * VL, FLOAT32, VL, p);
            sum += p;
        }
    return 1.0f / sum;
}

static void part(const Window *a, long b, long head, long row, long column, float *memory) {
    const long dim = a->dim, kh = a->kh, kw = a->kw, type = a->type;
    long rows = least(ROWS, a->h - row), columns = least(COLUMNS, a->w - column);
    long y0 = start(row, kh, a->h), ny = start(row + rows - 1, kh, a->h) + kh - y0;
    long x0 = start(column, kw, a->w), nx = start(column + columns - 1, kw, a->w) + kw - x0;
    float *K = memory, *V = K + ny * nx * dim, *Q = V + ny * nx * dim, *O = Q + dim * VL, *S = O + dim * VL;
    pack(a->k, a->sk, b * a->sk[0] + head * a->sk[3], (int)type, y0, ny, x0, nx, dim, K);
    pack(a->v, a->sv, b * a->sv[0] + head * a->sv[3], (int)type, y0, ny, x0, nx, dim, V);
    for (long j = column; j < column + columns; j += VL) {
        long n = least(VL, column + columns - j), first = start(j, kw, a->w);
        long keys = start(j + n - 1, kw, a->w) + kw - first;
        vi seen[VL + kw];
        for (long x = 0; x < keys; x++)
            for (long l = 0; l < VL; l++) {
                long from = start(j + least(l, n - 1), kw, a->w) - first;
                seen[x][l] = from <= x && x < from + kw ? -1 : 0;
            }
        for (long i = row; i < row + rows; i++) {
            long at = b * a->sq[0] + i * a->sq[1] + head * a->sq[3];
            for (long l = 0; l < VL; l++) // lanes beyond the last repeat it
                for (long d = 0; d < dim; d += VL) {
                    vf q = (float)a->scale * load(a->q, at + (j + least(l, n - 1)) * a->sq[2] + d, (int)type, VL);
                    for (int c = 0; c < VL; c++)
                        Q[(d + c) * VL + l] = q[c];
                }
            long top = ((start(i, kh, a->h) - y0) * nx + first - x0) * dim;
            for (long r = 0; r < kh; r++)
                scores(K + top + r * nx * dim, keys, dim, Q, S + r * keys * VL);
            vf factor = softmax(S, kh, keys, seen);
            for (long d = 0; d < dim; d += NB)
                mix(S, V + top + d, kh, keys, nx * dim, dim, factor, O + d * VL);
            at = b * a->so[0] + i * a->so[1] + head * a->so[3];
            for (long l = 0; l < n; l++)
                for (long d = 0; d < dim; d += VL) {
                    vf o;
                    for (int c = 0; c < VL; c++)
                        o[c] = O[(d + c) * VL + l];
                    store(a->out, at + (j + l) * a->so[2] + d, (int)type, VL, o);
                }
        }
    }
}

// 0, or -1 where memory ran out.
int e2c_window(const Window *a) {
    long down = (a->h + ROWS - 1) / ROWS, across = (a->w + COLUMNS - 1) / COLUMNS;
    long ny = least(a->h, ROWS + a->kh - 1), nx = least(a->w, COLUMNS + a->kw - 1);
    size_t floats = (size_t)(2 * ny * nx * a->dim + 2 * a->dim * VL + a->kh * (a->kw + VL) * VL);
    int failed = 0;
#pragma omp parallel for schedule(dynamic) num_threads(a->threads) reduction(| : failed)
    for (long t = 0; t < a->batch * a->heads * down * across; t++) {
        float *memory = e2c_scratch(4 * floats);
        long block = t % (down * across), which = t / (down * across);
        if (memory)
            part(a, which / a->heads, which % a->heads, block / across * ROWS, block % across * COLUMNS, memory);
        failed |= !memory;
    }
    return failed ? -1 : 0;
}
