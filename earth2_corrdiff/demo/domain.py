# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The demo's two grids: a Lambert conformal fine grid, and the 0.25 degree cells that average it.

All physics is computed on an *extended* fine grid (144 x 144) that surrounds the package's grid
(112 x 112) and covers every coarse cell, so that each coarse value is a mean of real fine pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SPACING = 8000.0
"""Distance of neighbouring fine pixels, m."""
SIZE = 112
"""Pixels along each side of the package's fine grid."""
MARGIN = 16
"""Pixels by which the extended grid surrounds the package's grid on each side."""
EXTENDED = SIZE + 2 * MARGIN
EARTH_RADIUS = 6_371_229.0
CENTRE_LAT, CENTRE_LON = 23.695, 120.97
PARALLELS = (20.0, 28.0)
COARSE_LAT = np.linspace(19.25, 28.0, 36)
COARSE_LON = np.linspace(116.0, 125.75, 40)
COARSE_STEP = 0.25


def _cone() -> tuple[float, float, float]:
    """Cone constant, scale in m and radius of the central latitude (Snyder 1987, p. 106, sphere)."""
    first, second = np.radians(PARALLELS)

    def half(lat: float) -> float:
        return float(np.tan(np.pi / 4 + lat / 2))

    n = np.log(np.cos(first) / np.cos(second)) / np.log(half(second) / half(first))
    scale = EARTH_RADIUS * np.cos(first) * half(first) ** n / n
    return float(n), float(scale), float(scale / half(np.radians(CENTRE_LAT)) ** n)


def project(lat: Array | float, lon: Array | float) -> tuple[Array, Array]:
    """Latitude and longitude in degrees to x, y in m from the domain's centre."""
    n, scale, origin = _cone()
    rho = scale / np.tan(np.pi / 4 + np.radians(lat) / 2) ** n
    angle = n * np.radians(np.asarray(lon) - CENTRE_LON)
    return np.asarray(rho * np.sin(angle)), np.asarray(origin - rho * np.cos(angle))


def unproject(x: Array, y: Array) -> tuple[Array, Array]:
    """x, y in m to latitude and longitude in degrees; the inverse of `project`."""
    n, scale, origin = _cone()
    rho = np.hypot(x, origin - y)
    lat = 2 * np.arctan((scale / rho) ** (1 / n)) - np.pi / 2
    lon = np.arctan2(x, origin - y) / n
    return np.degrees(lat), np.degrees(lon) + CENTRE_LON


@dataclass(frozen=True, eq=False)
class Domain:
    """The extended fine grid and its relation to the coarse cells.

    Attributes
    ----------
    x, y : Array
        Projected coordinates [144, 144], m, y northwards.
    lat, lon : Array
        Degrees, [144, 144].
    turn : Array
        Angle from grid east to true east, radians, [144, 144].
    cell : NDArray[np.intp]
        Number of the coarse cell that holds each pixel's centre, row by row; one past the last
        cell for pixels outside all of them. [144 * 144].
    count : Array
        Pixels in each coarse cell, [36 * 40].
    """

    x: Array
    y: Array
    lat: Array
    lon: Array
    turn: Array
    cell: NDArray[np.intp]
    count: Array

    def coarsen(self, field: NDArray[np.floating]) -> Array:
        """Mean of `field` [144, 144] over each coarse cell, [36, 40]."""
        total = np.bincount(self.cell, field.ravel(), self.count.size + 1)[:-1]
        return (total / self.count).reshape(COARSE_LAT.size, COARSE_LON.size)

    def earth_wind(self, u: Array, v: Array) -> tuple[Array, Array]:
        """Wind along the grid's axes to eastward and northward wind."""
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return u * cos + v * sin, v * cos - u * sin


def window(field: NDArray[np.floating]) -> NDArray[np.floating]:
    """The package's grid [..., 112, 112] cut out of an extended field [..., 144, 144]."""
    inner = slice(MARGIN, MARGIN + SIZE)
    return field[..., inner, inner]


def _cells(lat: Array, lon: Array) -> NDArray[np.intp]:
    """Coarse cell number of each point, or one past the last."""
    row = np.floor((lat - COARSE_LAT[0]) / COARSE_STEP + 0.5).astype(np.intp)
    col = np.floor((lon - COARSE_LON[0]) / COARSE_STEP + 0.5).astype(np.intp)
    rows, cols = COARSE_LAT.size, COARSE_LON.size
    inside = (row >= 0) & (row < rows) & (col >= 0) & (col < cols)
    return np.where(inside, row * cols + col, rows * cols)


@cache
def domain() -> Domain:
    """The one domain of the demo, made on first use."""
    axis = (np.arange(EXTENDED) - (EXTENDED - 1) / 2) * SPACING
    x, y = np.meshgrid(axis, axis)
    lat, lon = unproject(x, y)
    cell = _cells(lat, lon).ravel()
    cells = COARSE_LAT.size * COARSE_LON.size
    count = np.bincount(cell, minlength=cells + 1)[:cells].astype(np.float64)
    turn = _cone()[0] * np.radians(lon - CENTRE_LON)
    return Domain(x, y, lat, lon, turn, cell, count)
