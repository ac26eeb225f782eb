# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What the page shows of a job, against NumPy and cartopy: fields, colours, points, lines on the mesh."""

from __future__ import annotations

from pathlib import Path

import cartopy
import cartopy.crs as ccrs
import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgba
from plotting_store import build
from run_kit import TIMES, Weather, load, make_package, straight

from earth2_corrdiff import downscale, plotting
from earth2_corrdiff.plotting import maps
from earth2_corrdiff.plotting.maps import Mesh
from earth2_corrdiff.run.downscaling import Options
from earth2_corrdiff.service import job_fields, mesh_geometry
from earth2_corrdiff.service.errors import ServiceError
from earth2_corrdiff.service.job_overview import overview

COASTLINES = Path(__file__).parents[3] / "shared" / "data" / "coastlines" / "cartopy_data"
KELVIN = 273.15


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two times, three members, 24 x 36 points of a bent mesh, with the coarse input."""
    folder = tmp_path_factory.mktemp("store")
    model = load(make_package(folder / "package"))
    downscale(TIMES, model, Weather(), folder / "run.zarr", options=Options(seed=7))
    return folder / "run.zarr"


@pytest.fixture(scope="module")
def ds(store: Path) -> xr.Dataset:
    return xr.open_zarr(store).load()


def bent(shape: tuple[int, int] = (30, 43)) -> Mesh:
    """A mesh that is turned and bent, across the date line."""
    j, i = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    lat = 50 + 8 * j + 2 * i + 0.8 * i**2
    lon = 179 + 13 * i - 4 * j + 1.5 * i * j
    return Mesh(lat, lon)


def lambert(shape: tuple[int, int] = (40, 60), spacing: float = 25e3) -> tuple[Mesh, ccrs.Projection]:
    """A regular mesh in a Lambert map, which the page draws as that map."""
    crs = ccrs.LambertConformal(-97, 38, standard_parallels=(33, 45))
    x, y = np.meshgrid(np.arange(shape[1]) * spacing - 7e5, np.arange(shape[0]) * spacing - 5e5)
    points = ccrs.PlateCarree().transform_points(crs, x, y)
    return Mesh(points[..., 1], points[..., 0]), crs


# fields


@pytest.mark.slow
def test_members_are_the_stores_in_displayed_units(store: Path, ds: xr.Dataset) -> None:
    np.testing.assert_allclose(job_fields.values(store, "mrr", 1, "member-2"), ds.mrr[1, 2], rtol=1e-6)
    np.testing.assert_allclose(
        job_fields.values(store, "t2m", 0, "member-1"), ds.t2m[0, 1] - KELVIN, atol=1e-4
    )
    speed = np.hypot(ds.u10m[0, 0], ds.v10m[0, 0])
    np.testing.assert_allclose(job_fields.values(store, "ws10m", 0, "member-0"), speed, rtol=1e-5)
    for name in ("lat", "lon"):
        np.testing.assert_allclose(job_fields.values(store, name, 0, "mean"), ds[name], rtol=1e-6)


@pytest.mark.slow
def test_mean_spread_and_probability(store: Path, ds: xr.Dataset) -> None:
    stack = ds.t2m[1].values.astype(np.float64) - KELVIN
    np.testing.assert_allclose(job_fields.values(store, "t2m", 1, "mean"), stack.mean(0), rtol=1e-9)
    np.testing.assert_allclose(job_fields.values(store, "t2m", 1, "spread"), stack.std(0, ddof=1), rtol=1e-9)
    speed = np.hypot(ds.u10m[1].values, ds.v10m[1].values)
    np.testing.assert_allclose(job_fields.values(store, "ws10m", 1, "mean"), speed.mean(0), rtol=1e-6)
    share = 100 * (speed > 17.2).mean(0)
    np.testing.assert_allclose(job_fields.values(store, "ws10m", 1, "probability"), share)
    assert 0 < share.mean() < 100


@pytest.mark.slow
def test_a_member_with_a_hole(tmp_path: Path, store: Path, ds: xr.Dataset) -> None:
    holed = ds.copy(deep=True)
    holed.t2m[0, 1, 3, 4] = np.nan
    path = tmp_path / "holed.zarr"
    holed.to_zarr(path)
    for show in ("mean", "spread", "probability", "member-1"):
        field = job_fields.values(path, "t2m", 0, show)
        assert np.isnan(field[3, 4]) and np.isnan(field).sum() == 1
    assert job_fields.point(path, "t2m", 3, 4)["values"][0][1] is None


@pytest.mark.slow
def test_the_coarse_input_is_the_nearest_cell(store: Path, ds: xr.Dataset) -> None:
    field = job_fields.values(store, "t2m", 0, "coarse")
    for row, column in ((0, 0), (11, 17), (23, 35), (5, 30)):
        lat, lon = float(ds.lat[row, column]), float(ds.lon[row, column])
        i = int(np.abs(ds.lat_lowres.values - lat).argmin())
        j = int(np.abs(ds.lon_lowres.values - lon).argmin())
        assert field[row, column] == pytest.approx(float(ds.t2m_lowres[0, i, j]) - KELVIN, abs=1e-4)
    turned = ds.assign_coords(lon_lowres=ds.lon_lowres - 360).isel(lat_lowres=slice(None, None, -1))
    rows, columns = job_fields._nearest(turned.set_coords(["lat_lowres", "lon_lowres"]))
    np.testing.assert_allclose(turned.t2m_lowres.values[0][rows, columns] - KELVIN, field, atol=1e-4)


@pytest.mark.slow
def test_a_point_is_a_column_of_the_fields(store: Path, ds: xr.Dataset) -> None:
    found = job_fields.point(store, "t2m", 20, 30)
    np.testing.assert_allclose(found["values"], ds.t2m[:, :, 20, 30] - KELVIN, atol=1e-3)
    coarse = [job_fields.values(store, "t2m", t, "coarse")[20, 30] for t in (0, 1)]
    np.testing.assert_allclose(found["coarse"], coarse, atol=1e-3)
    assert found["lat"] == pytest.approx(float(ds.lat[20, 30]), abs=1e-4)
    assert found["lon"] == pytest.approx(float(ds.lon[20, 30]), abs=1e-4)


@pytest.mark.slow
def test_what_is_not_there(store: Path) -> None:
    for arguments, status in (
        (("x", 0, "mean"), 404),
        (("t2m", 2, "mean"), 404),
        (("t2m", 0, "member-3"), 404),
        (("t2m", 0, "member-0", "along"), 422),
        (("ws10m", 0, "spread", "up"), 422),
    ):
        with pytest.raises(ServiceError) as caught:
            job_fields.values(store, *arguments)
        assert caught.value.status_code == status
    for cell in ((24, 0), (0, 36), (-1, 0)):
        with pytest.raises(ServiceError, match="24 rows and 36 columns"):
            job_fields.point(store, "t2m", *cell)


# what a browser must know before


@pytest.mark.slow
def test_the_overview(store: Path, ds: xr.Dataset) -> None:
    about = overview(store)
    assert about["shape"] == [24, 36] and about["north_up"] and about["east_right"]
    assert about["times"] == list(TIMES) and about["members"] == [0, 1, 2]
    assert about["labels"] == [time.replace(":", "") for time in TIMES] and about["starts"] is None
    assert [q["name"] for q in about["quantities"]] == ["mrr", "t2m", "ws10m"]
    assert [q["units"] for q in about["quantities"]] == ["dBZ", "°C", "m/s"]
    assert [q["coarse"]["label"] for q in about["quantities"]] == [
        "Total column water vapour",  # this source has no reflectivity
        "2 m temperature",
        "10 m wind",
    ]
    assert about["provenance"]["seed"] == 7 and about["synthetic"] is None
    assert about["overlay"]["coast"]  # from the package's land fraction


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attributes", "words", "coarse"),
    [
        ({"synthetic": 1, "synthetic_source": 1}, "synthetic demo weather: not an obs", True),
        ({"synthetic": 1, "synthetic_source": 0}, "by a demo model trained on synthetic w", False),
        ({"synthetic": 1}, "synthetic demo weather", True),
        ({"synthetic": 0, "synthetic_source": 0}, None, False),
    ],
)
def test_what_is_made_up_is_said(
    tmp_path: Path, ds: xr.Dataset, attributes: dict[str, int], words: str | None, coarse: bool
) -> None:
    other = ds.isel(time=[0], sample=[0]).copy()
    other.attrs = attributes
    other.to_zarr(tmp_path / "x.zarr")
    about = overview(tmp_path / "x.zarr")
    assert about["synthetic_coarse"] is coarse
    assert about["synthetic"] is None if words is None else about["synthetic"].startswith(words)


@pytest.mark.slow
def test_scales_hold_for_all_times(store: Path, ds: xr.Dataset) -> None:
    """The figures' scales, of all times together; the spread's covers nearly every cell."""
    temperature = overview(store)["quantities"][1]
    each = [plotting.color_scales(plotting.open_store(store), t)["t2m"] for t in (0, 1)]
    assert temperature["scale"]["min"] == min(scale.norm.vmin for scale in each)
    assert temperature["scale"]["max"] == max(scale.norm.vmax for scale in each)
    for shade in (0, 64, 127):
        want = each[0].cmap(shade / 127)
        assert to_rgba(temperature["scale"]["colors"][shade]) == pytest.approx(want, abs=0.5 / 255)
    spread = (ds.t2m.std("sample", ddof=1) > temperature["spread"]["max"]).mean()
    assert temperature["spread"]["min"] == 0 and float(spread) < 0.01
    radar = overview(store)["quantities"][0]["scale"]
    assert len(radar["colors"]) == len(radar["edges"]) - 1 == 14 and radar["under"] == "#ffffff"


# lines on the mesh


@pytest.mark.parametrize("turn", [-360.0, 0.0, 360.0])
def test_locate_inverts_the_mesh(turn: float) -> None:
    mesh = bent()
    rng = np.random.default_rng(0)
    row, column = rng.uniform(0, 29, 400), rng.uniform(0, 42, 400)
    j, i = row.astype(int), column.astype(int)
    down, right = row - j, column - i

    def bilinear(axis: np.ndarray) -> np.ndarray:
        upper = axis[j, i] * (1 - right) + axis[j, i + 1] * right
        return upper * (1 - down) + (axis[j + 1, i] * (1 - right) + axis[j + 1, i + 1] * right) * down

    found = mesh_geometry.locate(mesh, bilinear(mesh.lat), bilinear(mesh.lon) + turn)
    np.testing.assert_allclose(found, (row, column), atol=1e-8)


def test_locate_knows_what_is_outside() -> None:
    mesh = bent()
    lat, lon = np.array([-50.0, 90.0, 50.0, 50.0, 33.0]), np.array([179.0, 0.0, 140.0, 0.0, 179.0])
    for axis in mesh_geometry.locate(mesh, lat, lon):
        assert np.isnan(axis).all()


@pytest.mark.parametrize("flip", [(1, 1), (-1, 1), (1, -1)])
def test_grid_lines_lie_on_their_degrees(flip: tuple[int, int]) -> None:
    mesh, _ = lambert()
    mesh = Mesh(mesh.lat[:: flip[0], :: flip[1]], mesh.lon[:: flip[0], :: flip[1]])
    for degrees, names in ((mesh.lat, ("N", "S")), (mesh.lon, ("E", "W"))):
        lines = mesh_geometry._graticule(degrees, names)
        assert 2 <= len(lines) <= 8
        for line in lines:
            value = float(line["label"].partition("°")[0]) * (-1 if line["label"][-1] in "SW" else 1)
            column, row = np.reshape(line["lines"][0], (-1, 2)).T
            here = mesh_geometry._bilinear(np.stack([degrees, degrees]), np.stack([row, column]))[0][0]
            np.testing.assert_allclose(here, value, atol=0.01)


@pytest.mark.parametrize(
    ("value", "names", "label"),
    [
        (0.0, ("N", "S"), "0°"),
        (-22.5, ("N", "S"), "22.5°S"),
        (190.0, ("E", "W"), "170°W"),
        (-190.0, ("E", "W"), "170°E"),
        (360.0, ("E", "W"), "0°"),
    ],
)
def test_labels_of_degrees(value: float, names: tuple[str, str], label: str) -> None:
    assert mesh_geometry._degrees(value, names) == label


def test_wind_along_the_mesh_is_wind_on_its_map() -> None:
    """On a mesh that is regular in a Lambert map: as cartopy turns it for that map."""
    mesh, crs = lambert()
    rng = np.random.default_rng(0)
    u, v = rng.normal(0, 10, (2, *mesh.lat.shape))
    along, up = mesh_geometry.along_mesh(mesh, u, v)
    x, y = maps.wind_on_map(crs, mesh, u, v)
    inner = (slice(1, -1), slice(1, -1))
    assert np.abs(along - x)[inner].max() < 0.05 and np.abs(up - y)[inner].max() < 0.05
    np.testing.assert_allclose(np.hypot(along, up), np.hypot(u, v), rtol=1e-12)
    calm = np.zeros_like(u)
    assert not np.any(mesh_geometry.along_mesh(mesh, calm, calm))


def test_wind_on_a_mesh_that_runs_southwards() -> None:
    grid = straight()
    lat, lon = grid.mesh()
    mesh = Mesh(lat[::-1].astype(float), lon.astype(float))
    along, up = mesh_geometry.along_mesh(mesh, np.full(lat.shape, 3.0), np.full(lat.shape, 4.0))
    np.testing.assert_allclose(up, -np.abs(up))  # northwards is up the page, and down the rows
    assert (along > 0).all()


def test_cells_in_kilometres() -> None:
    mesh, _ = lambert()
    assert mesh_geometry.cell(mesh) == pytest.approx(
        (25.0, 25.0), rel=0.03
    )  # the map's own scale varies so much


def test_a_store_without_land_has_no_coast(tmp_path: Path) -> None:
    assert mesh_geometry.overlay(plotting.open_store(build(tmp_path / "s.zarr")))["coast"] == []


@pytest.mark.slow
@pytest.mark.skipif(not COASTLINES.is_dir(), reason="no Natural Earth shapefiles beside the checkout")
def test_natural_earth_on_the_mesh(store: Path, ds: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each vertex, put back into degrees, lies on the coastline that it came from."""
    monkeypatch.setitem(cartopy.config, "pre_existing_data_dir", COASTLINES)
    mesh = Mesh(ds.lat.values.astype(float), ds.lon.values.astype(float))
    coast = mesh_geometry.overlay(ds)["coast"]
    points = np.concatenate([np.reshape(line, (-1, 2)) for line in coast])
    assert len(points) > 300
    assert points.min() >= -0.5 and (points.max(axis=0) <= [35.5, 23.5]).all()
    lat, lon = mesh_geometry._bilinear(np.stack([mesh.lat, mesh.lon]), points.T[::-1])[0]
    east = (lat > 24) & (lat < 24.2) & (lon > 121)  # the steep coast of Hualien is at 121.6 E
    assert east.any() and np.abs(lon[east] - 121.63).max() < 0.1
