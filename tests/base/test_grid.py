# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Grids and regridding against SciPy's interpolator and Earth2Studio's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from properties import quick, rising
from scipy.interpolate import RegularGridInterpolator
from tiny import COARSE, curved, straight

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.regrid import Regridder

LAT, LON = np.linspace(19.25, 28, 36), np.linspace(116, 125.75, 40)


def fine_points(kind: str) -> Grid:
    """An awkward 7 x 11 grid inside LAT x LON, in float64."""
    lat, lon = np.linspace(19.9, 27.3, 7), np.linspace(116.3, 125.6, 11)
    if kind == "1-D":
        return Grid(lat, lon)
    lat, lon = np.meshgrid(lat, lon, indexing="ij")
    return Grid(lat + 0.2 * np.sin(lon), lon + 0.02 * np.cos(lat))


def values(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(channels, LAT.size, LON.size))


@st.composite
def grids(draw: st.DrawFn) -> tuple[Grid, Grid, NDArray[Any], NDArray[Any]]:
    """A coarse and a fine grid in some order and convention, and rows and columns of fine in coarse cells."""
    lat, lon = draw(rising(st.floats(-60, 40), 40)), draw(rising(st.floats(-180, 360), 200))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    rows, columns = (np.sort(rng.uniform(0, axis.size - 1, n)) for axis, n in ((lat, 7), (lon, 11)))
    if bent := draw(st.booleans()):
        rows, columns = rng.uniform(0, lat.size - 1, (7, 11)), rng.uniform(0, lon.size - 1, (7, 11))
    fine_lat = np.interp(rows, np.arange(lat.size), lat)
    east = np.interp(columns, np.arange(lon.size), lon) + draw(st.sampled_from((-360, 0, 360)))
    convention = draw(st.sampled_from(("own", "0 to 360", "-180 to 180"))) if bent else "own"
    fine_lon = {"own": east, "0 to 360": east % 360, "-180 to 180": (east + 180) % 360 - 180}[convention]
    order = [draw(st.sampled_from((1, -1))) for _ in range(2)]
    coarse = Grid(lat[:: order[0]], lon[:: order[1]] + draw(st.sampled_from((-360, 0, 360))))
    return coarse, Grid(fine_lat, fine_lon), rows, columns


@pytest.mark.slow
@quick
@given(grids())
def test_equals_scipy_in_any_order_and_convention(
    drawn: tuple[Grid, Grid, NDArray[Any], NDArray[Any]],
) -> None:
    """Irregular axes, falling ones, longitudes by any full turn, a seam in the fine grid."""
    coarse, fine, rows, columns = drawn
    field = np.random.default_rng(0).normal(size=(3, *coarse.shape))
    if not fine.curvilinear:
        rows, columns = np.meshgrid(rows, columns, indexing="ij")
    ordered = field[:, :: 1 if coarse.lat[0] < coarse.lat[-1] else -1]
    ordered = ordered[:, :, :: 1 if coarse.lon[0] < coarse.lon[-1] else -1]
    cells = np.arange(coarse.shape[0]), np.arange(coarse.shape[1])
    want = np.stack([RegularGridInterpolator(cells, f)(np.stack([rows, columns], -1)) for f in ordered])
    regrid = Regridder(coarse, fine, margin=1e-9)
    got = regrid(torch.from_numpy(field))
    assert got.shape == (3, 7, 11) and got.dtype == torch.float64
    assert np.abs(got.numpy() - want).max() < 1e-9
    batch = regrid(torch.from_numpy(field)[None].expand(2, -1, -1, -1))
    assert torch.equal(batch, got[None].expand(2, -1, -1, -1))


def test_equals_earth2studio_bit_for_bit_in_single_precision() -> None:
    from earth2studio.utils.interp import latlon_interpolation_regular

    lat, lon = LAT.astype(np.float32), LON.astype(np.float32)
    field = torch.from_numpy(values()).float()
    for fine in (fine_points("1-D"), fine_points("2-D")):
        fine = Grid(fine.lat.astype(np.float32), fine.lon.astype(np.float32))
        lat1, lon1 = (torch.from_numpy(np.ascontiguousarray(axis)) for axis in fine.mesh())
        want = latlon_interpolation_regular(field, torch.from_numpy(lat), torch.from_numpy(lon), lat1, lon1)
        assert torch.equal(Regridder(Grid(lat, lon), fine)(field), want)


def test_coarse_points_keep_their_values_and_linear_fields_are_exact() -> None:
    field = torch.from_numpy(values())
    got = Regridder(Grid(LAT, LON), Grid(LAT[2:9], LON[3:14]))(field)
    assert (got - field[:, 2:9, 3:14]).abs().max() < 1e-12
    plane = torch.from_numpy(2 * LAT[:, None] - 3 * LON[None] + 5)
    lat, lon = fine_points("2-D").mesh()
    got = Regridder(Grid(LAT, LON), fine_points("2-D"))(plane)
    assert np.abs(got.numpy() - (2 * lat - 3 * lon + 5)).max() < 1e-11


@pytest.mark.parametrize("lat_falls", [False, True])
def test_margin_extrapolates_linearly(lat_falls: bool) -> None:
    lat = LAT[::-1] if lat_falls else LAT
    fine = Grid(np.linspace(19.0, 28.3, 9), np.linspace(115.8, 126.0, 5))
    with pytest.raises(InputError, match="does not cover"):
        Regridder(Grid(lat, LON), fine)
    plane = torch.from_numpy(2 * lat[:, None] - 3 * LON[None])
    got = Regridder(Grid(lat, LON), fine, margin=0.05)(plane)
    want = 2 * fine.lat[:, None] - 3 * fine.lon[None]
    assert np.abs(got.numpy() - want).max() < 1e-11
    with pytest.raises(InputError, match="does not cover"):
        Regridder(Grid(lat, LON), fine, margin=0.01)


@pytest.mark.parametrize("move", [(3.0, 0.0), (-3.0, 0.0), (0.0, 3.0), (0.0, -3.0), (0.0, 180.0)])
def test_a_domain_that_is_not_covered_is_named(move: tuple[float, float]) -> None:
    fine = fine_points("2-D")
    with pytest.raises(
        InputError, match=r"19\.25 to 28\.00 N, 116\.00 to 125\.75 E.*does not cover"
    ) as raised:
        Regridder(Grid(LAT, LON), Grid(fine.lat + move[0], fine.lon + move[1]))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("coarse", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("fine", [np.float32, np.float64])
def test_types_of_the_coordinates_may_differ(coarse: type, fine: type) -> None:
    axes = np.arange(19, 29), np.arange(115, 127)
    field = np.random.default_rng(0).normal(size=(10, 12))
    points = fine_points("2-D")
    got = Regridder(
        Grid(*(axis.astype(coarse) for axis in axes)), Grid(points.lat.astype(fine), points.lon.astype(fine))
    )(torch.from_numpy(field))
    want = RegularGridInterpolator(axes, field)(np.stack(points.mesh(), axis=-1))
    assert np.abs(got.numpy() - want).max() < 1e-4


def test_weights_follow_the_module_but_are_not_stored() -> None:
    regrid = Regridder(COARSE, curved(5, 7))
    assert not regrid.state_dict() and not list(regrid.parameters())
    assert regrid.to("meta")(torch.empty(2, 6, 8, device="meta")).shape == (2, 5, 7)


def test_curvilinear_input_is_refused() -> None:
    with pytest.raises(InputError, match="curvilinear input"):
        Regridder(curved(6, 7), straight(3, 4))


# grids


def test_grid_shapes() -> None:
    flat, bent = straight(5, 9), curved(5, 9)
    assert flat.shape == bent.shape == (5, 9)
    assert not flat.curvilinear and bent.curvilinear
    for grid in (flat, bent):
        lat, lon = grid.mesh()
        assert lat.shape == lon.shape == (5, 9)
    lat, lon = flat.mesh()
    assert np.array_equal(lat[:, 4], flat.lat) and np.array_equal(lon[2], flat.lon)
    assert flat.extent() == "20.30 to 24.80 N, 118.40 to 124.90 E"


NAN = np.array([20.0, np.nan, 22.0])
BAD = {
    "two shapes": (np.zeros((3, 4)), np.zeros((4, 3)), "both 1-D, or 2-D"),
    "1-D and 2-D": (LAT, np.zeros((3, 4)), "both 1-D, or 2-D"),
    "3-D": (np.zeros((2, 3, 4)), np.zeros((2, 3, 4)), "both 1-D, or 2-D"),
    "a point": (np.array([20.0]), LON, "at least 2 x 2"),
    "empty": (np.array([]), LON, "at least 2 x 2"),
    "nan": (NAN, LON, "finite"),
    "not monotonic": (np.array([20.0, 22.0, 21.0]), LON, "lat must rise or fall"),
    "repeated": (LAT, np.array([120.0, 120.0, 121.0]), "lon must rise or fall"),
    "exchanged": (LON, LAT, "latitudes"),
    "exchanged 2-D": (curved(4, 5).lon, curved(4, 5).lat, "latitudes"),
}


@pytest.mark.parametrize(("lat", "lon", "word"), BAD.values(), ids=BAD.keys())
def test_bad_grids(lat: np.ndarray, lon: np.ndarray, word: str) -> None:
    with pytest.raises(InputError, match=word):
        Grid(lat, lon)
