# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""What the Triton kernels have in common: how a tensor is cut into tiles, and how a tile is normalised.

A group has 4 to 16 channels: too few to be read alone. A tile is some pixels by up to 128 channels, and its
sums are per channel. A tensor is addressed by the strides of its pixels and channels, so NHWC and NCHW need
neither a copy nor kernels of their own: Triton lays the threads along the stride that is 1. All is fixed by
the shape of one sample, so that bits depend neither on the batch nor on timing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

WARPS = 4
TILE = 4096  # values: 32 registers in each of 128 threads
MOST_COLS = 128
SPANS = 512  # programs that share the pixels of a sample, where it is large enough
MOST_TILES = 16  # that a span has
MERGE_ROWS, MERGE_TILE = 128, 2048  # spans, and values, that are merged at a time
# of the gradients: four values in each of 256 threads, so spans have more tiles; a few at least, because what
# is known of a channel is read once per span
BACK_THREADS, BACK_TILE, BACK_LEAST_TILES, BACK_MOST_TILES = 256, 1024, 4, 64
BACK_ROWS = 32  # pixels in NCHW, where they are what lies side by side
# fusion is Triton's own default until 3.10: said here, so that bits do not change with its version
LAUNCH = {"num_warps": WARPS, "enable_fp_fusion": True}
BACK_LAUNCH = {**LAUNCH, "num_warps": BACK_THREADS // (32 if torch.version.hip is None else 64)}


@dataclass(frozen=True)
class Tiles:
    """How a sample is cut: spans of ``tiles`` tiles of ``rows`` pixels, blocks of ``cols`` channels."""

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
        # as many channels as divide C, so that no thread is idle; but rows of 128 bytes at least
        whole = C & -C
        cols = min(MOST_COLS, whole if whole >= 32 else triton.next_power_of_2(C))
        if backward and not nhwc:
            cols = min(cols, size // BACK_ROWS)
        rows = size // cols
        count = triton.cdiv(H * W, rows)
        tiles = min(max(triton.cdiv(count, SPANS), min(count, least)), most)
        strides = (C, 1) if nhwc else (1, H * W)
        return cls(rows, cols, tiles, triton.cdiv(count, tiles), triton.cdiv(C, cols), strides)


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


@triton.jit
def addresses(pointer, p, c, stride_p, stride_c):
    """Of pixels ``p`` by channels ``c``; in 64 bits, because a sample may have more than 2^31 values."""
    return pointer + p.to(tl.int64)[:, None] * stride_p + c.to(tl.int64)[None, :] * stride_c


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
        centre -= of_channels(shift, b * C + c, inside)
    return centre, of_channels(rstd, g, inside), of_channels(weight, c, inside), of_channels(bias, c, inside)


@triton.jit
def pixels_in(k, pixels, span_pixels):
    """Pixels of span ``k`` as float32: the last one may be short, and behind it there are none."""
    return tl.minimum(tl.maximum(pixels - k * span_pixels, 0), span_pixels) * 1.0
