# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The maps under the figures: projection, wind directions, coastlines without a network."""

from __future__ import annotations

from pathlib import Path

import cartopy
import cartopy.crs as ccrs
import numpy as np
import pytest
import xarray as xr
from cartopy.mpl.feature_artist import FeatureArtist
from loguru import logger
from matplotlib.contour import ContourSet
from plotting_store import arrows, build, cells, drawn, forbid_network, map_axes, weather, write
from pyproj import Geod

from earth2_corrdiff import plotting
from earth2_corrdiff.plotting import maps

COASTLINES = Path(__file__).parents[3] / "shared" / "data" / "coastlines" / "cartopy_data"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forbid_network(monkeypatch, tmp_path / "empty")


@pytest.fixture
def store(tmp_path: Path) -> xr.Dataset:
    return plotting.open_store(build(tmp_path / "store.zarr"))


@pytest.mark.slow
def test_map_is_the_cone_of_the_grid(store: xr.Dataset) -> None:
    for ax in map_axes(plotting.plot_member(store)):
        assert isinstance(ax.projection, ccrs.LambertConformal)
        params = ax.projection.proj4_params
        assert params["lat_0"] == pytest.approx(24, abs=0.2)  # `curved_mesh`
        assert params["lon_0"] == pytest.approx(121, abs=0.01)
        assert ax.get_aspect() == 1.0


@pytest.mark.slow
def test_arrows_point_along_the_wind(store: xr.Dataset) -> None:
    """Independent: walk 100 m along each wind on the ellipsoid, and look where that leads on the map."""
    ax = map_axes(plotting.plot_member(store))[2]
    quiver = arrows(ax)[0]
    lon, lat, _ = ccrs.PlateCarree().transform_points(ax.projection, quiver.X, quiver.Y).T
    truth = weather(lat, lon, 0)
    bearing = np.degrees(np.arctan2(truth["u10m"], truth["v10m"]))
    there_lon, there_lat, _ = Geod(ellps="WGS84").fwd(lon, lat, bearing, np.full(lon.shape, 100.0))
    there = ax.projection.transform_points(ccrs.PlateCarree(), there_lon, there_lat)
    angle = np.arctan2(there[:, 1] - quiver.Y, there[:, 0] - quiver.X)
    off = np.angle(np.exp(1j * (np.arctan2(quiver.V, quiver.U) - angle)))
    assert np.abs(off).max() < np.radians(0.5)
    np.testing.assert_allclose(
        np.hypot(quiver.U, quiver.V), np.hypot(truth["u10m"], truth["v10m"]), rtol=1e-3
    )
    assert 100 < len(quiver.X) < 700


@pytest.mark.slow
@pytest.mark.parametrize("curved", [True, False])
def test_longitude_convention_does_not_matter(tmp_path: Path, curved: bool) -> None:
    one, other = (
        plotting.open_store(build(tmp_path / f"{turn}.zarr", curved=curved, turn=turn))
        for turn in (0.0, -360.0)
    )
    for here, there in zip(
        map_axes(plotting.plot_lowres(one)), map_axes(plotting.plot_lowres(other)), strict=True
    ):
        np.testing.assert_allclose(cells(here).get_coordinates(), cells(there).get_coordinates(), atol=1.0)
        np.testing.assert_allclose(here.get_xlim(), there.get_xlim(), atol=1.0)


def test_projection_follows_the_domain() -> None:
    def chosen(south: float, north: float, west: float, east: float) -> type:
        lat, lon = np.meshgrid(np.linspace(south, north, 5), np.linspace(west, east, 7), indexing="ij")
        crs = maps.projection(maps.Mesh(lat, lon))
        assert np.isfinite(maps.project(crs, maps.Mesh(lat, lon))).all()
        return type(crs)

    assert chosen(21, 53, 225, 300) is ccrs.LambertConformal
    assert chosen(-45, -15, 140, 155) is ccrs.LambertConformal
    assert chosen(-9, 8, 170, 190) is ccrs.Mercator
    assert chosen(60, 89, 0, 90) is ccrs.Stereographic
    assert chosen(-20, 60, 0, 200) is ccrs.PlateCarree
    assert chosen(-90, 90, 0, 358) is ccrs.Robinson


SPHERE = ccrs.Globe(ellipse=None, semimajor_axis=6.37e6, semiminor_axis=6.37e6)


@pytest.mark.parametrize(
    ("crs", "params"),
    [  # HRRR (at one point in twelve), WRF over Taiwan, the south, HRRR-Alaska's kind, COSMO-REA6, COSMO-REA2
        (ccrs.LambertConformal(262.5, 38.5, standard_parallels=(38.5, 38.5), globe=SPHERE), {"lon_0": 262.5}),
        (ccrs.LambertConformal(120, 25, standard_parallels=(10, 40), globe=SPHERE), {"lon_0": 120}),
        (ccrs.LambertConformal(135, -30, standard_parallels=(-20, -40), cutoff=30, globe=SPHERE), {}),
        (ccrs.Stereographic(90, -135, globe=SPHERE), {"lat_0": 90, "lon_0": 225}),
        (ccrs.RotatedPole(-162, 39.25), {"o_lat_p": 39.25, "lon_0": 18}),
        (ccrs.RotatedPole(-170, 40.0), {"o_lat_p": 40.0, "lon_0": 10}),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_a_grid_is_on_the_map_that_it_was_made_in(
    crs: ccrs.Projection, params: dict[str, float], turned: bool
) -> None:
    """Known answer: grids made by cartopy in float32; on the map found, rows and columns are straight."""
    rotated = isinstance(crs, ccrs.RotatedPole)
    x, y = (np.linspace(-23, 21, 88), np.linspace(-12, 18, 61)) if rotated else np.ogrid[:88, :61]
    if not rotated:
        south = -3.3e6 if isinstance(crs, ccrs.Stereographic) else -1.5e6
        x, y = 36e3 * (x.ravel() - 40), south + 36e3 * y.ravel()
    points = ccrs.PlateCarree().transform_points(crs, *np.meshgrid(x, y[::-1] if turned else y))
    lat, lon = points[..., 1].astype("f4").astype("f8"), points[..., 0].astype("f4").astype("f8")
    mesh = maps.Mesh(lat, np.unwrap(np.unwrap(lon % 360, period=360, axis=1), period=360, axis=0))
    found = maps.projection(mesh)
    assert type(found) is type(crs)
    assert {name: found.proj4_params[name] for name in params} == pytest.approx(params, abs=0.01)
    across, up = maps.project(found, mesh)
    cell = abs(np.diff(across, axis=1)).mean()
    assert max(np.ptp(across, axis=0).max(), np.ptp(up, axis=1).max()) < 0.02 * cell


def test_a_grid_of_no_projection_is_on_a_map_about_its_middle() -> None:
    """Bent axes, a Mercator grid, and one along meridians have no cone and no pole of their own."""
    lat, lon = np.meshgrid(np.linspace(48, 52, 24), np.linspace(8, 11, 28), indexing="ij")
    for bend in (0.0, 0.02):
        crs = maps.projection(maps.Mesh(lat + bend * (lon - 10), lon - bend * (lat - 50)))
        assert isinstance(crs, ccrs.LambertConformal) and crs.proj4_params["lat_0"] == pytest.approx(
            50, abs=0.1
        )


@pytest.mark.slow
def test_the_globe_is_drawn_from_its_left_edge_on(tmp_path: Path) -> None:
    """A store from 0 to 360 E on a map about Greenwich: each cell where its coordinates are."""
    lat, lon = np.linspace(90, -90, 19), np.arange(0, 360, 15.0)
    values = np.broadcast_to(np.cos(np.deg2rad(lon)), (1, 1, 19, 24)).astype("f4")
    dims = ("time", "sample", "lat", "lon")
    time = np.array(["2037-09-06"], "datetime64[ns]")
    ds = xr.Dataset({"t2m": (dims, values)}, {"time": time, "sample": [0], "lat": lat, "lon": lon})
    ax = map_axes(drawn(plotting.plot_member(plotting.open_store(write(ds, tmp_path / "globe.zarr")))))[0]
    shown, x = cells(ax).get_array(), cells(ax).get_coordinates()[9, :, 0]
    assert (np.diff(x) > 0).all()
    assert shown[9].argmax() == 12 and shown[9].argmin() == 0


@pytest.mark.slow
def test_no_coastlines_is_one_warning(store: xr.Dataset) -> None:
    said: list[str] = []
    sink = logger.add(said.append, level="WARNING", format="{message}")
    drawn(plotting.plot_member(store))
    drawn(plotting.plot_lowres(store))
    logger.remove(sink)
    assert len(said) == 1 and "CARTOPY_DATA_DIR" in said[0]


@pytest.mark.slow
def test_land_fraction_is_the_coast_where_cartopy_has_none(tmp_path: Path) -> None:
    ds = plotting.open_store(build(tmp_path / "s.zarr", land=True))
    for ax in map_axes(drawn(plotting.plot_member(ds))):
        (coast,) = [artist for artist in ax.collections if isinstance(artist, ContourSet)]
        x, y = np.concatenate([path.vertices for path in coast.get_paths()]).T
        lon = ccrs.PlateCarree().transform_points(ax.projection, x, y)[:, 0]
        assert np.abs(lon - 120.0).max() < 0.4  # the mask's edge, to a cell


@pytest.mark.slow
@pytest.mark.skipif(not COASTLINES.is_dir(), reason="no Natural Earth shapefiles beside the checkout")
@pytest.mark.parametrize("turn", [0.0, -360.0])
def test_coastlines_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turn: float) -> None:
    ds = plotting.open_store(build(tmp_path / "s.zarr", land=True, turn=turn))
    monkeypatch.setitem(cartopy.config, "pre_existing_data_dir", COASTLINES)
    assert maps.coastline_file().name == "ne_10m_coastline.shp"
    for ax in map_axes(drawn(plotting.plot_member(ds))):
        coasts = [a for a in ax.artists + list(ax.get_children()) if isinstance(a, FeatureArtist)]
        assert coasts and not [a for a in ax.collections if isinstance(a, ContourSet)]
        lines = list(coasts[0]._feature.geometries())
        assert len(lines) > 10
        assert any(line.bounds[0] < 120.2 and line.bounds[2] > 121.9 for line in lines)  # Taiwan


# about a pole


def polar(kind: str, side: int = 1) -> maps.Mesh:
    """A mesh in circles about a pole, or a square that has the pole inside."""
    if kind == "circles":
        lat, lon = np.meshgrid(side * np.linspace(60, 90, 16), np.arange(0, 360, 6.0), indexing="ij")
        return maps.Mesh(lat, lon)
    crs = ccrs.Stereographic(90.0, -30.0)
    x, y = np.meshgrid(np.linspace(-2e6, 2e6, 31), np.linspace(-2.5e6, 1.5e6, 31))
    points = ccrs.PlateCarree().transform_points(crs, x, y)
    lon = np.unwrap(np.unwrap(points[..., 0], period=360, axis=1), period=360, axis=0)
    return maps.Mesh(points[..., 1], lon)


@pytest.mark.parametrize(("kind", "side"), [("circles", 1), ("circles", -1), ("square", 1)])
def test_a_domain_about_a_pole_is_on_a_polar_map(kind: str, side: int) -> None:
    mesh = polar(kind, side)
    crs = maps.projection(mesh)
    assert isinstance(crs, ccrs.Stereographic)
    assert crs.proj4_params["lat_0"] == 90 * side
    x, y = maps.project(crs, mesh)
    left, right, bottom, top = maps.extent(x, y)
    assert left < 0 < right and bottom < 0 < top  # the pole is on the map
    reach = np.hypot(x, y).max() if kind == "circles" else np.abs(x).max()
    assert right == pytest.approx(reach, rel=0.06)
    if kind == "square":  # upright: the mesh's first row is the lowest
        assert crs.proj4_params["lon_0"] == pytest.approx(-30, abs=1)
        np.testing.assert_allclose(y[0], y[0].mean(), atol=2e4)


def test_wind_about_a_pole_turns_with_the_meridians() -> None:
    """A west wind follows the parallel: at right angles to the way to the pole, anticlockwise up north."""
    mesh = polar("circles")
    crs = maps.projection(mesh)
    x, y = maps.project(crs, mesh)
    u, v = maps.wind_on_map(crs, mesh, np.full(x.shape, 10.0), np.zeros(x.shape))
    inner = slice(0, -1)
    np.testing.assert_allclose((x * u + y * v)[inner] / np.hypot(x, y)[inner] / 10, 0, atol=1e-2)
    assert ((x * v - y * u)[inner] > 0).all()
    assert np.isnan(u[-1]).all()  # at the pole itself there is no east


def test_what_is_not_about_a_pole() -> None:
    for south, north, width in ((60, 89, 90), (-90, 90, 358), (-20, 89, 358), (40, 60, 358)):
        lat, lon = np.meshgrid(np.linspace(south, north, 30), np.linspace(0, width, 90), indexing="ij")
        assert not maps.surrounds_pole(maps.Mesh(lat, lon))
