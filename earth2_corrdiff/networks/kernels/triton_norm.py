# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The fused operators on GPUs in Triton, for NVIDIA and AMD alike.

One kernel streams the mean of each channel and the squares about it (Welford), a second merges them per group
(Chan, Golub and LeVeque, 1983), a third applies the result: two reads, one write.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from earth2_corrdiff.networks.kernels.reference import Norm
from earth2_corrdiff.networks.kernels.triton_backward import backward as backward
from earth2_corrdiff.networks.kernels.triton_tiles import (
    EACH,
    LAUNCH,
    MERGE,
    SUMS,
    MergeTiles,
    Spans,
    Tiles,
    addresses,
    affine,
    of_channels,
    of_span,
    pixels_in,
    shifting,
    streamed,
    tile_of,
)

FLAT = 4096  # values of a residual that a program adds


@triton.jit
def _moments(
    x, parts, pixels, stride_p, stride_c, span, C: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr
):
    """parts[b, span] = means ``[C]``, then sums of squares about them ``[C]``."""
    s, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = c < C
    x += b * pixels * C
    first, end = s * span, tl.minimum((s + 1) * span, pixels)
    mean, squares = tl.zeros([ROWS, COLS], tl.float32), tl.zeros([ROWS, COLS], tl.float32)
    n = tl.zeros([ROWS], tl.float32)
    rows = tl.arange(0, ROWS)
    for start in range(first, end, 4 * ROWS):  # four loads are on their way at once
        p0, p1, p2, p3 = start + rows, start + ROWS + rows, start + 2 * ROWS + rows, start + 3 * ROWS + rows
        v0 = tile_of(x, p0, c, stride_p, stride_c, p0 < end, inside)
        v1 = tile_of(x, p1, c, stride_p, stride_c, p1 < end, inside)
        v2 = tile_of(x, p2, c, stride_p, stride_c, p2 < end, inside)
        v3 = tile_of(x, p3, c, stride_p, stride_c, p3 < end, inside)
        mean, squares, n = streamed(mean, squares, n, v0.to(tl.float32), p0 < end)
        mean, squares, n = streamed(mean, squares, n, v1.to(tl.float32), p1 < end)
        mean, squares, n = streamed(mean, squares, n, v2.to(tl.float32), p2 < end)
        mean, squares, n = streamed(mean, squares, n, v3.to(tl.float32), p3 < end)
    middle, about = of_span(mean, squares, n)
    at = (b * tl.num_programs(0) + s) * 2 * C + c
    tl.store(parts + at, middle, mask=inside)
    tl.store(parts + at + C, about, mask=inside)


@triton.jit
def _merge_moments(
    parts, beside, shift, mean, rstd, pixels, spans, span, eps,
    C0: tl.constexpr, C: tl.constexpr, G: tl.constexpr, SHIFT: tl.constexpr, UNBIASED: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Mean and 1 / deviation of a group, from all spans of its channels.

    Channels from C0 on are those of a second tensor, whose moments are ``beside``.
    """
    g, b = tl.program_id(0), tl.program_id(1)
    SIZE: tl.constexpr = C // G
    j = tl.arange(0, COLS)
    inside = j < SIZE
    offset = tl.zeros([COLS], tl.float32)
    if SHIFT:
        offset = of_channels(shift, (b * C if SHIFT == EACH else 0) + g * SIZE + j, inside)
    c, sample = g * SIZE + j, b.to(tl.int64) * spans * 2
    if C0 < C:
        own = c < C0
        base = tl.where(own, parts + sample * C0 + c, beside + sample * (C - C0) + (c - C0))
        width = tl.where(own, C0, C - C0)
        first = tl.where(
            g * SIZE < C0, parts + sample * C0 + g * SIZE, beside + sample * (C - C0) + (g * SIZE - C0)
        )
    else:
        base = parts + sample * C + c
        width = tl.full([COLS], C, tl.int32)
        first = parts + sample * C + g * SIZE
    pivot = tl.load(first)
    count = pixels * (SIZE * 1.0)
    total = tl.zeros([ROWS, COLS], tl.float32)
    for start in range(0, spans, ROWS):
        k = start + tl.arange(0, ROWS)
        here = (k < spans)[:, None] & inside[None, :]
        at = base[None, :] + k[:, None] * 2 * width[None, :]
        d = tl.load(at, mask=here, other=0.0) - pivot + offset[None, :]
        total += tl.where(here, d * pixels_in(k, pixels, span)[:, None], 0.0)
    middle = tl.sum(tl.sum(total, axis=0), axis=0) / count
    total = tl.zeros([ROWS, COLS], tl.float32)
    for start in range(0, spans, ROWS):
        k = start + tl.arange(0, ROWS)
        here = (k < spans)[:, None] & inside[None, :]
        at = base[None, :] + k[:, None] * 2 * width[None, :]
        d = tl.load(at, mask=here, other=0.0) - pivot + offset[None, :] - middle
        squares = tl.load(at + width[None, :], mask=here, other=0.0)
        total += tl.where(here, squares + d * d * pixels_in(k, pixels, span)[:, None], 0.0)
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


def moments(x: Tensor) -> Tensor:
    """Means and squares about them of each channel and span of pixels, ``[B, spans, 2, C]`` float32.

    ``x [B, C, H, W]`` in NHWC or NCHW, without gaps.
    """
    B, C, H, W = x.shape
    cut, spans = Tiles.of(x), Spans.of(H * W)
    parts = x.new_empty(B, spans.count, 2, C, dtype=torch.float32)
    with torch.cuda.device_of(x):
        _moments[spans.count, cut.blocks, B](
            *(x, parts, H * W, *cut.strides, spans.span, C, spans.rows(cut.cols), cut.cols), **SUMS
        )
    return parts


def of_groups(
    parts: Sequence[Tensor], shift: Tensor | None, pixels: int, norm: Norm
) -> tuple[Tensor, Tensor]:
    """Mean and 1 / standard deviation ``[B, G]`` from the moments of one tensor, or of two side by side."""
    first, last = parts[0], parts[-1]
    B, spans, _, C0 = first.shape
    C, G = sum(part.shape[-1] for part in parts), norm.groups
    merging = MergeTiles.of(C // G)
    mean, rstd = (first.new_empty(B, G) for _ in range(2))
    with torch.cuda.device_of(first):
        _merge_moments[G, B](
            *(
                first,
                last,
                first if shift is None else shift,
                mean,
                rstd,
                pixels,
                spans,
                Spans.of(pixels).span,
            ),
            *(norm.eps, C0, C, G, shifting(shift), int(norm.unbiased), merging.rows, merging.cols),
            **MERGE,
        )
    return mean, rstd


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, norm: Norm
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`reference.forward`; ``x`` in NHWC or NCHW, without gaps."""
    B, C, H, W = x.shape
    G, pixels, cut = norm.groups, H * W, Tiles.of(x)
    shift = None if shift is None else shift.contiguous()
    mean, rstd = of_groups([moments(x)], shift, pixels, norm)
    y, add = torch.empty_like(x), weight if shift is None else shift
    with torch.cuda.device_of(x):
        _apply[triton.cdiv(pixels, cut.rows), cut.blocks, B](
            *(x, y, mean, rstd, weight, bias, add, pixels, *cut.strides),
            *(C, G, shifting(shift), norm.silu, cut.rows, cut.cols),
            **LAUNCH,
        )
    return y, mean, rstd


def residual_scale(x: Tensor, y: Tensor, scale: float) -> Tensor:
    """As :func:`reference.residual_scale`; x and y without gaps, with the same strides and dtype."""
    out = torch.empty_like(x)
    with torch.cuda.device_of(x):
        _add_scaled[triton.cdiv(x.numel(), FLAT),](x, y, out, x.numel(), scale, FLAT, **LAUNCH)
    return out
