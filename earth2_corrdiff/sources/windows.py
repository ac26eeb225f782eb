# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Windows of grids: a box of a fine one, the coarse one around it, the points that two grids share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import Grid, lon_difference, same_points, turned
from earth2_corrdiff.model.spec import check_count

Indices = NDArray[np.intp]
Box = tuple[float, float, float, float]
"""South, north, west, east in degrees; longitudes in either convention."""
CELLS = 2  # of the coarse grid around the fine one, by default: interpolation needs one


@dataclass(frozen=True, eq=False)
class Window:
    """Rows and columns of a grid, and the grid that they form.

    Attributes
    ----------
    rows, columns : np.ndarray
        ``[H]`` and ``[W]``, indices
    grid : Grid
        ``(H, W)``
    """

    rows: Indices
    columns: Indices
    grid: Grid

    def cut(self, fields: NDArray[Any]) -> NDArray[Any]:
        """``[..., h, w]`` of the whole grid → ``[..., H, W]``."""
        return np.ascontiguousarray(fields[..., self.rows[:, None], self.columns])

    def trimmed(self, multiple: int) -> Window:
        """The middle of it, with multiples of so many pixels.

        Raises
        ------
        InputError
            If it has fewer pixels than that
        """
        check_count("the multiple of pixels", multiple)
        sizes = [n - n % multiple for n in self.grid.shape]
        if min(sizes) == 0:
            h, w = self.grid.shape
            raise InputError(f"the fine grid of {h} x {w} is smaller than {multiple} pixels; widen the box")
        starts = [(n - size) // 2 for n, size in zip(self.grid.shape, sizes, strict=True)]
        rows, columns = (slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
        return Window(self.rows[rows], self.columns[columns], self.grid.part(rows, columns))


def fine_window(grid: Grid, box: Box | None) -> Window:
    """The part of a grid that lies in a box, float32; all of it without one.

    Of a curvilinear grid it is the smallest rectangle of pixels with all points of the box.

    Raises
    ------
    InputError
        If the box is not valid, or no part of the grid lies in it
    """
    lat, lon = grid.lat, grid.lon
    rows, columns = (np.arange(n) for n in grid.shape)
    if box is not None:
        south, north, west, east = box
        if not (south < north and -90 <= south and north <= 90):
            raise InputError(f"a box is south,north,west,east in degrees, got {','.join(map(str, box))}")
        tall = (lat >= south) & (lat <= north)
        wide = (lon - west) % 360 <= (east - west) % 360
        if grid.curvilinear:
            inside = tall & wide
            rows, columns = (_span(np.asarray(inside.any(axis))) for axis in (1, 0))
        else:
            rows, columns = np.flatnonzero(tall), np.flatnonzero(wide)
            columns = columns[np.argsort((lon[columns] - west) % 360)]
            lon = west + (lon - west) % 360  # the seam, where it lies in the box, is no longer in it
        if min(len(rows), len(columns)) < 2:
            raise InputError(f"the box {','.join(map(str, box))} has no part of the fine grid in it")
    part = grid.part(rows, columns) if grid.curvilinear else Grid(lat[rows], lon[columns])
    return Window(rows, columns, part.astype(np.float32))


def _span(inside: NDArray[np.bool_]) -> Indices:
    found = np.flatnonzero(inside)
    return np.arange(found[0], found[-1] + 1) if found.size else found


def around(fine: Grid, coarse: Grid, margin: float | None = None) -> Window:
    """The part of a rectilinear coarse grid around a fine one, float64, with longitudes that rise.

    Parameters
    ----------
    fine : Grid
        1-D or 2-D
    coarse : Grid
        1-D, in either order and convention
    margin : float | None, optional
        Degrees beyond the fine grid on each side, by default two cells; less where the coarse grid ends

    Raises
    ------
    InputError
        If the margin is negative, or hardly anything of the coarse grid lies there
    """
    if margin is not None and not margin >= 0:
        raise InputError(f"the margin must be 0 degrees or more, got {margin}")
    fine_lat, fine_lon = (np.asarray(part, dtype=np.float64) for part in fine.mesh())
    middle = float(fine_lon[fine_lon.shape[0] // 2, fine_lon.shape[1] // 2])
    lat, lon = np.asarray(coarse.lat, dtype=np.float64), turned(coarse.lon, middle)
    order = np.argsort(lon)
    rows = _between(lat, fine_lat, margin)
    columns = order[_between(lon[order], turned(fine_lon, middle), margin)]
    if min(rows.size, columns.size) < 2:
        raise InputError(f"the coarse source has nothing around the fine grid ({fine.extent()})")
    return Window(rows, columns, Grid(lat[rows], lon[columns]))


def _between(axis: NDArray[np.float64], points: NDArray[np.float64], margin: float | None) -> Indices:
    step = float(np.median(np.abs(np.diff(axis))))
    beyond = (CELLS * step if margin is None else margin) + 1e-3 * step  # rounding
    return np.flatnonzero((axis >= points.min() - beyond) & (axis <= points.max() + beyond))


def shared(have: Grid, want: Grid, size: int = 1) -> Window | None:
    """The part of a grid that has the points of another one; None where it lacks some.

    Rows and columns may run the other way. With a ``size`` the points of the other one are the means of
    blocks of ``size`` x ``size`` points of the part.
    """
    if min(have.shape) <= size:
        return None
    centres = have if size == 1 else _moving_means(have, size)
    find = _corners if have.curvilinear or want.curvilinear else _nearest
    rows, columns = find(centres, want, size)
    if find is _nearest:
        same = same_points(centres.lat[rows], centres.lon[columns], want.lat, want.lon)
    else:
        at, (lat, lon) = np.ix_(rows, columns), centres.mesh()
        same = same_points(lat[at], lon[at], *want.mesh())
    if not same:
        return None
    rows, columns = ((first[:, None] + np.arange(size)).ravel() for first in (rows, columns))
    return Window(rows, columns, want)


def _moving_means(grid: Grid, size: int) -> Grid:
    """Means of each point and the ``size - 1`` after it along each axis; longitudes as they run on."""
    means = np.lib.stride_tricks.sliding_window_view
    parts = (grid.lat.astype(np.float64), grid.lon.astype(np.float64))
    if not grid.curvilinear:
        return Grid(*(means(axis, size).mean(-1) for axis in parts))
    lon = np.unwrap(np.unwrap(parts[1], period=360, axis=0), period=360, axis=1)
    return Grid(*(means(part, (size, size)).mean((-2, -1)) for part in (parts[0], lon)))


def _nearest(have: Grid, want: Grid, step: int) -> tuple[Indices, Indices]:
    """The nearest positions along 1-D latitudes and longitudes, whatever the step."""
    north = np.abs(have.lat[None].astype(np.float64) - want.lat[:, None])
    return north.argmin(1), np.abs(lon_difference(have.lon[None], want.lon[:, None])).argmin(1)


def _corners(have: Grid, want: Grid, step: int) -> tuple[Indices, Indices]:
    """Every ``step``-th point of the rectangle between those nearest to two opposite corners.

    Empty if it has another shape.
    """
    lat, lon = have.mesh()
    want_lat, want_lon = want.mesh()
    ends = []
    for corner in ((0, 0), (-1, -1)):
        east = lon_difference(lon, want_lon[corner]) * np.cos(np.deg2rad(want_lat[corner]))
        away = np.hypot(lat.astype(np.float64) - want_lat[corner], east)
        ends.append(np.unravel_index(int(away.argmin()), lat.shape))
    axes = []
    for first, last, length in zip(*ends, want.shape, strict=True):
        if abs(int(last) - int(first)) != step * (length - 1):
            return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp)
        axes.append(np.linspace(int(first), int(last), length).round().astype(np.intp))
    return axes[0], axes[1]
