# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Latitude-longitude grids: shapes, comparison, parts; and arithmetic of longitudes.

``Grid`` alone distinguishes 1-D from 2-D coordinates: elsewhere a grid has a shape (H, W).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError

Coordinate = NDArray[np.floating[Any]]
SAME = 1e-4
"""Points nearer than this are the same, degrees: ten times what float32 longitudes lose."""


def lon_difference(lon: Any, other: Any) -> Any:
    """``lon - other`` in degrees within half a turn, -180 to 180, float64."""
    return (np.asarray(lon, dtype=np.float64) - other + 180) % 360 - 180


def turned(lon: Any, middle: float) -> Any:
    """Longitudes by full turns within 180 degrees of ``middle``, float64."""
    return middle + lon_difference(lon, middle)


def same_points(lat: Coordinate, lon: Coordinate, other_lat: Coordinate, other_lon: Coordinate) -> bool:
    """True if coordinates, each pair of one shape, are the same; longitudes in either convention."""
    if lat.shape != other_lat.shape or lon.shape != other_lon.shape:
        return False
    north, east = np.asarray(lat, dtype=np.float64) - other_lat, lon_difference(lon, other_lon)
    return bool(np.abs(north).max() < SAME and np.abs(east).max() < SAME)


@dataclass(frozen=True, eq=False)
class Grid:
    """Latitudes and longitudes in degrees: both 1-D (rectilinear), or both 2-D (curvilinear).

    Attributes
    ----------
    lat, lon : np.ndarray
        ``[H]`` and ``[W]``, strictly monotonic, or both ``[H, W]``; longitudes in either convention

    Raises
    ------
    InputError
        If they have other shapes, are not finite, not monotonic, or are not latitudes
    """

    lat: Coordinate
    lon: Coordinate

    def __post_init__(self) -> None:
        lat, lon = self.lat, self.lon
        if lat.ndim != lon.ndim or lat.ndim not in (1, 2) or (lat.ndim == 2 and lat.shape != lon.shape):
            raise InputError(
                f"lat and lon must be both 1-D, or 2-D of one shape; got {lat.shape} and {lon.shape}"
            )
        if min(self.shape) < 2 or not (np.isfinite(lat).all() and np.isfinite(lon).all()):
            raise InputError(f"lat and lon must be finite and at least 2 x 2; got {self.shape}")
        if np.abs(lat).max() > 90.001:
            raise InputError(f"latitudes must lie within ±90 degrees; got {lat.min():g} to {lat.max():g}")
        for name, axis in (("lat", lat), ("lon", lon)):
            step = np.diff(axis) if axis.ndim == 1 else np.ones(1)
            if not ((step > 0).all() or (step < 0).all()):
                raise InputError(f"a 1-D {name} must rise or fall strictly")

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        if self.lat.ndim == 1:
            return self.lat.size, self.lon.size
        return self.lat.shape[0], self.lat.shape[1]

    @property
    def curvilinear(self) -> bool:
        """True if the coordinates are 2-D."""
        return self.lat.ndim == 2

    def mesh(self) -> tuple[Coordinate, Coordinate]:
        """2-D ``lat, lon``, each ``[H, W]``."""
        if self.curvilinear:
            return self.lat, self.lon
        lat, lon = np.meshgrid(self.lat, self.lon, indexing="ij")
        return lat, lon

    def matches(self, other: Grid) -> bool:
        """True if two grids have the same points in the same order; longitudes in either convention."""
        if self.curvilinear == other.curvilinear:
            return same_points(self.lat, self.lon, other.lat, other.lon)
        return self.shape == other.shape and same_points(*self.mesh(), *other.mesh())

    def part(self, rows: Any, columns: Any) -> Grid:
        """The grid of some rows and columns: indices or slices."""
        if not self.curvilinear:
            return Grid(self.lat[rows], self.lon[columns])
        return Grid(self.lat[rows][:, columns], self.lon[rows][:, columns])

    def astype(self, kind: type[np.floating[Any]]) -> Grid:
        """The same grid with coordinates of another precision."""
        return Grid(self.lat.astype(kind), self.lon.astype(kind))

    def extent(self) -> str:
        """The box as text, for messages."""
        return (
            f"{self.lat.min():.2f} to {self.lat.max():.2f} N, {self.lon.min():.2f} to {self.lon.max():.2f} E"
        )
