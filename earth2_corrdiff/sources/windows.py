# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Parts of grids: a box of a fine one, trimmed to what U-Nets take, and the coarse one around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.model.spec import check_count

Axis = NDArray[np.floating[Any]]
Box = tuple[float, float, float, float]
"""South, north, west, east in degrees; longitudes in either convention."""
CELLS = 2  # of the coarse grid around the fine one, where no margin is told: interpolation needs one


@dataclass(frozen=True, eq=False)
class Window:
    """Rows and columns of a grid, and the grid that they are.

    Attributes
    ----------
    rows, columns : np.ndarray
        ``[H]`` and ``[W]``, indices
    grid : Grid
        ``(H, W)``, float32
    """

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    grid: Grid

    def cut(self, fields: NDArray[Any]) -> NDArray[np.float32]:
        """``[..., h, w]`` of the whole grid → ``[..., H, W]``."""
        part = fields[..., self.rows[:, None], self.columns]
        return np.ascontiguousarray(part, dtype=np.float32)

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
        rows, columns = (
            slice((n - size) // 2, (n - size) // 2 + size)
            for n, size in zip(self.grid.shape, sizes, strict=True)
        )
        lat, lon = self.grid.lat, self.grid.lon
        parts = (lat[rows, columns], lon[rows, columns]) if lat.ndim == 2 else (lat[rows], lon[columns])
        grid = Grid(*parts)
        return Window(self.rows[rows], self.columns[columns], grid)


def fine_window(lat: Axis, lon: Axis, box: Box | None) -> Window:
    """The part of a grid, 1-D or 2-D, that lies in a box; all of it without one.

    Of a curvilinear grid it is the smallest rectangle of pixels with all points of the box.

    Raises
    ------
    InputError
        If the box is none, or no part of the grid lies in it
    """
    rows, columns = (np.arange(n) for n in (lat.shape if lat.ndim == 2 else (lat.size, lon.size)))
    if box is not None:
        south, north, west, east = box
        if not (south < north and -90 <= south and north <= 90):
            raise InputError(f"a box is south,north,west,east in degrees, got {','.join(map(str, box))}")
        tall = (lat >= south) & (lat <= north)
        wide = (lon - west) % 360 <= (east - west) % 360
        if lat.ndim == 2:
            inside = tall & wide
            rows, columns = (_span(np.asarray(inside.any(axis))) for axis in (1, 0))
        else:
            rows, columns = np.flatnonzero(tall), np.flatnonzero(wide)
            columns = columns[np.argsort((lon[columns] - west) % 360)]
            lon = west + (lon - west) % 360  # the seam, where it lies in the box, is no longer in it
        if min(len(rows), len(columns)) < 2:
            raise InputError(f"the box {','.join(map(str, box))} has no part of the fine grid in it")
    if lat.ndim == 2:
        lat, lon = lat[np.ix_(rows, columns)], lon[np.ix_(rows, columns)]
    else:
        lat, lon = lat[rows], lon[columns]
    return Window(rows, columns, Grid(lat.astype(np.float32), lon.astype(np.float32)))


def _span(there: NDArray[np.bool_]) -> NDArray[np.intp]:
    found = np.flatnonzero(there)
    return np.arange(found[0], found[-1] + 1) if found.size else found


def around(fine: Grid, lat: Axis, lon: Axis, margin: float | None = None) -> Grid:
    """The part of a coarse grid around a fine one.

    Parameters
    ----------
    fine : Grid
        1-D or 2-D
    lat, lon : np.ndarray
        ``[h]`` and ``[w]`` of the coarse grid, in either order and convention
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
    east = _turned(fine_lon, middle)
    coarse_east = np.sort(_turned(np.asarray(lon, dtype=np.float64), middle))
    rows = _between(np.asarray(lat, dtype=np.float64), fine_lat.min(), fine_lat.max(), margin)
    columns = _between(coarse_east, east.min(), east.max(), margin)
    if min(rows.size, columns.size) < 2:
        raise InputError(f"the coarse source has nothing around the fine grid ({fine.extent()})")
    return Grid(rows.astype(np.float32), columns.astype(np.float32))


def _turned(lon: Axis, middle: float) -> Axis:
    """Longitudes within half a turn of the middle."""
    return middle + (lon - middle + 180) % 360 - 180


def _between(axis: Axis, low: float, high: float, margin: float | None) -> Axis:
    step = float(np.median(np.abs(np.diff(axis))))
    beyond = CELLS * step if margin is None else margin
    beyond += 1e-3 * step  # rounding
    inside: Axis = axis[(axis >= low - beyond) & (axis <= high + beyond)]
    return inside
