# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The ends of a block on GPUs in Triton: as :mod:`feature_maps` specifies them, in NHWC.

A norm reads one tensor, or two side by side, and writes at the same, twice or half the resolution; a sum with
the skip gives the moments that the next norm needs while it is written.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from earth2_corrdiff.networks.kernels import triton_tiles
from earth2_corrdiff.networks.kernels.reference import Norm
from earth2_corrdiff.networks.kernels.triton_norm import moments as moments
from earth2_corrdiff.networks.kernels.triton_norm import of_groups
from earth2_corrdiff.networks.kernels.triton_tiles import (
    LAUNCH,
    SUMS,
    Spans,
    addresses,
    affine,
    columns,
    of_channels,
    of_span,
    shifting,
    streamed,
    tile_of,
)

SAME, UP, DOWN = 0, 1, 2


@triton.jit
def _activated(values, centre, scale, offset, SILU: tl.constexpr):
    z = (values - centre[None, :]) * scale[None, :] + offset[None, :]
    if SILU:
        z = z / (1.0 + tl.exp(-z))
    return z


@triton.jit
def _normalise(
    x, beside, y, raw, mean, rstd, weight, bias, shift, pixels, width,
    C0: tl.constexpr, C: tl.constexpr, G: tl.constexpr, SHIFT: tl.constexpr, SILU: tl.constexpr,
    MODE: tl.constexpr, RAW: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """``pixels`` and ``width`` are those of x; with RAW the input itself is written, too (DOWN: its mean)."""
    b, left = tl.program_id(2), tl.program_id(1) * COLS
    c = left + tl.arange(0, COLS)
    inside = c < C
    sample = b.to(tl.int64) * pixels
    source, at, stride = x + sample * C0, c, C0
    if C0 < C:
        own = left < C0
        source = tl.where(own, x + sample * C0, beside + sample * (C - C0))
        at = c - tl.where(own, 0, C0)
        stride = tl.where(own, C0, C - C0)
    centre, scale, w, offset = affine(mean, rstd, weight, bias, shift, b, c, inside, C, G, SHIFT)
    scale *= w
    p = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    if MODE == 2:
        here = (p < pixels // 4)[:, None] & inside[None, :]
        half = width // 2
        first = (p // half) * 2 * width + (p % half) * 2
        total, plain = tl.zeros([ROWS, COLS], tl.float32), tl.zeros([ROWS, COLS], tl.float32)
        for k in tl.static_range(4):
            q = first + (k // 2) * width + k % 2
            values = tl.load(addresses(source, q, at, stride, 1), mask=here, other=0.0).to(tl.float32)
            total += _activated(values, centre, scale, offset, SILU)
            plain += values
        out = addresses(y + sample // 4 * C, p, c, C, 1)
        tl.store(out, 0.25 * total, mask=here)
        if RAW:
            tl.store(addresses(raw + sample // 4 * C, p, c, C, 1), 0.25 * plain, mask=here)
    else:
        here = (p < pixels)[:, None] & inside[None, :]
        given = tl.load(addresses(source, p, at, stride, 1), mask=here, other=0.0)
        z = _activated(given.to(tl.float32), centre, scale, offset, SILU)
        if RAW:
            tl.store(addresses(raw + sample * C, p, c, C, 1), given, mask=here)
        if MODE == 1:
            first = (p // width) * 4 * width + (p % width) * 2
            for k in tl.static_range(4):
                q = first + (k // 2) * 2 * width + k % 2
                tl.store(addresses(y + sample * 4 * C, q, c, C, 1), z, mask=here)
        else:
            tl.store(addresses(y + sample * C, p, c, C, 1), z, mask=here)


@triton.jit
def _beside(side, p, c, width, row, inside, C: tl.constexpr, SIDE: tl.constexpr):
    """The skip's values at pixels ``p`` of a map of this width; of none, zeros."""
    if SIDE == 0:
        return tl.zeros([p.shape[0], c.shape[0]], tl.float32)
    q = p
    if SIDE == 2:
        q = (p // width // 2) * (width // 2) + p % width // 2
    return tile_of(side, q, c, C, 1, row, inside).to(tl.float32)


@triton.jit
def _written(values, add, beside, scale, y, p, c, row, inside, C: tl.constexpr):
    """Write the sum, and give it back as it was rounded."""
    rounded = ((values.to(tl.float32) + add[None, :] + beside) * scale).to(y.dtype.element_ty)
    tl.store(addresses(y, p, c, C, 1), rounded, mask=row[:, None] & inside[None, :])
    return rounded.to(tl.float32)


@triton.jit
def _join(
    x, side, bias, y, parts, pixels, width, span, scale,
    C: tl.constexpr, SIDE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """y = (x + bias + side) * scale, and its moments; SIDE 0: none, 1: as large as x, 2: half as large."""
    s, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = c < C
    add = of_channels(bias, c, inside)
    sample = b * pixels * C
    x += sample
    y += sample
    side += sample if SIDE == 1 else sample // 4
    first, end = s * span, tl.minimum((s + 1) * span, pixels)
    mean, squares = tl.zeros([ROWS, COLS], tl.float32), tl.zeros([ROWS, COLS], tl.float32)
    n = tl.zeros([ROWS], tl.float32)
    rows = tl.arange(0, ROWS)
    for start in range(first, end, 2 * ROWS):  # all loads begin before anything is written
        p0, p1 = start + rows, start + ROWS + rows
        v0 = tile_of(x, p0, c, C, 1, p0 < end, inside)
        v1 = tile_of(x, p1, c, C, 1, p1 < end, inside)
        s0 = _beside(side, p0, c, width, p0 < end, inside, C, SIDE)
        s1 = _beside(side, p1, c, width, p1 < end, inside, C, SIDE)
        z0 = _written(v0, add, s0, scale, y, p0, c, p0 < end, inside, C)
        z1 = _written(v1, add, s1, scale, y, p1, c, p1 < end, inside, C)
        mean, squares, n = streamed(mean, squares, n, z0, p0 < end)
        mean, squares, n = streamed(mean, squares, n, z1, p1 < end)
    middle, about = of_span(mean, squares, n)
    at = (b * tl.num_programs(0) + s) * 2 * C + c
    tl.store(parts + at, middle, mask=inside)
    tl.store(parts + at + C, about, mask=inside)


def fits(channels: Sequence[int]) -> bool:
    """True if tiles of tensors with so many channels, side by side, are wide enough to be read fast."""
    return len(channels) == 1 or columns(*channels) >= 16


def normalised(
    xs: Sequence[Tensor], parts: Sequence[Tensor], weight: Tensor, bias: Tensor, shift: Tensor | None,
    norm: Norm, mode: int, keep: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """As :func:`feature_maps.normalised`; one or two tensors in NHWC, without gaps, with their moments."""
    B, _, H, W = xs[0].shape
    channels = [x.shape[1] for x in xs]
    C, cols = sum(channels), columns(*channels)
    rows = max(1, triton_tiles.TILE // cols // (4 if mode == DOWN else 1))
    mean, rstd = of_groups(parts, shift, H * W, norm)
    size = {SAME: (H, W), UP: (2 * H, 2 * W), DOWN: (H // 2, W // 2)}[mode]

    def empty(h: int, w: int) -> Tensor:
        like = xs[0]
        return torch.empty(
            (B, C, h, w), dtype=like.dtype, device=like.device, memory_format=torch.channels_last
        )

    y = empty(*size)
    raw = empty(*(size if mode == DOWN else (H, W))) if keep else None
    programs = triton.cdiv(H * W // 4 if mode == DOWN else H * W, rows)
    with torch.cuda.device_of(y):
        _normalise[programs, triton.cdiv(C, cols), B](
            *(xs[0], xs[-1], y, y if raw is None else raw, mean, rstd, weight, bias),
            *(weight if shift is None else shift, H * W, W),
            *(channels[0], C, norm.groups, shifting(shift), norm.silu, mode, keep, rows, cols),
            **LAUNCH,
        )
    return y, raw


def join(x: Tensor, side: Tensor | None, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """As :func:`feature_maps.join`; all in NHWC, without gaps. The result and its moments."""
    B, C, H, W = x.shape
    spans, cols = Spans.of(H * W), columns(C)
    y = torch.empty_like(x, memory_format=torch.channels_last)
    parts = x.new_empty(B, spans.count, 2, C, dtype=torch.float32)
    kind = 0 if side is None else 1 if side.shape == x.shape else 2
    with torch.cuda.device_of(x):
        _join[spans.count, triton.cdiv(C, cols), B](
            *(x, x if side is None else side, bias, y, parts, H * W, W, spans.span, scale),
            *(C, kind, spans.rows(cols), cols),
            **SUMS,
        )
    return y, parts
