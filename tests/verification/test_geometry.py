# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Areas and distances of cells, against cos(lat) and PROJ."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pyproj import Geod
from verification_kit import bent, cells, flat

from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.verification.geometry import EARTH_KM, cell_areas, spacing

SPHERE = Geod(a=EARTH_KM, b=EARTH_KM)


def test_rectilinear_areas_are_cosines_of_latitude() -> None:
    torch.testing.assert_close(cell_areas(flat()), cells(flat()), rtol=1e-3, atol=0)
    single = Grid(flat().lat.astype(np.float32), flat().lon.astype(np.float32))
    torch.testing.assert_close(cell_areas(single), cells(flat()), rtol=1e-3, atol=0)


def test_uneven_latitudes() -> None:
    grid = Grid(np.array([20.0, 21.0, 23.0, 26.0, 30.0]), np.linspace(100, 101, 4))
    wide = np.gradient(grid.lat)[:, None] * np.cos(np.deg2rad(grid.lat))[:, None] * np.ones(4)
    np.testing.assert_allclose(cell_areas(grid).numpy(), wide / wide.mean(), rtol=2e-3)


def test_curvilinear_areas_against_proj() -> None:
    """A grid that is squeezed towards one corner: cells differ threefold, where cos(lat) differs by 8 %."""
    j, i = np.meshgrid(np.linspace(0, 1, 20), np.linspace(0, 1, 28), indexing="ij")
    grid = Grid(21 + 6 * (0.5 * j + 0.5 * j**2), 117 + 7 * (0.6 * i + 0.4 * i**2) + 0.8 * j)
    areas = cell_areas(grid).numpy()
    exact = np.zeros((18, 26))
    for r in range(1, 19):
        for c in range(1, 27):  # the parallelogram of the four neighbours has twice a cell's area
            ring = [(r - 1, c), (r, c + 1), (r + 1, c), (r, c - 1)]
            lons, lats = [grid.lon[p] for p in ring], [grid.lat[p] for p in ring]
            exact[r - 1, c - 1] = abs(SPHERE.polygon_area_perimeter(lons, lats)[0])
    inner = areas[1:-1, 1:-1]
    np.testing.assert_allclose(inner / inner.mean(), exact / exact.mean(), rtol=5e-3)
    assert exact.max() / exact.min() > 2.5


def test_distances() -> None:
    down, right = spacing(bent())
    grid = bent()
    _, _, away = SPHERE.inv(grid.lon[:, :-1], grid.lat[:, :-1], grid.lon[:, 1:], grid.lat[:, 1:])
    assert right == pytest.approx(away.mean(), rel=1e-6)
    _, _, away = SPHERE.inv(grid.lon[:-1], grid.lat[:-1], grid.lon[1:], grid.lat[1:])
    assert down == pytest.approx(away.mean(), rel=1e-6)
    assert spacing(flat())[0] == pytest.approx(EARTH_KM * np.deg2rad(0.25), rel=1e-6)
