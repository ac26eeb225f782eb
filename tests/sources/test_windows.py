# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Windows of grids whose longitudes jump by a turn, against the same fields in another order."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from earth2_corrdiff.base.grid import Grid, lon_difference
from earth2_corrdiff.sources.fine import grid_of
from earth2_corrdiff.sources.windows import around, fine_window

LAT = np.arange(30.0, 20.0, -1.0)


@pytest.mark.parametrize("first", [-180.0, 0.0, 90.0, 200.0])
@pytest.mark.parametrize("way", [1, -1])
def test_a_seam_in_the_data(first: float, way: int) -> None:
    """Columns are those of the longitudes, wherever a turn begins and whichever way they run."""
    lon = ((first + np.arange(360.0))[::way] + 180.0) % 360.0 - 180.0
    field = xr.DataArray(np.broadcast_to(lon, (len(LAT), 360)), {"lat": LAT, "lon": lon}, ("lat", "lon"))
    grid, dims = grid_of(field, "a source")
    assert dims == ("lat", "lon") and grid.shape == field.shape
    coarse = around(Grid(np.array([24.5, 25.5]), np.array([178.2, 179.4, 181.8])), grid, 1.0)
    want = np.array([178.0, 179.0, -180.0, -179.0, -178.0])
    np.testing.assert_array_equal(coarse.cut(field.to_numpy())[0], want)
    np.testing.assert_allclose(lon_difference(coarse.grid.lon, want), 0.0, atol=1e-9)
    box = fine_window(grid, (22.0, 26.0, 177.0, -178.0))
    np.testing.assert_array_equal(box.cut(field.to_numpy())[0], [177.0, *want])
