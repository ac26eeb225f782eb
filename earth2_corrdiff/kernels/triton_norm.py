# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The fused operators on GPUs in Triton, for NVIDIA and AMD alike.

Tiles give the mean of each channel and the squares about it (two passes over registers), a second kernel
merges them per group (Chan, Golub and LeVeque, 1983), a third applies the result: two reads, one write.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from earth2_corrdiff.kernels.reference import Norm
from earth2_corrdiff.kernels.triton_backward import backward as backward
from earth2_corrdiff.kernels.triton_tiles import (
    LAUNCH,
    MergeTiles,
    Tiles,
    addresses,
    affine,
    of_channels,
    pixels_in,
)

FLAT = 4096  # values of a residual that a program adds


@triton.jit
def _moments(
    x, parts, pixels, stride_p, stride_c, tiles, C: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr
):
    """parts[b, span] = means ``[C]``, then sums of squares about them ``[C]``."""
    span, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = c < C
    x += b * pixels * C
    mean, squares = tl.zeros([COLS], tl.float32), tl.zeros([COLS], tl.float32)
    for i in range(tiles):
        first = (span * tiles + i) * ROWS
        p = first + tl.arange(0, ROWS)
        here = (p < pixels)[:, None] & inside[None, :]
        values = tl.load(addresses(x, p, c, stride_p, stride_c), mask=here, other=0.0).to(tl.float32)
        # differences from the tile's first pixel: a large mean costs the sums no digits
        at = tl.minimum(first, pixels - 1).to(tl.int64) * stride_p + c.to(tl.int64) * stride_c
        pivot = of_channels(x, at, inside)
        n = pixels_in(span * tiles + i, pixels, ROWS)
        d = tl.where(here, values - pivot[None, :], 0.0)
        middle = tl.sum(d, axis=0) / tl.maximum(n, 1.0)
        d = tl.where(here, d - middle[None, :], 0.0)
        step = pivot + middle - mean
        before = tl.minimum(i * ROWS, pixels) * 1.0  # pixels of the span until here, if n > 0
        share = n / (before + tl.maximum(n, 1.0))
        squares += tl.sum(d * d, axis=0) + step * step * before * share
        mean += step * share
    at = (b * tl.num_programs(0) + span) * 2 * C + c
    tl.store(parts + at, mean, mask=inside)
    tl.store(parts + at + C, squares, mask=inside)


@triton.jit
def _merge_moments(
    parts, shift, mean, rstd, pixels, spans, span_pixels, eps,
    C: tl.constexpr, G: tl.constexpr, SHIFT: tl.constexpr, UNBIASED: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Mean and 1 / deviation of a group, from all spans of its channels."""
    g, b = tl.program_id(0), tl.program_id(1)
    SIZE: tl.constexpr = C // G
    j = tl.arange(0, COLS)
    inside = j < SIZE
    offset = tl.zeros([COLS], tl.float32)
    if SHIFT:
        offset = of_channels(shift, b * C + g * SIZE + j, inside)
    parts += b.to(tl.int64) * spans * 2 * C + g * SIZE
    pivot = tl.load(parts)
    count = pixels * (SIZE * 1.0)
    total = tl.zeros([ROWS, COLS], tl.float32)
    for first in range(0, spans, ROWS):
        k = first + tl.arange(0, ROWS)
        here = (k < spans)[:, None] & inside[None, :]
        d = tl.load(parts + k[:, None] * 2 * C + j[None, :], mask=here, other=0.0) - pivot + offset[None, :]
        total += tl.where(here, d * pixels_in(k, pixels, span_pixels)[:, None], 0.0)
    middle = tl.sum(tl.sum(total, axis=0), axis=0) / count
    total = tl.zeros([ROWS, COLS], tl.float32)
    for first in range(0, spans, ROWS):
        k = first + tl.arange(0, ROWS)
        here = (k < spans)[:, None] & inside[None, :]
        at = parts + k[:, None] * 2 * C + j[None, :]
        d = tl.load(at, mask=here, other=0.0) - pivot + offset[None, :] - middle
        squares = tl.load(at + C, mask=here, other=0.0)
        total += tl.where(here, squares + d * d * pixels_in(k, pixels, span_pixels)[:, None], 0.0)
    var = tl.sum(tl.sum(total, axis=0), axis=0) / (count - UNBIASED)
    tl.store(mean + b * G + g, pivot + middle)
    tl.store(rstd + b * G + g, 1.0 / tl.sqrt(var + eps))


@triton.jit
def _apply(
    x, y, mean, rstd, weight, bias, shift, pixels, stride_p, stride_c,
    C: tl.constexpr, G: tl.constexpr, SHIFT: tl.constexpr, SILU: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(2)
    p = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = c < C
    here = (p < pixels)[:, None] & inside[None, :]
    sample = b.to(tl.int64) * pixels * C
    values = tl.load(addresses(x + sample, p, c, stride_p, stride_c), mask=here, other=0.0).to(tl.float32)
    centre, scale, w, offset = affine(mean, rstd, weight, bias, shift, b, c, inside, C, G, SHIFT)
    z = (values - centre[None, :]) * (scale * w)[None, :] + offset[None, :]
    if SILU:
        z = z / (1.0 + tl.exp(-z))
    tl.store(addresses(y + sample, p, c, stride_p, stride_c), z, mask=here)


@triton.jit
def _add_scaled(x, y, out, count, scale, FLAT: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * FLAT + tl.arange(0, FLAT)
    here = at < count
    sum_ = tl.load(x + at, mask=here).to(tl.float32) + tl.load(y + at, mask=here).to(tl.float32)
    tl.store(out + at, sum_ * scale, mask=here)


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, norm: Norm
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`reference.forward`; ``x`` in NHWC or NCHW, without gaps."""
    B, C, H, W = x.shape
    G, pixels, cut = norm.groups, H * W, Tiles.of(x)
    merging = MergeTiles.of(C // G)
    mean, rstd = (x.new_empty(B, G, dtype=torch.float32) for _ in range(2))
    parts = x.new_empty(B, cut.spans, 2, C, dtype=torch.float32)
    y, add = torch.empty_like(x), weight if shift is None else shift.contiguous()
    how = {"C": C, "G": G, "SHIFT": shift is not None}
    tile = {"ROWS": cut.rows, "COLS": cut.cols, **LAUNCH}
    with torch.cuda.device_of(x):
        _moments[cut.spans, cut.blocks, B](x, parts, pixels, *cut.strides, cut.tiles, C, **tile)
        _merge_moments[G, B](
            *(parts, add, mean, rstd, pixels, cut.spans, cut.tiles * cut.rows, norm.eps),
            **how,
            UNBIASED=int(norm.unbiased),
            ROWS=merging.rows,
            COLS=merging.cols,
            **LAUNCH,
        )
        _apply[triton.cdiv(pixels, cut.rows), cut.blocks, B](
            *(x, y, mean, rstd, weight, bias, add, pixels, *cut.strides), **how, SILU=norm.silu, **tile
        )
    return y, mean, rstd


def residual_scale(x: Tensor, y: Tensor, scale: float) -> Tensor:
    """As :func:`reference.residual_scale`; x and y without gaps, with the same strides and dtype."""
    out = torch.empty_like(x)
    with torch.cuda.device_of(x):
        _add_scaled[triton.cdiv(x.numel(), FLAT),](x, y, out, x.numel(), scale, FLAT, **LAUNCH)
    return out
