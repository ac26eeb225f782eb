# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Means of blocks of grid points: coarse fields, and coarse grids, of fine ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import Grid

LEAST = 0.5
"""Part of a block that must have values for a mean."""


@dataclass(frozen=True)
class Blocks:
    """Sizes of the blocks of grid points that are averaged.

    Attributes
    ----------
    coarse : int
        Fine points along each side of a coarse cell
    fine : int
        Points of the source along each side of a fine cell
    """

    coarse: int
    fine: int = 1

    def __post_init__(self) -> None:
        sizes = (self.coarse, "fine points of a coarse cell", 2), (self.fine, "points of a fine cell", 1)
        for size, what, least in sizes:
            if type(size) is not int or size < least:
                raise InputError(f"the {what} along each side must be {least} or more, got {size!r}")


def block_means(fields: NDArray[Any], size: int) -> NDArray[Any]:
    """Means of blocks of ``size`` x ``size`` points: ``[..., H, W] → [..., H / size, W / size]``.

    Of the values that are not NaN where these are at least half of a block, else NaN.
    """
    if size == 1:
        return fields
    H, W = fields.shape[-2:]
    blocks = fields.reshape(*fields.shape[:-2], H // size, size, W // size, size).astype(np.float64)
    there = np.isfinite(blocks)
    count = there.sum((-3, -1))
    total = np.where(there, blocks, 0).sum((-3, -1))
    means = np.where(count >= LEAST * size**2, total / np.maximum(count, 1), np.nan)
    return means.astype(fields.dtype)


def mean_grid(grid: Grid, size: int) -> Grid:
    """The grid of block means: means of the coordinates, float32; longitudes as they run on."""
    if size == 1:
        return grid
    if grid.curvilinear:
        lon = np.unwrap(np.unwrap(grid.lon.astype(np.float64), period=360, axis=0), period=360, axis=1)
        return Grid(*(block_means(part, size).astype(np.float32) for part in (grid.lat, lon)))
    axes = (axis.astype(np.float64).reshape(-1, size).mean(1) for axis in (grid.lat, grid.lon))
    return Grid(*(axis.astype(np.float32) for axis in axes))
