# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""G: tile sizes of the Triton norm, by GB/s of two reads and a write, against PyTorch's own operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (as everywhere in PyTorch code)

from earth2_corrdiff.kernels import group_norm_silu, residual_scale, triton_tiles
from earth2_corrdiff.unet import SKIP_SCALE

from .record import Record

SHAPES = ((1, 128, 448, 448), (1, 256, 224, 224), (16, 128, 448, 448), (1, 256, 56, 56))
TILES, WARPS, SPANS = (2048, 4096, 8192), (4, 8), (264, 512, 1056, 2112)
CACHED = 2e8  # bytes of inputs in turn, so that a small one is not found in the cache
Shape = tuple[int, int, int, int]


@torch.inference_mode()
def run(record: Record) -> None:
    """Measure the defaults and PyTorch's operators, then every combination."""
    shapes = ((1, 16, 8, 8),) if record.tiny else SHAPES
    now = (triton_tiles.TILE, triton_tiles.LAUNCH["num_warps"], triton_tiles.SPANS)
    record.put("defaults", value=dict(zip(("tile", "warps", "spans"), now, strict=True)))
    for shape in shapes:
        record.attempt(f"defaults, {shape}", _defaults, record, shape, least=3)
    grid = product(TILES, WARPS, SPANS) if not record.tiny else [(4096, 4, 512)]
    for tile, warps, spans in grid:
        name = f"tile {tile}, {warps} warps, {spans} spans"
        with _tiles(tile, warps, spans):
            record.attempt(name, _rates, record, name, shapes, least=4)


@contextmanager
def _tiles(tile: int, warps: int, spans: int) -> Iterator[None]:
    """The kernels with other tile sizes."""
    before = triton_tiles.TILE, triton_tiles.LAUNCH["num_warps"], triton_tiles.SPANS
    try:
        triton_tiles.TILE, triton_tiles.LAUNCH["num_warps"], triton_tiles.SPANS = tile, warps, spans
        yield
    finally:
        triton_tiles.TILE, triton_tiles.LAUNCH["num_warps"], triton_tiles.SPANS = before


def _rates(record: Record, name: str, shapes: tuple[Shape, ...]) -> None:
    for shape in shapes:
        if record.tiny or record.left() > 2:
            record.put("GB/s", str(shape), name, value=round(_rate(record, shape, _norm(record, shape)), 1))


def _defaults(record: Record, shape: Shape) -> None:
    weight, bias = (t.bfloat16() for t in _affine(record, shape[1]))
    works: dict[str, Callable[[Tensor], Tensor]] = {
        "defaults": _norm(record, shape),
        "F.group_norm, F.silu": lambda x: F.silu(F.group_norm(x, _groups(shape), weight, bias, 1e-6)),
        "residual_scale": lambda x: residual_scale(x, x, SKIP_SCALE),
    }
    for name, work in works.items():
        record.put("GB/s", str(shape), name, value=round(_rate(record, shape, work), 1))


def _groups(shape: Shape) -> int:
    return min(32, shape[1] // 4)


def _affine(record: Record, channels: int) -> tuple[Tensor, Tensor]:
    return torch.ones(channels, device=record.device), torch.zeros(channels, device=record.device)


def _norm(record: Record, shape: Shape) -> Callable[[Tensor], Tensor]:
    weight, bias = _affine(record, shape[1])
    return lambda x: group_norm_silu(x, _groups(shape), weight, bias, unbiased=True)


def _rate(record: Record, shape: Shape, work: Callable[[Tensor], Tensor]) -> float:
    """GB/s of three passes over a tensor of bfloat16."""
    size = 2 * torch.Size(shape).numel()
    many = 1 if record.tiny else max(1, min(16, int(CACHED // size)))
    xs = [
        torch.randn(shape, device=record.device).bfloat16().contiguous(memory_format=torch.channels_last)
        for _ in range(many)
    ]
    seconds = record.meter.best(lambda: [work(x) for x in xs], tries=3, sample=0.01) / many
    return 3 * size / seconds / 1e9
