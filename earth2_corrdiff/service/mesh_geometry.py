# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Coastlines, grid lines and wind in columns and rows of the fine mesh, on which the page draws its map.

So a browser needs no map projection, and each cell keeps its sharp edges. Kilometre-scale models have meshes
made for such maps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import shapely
import xarray as xr
from contourpy import contour_generator
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from earth2_corrdiff.base.grid import lon_difference
from earth2_corrdiff.plotting import maps
from earth2_corrdiff.plotting.maps import Mesh
from earth2_corrdiff.store import reader
from earth2_corrdiff.store.reader import Array

LINES = 5  # meridians, and parallels, about
VERTICES = 60  # vertices of one of them: they bend slowly
ROUNDS = 12  # steps of Newton's method; smooth meshes need three
EDGE = 0.5  # cells that a line may run beyond the outermost centres


def locate(mesh: Mesh, lat: Array, lon: Array) -> tuple[Array, Array]:
    """Rows and columns, with fractions, of points in degrees; NaN where a point is not on the mesh.

    Newton's method on the bilinear mesh, from the plane that fits it best.
    """
    H, W = mesh.lat.shape
    middle = float(mesh.lon.mean())
    points = np.stack([lat, lon_difference(lon, middle)])
    knots = np.stack([mesh.lat, mesh.lon - middle])
    rows, columns = np.meshgrid(np.arange(H), np.arange(W), indexing="ij")
    some = (slice(None, None, max(H // 16, 1)), slice(None, None, max(W // 16, 1)))
    plane = np.stack([*(knot[some].ravel() for knot in knots), np.ones(rows[some].size)], axis=1)
    fit, *_ = np.linalg.lstsq(plane, np.stack([rows[some].ravel(), columns[some].ravel()], axis=1))
    position = (np.stack([*points, np.ones(points.shape[1])], axis=1) @ fit).T
    for _ in range(ROUNDS):
        here, by_row, by_column = _bilinear(knots, position)
        miss = points - here
        area = by_row[0] * by_column[1] - by_row[1] * by_column[0]
        step = np.stack(
            [by_column[1] * miss[0] - by_column[0] * miss[1], by_row[0] * miss[1] - by_row[1] * miss[0]]
        )
        position = np.clip(position + step / np.where(area == 0, np.nan, area), -H - W, 2 * (H + W))
    row, column = position
    inside = (row >= -EDGE) & (row <= H - 1 + EDGE) & (column >= -EDGE) & (column <= W - 1 + EDGE)
    return np.where(inside, row, np.nan), np.where(inside, column, np.nan)


def _bilinear(knots: Array, position: Array) -> tuple[Array, Array, Array]:
    """Values ``[2, N]`` at rows and columns ``[2, N]``, and their slopes; linear beyond the ends."""
    H, W = knots.shape[1:]
    row = np.clip(np.nan_to_num(np.floor(position[0])), 0, H - 2).astype(np.intp)
    column = np.clip(np.nan_to_num(np.floor(position[1])), 0, W - 2).astype(np.intp)
    down, right = position[0] - row, position[1] - column
    a, b = knots[:, row, column], knots[:, row, column + 1]
    c, d = knots[:, row + 1, column], knots[:, row + 1, column + 1]
    upper, lower = a + right * (b - a), c + right * (d - c)
    return upper + down * (lower - upper), lower - upper, (1 - down) * (b - a) + down * (d - c)


def overlay(ds: xr.Dataset) -> dict[str, Any]:
    """Lines to draw over the fields of a store.

    Returns
    -------
    dict
        ``coast``: lines; ``parallels`` and ``meridians``: objects with ``label`` and ``lines``. A line is
        ``[x0, y0, x1, y1, …]`` in columns and rows of the mesh, cell centres at whole numbers
    """
    mesh = maps.mesh_of(ds)
    return {
        "coast": _coast(ds, mesh),
        "parallels": _graticule(mesh.lat, ("N", "S")),
        "meridians": _graticule(mesh.lon, ("E", "W")),
    }


def _graticule(degrees: Array, names: tuple[str, str]) -> list[dict[str, Any]]:
    """Lines of round values."""
    ticks = MaxNLocator(nbins=LINES, steps=[1, 2, 2.5, 5, 10]).tick_values(degrees.min(), degrees.max())
    contours = contour_generator(z=degrees)
    found = []
    for tick in map(float, ticks):
        lines = [_flat(np.asarray(line), VERTICES) for line in contours.lines(tick) if len(line) > 1]
        if lines:
            found.append({"label": _degrees(tick, names), "lines": lines})
    return found


def _degrees(value: float, names: tuple[str, str]) -> str:
    turned = value if names[0] == "N" else (value + 180.0) % 360.0 - 180.0
    return f"{abs(turned):g}°{names[turned < 0] if turned else ''}"


def _coast(ds: xr.Dataset, mesh: Mesh) -> list[list[float]]:
    """Natural Earth's where this machine has it, else the edge of the store's land, else none."""
    path = maps.coastline_file()
    if path is not None:
        return _natural_earth(path, mesh)
    y, x = reader.horizontal_dims(ds)
    if "land_fraction" not in ds or set(ds["land_fraction"].dims) != {y, x}:
        return []
    land = np.asarray(ds["land_fraction"].transpose(y, x).values, dtype=np.float64)
    return [_flat(np.asarray(line)) for line in contour_generator(z=land).lines(0.5)]


def _natural_earth(path: Path, mesh: Mesh) -> list[list[float]]:
    """Its coastline in columns and rows, cut where it leaves the mesh."""
    found = []
    low, high = ((f(mesh.lon), f(mesh.lat)) for f in (np.min, np.max))
    window = [*(float(v) - 1.0 for v in low), *(float(v) + 1.0 for v in high)]
    for shape in maps._coastlines(path, *window):
        for part in shapely.get_parts(shape):
            lon, lat = shapely.get_coordinates(part).T
            row, column = locate(mesh, lat, lon)
            found += _pieces(np.stack([column, row], axis=1))
    return found


def _pieces(line: Array) -> list[list[float]]:
    """The parts ``[n, 2]`` of a line without NaN."""
    there = np.isfinite(line[:, 0])
    starts = np.flatnonzero(there & ~np.append(False, there[:-1]))
    ends = np.flatnonzero(there & ~np.append(there[1:], False)) + 1
    return [_flat(line[a:b]) for a, b in zip(starts, ends, strict=True) if b - a > 1]


def _flat(line: NDArray[Any], vertices: int | None = None) -> list[float]:
    """``[x0, y0, x1, y1, …]``, to the hundredth of a cell; of a long line so many vertices."""
    if vertices is not None and len(line) > vertices:
        line = line[np.linspace(0, len(line) - 1, vertices).round().astype(int)]
    return [float(number) for number in np.round(line, 2).ravel()]


def cell(mesh: Mesh) -> tuple[float, float]:
    """Width and height of the cells in km: medians over the mesh."""
    east, north = _steps(mesh)
    return float(np.median(np.hypot(east[1], north[1]))), float(np.median(np.hypot(east[0], north[0])))


def _steps(mesh: Mesh) -> tuple[Array, Array]:
    """Kilometres east and north ``[2, H, W]`` from one row, and from one column, to the next."""
    north, east = (
        np.deg2rad([np.gradient(axis, axis=0), np.gradient(axis, axis=1)]) * maps.EARTH_KM
        for axis in (mesh.lat, mesh.lon)
    )
    east = east * np.cos(np.deg2rad(mesh.lat))
    return east, north


def along_mesh(mesh: Mesh, u: Array, v: Array) -> tuple[Array, Array]:
    """Wind along columns and along rows as the page draws it, from eastward and northward wind.

    The speed is kept. All are ``[H, W]``; positive towards higher columns and rows.
    """
    east, north = _steps(mesh)
    area = east[1] * north[0] - east[0] * north[1]
    width, height = cell(mesh)
    x = (u * north[0] - v * east[0]) / area * width
    y = (v * east[1] - u * north[1]) / area * height
    length = np.hypot(x, y)
    factor = np.hypot(u, v) / np.where(length == 0, 1.0, length)
    return x * factor, y * factor
