# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The gradients of the fused norm in Triton, by the formula of :func:`reference.backward`.

The activation is computed again: it costs less than to keep it. Sums over spans, then over the spans of a
sample, then the gradient of the input: four reads and one write.

With two exponentials and some twenty operations for each value, half a GPU's arithmetic is busy at full
bandwidth: there must be many warps to hide one behind the other. So tiles are small, a thread has four values
at a time, and what it needs of a channel is as few numbers as possible: at most 64 registers on sm_90, in
either layout and any dtype (a test counts them).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from earth2_corrdiff.networks.kernels.reference import Norm
from earth2_corrdiff.networks.kernels.triton_tiles import (
    BACK_LAUNCH,
    MERGE,
    MergeTiles,
    Tiles,
    addresses,
    affine,
    of_channels,
    shifting,
)


@triton.jit
def _pixel_gradients(grad, x, centre, slope, offset, p, c, here, stride_p, stride_c, SILU: tl.constexpr):
    """d = x + shift - mean, and the gradient of z = d * slope + offset; both 0 outside."""
    values = tl.load(addresses(x, p, c, stride_p, stride_c), mask=here, other=0.0).to(tl.float32)
    dz = tl.load(addresses(grad, p, c, stride_p, stride_c), mask=here, other=0.0).to(tl.float32)
    d = tl.where(here, values - centre[None, :], 0.0)
    if SILU:
        z = d * slope[None, :] + offset[None, :]
        s = 1.0 / (1.0 + tl.exp(-z))
        dz = dz * s * (1.0 + z * (1.0 - s))
    return d, dz


@triton.jit
def _sums(
    grad, x, mean, rstd, weight, bias, shift, parts, pixels, stride_p, stride_c, tiles,
    C: tl.constexpr, G: tl.constexpr, SHIFT: tl.constexpr, SILU: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """parts[b, span] = sums of dz ``[C]``, of dz * h ``[C]`` and of h ``[C]``."""
    span, b = tl.program_id(0), tl.program_id(2)
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = c < C
    sample = b.to(tl.int64) * pixels * C
    centre, scale, w, offset = affine(mean, rstd, weight, bias, shift, b, c, inside, C, G, SHIFT)
    # each thread adds up its own values, and the threads of a program meet once, behind the loop
    of_dz, of_dzd = tl.zeros([ROWS, COLS], tl.float32), tl.zeros([ROWS, COLS], tl.float32)
    of_d = tl.zeros([ROWS, COLS], tl.float32)
    for i in range(tiles):
        p = (span * tiles + i) * ROWS + tl.arange(0, ROWS)
        here = (p < pixels)[:, None] & inside[None, :]
        d, dz = _pixel_gradients(
            grad + sample, x + sample, centre, scale * w, offset, p, c, here, stride_p, stride_c, SILU
        )
        of_dz += dz
        of_dzd += dz * d
        of_d += d
    at = (b.to(tl.int64) * tl.num_programs(0) + span) * 3 * C + c
    tl.store(parts + at, tl.sum(of_dz, axis=0), mask=inside)
    tl.store(parts + at + C, tl.sum(of_dzd, axis=0) * scale, mask=inside)
    tl.store(parts + at + 2 * C, tl.sum(of_d, axis=0) * scale, mask=inside)


@triton.jit
def _merge_sums(
    parts, rstd, weight, dbias, dweight, dshift, along, across, pixels, spans,
    C: tl.constexpr, G: tl.constexpr, UNBIASED: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """The gradient that a group subtracts from its pixels, and per sample the gradients of its channels."""
    g, b = tl.program_id(0), tl.program_id(1)
    SIZE: tl.constexpr = C // G
    j = tl.arange(0, COLS)
    c = g * SIZE + j
    inside = j < SIZE
    parts += b.to(tl.int64) * spans * 3 * C
    of_dz, of_dzh = tl.zeros([ROWS, COLS], tl.float32), tl.zeros([ROWS, COLS], tl.float32)
    of_h = tl.zeros([ROWS, COLS], tl.float32)
    for first in range(0, spans, ROWS):
        k = first + tl.arange(0, ROWS)
        here = (k < spans)[:, None] & inside[None, :]
        at = parts + k[:, None] * 3 * C + c[None, :]
        of_dz += tl.load(at, mask=here, other=0.0)
        of_dzh += tl.load(at + C, mask=here, other=0.0)
        of_h += tl.load(at + 2 * C, mask=here, other=0.0)
    sum_dz, sum_dzh, sum_h = tl.sum(of_dz, axis=0), tl.sum(of_dzh, axis=0), tl.sum(of_h, axis=0)
    w = of_channels(weight, c, inside)
    count = pixels * (SIZE * 1.0)
    mean_dh = tl.sum(w * sum_dz, axis=0) / count
    slope = tl.sum(w * sum_dzh, axis=0) / (count - UNBIASED)
    left = w * sum_dz - pixels * mean_dh - slope * sum_h
    tl.store(dbias + b * C + c, sum_dz, mask=inside)
    tl.store(dweight + b * C + c, sum_dzh, mask=inside)
    tl.store(dshift + b * C + c, left * tl.load(rstd + b * G + g), mask=inside)
    tl.store(along + b * G + g, mean_dh)
    tl.store(across + b * G + g, slope)


@triton.jit
def _input_gradient(
    grad, x, dx, mean, rstd, weight, bias, shift, along, across, pixels, stride_p, stride_c, tiles,
    C: tl.constexpr, G: tl.constexpr, SHIFT: tl.constexpr, SILU: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """dx = rstd * (dz * weight - along - h * across), a span at a time."""
    span, b = tl.program_id(0), tl.program_id(2)
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = c < C
    sample = b.to(tl.int64) * pixels * C
    centre, scale, w, offset = affine(mean, rstd, weight, bias, shift, b, c, inside, C, G, SHIFT)
    g = b * G + c // (C // G)
    level = scale * of_channels(along, g, inside)
    tilt = scale * (scale * of_channels(across, g, inside))
    for i in range(tiles):
        p = (span * tiles + i) * ROWS + tl.arange(0, ROWS)
        here = (p < pixels)[:, None] & inside[None, :]
        d, dz = _pixel_gradients(
            grad + sample, x + sample, centre, scale * w, offset, p, c, here, stride_p, stride_c, SILU
        )
        result = dz * (scale * w)[None, :] - level[None, :] - d * tilt[None, :]
        tl.store(addresses(dx + sample, p, c, stride_p, stride_c), result, mask=here)


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    shift: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    norm: Norm,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`reference.backward`; ``grad`` and ``x`` with the same strides, without gaps."""
    B, C, H, W = x.shape
    G, pixels, cut = norm.groups, H * W, Tiles.of(x, backward=True)
    merging = MergeTiles.of(C // G)
    parts = x.new_empty(B, cut.spans, 3, C, dtype=torch.float32)
    along, across = torch.empty_like(mean), torch.empty_like(mean)
    dbias, dweight, dshift = (x.new_empty(B, C, dtype=torch.float32) for _ in range(3))
    dx, add = torch.empty_like(x), weight if shift is None else shift.contiguous()
    given = (mean, rstd, weight, bias, add)
    how = {"C": C, "G": G, "SHIFT": shifting(shift), "SILU": norm.silu}
    tile = {"ROWS": cut.rows, "COLS": cut.cols, **BACK_LAUNCH}
    with torch.cuda.device_of(x):
        _sums[cut.spans, cut.blocks, B](
            grad, x, *given, parts, pixels, *cut.strides, cut.tiles, **how, **tile
        )
        _merge_sums[G, B](
            *(parts, rstd, weight, dbias, dweight, dshift, along, across, pixels, cut.spans),
            *(C, G, int(norm.unbiased), merging.rows, merging.cols),
            **MERGE,
        )
        _input_gradient[cut.spans, cut.blocks, B](
            grad, x, dx, *given, along, across, pixels, *cut.strides, cut.tiles, **how, **tile
        )
    return dx, dweight.sum(dim=0), dbias.sum(dim=0), dshift
