# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The synthetic weather of the demo: deterministic, consistent between its scales, plausible."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
import xarray as xr

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.demo import DemoWeather, atmosphere, background, rain, storm, turbulence
from earth2_corrdiff.demo.domain import (
    CENTRE_LAT,
    CENTRE_LON,
    COARSE_LAT,
    COARSE_LON,
    EARTH_RADIUS,
    PARALLELS,
    SPACING,
    project,
    unproject,
)

LANDFALL = datetime(2024, 7, 24, 12)
QUIET = datetime(2023, 1, 11, 6)
INPUTS = ["tcwv", "z500", "t500", "u500", "v500", "z850", "t850", "u850", "v850", "t2m", "u10m", "v10m"]
RANGES = {
    "tcwv": (1, 85), "z500": (53_500, 58_800), "t500": (253, 280), "u500": (-80, 90), "v500": (-80, 80),
    "z850": (7_000, 15_700), "t850": (265, 302), "u850": (-90, 90), "v850": (-90, 90), "t2m": (258, 312),
    "u10m": (-75, 75), "v10m": (-75, 75), "refc": (0, 62), "mrr": (0, 62),
}  # fmt: skip


@pytest.fixture(scope="module")
def source() -> DemoWeather:
    return DemoWeather()


@pytest.fixture(scope="module")
def times() -> list[np.datetime64]:
    random = np.random.default_rng(11)
    start = np.datetime64("2012-01-01T00", "m")
    return [start + np.timedelta64(int(m), "m") for m in random.uniform(0, 12 * 525_960, 40)]


@pytest.fixture(scope="module")
def many(source: DemoWeather, times: list[np.datetime64]) -> list[atmosphere.Fields]:
    return [source.fields(time) for time in times]


def forget() -> None:
    """Drop everything computed so far."""
    for cached in (turbulence._white, storm.vortex, storm.track, background.background):
        cached.cache_clear()


@pytest.mark.slow
def test_the_same_time_always_gives_the_same_bytes(source: DemoWeather) -> None:
    first = source.fields(LANDFALL)
    forget()
    source.fields(QUIET)
    again = DemoWeather().fields(np.datetime64("2024-07-24T12"))
    assert first.coarse.tobytes() == again.coarse.tobytes()
    assert first.fine.tobytes() == again.fine.tobytes()


def test_another_world_version_is_another_world(source: DemoWeather, monkeypatch: pytest.MonkeyPatch) -> None:
    here = source.fields(QUIET).fine
    monkeypatch.setattr(turbulence, "WORLD_VERSION", 999)
    forget()
    there = source.fields(QUIET).fine
    monkeypatch.undo()
    forget()
    assert not np.allclose(here, there)


@pytest.mark.slow
@pytest.mark.parametrize("time", [LANDFALL, QUIET])
def test_truth_averages_to_the_coarse_input(source: DemoWeather, time: datetime) -> None:
    """Cell by cell with plain loops over the public arrays; cells cut by the window's edge are left out."""
    names = ["t2m", "u10m", "v10m"]
    coarse, fine = source(time, names)[0], source.truth(time, names)[0]
    lat, lon = fine.lat.values, fine.lon.values
    compared = 0
    for row, middle_lat in enumerate(COARSE_LAT[3:-3], 3):
        for col, middle_lon in enumerate(COARSE_LON[4:-4], 4):
            inside = (abs(lat - middle_lat) < 0.125) & (abs(lon - middle_lon) < 0.125)
            if not inside.any() or inside[[0, -1]].any() or inside[:, [0, -1]].any():
                continue
            means = fine.values[:, inside].astype(np.float64).mean(1)
            np.testing.assert_allclose(coarse.values[:, row, col], means, rtol=3e-7, atol=2e-6)
            compared += 1
    assert compared > 800


def test_coarse_reflectivity_is_the_mean_of_z(source: DemoWeather) -> None:
    refc, mrr = source(LANDFALL, "refc")[0, 0], source.truth(LANDFALL, "mrr")[0, 0]
    power = np.where(mrr.values > 0, 10 ** (mrr.values.astype(float) / 10), 0.0)
    for row, col in [(18, 20), (19, 26), (14, 27), (25, 24)]:
        inside = (abs(mrr.lat.values - COARSE_LAT[row]) < 0.125) & (
            abs(mrr.lon.values - COARSE_LON[col]) < 0.125
        )
        expected = 10 * np.log10(max(power[inside].mean(), 1.0))
        assert refc.values[row, col] == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_values_are_finite_float32_in_range(many: list[atmosphere.Fields]) -> None:
    for field in many:
        for values, names in (
            (field.coarse, DemoWeather.VARIABLES),
            (field.fine, DemoWeather.TRUTH_VARIABLES),
        ):
            assert values.dtype == np.float32 and np.isfinite(values).all()
            for layer, name in zip(values, names, strict=True):
                low, high = RANGES[name]
                assert low <= layer.min() and layer.max() <= high, name


@pytest.mark.slow
def test_echoes_cover_a_plausible_part(many: list[atmosphere.Fields], source: DemoWeather) -> None:
    covers = [(field.fine[0] > 0).mean() for field in many]
    assert 0.04 < np.mean(covers) < 0.2 and max(covers) < 0.45
    mrr = source.fields(LANDFALL).fine[0]
    assert 0.1 < (mrr > 0).mean() < 0.35
    assert 45 < mrr.max() < 61


def test_typhoon_of_the_first_example(source: DemoWeather) -> None:
    eye = source.storm(LANDFALL)
    assert eye is not None and eye.inside and eye.central_pressure < 950
    lat, lon = eye.lat_lon
    assert 23 < lat < 25.5 and 121.5 < lon < 123.5
    mrr, _, u, v = source.fields(LANDFALL).fine
    fine_lat, fine_lon = source.fine_grid()
    x, y = project(fine_lat, fine_lon)
    distance, speed = np.hypot(x - eye.x, y - eye.y), np.hypot(u, v)
    ring = abs(distance - eye.radius) < 10e3
    assert speed[distance < 8e3].max() < 15 < 35 < speed[ring].mean()
    assert mrr[distance < 8e3].max() == 0
    assert mrr[abs(distance - 1.1 * eye.radius) < 8e3].mean() > 30
    # The wind turns anticlockwise and inwards.
    near = (distance > 40e3) & (distance < 200e3)
    dx, dy = (x - eye.x)[near], (y - eye.y)[near]
    assert (dx * v[near] - dy * u[near]).mean() > 0 > (dx * u[near] + dy * v[near]).mean()


def test_typhoon_aloft(source: DemoWeather) -> None:
    """The core is warm, geopotential is low in it, and the coarse fields show where it is."""
    eye = source.storm(LANDFALL)
    data = source(LANDFALL, INPUTS)[0]
    low = data.sel(variable="z850")
    place = low.where(low == low.min(), drop=True)
    lat, lon = eye.lat_lon
    assert abs(float(place.lat[0]) - lat) < 0.4 and abs(float(place.lon[0]) - lon) < 0.4
    for name, excess in (("t500", 3.0), ("t850", 2.0)):
        warm = data.sel(variable=name)
        assert float(warm.sel(lat=lat, lon=lon, method="nearest") - warm.median()) > excess


@pytest.mark.slow
def test_consecutive_times_look_alike(source: DemoWeather) -> None:
    """Small scales live for an hour or two, and nothing jumps at an anchor."""

    def rough(minutes: int) -> np.ndarray:
        wind = source.fields(QUIET + timedelta(minutes=minutes)).fine[2].astype(float)
        return wind - sum(np.roll(wind, s, a) for s in (-2, 2) for a in (0, 1)) / 4

    def likeness(minutes: int) -> float:
        here = slice(60, 108)  # sea, so that the coast does not make times alike
        return float(np.corrcoef(rough(0)[5:40, here].ravel(), rough(minutes)[5:40, here].ravel())[0, 1])

    assert likeness(10) > 0.8
    assert likeness(10) > likeness(40) > likeness(300) + 0.2
    assert abs(likeness(300)) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("hour", [0.0, 1.5, 6.0, 66.0 + storm.LANDFALL_HOURS, 108.0 * 2000, 132.0 * 1000])
def test_no_jump_at_the_seams_of_slots_and_anchors(hour: float) -> None:
    before, after = (atmosphere.fields(hour + step) for step in (-1e-4, 1e-4))
    assert np.abs(before.coarse - after.coarse)[:12].max() < 1.0
    assert np.abs(before.fine - after.fine)[1:].max() < 0.2


def test_fine_scales_are_not_a_function_of_the_coarse(
    source: DemoWeather, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other random numbers for the cells alone: nearly the same coarse state, other rain."""
    here = source.fields(LANDFALL)
    monkeypatch.setattr(rain, "CELL_STREAM", 9001)
    monkeypatch.setattr(rain, "BAND_STREAM", 9002)
    there = source.fields(LANDFALL)
    aloft = slice(0, 9)
    np.testing.assert_array_equal(here.coarse[aloft], there.coarse[aloft])
    assert np.abs(here.coarse[10:12] - there.coarse[10:12]).mean() < 0.1
    rainy = (here.fine[0] > 0) | (there.fine[0] > 0)
    assert np.abs(here.fine[0] - there.fine[0])[rainy].mean() > 8


@pytest.mark.slow
def test_rain_prefers_moist_rising_air(many: list[atmosphere.Fields]) -> None:
    """A weak relation, so that a regression has something to learn."""
    water = np.concatenate([field.coarse[0].ravel() for field in many])
    wet = np.concatenate([field.coarse[12].ravel() for field in many]) > 10
    assert wet[water > 55].mean() > 2 * wet[water < 35].mean() > 0


def test_storms_differ_and_fade_between() -> None:
    tracks = [path for slot in range(-400, 0) if (path := storm.track(slot)) is not None]
    assert 120 < len(tracks) < 320
    pressure = np.array([1008 - path.deficit / 100 for path in tracks])
    assert pressure.min() < 945 and pressure.max() > 985 and pressure.min() > 925
    radius = np.array([path.radius for path in tracks])
    assert 24e3 <= radius.min() and radius.max() <= 62e3
    headings = np.arctan2([path.u for path in tracks], [path.v for path in tracks])
    assert np.std(headings) > 0.3
    assert storm.vortex(storm.slot_middle(0) + 65) is None


def test_holland_profile_by_hand() -> None:
    """At the radius of maximum wind the cyclostrophic wind is sqrt(B dp / (rho e))."""
    eye = storm.Vortex(0, 0.0, 0.0, 0.0, 0.0, 0.0, 6000.0, 40e3, 1e9, 1.0)
    b = 0.95 + 6000 / 15_500
    cyclostrophic = b * 6000 / (1.15 * np.e)
    half = 0.5 * 40e3 * 5.96e-5
    expected = np.sqrt(cyclostrophic + half**2) - half
    assert float(eye.wind(np.array(40e3))) == pytest.approx(expected, rel=1e-6)
    assert float(eye.pressure(np.array(40e3))) == pytest.approx(6000 * (1 - np.exp(-1)), rel=1e-6)


def test_years_split_by_storms(source: DemoWeather) -> None:
    assert source.storm_slot(LANDFALL) == 0 and source.storm_year(LANDFALL) == 2024
    assert not source.is_training_time(LANDFALL) and source.is_training_time(datetime(2016, 9, 1))
    border = [
        source.is_training_time(np.datetime64("2021-12-20") + np.timedelta64(h, "h")) for h in range(600)
    ]
    slots = [source.storm_slot(np.datetime64("2021-12-20") + np.timedelta64(h, "h")) for h in range(600)]
    assert all(len({b for b, s in zip(border, slots, strict=True) if s == slot}) == 1 for slot in set(slots))


def test_terrain(source: DemoWeather) -> None:
    static = source.static()
    height, land = static["orography"], static["land_fraction"]
    assert height.shape == land.shape == (112, 112) and height.dtype == land.dtype == np.float32
    assert 3000 < height.max() < 3800 and height[land == 0].max() == 0
    assert land.min() == 0 and land.max() == 1 and 0.15 < land.mean() < 0.35
    lat, lon = source.fine_grid()
    island = (lon > 119.9) & (lon < 122.1) & (lat > 21.8) & (lat < 25.4) & ((lon > 120.6) | (lat < 24.6))
    assert land[island].sum() * (SPACING / 1000) ** 2 == pytest.approx(36_000, rel=0.12)  # km2


def test_grid_is_the_lambert_projection(source: DemoWeather) -> None:
    pyproj = pytest.importorskip("pyproj")
    south, north = PARALLELS
    lcc = pyproj.Proj(
        proj="lcc",
        lat_1=south,
        lat_2=north,
        lat_0=CENTRE_LAT,
        lon_0=CENTRE_LON,
        a=EARTH_RADIUS,
        b=EARTH_RADIUS,
    )
    lat, lon = source.fine_grid()
    x, y = lcc(lon, lat)
    steps = np.array([np.diff(x, axis=1), np.diff(y, axis=0).T])
    np.testing.assert_allclose(steps, SPACING, rtol=1e-6)
    np.testing.assert_allclose(unproject(*project(lat, lon)), (lat, lon), rtol=1e-9)
    assert 19.55 < lat.min() and lat.max() < 27.84 and 116.37 < lon.min() and lon.max() < 125.57


@pytest.mark.slow
def test_output_has_the_protocol_s_shape(source: DemoWeather) -> None:
    many_times = np.array(["2024-07-24T12", "2024-07-24T13"], "datetime64[ns]")
    data = source(many_times, np.array(["v10m", "tcwv", "refc"]))
    assert data.dims == ("time", "variable", "lat", "lon") and data.shape == (2, 3, 36, 40)
    assert data.dtype == np.float32 and list(data.coords["variable"].values) == ["v10m", "tcwv", "refc"]
    assert data.lat.values[[0, -1]].tolist() == [19.25, 28.0] and data.lon.values[[0, -1]].tolist() == [
        116,
        125.75,
    ]
    np.testing.assert_array_equal(
        data.sel(variable="v10m")[1], source(datetime(2024, 7, 24, 13), "v10m")[0, 0]
    )
    truth = source.truth([LANDFALL], ["u10m", "mrr"])
    assert truth.dims == ("time", "variable", "y", "x") and truth.shape == (1, 2, 112, 112)
    assert truth.lat.dims == ("y", "x") and truth.dtype == np.float32
    assert "synthetic" in data.attrs["comment"]


def test_earth2studio_fetches_from_it(source: DemoWeather) -> None:
    from earth2studio.data import fetch_data
    from earth2studio.data.base import DataSource

    assert isinstance(source, DataSource)
    values, coords = fetch_data(source, np.array(["2024-07-24T12"], "datetime64[ns]"), np.array(INPUTS))
    assert list(coords) == ["time", "lead_time", "variable", "lat", "lon"]
    assert values.shape == (1, 1, 12, 36, 40)
    np.testing.assert_array_equal(values[0, 0].numpy(), source.fields(LANDFALL).coarse[:12])


@pytest.mark.parametrize(
    "time", ["1900-01-01T00:00", "1999-12-31T23:59:59", "2100-12-31T23:07", "2024-02-29T03"]
)
def test_any_time_works(source: DemoWeather, time: str) -> None:
    data = source(np.datetime64(time), INPUTS)
    assert np.isfinite(data.values).all() and data.time.values[0] == np.datetime64(time, "ns")


def test_zones_are_honoured(source: DemoWeather) -> None:
    taipei = datetime(2024, 7, 24, 20, tzinfo=timezone(timedelta(hours=8)))
    xr.testing.assert_identical(source(taipei, "t2m"), source(LANDFALL, "t2m"))


@pytest.mark.parametrize(
    ("time", "variable", "words"),
    [
        (LANDFALL, "q1000", "q1000.*it has tcwv"),
        (LANDFALL, ["t2m", "mrr"], "mrr"),
        (LANDFALL, [], "none"),
        ([], "t2m", "no time"),
        ("yesterday", "t2m", "yesterday"),
        (np.datetime64("NaT"), "t2m", "NaT"),
        (np.datetime64("1500-01-01"), "t2m", "1700"),
    ],
)
def test_bad_requests_say_what_is_there(
    source: DemoWeather, time: object, variable: object, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        source(time, variable)
    with pytest.raises(InputError, match="it has mrr, t2m, u10m, v10m"):
        source.truth(LANDFALL, "z500")


@pytest.mark.parametrize(
    ("time", "means", "deviations"),
    [
        (LANDFALL, (7.545, 300.07, 1.33, 1.292), (13.652, 2.467, 8.812, 8.012)),
        (QUIET, (0.166, 294.323, -1.779, -3.427), (2.151, 2.686, 1.79, 1.638)),
    ],
)
def test_the_world_of_version_1(
    source: DemoWeather, time: datetime, means: tuple[float, ...], deviations: tuple[float, ...]
) -> None:
    """The demo's weights were trained on this world: another one needs another version and a training."""
    assert source.VERSION == 1
    fine = source.fields(time).fine.astype(np.float64)
    np.testing.assert_allclose(fine.mean((1, 2)), means, atol=2e-3)
    np.testing.assert_allclose(fine.std((1, 2)), deviations, atol=2e-3)
