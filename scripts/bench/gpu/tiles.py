# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""G: tile sizes of the Triton kernels, by GB/s of two reads and a write, against PyTorch's own operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (as everywhere in PyTorch code)

from earth2_corrdiff.networks.fast.tuning import GROUPS
from earth2_corrdiff.networks.kernels import feature_maps, group_norm_silu, tuned
from earth2_corrdiff.networks.kernels.reference import Norm
from earth2_corrdiff.networks.unet import SKIP_SCALE

from .record import Record

SHAPES = ((1, 128, 448, 448), (1, 256, 224, 224), (16, 128, 448, 448), (1, 256, 56, 56))
BASELINES = ("norm of a map", "norm", "join", "F.group_norm, F.silu")
CACHED = 2e8  # bytes of inputs in turn, so that a small one is not found in the cache
Shape = tuple[int, int, int, int]
Work = Callable[[Tensor], object]


def run(record: Record) -> None:
    """Measure the defaults and PyTorch's operators, then what ``tune`` chooses from, one group at a time."""
    record.attempt("tiles", _all, record, least=0)


@torch.inference_mode()
def _all(record: Record) -> None:
    from earth2_corrdiff.networks.kernels import triton_tiles

    shapes = ((1, 16, 8, 8),) if record.tiny else SHAPES
    now = {name: getattr(triton_tiles, name, None) for name in tuned.TILES}
    record.put("defaults", value={n: v["num_warps"] if isinstance(v, dict) else v for n, v in now.items()})
    for shape in shapes:
        record.attempt(f"defaults, {shape}", _defaults, record, shape, least=3)
    for group in GROUPS:
        for values in product(*(tuned.TILES[name] for name in group)):
            tiles = dict(zip(group, values, strict=True))
            with _tiles(tiles):
                record.attempt(str(tiles), _rates, record, tiles, shapes, least=4)
            if record.tiny:
                break


@contextmanager
def _tiles(tiles: dict[str, int]) -> Iterator[None]:
    """The kernels with other tile sizes."""
    from earth2_corrdiff.networks.kernels import triton_tiles

    before = tuned.set_tiles(triton_tiles, tiles)
    try:
        yield
    finally:
        tuned.set_tiles(triton_tiles, before)


def _rates(record: Record, tiles: dict[str, int], shapes: tuple[Shape, ...]) -> None:
    name = ", ".join(f"{name} {value}" for name, value in tiles.items())
    for shape in shapes:
        if record.tiny or record.left() > 2:
            work = _works(record, shape)[BASELINES[0]]
            record.put("GB/s", str(shape), name, value=round(_rate(record, shape, work), 1))


def _defaults(record: Record, shape: Shape) -> None:
    for name, work in _works(record, shape).items():
        record.put("GB/s", str(shape), name, value=round(_rate(record, shape, work), 1))


def _works(record: Record, shape: Shape) -> dict[str, Work]:
    C, groups = shape[1], min(32, shape[1] // 4)
    weight, bias = torch.ones(C, device=record.device), torch.zeros(C, device=record.device)
    half, norm = (weight.bfloat16(), bias.bfloat16()), Norm(groups, unbiased=True)
    return {
        BASELINES[0]: lambda x: feature_maps.normalised([feature_maps.measured(x)], weight, bias, norm),
        BASELINES[1]: lambda x: group_norm_silu(x, groups, weight, bias, unbiased=True),
        BASELINES[2]: lambda x: feature_maps.join(x, x, bias, SKIP_SCALE),
        BASELINES[3]: lambda x: F.silu(F.group_norm(x, groups, *half, 1e-6)),
    }


def _rate(record: Record, shape: Shape, work: Work) -> float:
    """GB/s of three passes over a tensor of bfloat16."""
    size = 2 * torch.Size(shape).numel()
    many = 1 if record.tiny else max(1, min(16, int(CACHED // size)))
    xs = [
        torch.randn(shape, device=record.device).bfloat16().contiguous(memory_format=torch.channels_last)
        for _ in range(many)
    ]
    seconds = record.meter.best(lambda: [work(x) for x in xs], tries=3, sample=0.01) / many
    return 3 * size / seconds / 1e9
