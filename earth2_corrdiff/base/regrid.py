# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Bilinear regridding of tensors from a coarse grid to a fine one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (as everywhere in PyTorch code)

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import Coordinate, Grid


def _bracket(axis: Coordinate, points: Coordinate) -> tuple[Tensor, Tensor]:
    """Index of the cell of a rising axis that holds each point, and the distance into it in cells."""
    knots, at = torch.tensor(axis), torch.tensor(points)  # copies: arrays of a store may be read-only
    cell = torch.clamp(torch.searchsorted(knots, at.contiguous()) - 1, 0, knots.numel() - 2)
    steps = knots.diff()
    regular = torch.allclose(steps, steps[0], rtol=1e-5)
    # upstream divides by the first spacing: equal for regular axes, and equal to the bit
    return cell, (at - knots[cell]) / (steps[0] if regular else steps[cell])


def _rising(axis: Coordinate) -> tuple[Coordinate, bool]:
    falls = bool(axis[0] > axis[-1])
    return (axis[::-1].copy() if falls else axis), falls


def _same_turn(lon: Coordinate, axis: Coordinate) -> Coordinate:
    """``lon`` shifted by full turns to lie nearest the middle of a rising axis; untouched where it does."""
    turns = np.round(((axis[0] + axis[-1]) / 2 - lon) / 360)
    return np.where(turns == 0, lon, lon + 360 * turns).astype(lon.dtype)


def _is_round(lon: Coordinate) -> bool:
    """True if longitudes go all the way round, from 0 to 358 for example; one column may lack."""
    steps = np.abs(np.diff(lon.astype(np.float64)))
    around = abs(float(lon[-1]) - float(lon[0]))
    return around < 360 and 360 - around <= 2.01 * float(np.median(steps))


def _closed(lon: Coordinate) -> Coordinate:
    """Longitudes that go all the way round, with the last column before the first and the first behind it."""
    turn = 360.0 if lon[-1] > lon[0] else -360.0
    return np.concatenate([lon[-1:] - turn, lon, lon[:1] + turn])


class Regridder(nn.Module):
    """Bilinear interpolation ``[..., h, w] → [..., H, W]`` with indices and weights computed once.

    A coarse grid that goes all the way round is closed where the fine one needs it.

    Parameters
    ----------
    coarse : Grid
        1-D grid of the input, latitude in either order, longitude in either convention
    fine : Grid
        Grid of the output, 1-D or 2-D, inside the coarse one
    margin : float, optional
        Fraction of the coarse extent by which the fine grid may stick out (values are then
        extrapolated linearly), by default 0

    Raises
    ------
    InputError
        If the coarse grid is curvilinear, or does not cover the fine one

    Source: ``earth2studio.utils.interp.latlon_interpolation_regular``, the same sum in the same order.
    """

    corner: Tensor
    down: Tensor
    right: Tensor

    def __init__(self, coarse: Grid, fine: Grid, margin: float = 0.0) -> None:
        super().__init__()
        if coarse.curvilinear:
            raise InputError("a curvilinear input grid cannot be regridded; give 1-D lat and lon")
        lat, lon = fine.mesh()
        lat_axis, lat_falls = _rising(coarse.lat)
        lon_axis, lon_falls = _rising(coarse.lon)
        lon = _same_turn(lon, lon_axis)
        self.closes = bool(lon.min() < lon_axis[0] or lon.max() > lon_axis[-1]) and _is_round(lon_axis)
        if self.closes:
            lon_axis = _closed(lon_axis)
        for axis, points in ((lat_axis, lat), (lon_axis, lon)):
            slack = margin * (axis[-1] - axis[0])
            if points.min() < axis[0] - slack or points.max() > axis[-1] + slack:
                raise InputError(
                    f"the input grid ({coarse.extent()}) does not cover the output grid ({fine.extent()})"
                )
        h, w = coarse.lat.size, lon_axis.size
        row, y = _bracket(lat_axis, lat)
        col, x = _bracket(lon_axis, lon)
        # index of the lower-left value in the flattened field, and steps to its neighbours
        first_row, row_step = (h - 1 - row, -w) if lat_falls else (row, w)
        first_col, col_step = (w - 1 - col, -1) if lon_falls else (col, 1)
        self.row_step, self.col_step = row_step, col_step
        self.fine_shape = fine.shape
        self.register_buffer("corner", (first_row * w + first_col).flatten(), persistent=False)
        self.register_buffer("down", y.flatten(), persistent=False)
        self.register_buffer("right", x.flatten(), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """``[..., h, w] → [..., H, W]``."""
        if self.closes:
            values = torch.cat([values[..., -1:], values, values[..., :1]], dim=-1)
        flat = values.flatten(-2)
        i, y, x = self.corner, self.down, self.right
        result = flat[..., i] * (1 - y) * (1 - x)
        result = result + flat[..., i + self.col_step] * (1 - y) * x
        result = result + flat[..., i + self.row_step] * y * (1 - x)
        result = result + flat[..., i + self.row_step + self.col_step] * y * x
        return result.reshape(*values.shape[:-2], *self.fine_shape)

    def nearest(self, values: Tensor) -> Tensor:
        """Values of the nearest coarse points: ``[B, C, h, w] → [B, C, H, W]``."""
        if self.closes:
            values = torch.cat([values[..., -1:], values, values[..., :1]], dim=-1)
        at = self.corner + (self.down > 0.5) * self.row_step + (self.right > 0.5) * self.col_step
        return values.flatten(-2)[..., at].reshape(*values.shape[:-2], *self.fine_shape)


class IndexRegridder(nn.Module):
    """Bilinear interpolation ``[..., h, w] → [..., H, W]`` by index: both grids span the same area evenly.

    Latitudes and longitudes do not count; values at the edge are repeated outwards.

    Parameters
    ----------
    shape : tuple[int, int]
        (H, W)

    Source: ``torch.nn.functional.interpolate``, as in ``earth2studio.models.dx.CorrDiffCMIP6``.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, values: Tensor) -> Tensor:
        """``[B, C, h, w] → [B, C, H, W]``."""
        return F.interpolate(values, self.shape, mode="bilinear")

    def nearest(self, values: Tensor) -> Tensor:
        """Values of the coarse cells around the fine ones: ``[B, C, h, w] → [B, C, H, W]``."""
        return F.interpolate(values, self.shape, mode="nearest-exact")
