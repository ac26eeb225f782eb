# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Truths: files, sources, the demo; with gaps, other names and times, and those that do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from plotting_store import write
from verification_kit import QUICK, TIMES, bent, build, flat, value

from earth2_corrdiff import demo
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.verification import Settings, verify
from earth2_corrdiff.verification.truth import open_truth


@pytest.mark.slow
def test_truth_files_and_flipped_rows(tmp_path: Path) -> None:
    store, truth = build(tmp_path / "s.zarr", flat())
    settings = replace(QUICK, variables=["t2m"])
    expected = value(verify(store, truth, settings=settings), "crps", "t2m")
    truth.to_netcdf(tmp_path / "t.nc")
    write(truth.isel(lat=slice(None, None, -1)), tmp_path / "t.zarr")
    turned = truth.assign_coords(lon=truth["lon"] - 360).rename(lat="latitude", lon="longitude")
    turned.to_netcdf(tmp_path / "turned.nc")
    stacked = truth.to_dataarray("variable").transpose("time", "variable", "lat", "lon")
    stacked.to_dataset(name="fields").to_netcdf(tmp_path / "stacked.nc")
    for name in ("t.nc", "t.zarr", "turned.nc", "stacked.nc"):
        result = verify(store, str(tmp_path / name), settings=settings)
        assert value(result, "crps", "t2m") == pytest.approx(expected, rel=1e-12), name
        assert result.truth == str(tmp_path / name)


@pytest.mark.slow
def test_a_source_is_interpolated(tmp_path: Path) -> None:
    """A field that is linear in latitude and longitude survives it; its file covers the globe."""
    store, truth = build(tmp_path / "s.zarr", bent())
    lat, lon = np.arange(90, -90.1, -1.0), np.arange(0, 360, 1.0)
    plane = 250 + 0.5 * lat[:, None] + 0.1 * lon[None]
    fields = np.broadcast_to(plane, (len(TIMES), *plane.shape)).astype(np.float32)
    source = xr.Dataset({"t2m": (("time", "lat", "lon"), fields)}, {"time": TIMES, "lat": lat, "lon": lon})
    source.to_netcdf(tmp_path / "source.nc")
    opened = open_truth(f"file:{tmp_path / 'source.nc'}", bent())
    exact = 250 + 0.5 * bent().lat + 0.1 * bent().lon
    np.testing.assert_allclose(opened.field(TIMES[3], "t2m").numpy(), exact, atol=1e-3)
    settings = replace(QUICK, variables=["t2m"])
    result = verify(store, f"file:{tmp_path / 'source.nc'}", settings=settings)
    assert [target.name for target in result.targets] == ["t2m"]
    assert any("interpolated" in note for note in result.notes)


def test_the_demo_as_truth(tmp_path: Path) -> None:
    store, _ = build(tmp_path / "s.zarr", times=TIMES[:1])
    with pytest.raises(InputError, match="the truth demo is on 112 x 112 points"):
        verify(store, "demo")
    weather = demo.DemoWeather()
    lat, lon = weather.fine_grid()
    truth = open_truth("demo", Grid(lat.astype(np.float32), lon.astype(np.float32)))
    time = np.datetime64("2024-07-24T12:00", "ns")
    np.testing.assert_array_equal(truth.field(time, "mrr"), weather.truth(time, "mrr").values[0, 0])
    with pytest.raises(InputError, match="demo has no tcwv; it has mrr"):
        truth.check_variables(["tcwv"])


@pytest.mark.slow
def test_gaps_in_the_truth(tmp_path: Path) -> None:
    """Masked where it is not known; a time or a variable without any truth is left out."""
    store, truth = build(tmp_path / "s.zarr")
    truth["mrr"].values[:, :, 20:] = np.nan
    truth["t2m"].values[3] = np.nan
    truth["u10m"].values[:] = np.nan
    result = verify(store, truth, settings=QUICK)
    assert [target.name for target in result.targets] == ["mrr", "t2m", "v10m"]
    assert any("u10m is left out" in note for note in result.notes)
    assert "The truth of t2m has gaps: 87.5 % of it is known." in result.notes
    assert not any("truth of v10m has gaps" in note for note in result.notes)
    x, y, w = xr.open_zarr(store), truth, result.domain.area.numpy()
    error = np.abs(x["mrr"].values.astype(float).mean(1) - y["mrr"].values)[:, :, :20] * w[:, :20]
    assert value(result, "mae", "mrr") == pytest.approx(error.mean() / w[:, :20].mean())
    assert np.isnan(value(result, "spectral_error", "mrr")) and np.isfinite(
        value(result, "spectral_error", "t2m")
    )
    rest = verify(store, truth[["t2m"]].drop_isel(time=3), settings=replace(QUICK, variables=["t2m"]))
    assert value(result, "crps", "t2m") == pytest.approx(value(rest, "crps", "t2m"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.drop_vars("mrr"), "has no mrr; it has t2m, u10m, v10m; name others with --variables"),
        (lambda t: t.assign_coords(time=t.time + np.timedelta64(1, "h")), "has none of the times"),
        (lambda t: t.isel(ilat=slice(1, None)), "on 19 x 28 points .* what is verified on 20 x 28"),
        (lambda t: t.drop_vars("lat"), "has no lat and lon"),
        (lambda t: t.drop_vars("time"), "needs a coordinate time"),
        (lambda t: t.expand_dims(level=2), "mrr of the truth .* has the dimensions level, time, ilat, ilon"),
        (lambda t: t * np.nan, "no time could be verified"),
    ],
)
def test_truths_that_do_not_fit(tmp_path: Path, spoil: object, message: str) -> None:
    store, truth = build(tmp_path / "s.zarr", times=TIMES[:2])
    with pytest.raises(InputError, match=message):
        verify(store, spoil(truth), settings=QUICK)  # type: ignore[operator]


@pytest.mark.slow
def test_some_times_and_other_names(tmp_path: Path) -> None:
    store, truth = build(tmp_path / "s.zarr")
    result = verify(
        store, truth.isel(time=[1, 4]).rename(mrr="refc"), truth_names={"mrr": "refc"}, settings=QUICK
    )
    assert len(result.times) == 2 and "6 of 8 times are left out: the truth lacks them." in result.notes
    assert np.isnan(result.score("crps", "ensemble", result.targets[0]).low)  # two times are no interval
    with pytest.raises(InputError, match="there is no variable rain to verify; there is mrr, t2m"):
        verify(store, truth, settings=Settings(variables=["rain"]))


def test_truths_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "bad.nc").write_bytes(b"not netcdf")
    for name, message in {"none.nc": "there is no truth", "bad.nc": "cannot open the truth"}.items():
        with pytest.raises(InputError, match=message):
            open_truth(tmp_path / name, bent())
    with pytest.raises(InputError, match="there is no file"):
        open_truth(f"file:{tmp_path / 'none.nc'}", bent())


# what a file says is what is verified


@pytest.mark.slow
def test_units_of_the_truth(tmp_path: Path) -> None:
    """Known units are converted; what is unknown, or another quantity's, is refused."""
    store, truth = build(tmp_path / "s.zarr", times=TIMES[:2])
    few = replace(QUICK, variables=["t2m", "u10m", "v10m"])
    right = verify(store, truth, settings=few)
    other = truth.copy(deep=True)
    other["t2m"] = (truth["t2m"] - 273.15).assign_attrs(units="degC")
    other["u10m"] = (truth["u10m"] / 0.514444).assign_attrs(units="knots")
    found = verify(store, other, settings=few)
    for name in ("t2m", "u10m", "ws10m"):
        assert value(found, "crps", name) == pytest.approx(value(right, "crps", name), rel=1e-5)
    for units in ("furlongs", "kg"):
        wrong = truth.assign(t2m=truth["t2m"].assign_attrs(units=units))
        with pytest.raises(InputError, match=f"'{units}' is not a valid unit of t2m"):
            verify(store, wrong, settings=few)


def test_a_truth_without_units_that_cannot_be_right(tmp_path: Path) -> None:
    store, truth = build(tmp_path / "s.zarr", times=TIMES[:2])
    with pytest.raises(
        InputError, match="the truth .* at 2024-07-24T00:00 .* t2m .* looks like degrees Celsius"
    ):
        verify(store, truth.assign(t2m=truth["t2m"] - 273.15), settings=QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("sentinel", [-999.0, -99.0, 9999.0, 1e20])
def test_numbers_for_missing_values_are_no_truth(tmp_path: Path, sentinel: float) -> None:
    store, truth = build(tmp_path / "s.zarr", times=TIMES[:2])
    few = replace(QUICK, variables=["mrr"])
    gaps, numbers = truth.copy(deep=True), truth.astype("f4")
    gaps["mrr"].values[:, :5, :7] = np.nan
    numbers["mrr"].values[:, :5, :7] = sentinel
    expected, found = (verify(store, each, settings=few) for each in (gaps, numbers))
    assert value(found, "crps", "mrr") == pytest.approx(value(expected, "crps", "mrr"), rel=1e-5)
    assert any(
        note.startswith("70 values of the truth stand for missing ones of mrr") for note in found.notes
    )


@pytest.mark.slow
def test_times_of_the_truth(tmp_path: Path) -> None:
    """A valid time is one; a time that is there twice is refused."""
    store, truth = build(tmp_path / "s.zarr", times=TIMES[:2])
    few = replace(QUICK, variables=["t2m"])
    expected = value(verify(store, truth, settings=few), "crps", "t2m")
    lead = np.timedelta64(6, "h")
    runs = truth.assign_coords(valid_time=("time", truth["time"].values), time=truth["time"].values - lead)
    assert value(verify(store, runs, settings=few), "crps", "t2m") == pytest.approx(expected)
    with pytest.raises(InputError, match="has the time 2024-07-24T00:00 2 times"):
        verify(store, xr.concat([truth, truth], "time"), settings=few)


@pytest.mark.slow
@pytest.mark.parametrize("grid", [bent(), flat()], ids=["curvilinear", "rectilinear"])
def test_a_larger_truth_is_cut_out(tmp_path: Path, grid: Grid) -> None:
    """Whichever way its axes run; half a cell off is another grid."""
    store, truth = build(tmp_path / "s.zarr", grid, times=TIMES[:2])
    few = replace(QUICK, variables=["t2m"])
    expected = value(verify(store, truth, settings=few), "crps", "t2m")
    y, x = truth["t2m"].dims[1:]
    wide = truth.pad({y: (3, 2), x: (1, 4)}, constant_values=280.0)
    for axis in ("lat", "lon"):
        dims = truth[axis].dims
        values = np.pad(
            truth[axis].values, [(3, 2) if d == y else (1, 4) for d in dims], "reflect", reflect_type="odd"
        )
        wide = wide.assign_coords({axis: (dims, values)})
    for turned in (wide, wide.isel({y: slice(None, None, -1), x: slice(None, None, -1)})):
        result = verify(store, turned, settings=few)
        assert value(result, "crps", "t2m") == pytest.approx(expected, rel=1e-12)
        assert any("cut out of a larger grid" in note for note in result.notes)
    with pytest.raises(InputError, match="which are not among them"):
        verify(store, wide.assign_coords(lat=wide["lat"] + 0.05), settings=few)


def test_a_source_that_lacks_some_times(tmp_path: Path) -> None:
    store, truth = build(tmp_path / "s.zarr", flat(), times=TIMES[:3])
    truth.isel(time=[0, 2]).to_netcdf(tmp_path / "t.nc")
    result = verify(store, f"file:{tmp_path / 't.nc'}", settings=replace(QUICK, variables=["t2m"]))
    assert len(result.times) == 2 and "1 of 3 times are left out: the truth lacks them." in result.notes
