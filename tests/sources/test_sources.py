# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Sources made from generated data: times, cut-out and interpolation, files, any Earth2Studio source."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from earth2studio.data import GFS, DataSource, fetch_data
from hypothesis import given
from hypothesis import strategies as st
from properties import quick
from scipy.interpolate import RegularGridInterpolator

from earth2_corrdiff.base.times import parse_time, time_text, to_times
from earth2_corrdiff.sources import Source, as_source, check_input, fetch, make_source
from earth2_corrdiff.sources.cutout import cut_out, latitudes, longitudes

NAMES = ["t2m", "u10m", "z500"]
TIMES = np.array(["2024-07-24T12", "2024-07-24T18"], dtype="datetime64[ns]")


def smooth(name: str, step: int, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """A periodic field [lat, lon] in plausible units."""
    y, x = np.radians(lat)[:, None], np.radians(lon)[None, :]
    wave = np.sin(2 * y + step) * np.cos(3 * x) + 0.3 * np.cos(5 * y) * np.sin(x)
    mean, size = {"t2m": (290, 10), "u10m": (0, 8), "z500": (56000, 900), "refc": (5, 20)}[name]
    return mean + size * wave


def weather(lat: np.ndarray, lon: np.ndarray) -> xr.DataArray:
    values = np.stack([[smooth(name, step, lat, lon) for name in NAMES] for step in range(TIMES.size)])
    coords = {"time": TIMES, "variable": NAMES, "lat": lat, "lon": lon}
    return xr.DataArray(values, coords, ("time", "variable", "lat", "lon"))


class Stock:
    """A bare Earth2Studio data source over an array."""

    def __init__(self, array: xr.DataArray) -> None:
        self.array = array

    def __call__(self, time, variable):
        return self.array.sel(time=time, variable=variable)

    async def fetch(self, time, variable):
        return self(time, variable)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-07-24T12:00", "2024-07-24T12:00"),
        (" 2024-07-24 12 ", "2024-07-24T12:00"),
        ("2024-07-24T12:00Z", "2024-07-24T12:00"),
        ("2024-07-25T01:30+05:30", "2024-07-24T20:00"),
        ("20240724T1200-0200", "2024-07-24T14:00"),
        ("2024-07-24", "2024-07-24T00:00"),
        ("2024-07-24T12:00:30", "2024-07-24T12:00:30"),
    ],
)
def test_times_are_utc(text: str, expected: str) -> None:
    time = parse_time(text)
    assert time.dtype == "datetime64[ns]"
    assert time_text(time) == expected


def test_times_of_every_kind_agree() -> None:
    aware = datetime(2024, 7, 24, 14, tzinfo=timezone(timedelta(hours=2)))
    mixed = ["2024-07-24T12", datetime(2024, 7, 24, 12), aware, np.datetime64("2024-07-24T12", "h")]
    assert (to_times(mixed) == np.datetime64("2024-07-24T12")).all()
    assert to_times(TIMES[0]).shape == to_times("2024-07-24").shape == (1,)
    assert to_times(datetime(2024, 7, 24, tzinfo=UTC)).dtype == "datetime64[ns]"


TURNS = {"own": lambda lon: lon, "0 to 360": lambda lon: lon % 360}
TURNS["-180 to 180"] = lambda lon: (lon + 180) % 360 - 180


@st.composite
def boxes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Axes of a source every 5 degrees, global or not, and a part of its longitudes, each in a convention."""
    lat = np.linspace(-90, 90, 73) if draw(st.booleans()) else np.linspace(30, 60, 13)
    count = draw(st.sampled_from((9, 15, 40, 72, 73)))
    lon = 5.0 * (draw(st.integers(-36, 72)) + np.arange(count))
    start = draw(st.integers(0, count - 5))
    part = lon[start : start + draw(st.integers(2, min(count, 71) - 4))]
    own, wanted = (draw(st.sampled_from(sorted(TURNS))) for _ in range(2))
    lon = TURNS[own if count < 73 else "own"](lon)
    order = [draw(st.sampled_from((1, -1))) for _ in range(2)]
    return lat[:: order[0]], lon[:: order[1]], TURNS[wanted](part)


@quick
@given(boxes(), st.sampled_from((1, -1)))
def test_cut_out_copies_the_bits_in_any_convention(
    box: tuple[np.ndarray, np.ndarray, np.ndarray], order: int
) -> None:
    lat, lon = np.array([35.0, 40.0, 45.0])[::order], box[2]
    values, exact = cut_out(weather(*box[:2]), lat, lon, "test")
    array = weather(np.linspace(90, -90, 73), np.arange(0, 360, 5.0))
    expected = array.sel(lat=lat, lon=lon % 360).to_numpy()
    assert exact and values.shape == (2, 3, 3, lon.size)
    np.testing.assert_allclose(values, expected, rtol=1e-12)


@pytest.mark.slow
@quick
@given(boxes(), st.floats(0.1, 4.9))
def test_interpolation_equals_scipy(box: tuple[np.ndarray, np.ndarray, np.ndarray], shift: float) -> None:
    lat, east = np.linspace(52.2, 33.1, 9), box[2][:-1] + shift
    values, exact = cut_out(weather(*box[:2]), lat, east, "test")
    rows, knots = np.unique(box[0]), np.arange(-360, 800, 5.0)
    points = np.stack(np.meshgrid(lat, east, indexing="ij"), axis=-1)
    for t in range(2):
        for c, name in enumerate(NAMES):
            oracle = RegularGridInterpolator((rows, knots), smooth(name, t, rows, knots))
            np.testing.assert_allclose(values[t, c], oracle(points), rtol=1e-12, atol=1e-9)
    assert not exact


def test_interpolation_does_not_drag_in_nan_beside_a_source_point() -> None:
    array = weather(np.linspace(10, 30, 5), np.linspace(100, 120, 5))
    array[..., 2, 3] = np.nan
    values, exact = cut_out(array, np.array([15.0, 15.0]), np.array([110.0, 112.5]), "test")
    assert not exact and np.isfinite(values).all()
    values, _ = cut_out(array, np.array([17.0, 20.0]), np.array([110.0, 112.5]), "test")
    np.testing.assert_array_equal(np.isnan(values[0, 0]), [[False, True], [False, True]])


def test_stencil_of_float32_coordinates_is_exact() -> None:
    have = np.arange(0, 360, 0.1).astype(np.float32)
    assert longitudes(have, np.arange(116, 125.7, 0.1)).exact
    assert latitudes(np.linspace(-90, 90, 1801, dtype=np.float32), np.linspace(19.3, 28, 88)).exact
    assert latitudes(np.array([20.0]), np.array([20.00005])).exact
    assert latitudes(np.array([20.0]), np.array([20.1])) is None
    assert longitudes(np.linspace(100, 130, 31), np.array([99.9])) is None
    assert longitudes(np.linspace(100, 130, 31), np.array([130.1])) is None


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
@pytest.mark.parametrize("layout", ["array", "dataset", "aliases", "lead time"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::zarr.errors.ZarrUserWarning")
def test_file_round_trip(tmp_path: Path, suffix: str, layout: str, flip: bool) -> None:
    lat, lon = np.linspace(20, 30, 41), np.arange(-180, 180, 0.5) if flip else np.arange(110, 130, 0.5)
    array = weather(lat[::-1] if flip else lat, lon)
    data: xr.Dataset | xr.DataArray = array.transpose("lat", "variable", "time", "lon") if flip else array
    if layout != "array":
        data = array.to_dataset("variable")
    if layout == "aliases":
        data = data.rename(time="valid_time", lat="latitude", lon="longitude")
    if layout == "lead time":
        data = data.assign_coords(time=TIMES - np.timedelta64(6, "h")).expand_dims(
            lead_time=[np.timedelta64(6, "h")]
        )
    path = tmp_path / f"input{suffix}"
    data.to_netcdf(path) if suffix == ".nc" else data.to_zarr(path)

    source = make_source(f"file:{path}")
    source.check_times(TIMES)
    source.check_variables(NAMES)
    assert source.has("t2m") and not source.has("refc") and not source.synthetic
    wanted = ["z500", "t2m"]
    x, coords = fetch(source, TIMES, wanted, np.linspace(22, 25, 13), np.linspace(119, 121, 5))
    assert (
        x.dtype == torch.float32
        and x.shape == (2, 2, 13, 5)
        and list(coords) == ["time", "variable", "lat", "lon"]
    )
    expected = array.sel(variable=wanted, lat=coords["lat"], lon=coords["lon"]).to_numpy()
    np.testing.assert_array_equal(x.numpy(), expected.astype(np.float32))
    check_input(x, wanted, source, coords["time"])


def test_file_with_one_time_and_no_time_dimension(tmp_path: Path) -> None:
    path = tmp_path / "one.nc"
    array = weather(np.linspace(20, 30, 5), np.linspace(110, 130, 7))
    array.isel(time=1).to_dataset("variable").assign(orography=("x", np.zeros(3))).to_netcdf(path)
    source = make_source(f"file:{path}")
    source.check_times("2024-07-24T18:00Z")
    x, _ = fetch(source, "2024-07-24T18:00", NAMES, array.lat.values, array.lon.values)
    np.testing.assert_array_equal(x[0].numpy(), array[1].to_numpy().astype(np.float32))


def test_source_is_an_earth2studio_source(tmp_path: Path) -> None:
    path = tmp_path / "input.nc"
    array = weather(np.linspace(20, 30, 5), np.linspace(110, 130, 7))
    array.to_netcdf(path)
    source = make_source(f"file:{path}")
    assert isinstance(source, DataSource)
    x, coords = fetch_data(source, TIMES, np.array(NAMES))
    assert x.shape == (2, 1, 3, 5, 7) and list(coords) == ["time", "lead_time", "variable", "lat", "lon"]
    awaited = asyncio.run(source.fetch(TIMES, NAMES))
    np.testing.assert_array_equal(awaited.to_numpy().astype(np.float32), x[:, 0].numpy())


def test_any_earth2studio_source_serves() -> None:
    array = weather(np.linspace(20, 30, 11), np.linspace(110, 130, 21))
    source = as_source(Stock(array))
    source.check_times("1850-01-01")
    source.check_variables(["whatever"])
    assert source.name == "Stock" and not source.has("t2m") and as_source(source) is source
    x, _ = fetch(Stock(array), TIMES[1], ["u10m"], np.array([25.0, 23.0]), np.array([115.0]))
    expected = array.sel(time=TIMES[1], variable="u10m", lat=[25, 23], lon=[115]).to_numpy()
    np.testing.assert_array_equal(x[0, 0].numpy(), expected.astype(np.float32))
    stock = as_source(GFS(verbose=False))
    assert stock.name == "gfs" and stock.has("refc") and not stock.has("mrr")


def test_demo_is_synthetic() -> None:
    source = make_source("demo")
    source.check_times("2051-01-01T03:17")
    names = "tcwv z500 t500 u500 v500 z850 t850 u850 v850 t2m u10m v10m".split()
    source.check_variables(names)
    assert source.synthetic and source.name == "demo" and source.has("refc") and not source.has("mrr")
    x, _ = fetch(source, "2024-07-24T12:00", names, np.linspace(19.25, 28, 36), np.linspace(116, 125.75, 40))
    check_input(x, names, source)


def test_known_archives_match_the_installed_classes() -> None:
    """The first and last time of the table are accepted by the stock class, their neighbours refused."""
    from earth2studio.data import ARCO_ERA5, CDS_ERA5, NCAR_ERA5, WB2ERA5

    from earth2_corrdiff.sources import calendars

    stock = {
        "gfs": (calendars.GFS, GFS(verbose=False)._validate_time),
        "wb2": (calendars.WB2, WB2ERA5._validate_time),
        "ncar": (calendars.ERA5, NCAR_ERA5._validate_time),
        "cds": (calendars.ERA5, lambda times: CDS_ERA5.__dict__["_validate_time"](None, times)),
        "arco": (calendars.ARCO.known, ARCO_ERA5._validate_time),
    }
    for name, (archive, validate) in stock.items():
        step = np.timedelta64(archive.step, "h")
        edges = [archive.first] if archive.last is None else [archive.first, archive.last]
        for edge in edges:
            validate([edge.astype("datetime64[us]").item()])
        outside = [archive.first - step, archive.first + np.timedelta64(30, "m")]
        outside += [] if archive.last is None else [archive.last + step]
        for time in outside:
            with pytest.raises(ValueError, match="needs to be|must be"):
                validate([time.astype("datetime64[us]").item()])
            with pytest.raises(ValueError, match=f"the source {name} has analyses at"):
                archive.check(np.array([time]), Source(name, build=dict))
