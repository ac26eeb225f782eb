// SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
// SPDX-License-Identifier: Apache-2.0
// Neighbourhood attention: VL queries of a row side by side in a vector, against the union of their windows.
// Keys and values of a part of the grid are first packed as float32, [row][column][dim]. In bfloat16, on a CPU with
// a matrix unit (AMX), 16 queries are the rows of its tiles.
#include "common.h"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#define AMX 1
#include <sys/syscall.h>
#include <unistd.h>
#else
#define AMX 0
#endif

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
static void mix(const float *P, const float *V, long rows, long n, long next, long dim, float *out) {
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
        store(out, i * VL, FLOAT32, VL, acc[i]);
}

INLINE vf larger(vf a, vf b) {
#if VL == 16
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return choose(a > b, a, b);
#endif
}

// Scores → exp(scale (score - largest)), zero outside a query's window; 1 / sum.
static vf softmax(float *S, long rows, long n, const vi *seen, float scale) {
    vf most = splat(-INFINITY), sum = {0};
    for (long i = 0; i < rows; i++)
        for (long x = 0; x < n; x++)
            most = larger(most, choose(seen[x], load(S, (i * n + x) * VL, FLOAT32, VL), splat(-INFINITY)));
    for (long i = 0; i < rows; i++)
        for (long x = 0; x < n; x++) {
            vf p = vexp(scale * (load(S, (i * n + x) * VL, FLOAT32, VL) - most));
            p = (vf)((vi)p & seen[x]);
            store(S, (i * n + x) * VL, FLOAT32, VL, p);
            sum += p;
        }
    return 1.0f / sum;
}

#if AMX
static int has_amx(void) { // the system gives the tiles to who asks
    static int known;
    if (!known)
        known = syscall(SYS_arch_prctl, 0x1023, 18) ? -1 : 1;
    return known > 0;
}

static void configure(void) { // eight tiles of 16 rows of 64 bytes
    struct {
        uint8_t palette, row, zero[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } tiles = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        tiles.bytes[i] = 64;
        tiles.rows[i] = 16;
    }
    _tile_loadconfig(&tiles);
}

// [16][32] float32: A [16][32 steps] times B [steps][16 pairs][32 columns][2], added over parts.
INLINE void product(const uint16_t *A, long rowA, long nextA, const uint16_t *B, long rowB, long stepB, long nextB,
                    long steps, long parts, float *C, long rowC) {
    _tile_zero(0);
    _tile_zero(1);
    for (long p = 0; p < parts; p++)
        for (long s = 0; s < steps; s++) {
            const uint16_t *b = B + p * nextB + s * stepB;
            _tile_loadd(2, A + p * nextA + s * 32, 2 * rowA);
            _tile_loadd(3, b, 2 * rowB);
            _tile_dpbf16ps(0, 2, 3);
            _tile_loadd(4, b + 32, 2 * rowB);
            _tile_dpbf16ps(1, 2, 4);
        }
    _tile_stored(0, C, 4 * rowC);
    _tile_stored(1, C + 16, 4 * rowC);
}

// The same softmax with the keys of a query in a row, [rows][16][n]: to bfloat16 in P, and 1 / sum of each query.
static void tile_softmax(const float *S, long rows, long n, const __mmask16 *seen, float scale, uint16_t *P,
                         float *factor) {
    for (long l = 0; l < 16; l++) {
        __m512 most = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
        for (long r = 0; r < rows; r++)
            for (long x = 0; x < n; x += 16)
                most = _mm512_mask_max_ps(most, seen[(l * n + x) / 16], most, _mm512_loadu_ps(S + (r * 16 + l) * n + x));
        vf largest = splat(_mm512_reduce_max_ps(most));
        for (long r = 0; r < rows; r++)
            for (long x = 0; x < n; x += 16) {
                long at = (r * 16 + l) * n + x;
                vf e = vexp(scale * (load(S, at, FLOAT32, VL) - largest));
                __m512 p = _mm512_maskz_mov_ps(seen[(l * n + x) / 16], (__m512)e);
                sum = _mm512_add_ps(sum, p);
                _mm256_storeu_si256((__m256i *)(P + at), (__m256i)_mm512_cvtneps_pbh(p));
            }
        factor[l] = 1 / _mm512_reduce_add_ps(sum);
    }
}
#endif

typedef struct {
    long b, head, row, column, rows, columns, y0, ny, x0, nx;
} Part;

static void queries(const Window *a, const Part *p, long i, long j, long n, float *Q) { // [dim][VL]
    long at = p->b * a->sq[0] + i * a->sq[1] + p->head * a->sq[3];
    for (long l = 0; l < VL; l++) // lanes beyond the last repeat it
        for (long d = 0; d < a->dim; d += VL) {
            vf q = load(a->q, at + (j + least(l, n - 1)) * a->sq[2] + d, (int)a->type, VL);
            for (int c = 0; c < VL; c++)
                Q[(d + c) * VL + l] = q[c];
        }
}

static void result(const Window *a, const Part *p, long i, long j, long n, const float *O, vf factor) {
    long at = p->b * a->so[0] + i * a->so[1] + p->head * a->so[3];
    for (long l = 0; l < n; l++)
        for (long d = 0; d < a->dim; d += VL) {
            vf o;
            for (int c = 0; c < VL; c++)
                o[c] = O[(d + c) * VL + l];
            store(a->out, at + (j + l) * a->so[2] + d, (int)a->type, VL, o * splat(factor[l]));
        }
}

// n queries from column j on: their keys' first column and number; who sees which.
static long window(const Window *a, long j, long n, long *first, vi *seen) {
    *first = start(j, a->kw, a->w);
    long keys = start(j + n - 1, a->kw, a->w) + a->kw - *first;
    for (long x = 0; x < keys; x++)
        for (long l = 0; l < VL; l++) {
            long from = start(j + least(l, n - 1), a->kw, a->w) - *first;
            seen[x][l] = from <= x && x < from + a->kw ? -1 : 0;
        }
    return keys;
}

static void plain(const Window *a, const Part *p, float *memory) {
    const long dim = a->dim, kh = a->kh, type = a->type, all = p->ny * p->nx * dim;
    float *K = memory, *V = K + all, *Q = V + all, *O = Q + dim * VL, *S = O + dim * VL;
    pack(a->k, a->sk, p->b * a->sk[0] + p->head * a->sk[3], (int)type, p->y0, p->ny, p->x0, p->nx, dim, K);
    pack(a->v, a->sv, p->b * a->sv[0] + p->head * a->sv[3], (int)type, p->y0, p->ny, p->x0, p->nx, dim, V);
    for (long j = p->column; j < p->column + p->columns; j += VL) {
        long first, n = least(VL, p->column + p->columns - j);
        vi seen[VL + a->kw];
        long keys = window(a, j, n, &first, seen);
        for (long i = p->row; i < p->row + p->rows; i++) {
            long top = ((start(i, kh, a->h) - p->y0) * p->nx + first - p->x0) * dim;
            queries(a, p, i, j, n, Q);
            for (long r = 0; r < kh; r++)
                scores(K + top + r * p->nx * dim, keys, dim, Q, S + r * keys * VL);
            vf factor = softmax(S, kh, keys, seen, (float)a->scale);
            for (long d = 0; d < dim; d += NB)
                mix(S, V + top + d, kh, keys, p->nx * dim, dim, O + d * VL);
            result(a, p, i, j, n, O, factor);
        }
    }
}

#if AMX
// Keys [row][pair of channels][column][2], values [row][pair of columns][channel][2].
static void pack_tiles(const Window *a, const Part *p, long pitch, uint16_t *K, uint16_t *V) {
    const long dim = a->dim, sk = a->sk[2], sv = a->sv[2];
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i columns = _mm512_mullo_epi32(lanes, _mm512_set1_epi32((int)sk));
    for (long y = 0; y < p->ny; y++) {
        const uint16_t *k = (const uint16_t *)a->k + p->b * a->sk[0] + (p->y0 + y) * a->sk[1] + p->head * a->sk[3];
        const uint16_t *v = (const uint16_t *)a->v + p->b * a->sv[0] + (p->y0 + y) * a->sv[1] + p->head * a->sv[3];
        for (long x = 0; x < pitch; x += 16) {
            __mmask16 there = (__mmask16)(x + 16 <= p->nx ? 0xffff : x < p->nx ? (1 << (p->nx - x)) - 1 : 0);
            for (long d = 0; d < dim; d += 2) {
                const uint16_t *from = k + (p->x0 + x) * sk + d;
                __m512i pairs = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), there, columns, from, 2);
                _mm512_storeu_si512(K + (y * dim + d) * pitch + 2 * x, pairs);
            }
        }
        for (long x = 0; x < pitch; x += 2)
            for (long d = 0; d < dim; d += 16) {
                const uint16_t *from = v + (p->x0 + x) * sv + d;
                __m512i pair = _mm512_setzero_si512();
                if (x < p->nx)
                    pair = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
                if (x + 1 < p->nx) {
                    __m512i next = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(from + sv)));
                    pair = _mm512_or_si512(pair, _mm512_slli_epi32(next, 16));
                }
                _mm512_storeu_si512(V + (y * pitch + x) * dim + 2 * d, pair);
            }
    }
}

static void in_tiles(const Window *a, const Part *p, float *memory) {
    const long dim = a->dim, kh = a->kh, pitch = (p->nx + 47) / 16 * 16, all = p->ny * pitch * dim;
    const long most = a->kw + 48; // keys of 16 queries, rounded up
    uint16_t *K = (uint16_t *)memory, *V = K + all, *Q = V + all, *P = Q + 16 * dim;
    float *S = (float *)(P + 16 * kh * most), *O = S + 16 * kh * most, factor[16];
    pack_tiles(a, p, pitch, K, V);
    configure();
    for (long j = p->column; j < p->column + p->columns; j += 16) {
        long n = least(16, p->column + p->columns - j);
        long x0 = (start(j, a->kw, a->w) - p->x0) & ~1L; // values come in pairs
        long keys = (start(j + n - 1, a->kw, a->w) + a->kw - p->x0 - x0 + 31) / 32 * 32;
        __mmask16 seen[most]; // [16][keys / 16]
        for (long l = 0; l < 16; l++)
            for (long x = 0; x < keys; x += 16) {
                long from = start(j + least(l, n - 1), a->kw, a->w) - p->x0 - x0 - x;
                unsigned bits = 0;
                for (long i = 0; i < 16; i++)
                    bits |= (unsigned)(from <= i && i < from + a->kw) << i;
                seen[(l * keys + x) / 16] = (__mmask16)bits;
            }
        for (long i = p->row; i < p->row + p->rows; i++) {
            long top = start(i, kh, a->h) - p->y0;
            const uint16_t *q = (const uint16_t *)a->q + p->b * a->sq[0] + i * a->sq[1] + p->head * a->sq[3];
            for (long l = 0; l < 16; l++) // rows beyond the last repeat it
                memcpy(Q + l * dim, q + (j + least(l, n - 1)) * a->sq[2], 2 * (size_t)dim);
            for (long r = 0; r < kh; r++)
                for (long x = 0; x < keys; x += 32)
                    product(Q, dim, 0, K + (top + r) * dim * pitch + 2 * (x0 + x), 2 * pitch, 32 * pitch, 0, dim / 32, 1,
                            S + r * 16 * keys + x, keys);
            tile_softmax(S, kh, keys, seen, (float)a->scale, P, factor);
            for (long d = 0; d < dim; d += 32)
                product(P, keys, 16 * keys, V + (top * pitch + x0) * dim + 2 * d, 2 * dim, 32 * dim, pitch * dim,
                        keys / 32, kh, O + d, dim);
            long at = p->b * a->so[0] + i * a->so[1] + p->head * a->so[3];
            for (long l = 0; l < n; l++)
                for (long d = 0; d < dim; d += VL)
                    store(a->out, at + (j + l) * a->so[2] + d, BFLOAT16, VL, factor[l] * load(O, l * dim + d, FLOAT32, VL));
        }
    }
    _tile_release();
}
#endif

// 0, or -1 where memory ran out.
int e2c_window(const Window *a) {
    long down = (a->h + ROWS - 1) / ROWS, across = (a->w + COLUMNS - 1) / COLUMNS;
    long ny = least(a->h, ROWS + a->kh - 1), nx = least(a->w, COLUMNS + a->kw - 1) + 48;
    size_t floats = (size_t)(2 * ny * nx * a->dim + 32 * a->dim + 32 * a->kh * (a->kw + 48));
    int failed = 0, tiles = 0;
#if AMX
    tiles = a->type == BFLOAT16 && a->dim % 32 == 0 && has_amx();
#endif
#pragma omp parallel for schedule(dynamic) num_threads(a->threads) reduction(| : failed)
    for (long t = 0; t < a->batch * a->heads * down * across; t++) {
        long block = t % (down * across), which = t / (down * across);
        Part p = {.b = which / a->heads, .head = which % a->heads};
        p.row = block / across * ROWS, p.column = block % across * COLUMNS;
        p.rows = least(ROWS, a->h - p.row), p.columns = least(COLUMNS, a->w - p.column);
        p.y0 = start(p.row, a->kh, a->h), p.ny = start(p.row + p.rows - 1, a->kh, a->h) + a->kh - p.y0;
        p.x0 = start(p.column, a->kw, a->w), p.nx = start(p.column + p.columns - 1, a->kw, a->w) + a->kw - p.x0;
        float *memory = e2c_scratch(4 * floats);
        failed |= !memory;
        if (!memory)
            continue;
#if AMX
        if (tiles) {
            in_tiles(a, &p, memory);
            continue;
        }
#endif
        plain(a, &p, memory);
    }
    (void)tiles;
    return failed ? -1 : 0;
}
