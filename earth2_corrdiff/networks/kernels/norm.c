// SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
// SPDX-License-Identifier: Apache-2.0
// Group norm with SiLU over NHWC fields, forward and backward, and the scaled sum at a block's end.
//
// Each pass goes over blocks of ROWS pixels. What a block adds to a sum stands in its own place, and the
// places are added up in their order in double precision: the threads do not change a bit of the result.
#include "common.h"

#define ROWS 64
#define WIDE 4     // vectors side by side: so many chains of additions run at once
#define PLANES 3   // of [channels] that a block leaves behind
#define COLUMNS 4  // of [channels] in a table: what one sample's pixels are computed with
#define CHUNK 8192 // values of a residual per turn

typedef struct {
    const void *x, *grad;               // [batch, pixels, channels]; grad: of y, NULL in a forward call
    void *out;                          // y, or the gradient of x
    const float *weight, *bias, *shift; // [channels]; shift [batch, channels] or NULL
    float *mean, *rstd;                 // [batch, groups]: made by a forward call, read by a backward call
    float *dweight, *dbias, *dshift;    // [channels]; dshift [batch, channels]
    int64_t batch, pixels, channels, groups, type, silu, unbiased, threads;
    double eps;
} Norm;

// Of one sample: x is normalised as (x - centre) * inverse; a backward call takes along + h * across away.
typedef struct {
    float *centre, *inverse, *along, *across;
} Table;

INLINE long minimum(long a, long b) { return a < b ? a : b; }
INLINE Table table_of(float *tables, long channels, long b) {
    float *t = tables + b * COLUMNS * channels;
    return (Table){t, t + channels, t + 2 * channels, t + 3 * channels};
}

// Moments about the block's own first pixel: its distance from the block's mean is at most sqrt(ROWS)
// standard deviations of the block, so no more than log2(ROWS) bits are lost in any field.
INLINE void moments_of(const Norm *t, long at, long rows, float *part, int w, int n, int type) {
    vf pivot[WIDE], sum[WIDE], squares[WIDE];
    for (int k = 0; k < w; k++) {
        pivot[k] = load(t->x, at + k * VL, type, n);
        sum[k] = squares[k] = (vf){0};
    }
    for (long r = 0; r < rows; r++)
        for (int k = 0; k < w; k++) {
            vf d = load(t->x, at + r * t->channels + k * VL, type, n) - pivot[k];
            sum[k] += d;
            squares[k] += d * d;
        }
    for (int k = 0; k < w; k++) {
        vf mean = sum[k] / (float)rows;
        store(part, k * VL, FLOAT32, n, pivot[k] + mean);
        store(part, t->channels + k * VL, FLOAT32, n, squares[k] - sum[k] * mean);
    }
}

// VL channels of one pixel: h normalised, and z behind weight and bias.
INLINE void normalise(const Norm *t, Table s, long at, long c, int n, int type, vf *h, vf *z) {
    vf x = load(t->x, at + c, type, n);
    *h = (x - load(s.centre, c, FLOAT32, n)) * load(s.inverse, c, FLOAT32, n);
    *z = *h * load(t->weight, c, FLOAT32, n) + load(t->bias, c, FLOAT32, n);
}

INLINE vf gradient_of_z(const Norm *t, long at, long c, int n, int type, int act, vf z) {
    vf g = load(t->grad, at + c, type, n);
    if (!act)
        return g;
    vf s = sigmoid(z);
    return g * s * (1.0f + z * (1.0f - s));
}

// Sums over a block of dz, dz * h and h.
INLINE void gradients_of(const Norm *t, Table s, long at, long rows, long c, float *part, int n, int type, int act) {
    vf sum[PLANES] = {{0}, {0}, {0}}, h, z;
    for (long r = 0; r < rows; r++) {
        normalise(t, s, at + r * t->channels, c, n, type, &h, &z);
        vf dz = gradient_of_z(t, at + r * t->channels, c, n, type, act, z);
        sum[0] += dz;
        sum[1] += dz * h;
        sum[2] += h;
    }
    for (int k = 0; k < PLANES; k++)
        store(part, k * t->channels + c, FLOAT32, n, sum[k]);
}

INLINE void result_of(const Norm *t, Table s, long at, long c, int n, int type, int act) {
    vf h, z;
    normalise(t, s, at, c, n, type, &h, &z);
    if (!t->grad) {
        store(t->out, at + c, type, n, act ? silu(z) : z);
        return;
    }
    vf dh = gradient_of_z(t, at, c, n, type, act, z) * load(t->weight, c, FLOAT32, n);
    dh -= load(s.along, c, FLOAT32, n) + h * load(s.across, c, FLOAT32, n);
    store(t->out, at + c, type, n, dh * load(s.inverse, c, FLOAT32, n));
}

// First pass over a block.
INLINE void reduce(const Norm *t, Table s, long at, long rows, float *part, int type, int act) {
    long C = t->channels, c = 0, step = t->grad ? VL : WIDE * VL;
    for (; c + step <= C; c += step)
        if (t->grad)
            gradients_of(t, s, at, rows, c, part, VL, type, act);
        else
            moments_of(t, at + c, rows, part + c, WIDE, VL, type);
    for (; c < C; c += VL) {
        int n = (int)minimum(C - c, VL);
        if (t->grad)
            gradients_of(t, s, at, rows, c, part, n, type, act);
        else
            moments_of(t, at + c, rows, part + c, 1, n, type);
    }
}

// Second pass over a block.
INLINE void finish(const Norm *t, Table s, long at, long rows, float *part, int type, int act) {
    (void)part;
    long C = t->channels, whole = C - C % VL;
    for (long r = 0; r < rows; r++, at += C) {
        for (long c = 0; c < whole; c += VL)
            result_of(t, s, at, c, VL, type, act);
        if (whole < C)
            result_of(t, s, at, whole, (int)(C - whole), type, act);
    }
}

// The same source for each type, with and without activation: the compiler knows both.
#define VARIANTS(pass)                                                                              \
    static void pass##_block(const Norm *t, Table s, long block, long b, float *part) {             \
        long first = block * ROWS, rows = minimum(t->pixels - first, ROWS);                         \
        long at = (b * t->pixels + first) * t->channels;                                            \
        if (t->type == FLOAT32)                                                                     \
            t->silu ? pass(t, s, at, rows, part, FLOAT32, 1) : pass(t, s, at, rows, part, FLOAT32, 0); \
        else                                                                                        \
            t->silu ? pass(t, s, at, rows, part, BFLOAT16, 1) : pass(t, s, at, rows, part, BFLOAT16, 0); \
    }
VARIANTS(reduce)
VARIANTS(finish)

static void fill(const Norm *t, Table s, long b) {
    long size = t->channels / t->groups;
    for (long c = 0; c < t->channels; c++) {
        s.centre[c] = t->mean[b * t->groups + c / size] - (t->shift ? t->shift[b * t->channels + c] : 0.0f);
        s.inverse[c] = t->rstd[b * t->groups + c / size];
    }
}

// Chan's merge (Chan, Golub and LeVeque, 1983) of the blocks' moments, then of a group's channels.
static void merge_moments(const Norm *t, const float *parts, long blocks, double *sums, long b) {
    long C = t->channels, size = C / t->groups;
    double *mean = sums, *squares = sums + C, pixels = (double)t->pixels, count = pixels * (double)size;
    memset(sums, 0, sizeof(double) * 2 * (size_t)C);
    for (long k = 0; k < blocks; k++) {
        double part = (double)minimum(t->pixels - k * ROWS, ROWS) / pixels;
        for (long c = 0; c < C; c++)
            mean[c] += part * parts[k * PLANES * C + c];
    }
    for (long k = 0; k < blocks; k++) {
        double rows = (double)minimum(t->pixels - k * ROWS, ROWS);
        for (long c = 0; c < C; c++) {
            double d = parts[k * PLANES * C + c] - mean[c];
            squares[c] += parts[(k * PLANES + 1) * C + c] + rows * d * d;
        }
    }
    for (long c = 0; t->shift && c < C; c++)
        mean[c] += t->shift[b * C + c];
    for (long g = 0; g < t->groups; g++) {
        double middle = 0, total = 0;
        for (long c = g * size; c < (g + 1) * size; c++)
            middle += mean[c] / (double)size;
        for (long c = g * size; c < (g + 1) * size; c++)
            total += squares[c] + pixels * (mean[c] - middle) * (mean[c] - middle);
        t->mean[b * t->groups + g] = (float)middle;
        t->rstd[b * t->groups + g] = (float)(1 / sqrt(total / (count - (double)t->unbiased) + t->eps));
    }
}

// Sums over a sample; from them what the groups take away from each pixel, and the gradient of the shift.
static void merge_gradients(const Norm *t, const float *parts, long blocks, double *sums, Table s, long b) {
    long C = t->channels, size = C / t->groups;
    double count = (double)t->pixels * (double)size;
    memset(sums, 0, sizeof(double) * PLANES * (size_t)C);
    for (long k = 0; k < blocks; k++)
        for (long i = 0; i < PLANES * C; i++)
            sums[i] += parts[k * PLANES * C + i];
    for (long g = 0; g < t->groups; g++) {
        double along = 0, across = 0;
        for (long c = g * size; c < (g + 1) * size; c++) {
            along += t->weight[c] * sums[c] / count;
            across += t->weight[c] * sums[C + c] / (count - (double)t->unbiased);
        }
        for (long c = g * size; c < (g + 1) * size; c++) {
            double left = t->weight[c] * sums[c] - (double)t->pixels * along - across * sums[2 * C + c];
            s.along[c] = (float)along;
            s.across[c] = (float)across;
            t->dshift[b * C + c] = (float)(left * s.inverse[c]);
        }
    }
}

static void merge(const Norm *t, const float *parts, long blocks, double *sums, Table s, long b) {
    if (t->grad)
        merge_gradients(t, parts, blocks, sums, s, b);
    else {
        merge_moments(t, parts, blocks, sums, b);
        fill(t, s, b);
    }
}

static void add_samples(const Norm *t, const double *sums) {
    long C = t->channels;
    for (long c = 0; c < C; c++) {
        double dbias = 0, dweight = 0;
        for (long b = 0; b < t->batch; b++) {
            dbias += sums[b * PLANES * C + c];
            dweight += sums[(b * PLANES + 1) * C + c];
        }
        t->dbias[c] = (float)dbias;
        t->dweight[c] = (float)dweight;
    }
}

// Forward, or backward where there is a gradient. 0, or -1 where memory ran out.
int e2c_group_norm(const Norm *t) {
    long C = t->channels, blocks = (t->pixels + ROWS - 1) / ROWS, turns = t->batch * blocks;
    double *sums = malloc(sizeof(double) * (size_t)(t->batch * PLANES * C));
    float *tables = malloc(sizeof(float) * (size_t)(t->batch * COLUMNS * C));
    float *parts = malloc(sizeof(float) * (size_t)(turns * PLANES * C));
    int failed = !sums || !tables || !parts;
    for (long b = 0; !failed && t->grad && b < t->batch; b++)
        fill(t, table_of(tables, C, b), b);
#pragma omp parallel num_threads((int)t->threads) if (!failed)
    if (!failed) {
#pragma omp for schedule(static)
        for (long i = 0; i < turns; i++)
            reduce_block(t, table_of(tables, C, i / blocks), i % blocks, i / blocks, parts + i * PLANES * C);
#pragma omp for schedule(static)
        for (long b = 0; b < t->batch; b++)
            merge(t, parts + b * blocks * PLANES * C, blocks, sums + b * PLANES * C, table_of(tables, C, b), b);
#pragma omp for schedule(static)
        for (long i = 0; i < turns; i++)
            finish_block(t, table_of(tables, C, i / blocks), i % blocks, i / blocks, NULL);
    }
    if (!failed && t->grad)
        add_samples(t, sums);
    free(sums);
    free(tables);
    free(parts);
    return failed ? -1 : 0;
}

INLINE void residual_chunk(const void *x, const void *y, void *out, long at, long end, int type, float scale) {
    for (; at + VL <= end; at += VL)
        store(out, at, type, VL, (load(x, at, type, VL) + load(y, at, type, VL)) * scale);
    int n = (int)(end - at);
    if (n)
        store(out, at, type, n, (load(x, at, type, n) + load(y, at, type, n)) * scale);
}

// out = (x + y) * scale
void e2c_residual_scale(const void *x, const void *y, void *out, long count, int type, float scale, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long at = 0; at < count; at += CHUNK)
        if (type == FLOAT32)
            residual_chunk(x, y, out, at, minimum(at + CHUNK, count), FLOAT32, scale);
        else
            residual_chunk(x, y, out, at, minimum(at + CHUNK, count), BFLOAT16, scale);
}

INLINE void gelu_chunk(void *x, long from, long to, int type) {
    for (long i = from; i < to; i += VL) {
        int n = (int)minimum(VL, to - i);
        vf v = load(x, i, type, n);
        store(x, i, type, n, v * sigmoid(v * (1.5957691216f + 0.0713548162726f * v * v)));
    }
}

// GELU in its tanh form, in place: x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))
void e2c_gelu(void *x, long count, int type, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long at = 0; at < count; at += CHUNK)
        if (type == FLOAT32)
            gelu_chunk(x, at, minimum(at + CHUNK, count), FLOAT32);
        else
            gelu_chunk(x, at, minimum(at + CHUNK, count), BFLOAT16);
}

INLINE float value_at(const void *x, long i, int type) {
    if (type == FLOAT32)
        return ((const float *)x)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)x)[i] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE void set_at(void *x, long i, int type, float value) {
    if (type == FLOAT32) {
        ((float *)x)[i] = value;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    ((uint16_t *)x)[i] = (uint16_t)(value == value ? rounded : 0x7fc0);
}

INLINE void turn_token(void *restrict x, const float *restrict turns, long heads, long dim, int type) {
    for (long head = 0; head < heads; head++)
        for (long p = 0; p < dim; p += 2) {
            long at = head * dim + p;
            float a = value_at(x, at, type), b = value_at(x, at + 1, type), c = turns[p], s = turns[p + 1];
            set_at(x, at, type, a * c - b * s);
            set_at(x, at + 1, type, a * s + b * c);
        }
}

// Rotate pairs of channels of [batch, tokens, heads, dim] in place, turns [tokens, dim] as cosine and sine;
// strides are those of batch and tokens.
void e2c_turn(void *x, const float *turns, const int64_t *sizes, const int64_t *strides, int type, int threads) {
    long tokens = sizes[1], heads = sizes[2], dim = sizes[3];
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long i = 0; i < sizes[0] * tokens; i++) {
        long at = i / tokens * strides[0] + i % tokens * strides[1];
        const float *turn = turns + i % tokens * dim;
        if (type == FLOAT32)
            turn_token((float *)x + at, turn, heads, dim, FLOAT32);
        else
            turn_token((uint16_t *)x + at, turn, heads, dim, BFLOAT16);
    }
}
