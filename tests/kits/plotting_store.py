# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""For the tests of plotting: small stores in the layout that the run writes, and a look into figures."""

from __future__ import annotations

import warnings
from pathlib import Path

import cartopy
import cartopy.crs as ccrs
import cartopy.io
import numpy as np
import pytest
import xarray as xr
from cartopy.mpl.geoaxes import GeoAxes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver

from earth2_corrdiff.plotting import maps

H, W = 20, 28
TIMES = np.array(["2024-07-24T12:00", "2024-07-24T12:30:15"], dtype="datetime64[ns]")
UNITS = {"mrr": "dBZ", "refc": "dBZ", "t2m": "K", "u10m": "m s-1", "v10m": "m s-1", "tcwv": "kg m-2"}


def curved_mesh() -> tuple[np.ndarray, np.ndarray]:
    """2-D lat and lon, ``[H, W]``, regular on a Lambert map about 24 N 121 E."""
    crs = ccrs.LambertConformal(121.0, 24.0, standard_parallels=(22, 26))
    x, y = np.meshgrid(np.linspace(-5e5, 5e5, W), np.linspace(-4e5, 4e5, H))
    points = ccrs.PlateCarree().transform_points(crs, x, y)
    return points[..., 1], points[..., 0]


def weather(lat: np.ndarray, lon: np.ndarray, member: int) -> dict[str, np.ndarray]:
    """All variables at some points; members differ by their centre and a constant."""
    east, north = (lon - 121.0 - 0.2 * member) * np.cos(np.deg2rad(24.0)), lat - 24.0
    radius = np.hypot(east, north) + 1e-9
    speed = 40.0 * radius * np.exp(1.0 - radius)
    return {
        "mrr": 55.0 * np.exp(-((radius - 1.0) ** 2)) - 10.0 + member,
        "t2m": 300.0 - 0.5 * north + 0.3 * member,
        "u10m": -speed * north / radius,
        "v10m": speed * east / radius,
        "tcwv": 60.0 - 3.0 * radius,
    }


def member_fields(lat: np.ndarray, lon: np.ndarray, members: int, times: int) -> dict[str, np.ndarray]:
    made = [weather(lat, lon, member) for member in range(members)]
    return {
        name: np.repeat(np.stack([one[name] for one in made])[None], times, axis=0).astype(np.float32)
        for name in ("mrr", "t2m", "u10m", "v10m")
    }


def build(
    path: Path,
    curved: bool = True,
    members: int = 3,
    times: int = 1,
    refc: bool = True,
    land: bool = False,
    turn: float = 0.0,
    unwritten: tuple[tuple[int, int], ...] = (),
    **attrs: object,
) -> Path:
    """Write a store.

    `turn` is added to all longitudes (another convention); `unwritten` lists (time, sample) left NaN.
    """
    if curved:
        lat, lon = curved_mesh()
        dims, grid = ("ilat", "ilon"), {"lat": (("ilat", "ilon"), lat), "lon": (("ilat", "ilon"), lon + turn)}
    else:
        lat1, lon1 = np.linspace(27.5, 20.5, H), np.linspace(116.0, 126.0, W)
        lat, lon = np.meshgrid(lat1, lon1, indexing="ij")
        dims, grid = ("lat", "lon"), {"lat": ("lat", lat1), "lon": ("lon", lon1 + turn)}
    data = {}
    for name, values in member_fields(lat, lon, members, times).items():
        for cell in unwritten:
            values[cell] = np.nan
        data[name] = (("time", "sample", *dims), values)
    coarse_lat, coarse_lon = np.arange(18.0, 30.1, 0.5), np.arange(113.0, 129.1, 0.5)
    coarse = weather(*np.meshgrid(coarse_lat, coarse_lon, indexing="ij"), 0)
    coarse["refc"] = coarse.pop("mrr") - 5.0
    for name, values in coarse.items():
        if refc or name != "refc":
            stack = np.repeat(values[None], times, axis=0).astype(np.float32)
            data[f"{name}_lowres"] = (("time", "lat_lowres", "lon_lowres"), stack)
    data["member_seed"] = (("time", "sample"), 1000 + np.arange(times * members).reshape(times, members))
    if land:
        data["land_fraction"] = (dims, (lon < 120.0).astype(np.float32))
    grid |= {"lat_lowres": coarse_lat, "lon_lowres": coarse_lon + turn}
    ds = xr.Dataset(data, {"time": TIMES[:times], "sample": np.arange(members), **grid})
    for name in ds.data_vars:
        units = UNITS.get(str(name).removesuffix("_lowres"))
        ds[name].attrs = {"units": units} if units else {}
    known = {"source": "gfs", "package": "taiwan", "solver": "euler", "number_of_steps": 18, "synthetic": 0}
    return write(ds.assign_attrs(known | attrs), path)


def write(ds: xr.Dataset, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # consolidated metadata is not in the Zarr 3 specification
        ds.to_zarr(path, mode="w", zarr_format=3, consolidated=True)
    return path


# ---- looking at figures


def forbid_network(monkeypatch: pytest.MonkeyPatch, empty: Path) -> None:
    """No coastlines on the disk, and whoever tries to fetch them fails."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a plot tried to use the network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr(cartopy.io, "urlopen", refuse)
    monkeypatch.setattr(cartopy.io.Downloader, "acquire_resource", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    for place in ("data_dir", "pre_existing_data_dir"):
        monkeypatch.setitem(cartopy.config, place, empty)
    maps._warn_without_coastlines.cache_clear()


def map_axes(figure: Figure) -> list[GeoAxes]:
    return [ax for ax in figure.axes if isinstance(ax, GeoAxes)]


def cells(ax: GeoAxes) -> QuadMesh:
    return next(artist for artist in ax.collections if isinstance(artist, QuadMesh))


def arrows(ax: GeoAxes) -> list[Quiver]:
    return [artist for artist in ax.collections if isinstance(artist, Quiver)]


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.texts)


def limits(figure: Figure) -> list[tuple[float, float]]:
    return [cells(ax).get_clim() for ax in map_axes(figure)]


def drawn(figure: Figure) -> Figure:
    figure.canvas.draw()
    return figure
