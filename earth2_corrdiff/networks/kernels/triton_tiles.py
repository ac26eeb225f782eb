# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""Tiles of the Triton kernels: how a tensor is cut into them, and how one is normalised.

A group has 4 to 16 channels: too few to be read alone. A tile is some pixels by up to 128 channels, and its
sums are per channel. A tensor is addressed by the strides of its pixels and channels, so NHWC and NCHW need
neither a copy nor kernels of their own: Triton lays the threads along the stride that is 1. All is fixed by
the shape of one sample, so that bits depend neither on the batch nor on timing.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

WARPS = 4
TILE = 4096  # values: 32 registers in each of 128 threads
MOST_COLS = 128
SUM_TILE = 1024  # values of a tile whose sums are kept in registers; four are read at once
SPAN_UNIT = 32  # pixels that a span is a multiple of
SUM_SPANS = 512  # programs that share the pixels of a sample, where it is large enough
SPANS = 512  # the same for the gradients
MOST_TILES = 16  # that a span has
MERGE_ROWS, MERGE_TILE = 512, 4096  # spans, and values, that are merged at a time
# of the gradients: four values in each of 256 threads, so spans have more tiles; a few at least, because what
# is known of a channel is read once per span
BACK_THREADS, BACK_TILE, BACK_LEAST_TILES, BACK_MOST_TILES = 256, 1024, 4, 64
BACK_ROWS = 32  # pixels in NCHW, where they are what lies side by side
# fusion is Triton's own default until 3.10: written here, so that bits do not change with its version
LAUNCH = {"num_warps": WARPS, "enable_fp_fusion": True}
SUMS = dict(LAUNCH)  # of kernels that sum over the pixels of a span
MERGE = {**LAUNCH, "num_warps": 8}  # of those that merge spans
BACK_LAUNCH = {**LAUNCH, "num_warps": BACK_THREADS // (32 if torch.version.hip is None else 64)}


@dataclass(frozen=True)
class Tiles:
    """Cut of a sample: spans of ``tiles`` tiles of ``rows`` pixels, blocks of ``cols`` channels."""

    rows: int
    cols: int
    tiles: int
    spans: int
    blocks: int
    strides: tuple[int, int]

    @classmethod
    def of(cls, x: Tensor, backward: bool = False) -> Tiles:
        """For ``[B, C, H, W]`` in NHWC or NCHW without gaps, or for its gradient."""
        _, C, H, W = x.shape
        size, least, most = TILE, 1, MOST_TILES
        if backward:
            size, least, most = BACK_TILE, BACK_LEAST_TILES, BACK_MOST_TILES
        nhwc = x.is_contiguous(memory_format=torch.channels_last)
        cols = columns(C)
        if backward and not nhwc:
            cols = min(cols, size // BACK_ROWS)
        rows = size // cols
        count = triton.cdiv(H * W, rows)
        tiles = min(max(triton.cdiv(count, SPANS), min(count, least)), most)
        strides = (C, 1) if nhwc else (1, H * W)
        return cls(rows, cols, tiles, triton.cdiv(count, tiles), triton.cdiv(C, cols), strides)


@dataclass(frozen=True)
class Spans:
    """Division of a sample's pixels for sums over them: ``count`` spans of ``span`` pixels.

    The number of channels plays no part, so that the sums of two tensors can be merged.
    """

    span: int
    count: int

    @classmethod
    def of(cls, pixels: int) -> Spans:
        """For a sample of so many pixels."""
        span = SPAN_UNIT * triton.cdiv(triton.cdiv(pixels, SUM_SPANS), SPAN_UNIT)
        return cls(span, triton.cdiv(pixels, span))

    def rows(self, cols: int) -> int:
        """Pixels of a tile with ``cols`` channels."""
        rows: int = min(SUM_TILE // cols, triton.next_power_of_2(self.span))
        return max(1, rows)


@dataclass(frozen=True)
class MergeTiles:
    """Tile in which the sums of the spans are merged: ``rows`` spans by the channels of a group."""

    rows: int
    cols: int

    @classmethod
    def of(cls, size: int) -> MergeTiles:
        """For groups of ``size`` channels."""
        cols = triton.next_power_of_2(size)
        return cls(max(1, min(MERGE_ROWS, MERGE_TILE // cols)), cols)


def columns(*channels: int) -> int:
    """Channels of a tile of tensors with so many: as many as divide all, so that no thread is idle.

    But rows of 128 bytes at least, for which a tile of a single tensor may stick out.
    """
    bits = functools.reduce(operator.or_, channels)
    whole: int = bits & -bits
    if whole < 32 and len(channels) == 1:
        whole = int(triton.next_power_of_2(channels[0]))
    return min(MOST_COLS, whole)


EACH = tl.constexpr(2)


def shifting(shift: Tensor | None) -> int:
    """The kernels' code of a shift: 0 there is none, 1 ``[1, C]`` for all samples, 2 ``[B, C]``."""
    return 0 if shift is None else 1 if shift.shape[0] == 1 else 2


@triton.jit
def addresses(pointer, p, c, stride_p, stride_c):
    """Of pixels ``p`` by channels ``c``; in 64 bits, because a sample may have more than 2^31 values."""
    return pointer + p.to(tl.int64)[:, None] * stride_p + c.to(tl.int64)[None, :] * stride_c


@triton.jit
def tile_of(pointer, p, c, stride_p, stride_c, row, inside):
    return tl.load(
        addresses(pointer, p, c, stride_p, stride_c), mask=row[:, None] & inside[None, :], other=0.0
    )


@triton.jit
def of_channels(pointer, at, inside):
    return tl.load(pointer + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def affine(
    mean, rstd, weight, bias, shift, b, c, inside, C: tl.constexpr, G: tl.constexpr, SHIFT: tl.constexpr
):
    """Per channel: mean without the shift, 1 / deviation, weight, bias."""
    g = b * G + c // (C // G)
    centre = of_channels(mean, g, inside)
    if SHIFT:
        centre -= of_channels(shift, (b * C if SHIFT == EACH else 0) + c, inside)
    return centre, of_channels(rstd, g, inside), of_channels(weight, c, inside), of_channels(bias, c, inside)


@triton.jit
def pixels_in(k, pixels, span_pixels):
    """Pixels of span ``k`` as float32: the last one may be short, and behind it there are none."""
    return tl.minimum(tl.maximum(pixels - k * span_pixels, 0), span_pixels) * 1.0


@triton.jit
def streamed(mean, squares, n, values, here):
    """Welford's recurrence in each element of a tile, with the values of the next tile; ``n`` per row.

    No thread needs another one's sums until all tiles have been read (:func:`of_span`).
    """
    n += tl.where(here, 1.0, 0.0)
    d = tl.where(here[:, None], values - mean, 0.0)
    mean += d * (1.0 / tl.maximum(n, 1.0))[:, None]
    squares += d * (values - mean)
    return mean, squares, n


@triton.jit
def of_span(mean, squares, n):
    """Mean and squares about it of each channel, from all rows of a tile (Chan, Golub and LeVeque, 1983)."""
    total = tl.sum(n, axis=0)
    share = (n / total)[:, None]
    rough = tl.sum(mean * share, axis=0)
    rough += tl.sum((mean - rough[None, :]) * share, axis=0)  # corrected: a large mean costs no digits
    d = mean - rough[None, :]
    return rough, tl.sum(squares + d * d * n[:, None], axis=0)
