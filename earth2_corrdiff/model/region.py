# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Regions of a model's domain, and of its surroundings for networks that take domains of any size.

Source of :func:`cut`: ``earth2studio.models.dx.CorrDiffCosmoEra5.set_domain``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from loguru import logger
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import Coordinate, Grid, turned
from earth2_corrdiff.model.spec import CorrDiffSpec, Surroundings


class Box(NamedTuple):
    """A range of latitudes and longitudes in degrees."""

    lat_min: float
    lat_max: float
    lon_min: float
    lon_max: float

    def __str__(self) -> str:
        return f"{self.lat_min:g} to {self.lat_max:g} N, {self.lon_min:g} to {self.lon_max:g} E"


class _Span(NamedTuple):
    """Cells of an axis that the networks see, and those among them that are asked for."""

    low: int
    first: int
    last: int
    high: int

    @property
    def seen(self) -> slice:
        return slice(self.low, self.high)

    @property
    def asked(self) -> slice:
        return slice(self.first, self.last)

    @property
    def halo(self) -> tuple[int, int]:
        return self.first - self.low, self.high - self.last


def cut(spec: CorrDiffSpec, box: Box, margin: float = 1.0, halo: int = 0) -> CorrDiffSpec:
    """The same model for the smallest block of grid cells that covers a box.

    Parameters
    ----------
    spec : CorrDiffSpec
        Metadata of a package whose networks take domains of any size
    box : Box
        Inside the package's domain or, with a warning, its surroundings
    margin : float, optional
        Degrees by which the new input grid surrounds the box, rounded outwards, by default 1
    halo : int, optional
        Cells around the block that the networks see, and that are left out of the output, by default 0

    Returns
    -------
    CorrDiffSpec
        With input grid, output grid and invariants of the region

    Raises
    ------
    InputError
        If the networks are made for one domain, the box is not inside, holds no cell, or is too small
    """
    around = spec.surroundings
    if around is None:
        raise InputError("the networks of this package are made for its whole domain; leave out the region")
    if halo < 0 or not 0 <= margin < 90:
        raise InputError(f"the halo and the margin must be 0 or more, got {halo} and {margin}")
    box = _in_convention(box, around.grid)
    _check_inside(spec, around.grid, box)
    rows, columns = _spans(around, box, halo)
    seen = around.grid.part(rows.seen, columns.seen)
    fields = around.invariant_fields
    fields = None if fields is None else fields[:, rows.seen, columns.seen]
    return replace(
        spec,
        input_grid=_input_grid(spec.input_grid, seen, margin),
        output_grid=around.grid.part(rows.asked, columns.asked),
        seen_grid=seen,
        halo=(*rows.halo, *columns.halo),
        invariant_fields=fields,
        surroundings=replace(around, grid=seen, invariant_fields=fields),
    )


def cropped(spec: CorrDiffSpec, box: Box) -> CorrDiffSpec:
    """The same model with the smallest block of grid cells that covers a box as its output.

    The networks see the domain as before: a denoiser of patches all those around the region, any other
    network everything.

    Raises
    ------
    InputError
        If the box is not inside the output grid, or holds too few cells
    """
    grid, (top, bottom, left, right) = spec.output_grid, spec.halo
    box = _in_convention(box, grid)
    _check_inside(spec, grid, box)
    rows, columns = (span.asked for span in _spans(Surroundings(grid), box, 0))
    axes, (H, W) = spec.projected, grid.shape
    return replace(
        spec,
        output_grid=grid.part(rows, columns),
        seen_grid=spec.run_grid,
        halo=(top + rows.start, bottom + H - rows.stop, left + columns.start, right + W - columns.stop),
        projected=None if axes is None else (axes[0][rows], axes[1][columns]),
        regional=True,
    )


def _in_convention(box: Box, grid: Grid) -> Box:
    """The box in the grid's convention of longitudes and in its precision, for cells on the edge."""
    lon = turned([box.lon_min, box.lon_max], float(grid.lon.mean()))
    values = np.array([box.lat_min, box.lat_max, *lon], dtype=grid.lat.dtype)
    found = Box(*map(float, values))
    if not (np.isfinite(values).all() and found.lat_min < found.lat_max and found.lon_min < found.lon_max):
        raise InputError(f"{box} is not a valid region; give south, north, west and east, each pair rising")
    return found


def _check_inside(spec: CorrDiffSpec, grid: Grid, box: Box) -> None:
    lat, lon = (
        np.array(corners) for corners in zip(*[(a, b) for a in box[:2] for b in box[2:]], strict=True)
    )
    outside = int((~inside(lat, lon, grid)).sum())
    if outside:
        raise InputError(
            f"{outside} of the 4 corners of {box} are outside of the grid, which goes over {grid.extent()}"
        )
    if not inside(lat, lon, spec.run_grid).all():
        logger.warning(
            "{} is partly outside of the domain that the networks were trained on: their skill there is not "
            "known",
            box,
        )


def inside(lat: Coordinate, lon: Coordinate, grid: Grid) -> NDArray[np.bool_]:
    """True for points ``[n]`` inside the polygon of a grid's outermost cell centers."""
    y, x = (np.asarray(axis, dtype=np.float64) for axis in grid.mesh())
    north, east = (np.concatenate([c[0], c[:, -1], c[-1, ::-1], c[::-1, 0]])[:, None] for c in (y, x))
    before_north, before_east = np.roll(north, 1), np.roll(east, 1)
    crosses = (north > lat) != (before_north > lat)  # edges that the parallel of a point crosses
    rise = np.where(crosses, before_north - north, 1.0)
    at = (before_east - east) * (lat - north) / rise + east
    odd: NDArray[np.bool_] = (crosses & (lon < at)).sum(axis=0) % 2 == 1
    return odd


def _spans(around: Surroundings, box: Box, halo: int) -> tuple[_Span, _Span]:
    lat, lon = around.grid.mesh()
    cells = (lat >= box.lat_min) & (lat <= box.lat_max) & (lon >= box.lon_min) & (lon <= box.lon_max)
    if not cells.any():
        raise InputError(f"{box} holds no cell of the grid; widen it")
    asked = [np.flatnonzero(cells.any(axis=axis)) for axis in (1, 0)]
    wanted = [(int(axis[0]) - halo, int(axis[-1]) + 1 + halo) for axis in asked]
    if any(low < 0 or high > size for (low, high), size in zip(wanted, cells.shape, strict=True)):
        logger.warning("the grid ends within {} cells of {}: the halo is narrower there", halo, box)
    rows, columns = (
        _span(low, high, halo, size, around.multiple)
        for (low, high), size in zip(wanted, cells.shape, strict=True)
    )
    least = min(span.high - span.low for span in (rows, columns))
    if least < around.least:
        raise InputError(f"{box} has {least} cells along one side, and {around.least} are needed; widen it")
    return rows, columns


def _span(low: int, high: int, halo: int, size: int, multiple: int) -> _Span:
    """A span without what is beyond the grid, grown to a multiple: upwards first, then downwards."""
    first, last = low + halo, high - halo
    low, high = max(0, low), min(size, high)
    need = -(high - low) % multiple
    up = min(need, size - high)
    down = min(need - up, low)
    low, high = low - down, high + up
    high -= (high - low) % multiple
    if high < last:
        raise InputError(
            f"the grid has {size} cells along one side, not a multiple of {multiple}; choose less"
        )
    return _Span(low, first, last, high)


def _input_grid(coarse: Grid, fine: Grid, margin: float) -> Grid:
    """Axes of the coarse grid's spacing around a fine grid."""

    def axis(old: Coordinate, points: Any) -> Coordinate:
        step = float(old[1] - old[0])
        first, last = np.floor(points.min()) - margin, np.ceil(points.max()) + margin
        made: Coordinate = torch.arange(float(first), float(last) + step, step, dtype=torch.float32).numpy()
        return made

    return Grid(axis(coarse.lat, fine.lat), axis(coarse.lon, fine.lon))
