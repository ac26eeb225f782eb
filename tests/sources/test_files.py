# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Files as people have them: units, names, times, runs, members, several files, and what is none."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import pytest
import xarray as xr
from loguru import logger

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.sources import check_input, fetch, make_forecast, make_source, parse_rename
from earth2_corrdiff.sources.formats import is_grib, is_netcdf
from earth2_corrdiff.sources.grib import check_whole
from earth2_corrdiff.sources.names import offered
from earth2_corrdiff.sources.time_axes import by_valid_time

LAT, LON = np.arange(20, 23.0), np.arange(120, 124.0)
START, HOUR = np.datetime64("2024-07-24T00", "ns"), np.timedelta64(3600 * 10**9, "ns")
HOURS = {"units": "hours", "standard_name": "forecast_period"}
GRID = {"latitude": LAT, "longitude": LON}


def refused(call: Any, *args: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    message = str(caught.value)
    assert "\n" not in message and 20 < len(message) < 500
    return message


@pytest.fixture
def said() -> Iterator[list[str]]:
    lines: list[str] = []
    handle = logger.add(lines.append, level="INFO", format="{message}")
    yield lines
    logger.remove(handle)


def field(value: float = 290.0, **leading: int) -> tuple[tuple[str, ...], np.ndarray]:
    """A field that is the same everywhere: values by their place along the leading dimensions, from 0."""
    shape = tuple(leading.values())
    values = value + np.arange(np.prod(shape, dtype=int)).reshape(shape)
    return (*leading, "latitude", "longitude"), np.broadcast_to(
        values[..., None, None], (*shape, 3, 4)
    ).copy()


def saved(data: xr.Dataset, path: Path) -> str:
    data.to_netcdf(path)
    return f"file:{path}"


def value(name: str, time: Any, variable: str = "t2m", **options: Any) -> float:
    """What the model gets, which must be one number everywhere."""
    x, _ = fetch(make_source(name, **options), time, [variable], LAT, LON)
    assert float(x.min()) == pytest.approx(float(x.max()))
    return float(x.mean())


# units and missing values


@pytest.mark.slow
def test_units_of_a_file_are_converted(tmp_path: Path) -> None:
    told = {"u10m": (30.0, "knots", 15.4333), "z1000": (95.0, "gpm", 931.632), "r850": (0.85, "1", 85.0)}
    told |= {"t2m": (20.0, "degC", 293.15), "msl": (1013.0, "hPa", 101300.0), "tcwv": (40.0, "mm", 40.0)}
    dims, ones = field(1.0, time=1)
    data = xr.Dataset(
        {k: (dims, v * ones, {"units": u}) for k, (v, u, _) in told.items()}, GRID | {"time": [START]}
    )
    name = saved(data, tmp_path / "units.nc")
    for variable, (_, _, right) in told.items():
        assert value(name, START, variable) == pytest.approx(right, rel=1e-5)
    data["t2m"].attrs["units"] = "furlong"
    message = refused(make_source, saved(data, tmp_path / "odd.nc"))
    assert "'furlong' is not a valid unit of t2m" in message and "use K" in message and "odd.nc" in message


@pytest.mark.parametrize("missing", [-999.0, -99.0, 9999.0, 1e20])
def test_sentinels_of_a_file_are_missing_values(tmp_path: Path, missing: float, said: list[str]) -> None:
    dims, values = field(290.0, time=1)
    values[0, 1, 2] = missing
    name = saved(xr.Dataset({"t2m": (dims, values)}, GRID | {"time": [START]}), tmp_path / "x.nc")
    source = make_source(name)
    x, coords = fetch(source, START, ["t2m"], LAT, LON)
    message = refused(check_input, x, ["t2m"], source, coords["time"])
    assert "t2m is NaN or infinite at 8.33 % of the points (1 of 12): one cell is missing" in message
    assert any(
        "t2m at 2024-07-24T00:00 has 1 of 12 values that stand for missing ones" in line for line in said
    )
    y, _ = fetch(source, START, ["t2m"], LAT[:1], LON)  # elsewhere nothing is missing
    check_input(y, ["t2m"], source)


# times


@pytest.mark.parametrize("standard", [True, False])
@pytest.mark.parametrize("lead", ["duration", "hours", "days", "plain"])
@pytest.mark.parametrize("with_valid", [True, False])
def test_the_valid_time_of_a_forecast_is_its_time(
    tmp_path: Path, with_valid: bool, lead: str, standard: bool
) -> None:
    attrs = {"standard_name": "forecast_reference_time"} if standard else {}
    step = {
        "duration": ((), 12 * HOUR),
        "hours": ((), 12.0, HOURS),
        "days": ((), 0.5, {"units": "days"}),
        "plain": ((), 12),
    }[lead]
    coords = GRID | {"time": ((), START, attrs), "step": step}
    if with_valid:
        coords["valid_time"] = START + 12 * HOUR
    name = saved(xr.Dataset({"t2m": field()}, coords), tmp_path / "one.nc")
    source = make_source(name)
    assert source.data.times.tolist() == [int((START + 12 * HOUR).astype(int))]  # type: ignore[attr-defined]
    source.check_times("2024-07-24T12")
    assert "has only 2024-07-24T12:00; got 2024-07-24T00:00" in refused(source.check_times, "2024-07-24T00")
    forecast = make_forecast(name)
    assert forecast.cases("2024-07-24T00", "12").shape == (1, 1)


def test_cf_has_the_valid_time_beside_the_lead_time(tmp_path: Path) -> None:
    time = ("time", START + np.arange(3) * 6 * HOUR, {"standard_name": "time"})
    for more in (
        {"forecast_reference_time": START, "forecast_period": ("time", [0.0, 6, 12], HOURS)},
        {"forecast_period": ("time", [0.0, 6, 12], HOURS)},
        {"forecast_reference_time": START},
    ):
        data = xr.Dataset({"t2m": field(290.0, time=3)}, GRID | {"time": time} | more)
        name = saved(data, tmp_path / f"{len(list(tmp_path.iterdir()))}.nc")
        assert value(name, "2024-07-24T06") == 291
        source = make_forecast(name)
        case = source.cases("2024-07-24T00", "12")[0]
        x, _ = fetch(source.at(case), case.time, ["t2m"], LAT, LON)
        assert float(x.mean()) == 292


def test_steps_as_plain_numbers_make_forecasts(tmp_path: Path) -> None:
    coords = GRID | {"time": START, "step": ("step", [0.0, 6.0, 12.0], HOURS)}
    name = saved(xr.Dataset({"t2m": field(290.0, step=3)}, coords), tmp_path / "steps.nc")
    cases = make_forecast(name).cases("2024-07-24T00", "0/12/6h")
    assert len(cases) == 3 and value(name, "2024-07-24T12") == 292
    assert "has the lead times 0 h, 6 h, 12 h; got 18 h" in refused(
        make_forecast(name).cases, "2024-07-24T00", "18"
    )


def test_times_kept_as_real_numbers_are_matched_to_the_minute(tmp_path: Path) -> None:
    days = np.array([0.5, 0.75]) + np.array([-1e-9, 1e-5])  # of a second off, and of a second more
    time = ("time", days, {"units": "days since 2024-07-24"})
    name = saved(xr.Dataset({"t2m": field(290.0, time=2)}, GRID | {"time": time}), tmp_path / "float.nc")
    source = make_source(name)
    source.check_times(["2024-07-24T12", "2024-07-24T18"])
    assert [value(name, "2024-07-24T12"), value(name, "2024-07-24T18")] == [290, 291]
    assert "has 2 times from 2024-07-24T12:00 to 2024-07-24T18:00" in refused(
        source.check_times, "2024-07-24T12:02"
    )


@pytest.mark.slow
def test_runs_by_lead_time_give_the_shortest_one(tmp_path: Path, said: list[str]) -> None:
    """Runs at 00 and 06 UTC with lead times of 0, 6 and 12 h: t2m is 290 to 292, and 293 to 295."""
    runs, leads = START + np.arange(2) * 6 * HOUR, np.array([0, 6, 12])
    valid = runs[:, None] + leads * HOUR
    coords = GRID | {"init_time": runs, "lead": ("lead", leads, {"units": "hours"})}
    data = xr.Dataset({"t2m": field(290.0, init_time=2, lead=3)}, coords)
    for number, more in enumerate(({}, {"valid_time": (("init_time", "lead"), valid)})):
        name = saved(data.assign_coords(more), tmp_path / f"{number}.nc")
        assert [value(name, f"2024-07-24T{hour:02d}") for hour in (0, 6, 12, 18)] == [290, 293, 294, 295]
        assert any("2 of 4 valid times are there from several runs" in line for line in said)
        source = make_forecast(name)
        cases = source.cases(runs, "0/12/6h")
        found = [float(fetch(source.at(s), s.time, ["t2m"], LAT, LON)[0].mean()) for s in cases]
        assert found == [290, 291, 292, 293, 294, 295]


def test_runs_that_lack_lead_times(tmp_path: Path) -> None:
    valid = START + np.arange(2)[:, None] * 6 * HOUR + np.arange(2) * 6 * HOUR
    valid[1, 1] = np.datetime64("NaT")
    coords = GRID | {"time": START + np.arange(2) * 6 * HOUR, "step": ("step", [0, 6], {"units": "hours"})}
    data = xr.Dataset({"t2m": field(290.0, time=2, step=2)}, coords)
    name = saved(data.assign_coords(valid_time=(("time", "step"), valid)), tmp_path / "holed.nc")
    source = make_source(name)
    assert [value(name, "2024-07-24T00"), value(name, "2024-07-24T06")] == [290, 292]
    assert "has 2 times" in refused(source.check_times, "2024-07-24T12")
    message = refused(make_forecast(name).cases, START + np.arange(2) * 6 * HOUR, "0,6")
    assert "has no forecast of 2024-07-24T06:00 + 6 h" in message


def test_other_calendars_and_times_that_are_none(tmp_path: Path) -> None:
    def times(*values: Any, **attrs: str) -> str:
        data = xr.Dataset(
            {"t2m": field(290.0, time=len(values))}, GRID | {"time": ("time", list(values), attrs)}
        )
        return saved(data, tmp_path / f"{len(list(tmp_path.iterdir()))}.nc")

    days = [cftime.DatetimeNoLeap(2024, month, day, 12) for month, day in ((2, 28), (3, 1), (3, 2))]
    source = make_source(times(*days))
    wanted = np.array(["2024-02-28T12", "2024-03-01T12", "2024-03-02T12"], "datetime64[ns]")
    np.testing.assert_array_equal(source.data.times, wanted)
    message = refused(make_source, times(cftime.Datetime360Day(2024, 2, 30)))
    assert "times of the calendar 360_day" in message and "convert_calendar" in message
    assert "numbers as its coordinate time without a unit" in refused(make_source, times(0, 6))
    assert "hours since 1970-01-01" in refused(make_source, times(0, 6, units="months since 2024-01-15 x"))
    assert "missing values among its times" in refused(make_source, times(START, np.datetime64("NaT")))
    message = refused(make_source, times(START, START + HOUR, START))
    assert "has t2m for 2024-07-24T00:00 2 times; keep one of them" in message


def test_lead_times_without_sense(tmp_path: Path) -> None:
    for number, step in enumerate([((), 12.0, {"units": "fortnights"}), ((), 43200 * 10**9)]):
        data = xr.Dataset({"t2m": field()}, GRID | {"time": START, "step": step})
        assert "lead times step" in refused(make_source, saved(data, tmp_path / f"{number}.nc"))


# names


def test_names_of_the_cds(tmp_path: Path, said: list[str]) -> None:
    """A NetCDF as the CDS has written them since 2024: its names, and the letters GRIB in an attribute."""
    time = ("valid_time", START + np.arange(2) * 6 * HOUR)
    level = ("pressure_level", [850.0, 500.0], {"units": "hPa"})
    coords = GRID | {"valid_time": time, "number": 0, "expver": ("valid_time", ["0001", "0005"])}
    surface = {
        "u10": (*field(5.0, valid_time=2), {"units": "m s**-1", "long_name": "10 metre U wind component"}),
        "t2m": (*field(290.0, valid_time=2), {"units": "K"}),
        "u100": (*field(15.0, valid_time=2), {"long_name": "100 metre U wind component"}),
    }
    upper = {"z": (*field(5e4, valid_time=2, pressure_level=2), {"units": "m**2 s**-2"})}
    about = {"GRIB_centre": "ecmf", "Conventions": "CF-1.7", "history": "GRIB to CDM+CF via cfgrib"}
    for stem, fields, more in (("a", surface, {}), ("b", upper, {"pressure_level": level})):
        saved(xr.Dataset(fields, coords | more, about), tmp_path / f"{stem}.nc")
        assert b"GRIB" in (tmp_path / f"{stem}.nc").read_bytes()[:512] and not is_grib(
            tmp_path / f"{stem}.nc"
        )
    name = f"file:{tmp_path}"
    source = make_source(name)
    source.check_variables(["u10m", "t2m", "z850", "z500", "u100m"])
    assert not source.has("u10") and not source.has("u100")  # which are at 10 and 100 hPa
    assert [value(name, "2024-07-24T06", v) for v in ("u10m", "z850", "z500")] == [6, 50002, 50003]
    assert any("u10 is read as u10m" in line for line in said)


def test_a_quantity_that_is_there_twice(tmp_path: Path) -> None:
    """On two levels, as a level and by itself, under two names: refused, until one is renamed."""
    levels = {"level": ("level", [850.0, 500.0, 500.0], {"units": "hPa"})}
    twice = xr.Dataset({"t": field(250.0, time=1, level=3)}, GRID | {"time": [START]} | levels)
    name = saved(twice, tmp_path / "levels.nc")
    assert "t500 occurs twice: t on 500 hPa" in refused(make_source, name)
    beside = twice.isel(level=[0, 1]).assign(t500=field(240.0, time=1))
    name = saved(beside, tmp_path / "beside.nc")
    assert "t500 occurs twice: t on 500 hPa" in refused(make_source, name)
    assert value(name, START, "t500", rename={"t500": "mine"}) == 251
    for number, (one, other, known) in enumerate(
        (("u10", "10u", "u10m"), ("2t", "t2m", "t2m"), ("2t", "tas", "t2m"))
    ):
        near = {"long_name": "at 10 metre"} if known == "u10m" else {}
        fields = {one: (*field(280.0, time=1), near), other: field(270.0, time=1)}
        name = saved(xr.Dataset(fields, GRID | {"time": [START]}), tmp_path / f"{number}.nc")
        said = refused(make_source, name)
        assert f"both mean {known}" in said and one in said and other in said
        assert value(name, START, known, rename={one: "mine"}) == 270


def test_winds_at_10_hpa_stay_where_they_are() -> None:
    wind = xr.Dataset({"u10": ("x", [1.0])})
    assert offered(wind, "x") == {"u10": "u10", "u10m": "u10"}
    for near in ({"long_name": "10 metre U wind component"}, {"GRIB_shortName": "10u"}):
        assert offered(wind.assign(u10=wind.u10.assign_attrs(near)), "x") == {"u10m": "u10"}
    for high in ({"long_name": "eastward wind at 10 hPa"}, {"GRIB_typeOfLevel": "isobaricInhPa"}):
        assert offered(wind.assign(u10=wind.u10.assign_attrs(high)), "x") == {"u10": "u10"}
    both = wind.assign(u10m=("x", [2.0]))
    assert offered(both, "x") == {"u10": "u10", "u10m": "u10m"}
    assert offered(xr.Dataset({"u100": ("x", [1.0])}), "x") == {"u100": "u100"}


def test_levels_of_cmip_and_heights_of_gfs(tmp_path: Path) -> None:
    data = xr.Dataset(
        {"ta": field(250.0, time=1, plev=2), "gh": field(1500.0, time=1, plev=2)},
        GRID | {"time": [START], "plev": ("plev", [85000.0, 50000.0], {"units": "Pa"})},
    )
    name = saved(data, tmp_path / "plev.nc")
    assert value(name, START, "t500") == 251 and value(name, START, "z850") == pytest.approx(14709.975)
    one = data.isel(plev=0).rename(plev="isobaricInhPa").assign_coords(isobaricInhPa=850.0)
    assert value(saved(one, tmp_path / "one.nc"), START, "t850") == 250


def test_model_levels_are_no_pressures(tmp_path: Path) -> None:
    """Levels without a unit are pressures if ERA5 has all of them, not if they are numbers of layers."""
    for number, (levels, right) in enumerate(
        (([500.0, 850.0], True), ([100.0, 101.0], False), ([1.0, 2.0], False))
    ):
        coords = GRID | {"time": [START], "level": levels}
        name = saved(xr.Dataset({"t": field(250.0, time=1, level=2)}, coords), tmp_path / f"{number}.nc")
        if right:
            assert value(name, START, "t850") == 251
        else:
            assert "has the dimension level of length 2; select one" in refused(make_source, name)


def test_renaming(tmp_path: Path) -> None:
    data = xr.Dataset({"wind": field(5.0, time=1), "other": field(1.0, time=1)}, GRID | {"time": [START]})
    name = saved(data, tmp_path / "own.nc")
    rename = parse_rename(["wind=u10m", "other=v10m"])
    assert rename == parse_rename(["wind=u10m,other=v10m"]) == {"wind": "u10m", "other": "v10m"}
    assert value(name, START, "u10m", rename=rename) == 5
    assert make_source(name, rename=rename).name == f"{name} with wind as u10m, other as v10m"
    assert "has no wnd to rename to u10m; it has wind, other" in refused(
        make_source, name, rename={"wnd": "u10m"}
    )
    assert "rename those of file:PATH only" in refused(make_source, "demo", rename=rename)
    assert "rename those of file:PATH only" in refused(make_forecast, "demo_fx", rename=rename)
    for word in ("", "wind", "=u10m", "wind=", "wind=u10m,wind=v10m", "a=u10m,b=u10m"):
        refused(parse_rename, [word])


# several files


def daily(folder: Path, days: int = 3) -> None:
    for day in range(days):
        time = START + (24 * day + np.arange(4) * 6) * HOUR
        data = xr.Dataset({"t2m": field(290.0 + 10 * day, time=4)}, GRID | {"time": time})
        saved(data, folder / f"day{day}.nc")


@pytest.mark.parametrize(
    "place", ["{}", "{}/*.nc", "{}/day?.nc", "{0}/day0.nc,{0}/day1.nc,{0}/day2.nc", "{}/**/*"]
)
def test_a_folder_a_pattern_and_several_files(tmp_path: Path, place: str) -> None:
    daily(tmp_path)
    (tmp_path / "notes.txt").write_text("day0 is from an older version, see the GRIB beside it")
    (tmp_path / "day0.grib2.idx").write_bytes(b"GRIB")
    name = "file:" + place.format(tmp_path)
    source = make_source(name)
    source.check_times(["2024-07-24T06", "2024-07-26T18"])
    assert [value(name, "2024-07-24T06"), value(name, "2024-07-26T18")] == [291, 313]
    assert "has 12 times from 2024-07-24T00:00 to 2024-07-26T18:00" in refused(
        source.check_times, "2024-07-27"
    )


def test_files_that_do_not_fit_together(tmp_path: Path) -> None:
    daily(tmp_path, 2)
    (tmp_path / "copy.nc").write_bytes((tmp_path / "day0.nc").read_bytes())
    message = refused(make_source, f"file:{tmp_path}")
    assert "copy.nc and " in message and "day0.nc have t2m for 2024-07-24T00:00 2 times; keep one" in message
    xr.open_dataset(tmp_path / "day0.nc").isel(latitude=[0, 1]).to_netcdf(tmp_path / "copy.nc")
    assert "day0.nc is on another grid than" in refused(make_source, f"file:{tmp_path}")
    assert "no NetCDF, GRIB or Zarr matches" in refused(make_source, f"file:{tmp_path}/*.grib")
    (tmp_path / "empty").mkdir()
    assert "holds no NetCDF, GRIB or Zarr" in refused(make_source, f"file:{tmp_path}/empty")
    assert "there is no file" in refused(make_source, f"file:{tmp_path}/day0.nc,{tmp_path}/none.nc")


def test_parts_of_a_time_in_several_files(tmp_path: Path) -> None:
    """The CDS writes instantaneous and accumulated fields into files of their own."""
    for stem, fields in (("a", {"t2m": field(290.0, time=2)}), ("b", {"u10m": field(5.0, time=2)})):
        saved(xr.Dataset(fields, GRID | {"time": START + np.arange(2) * 6 * HOUR}), tmp_path / f"{stem}.nc")
    x, _ = fetch(make_source(f"file:{tmp_path}"), "2024-07-24T06", ["u10m", "t2m"], LAT, LON)
    assert x[0].mean(dim=(1, 2)).tolist() == [6, 291]


def test_overlapping_runs_in_several_files(tmp_path: Path) -> None:
    for run in range(2):
        coords = GRID | {"time": START + 6 * run * HOUR, "step": ("step", [0, 6, 12], {"units": "hours"})}
        saved(xr.Dataset({"t2m": field(290.0 + 10 * run, step=3)}, coords), tmp_path / f"run{run}.nc")
    name = f"file:{tmp_path}/run*.nc"
    assert [value(name, f"2024-07-24T{hour:02d}") for hour in (0, 6, 12, 18)] == [290, 300, 301, 302]
    cases = make_forecast(name).cases(["2024-07-24T00", "2024-07-24T06"], "0/12/6h")
    assert len(cases) == 6


def test_members_are_chosen_with_the_lead_time(tmp_path: Path) -> None:
    coords = GRID | {"time": START, "step": ("step", [0, 6], {"units": "hours"}), "number": [0, 5]}
    name = saved(xr.Dataset({"t2m": field(290.0, number=2, step=2)}, coords), tmp_path / "ens.nc")
    message = refused(make_source, name)
    assert "has the coarse members 0, 5; choose forecasts with --lead, and with --coarse-members" in message
    source = make_forecast(name, "5")
    (case,) = source.cases("2024-07-24T00", "6")
    x, _ = fetch(source.at(case), case.time, ["t2m"], LAT, LON)
    assert float(x.mean()) == 293


# what is none


def test_what_a_file_is_decides_its_contents(tmp_path: Path) -> None:
    dims, values = field(290.0, time=1)
    data = xr.Dataset({"t2m": (dims, values)}, GRID | {"time": [START]})
    for engine, form in (
        ("netcdf4", "NETCDF4"),
        ("netcdf4", "NETCDF3_CLASSIC"),
        ("netcdf4", "NETCDF3_64BIT"),
    ):
        path = tmp_path / "weather.grib2"
        data.to_netcdf(path, engine=engine, format=form)
        assert is_netcdf(path) and not is_grib(path) and value(f"file:{path}", START) == 290
    plain = path.read_bytes()
    for name, content, says in (
        ("a.nc", gzip.compress(plain), "is compressed with gzip; unpack it with gunzip"),
        ("b.nc", b"<!DOCTYPE html><html>GRIB</html>", "is a web page"),
        ("c.nc", b'\n{"error": "licence not accepted"}', "is JSON"),
        ("d.nc", b"", "it is empty"),
        ("e.nc", b"This is the GRIB of yesterday", "cannot open"),
    ):
        (tmp_path / name).write_bytes(content)
        assert says in refused(make_source, f"file:{tmp_path / name}")
    with zipfile.ZipFile(tmp_path / "f.nc", "w") as archive:
        archive.writestr("data.nc", plain)
    message = refused(make_source, f"file:{tmp_path}/f.nc")
    assert "is a zip archive" in message and "unzip it, and give the folder" in message


def test_grib_behind_the_header_of_a_bulletin(tmp_path: Path) -> None:
    path = tmp_path / "bulletin"
    for content, right in (
        (b"\x01\r\r\n123 \r\r\nHTXX01 KWBC 241200\r\r\nGRIB\0\0\0\2" + bytes(40), True),
        (b"GRIB\0\0\0\1", True),
        (b"no GRIB at all", False),
        (b"\x89HDF\r\n\x1a\n" + bytes(20) + b"GRIB\0\0\0\2", False),
        (b"CDF\x01" + bytes(20) + b"GRIB\0\0\0\2", False),
    ):
        path.write_bytes(content)
        assert is_grib(path) == right, content


def message(edition: int, body: bytes) -> bytes:
    """A GRIB message by hand; of edition 2 with the body as its one section, of data."""
    size = 8 + len(body) + 4
    if edition == 1:
        return b"GRIB" + size.to_bytes(3) + b"\1" + body + b"7777"
    section = (len(body) + 5).to_bytes(4) + b"\7" + body
    return b"GRIB\0\0\0\2" + (16 + len(section) + 4).to_bytes(8) + section + b"7777"


@pytest.mark.parametrize("edition", [1, 2])
def test_where_a_grib_is_damaged(tmp_path: Path, edition: int) -> None:
    one, other = (message(edition, byte * 90) for byte in (b"\xc3", b"\xd5"))
    path = tmp_path / "weather.grib"
    end, both = len(one), len(one + other)
    for content, where in (
        (one + other, None),
        (b"HTXX01 KWBC\r\r\n" + one + b"\r\r\n\3" + other + bytes(9000), None),
        (bytes(4090) + one + other, None),  # across the end of what is read at once
        (one[:60] + bytes(end - 60) + other, 0),
        (one[:-1] + other, 0),
        (one + b"\xff" + other, end),
        (one + bytes(30) + other[30:], end),
        (one + bytes(30) + other[30:] + one, end),
        (one + other + bytes(9000) + b"\xff", both),
        (one + other[:7] + b"\x09" + other[8:] + one, end),
    ):
        path.write_bytes(content)
        if where is None:
            check_whole(path)
        else:
            with pytest.raises(InputError, match=f"is damaged at byte {where}; copy it again"):
                check_whole(path)
    for cut in (end + 10, both - 1):
        path.write_bytes((one + other)[:cut])
        with pytest.raises(InputError, match="is cut off in its last message; copy it again"):
            check_whole(path)


def test_expver_slices(tmp_path: Path) -> None:
    data = xr.Dataset({"t2m": field(290.0, time=1, expver=2)}, GRID | {"time": [START], "expver": [1, 5]})
    message = refused(make_source, saved(data, tmp_path / "era5t.nc"))
    assert "mixes ERA5 (expver 1) and ERA5T (expver 5)" in message and "combine_first" in message


def test_files_without_times_or_places(tmp_path: Path) -> None:
    data = xr.Dataset({"t2m": field(290.0, time=1)}, GRID | {"time": [START]})
    words = np.full((1, 3, 4), "warm")
    for number, (odd, says) in enumerate(
        (
            (data.isel(time=slice(0, 0)), "has no times"),
            (data.isel(time=0, drop=True), "needs a coordinate time (or valid_time)"),
            (data.assign_coords(time=["yesterday"]), "has the times 'yesterday', …, which are not dates"),
            (data.assign_coords(latitude=[20.0, np.nan, 22.0]), "missing values in lat or lon"),
            (data.assign(t2m=(data.t2m.dims, words)), "must hold fields on 1-D lat and lon"),
            (data.expand_dims(member=["a", "b"]), "which are not numbers; number them"),
        )
    ):
        assert says in refused(make_source, saved(odd, tmp_path / f"{number}.nc"))


# truth and training pairs


def test_a_dataset_by_valid_time(said: list[str]) -> None:
    runs, leads = START + np.arange(2) * 6 * HOUR, np.array([0, 6, 12])
    values = np.arange(2 * 3 * 4.0).reshape(2, 3, 4)
    coords = {"init_time": runs, "lead": ("lead", leads, {"units": "hours"})}
    data = xr.Dataset({"t2m": (("init_time", "lead", "y"), values), "height": ("y", np.ones(4))}, coords)
    got = by_valid_time(data, "x")
    assert got.t2m.dims == ("time", "y") and got.height.dims == ("y",)
    np.testing.assert_array_equal(got.time, START + np.arange(4) * 6 * HOUR)
    np.testing.assert_array_equal(got.t2m, [values[0, 0], values[1, 0], values[1, 1], values[1, 2]])
    assert any("2 of 4 valid times are forecast by several runs" in line for line in said)
    plain = xr.Dataset(
        {"t2m": (("time", "y"), values[0])}, {"time": runs[[1, 0]].tolist() + [START + 9 * HOUR]}
    )
    np.testing.assert_array_equal(by_valid_time(plain, "x").t2m, values[0])  # in the order of the file
    for twice in (plain.assign_coords(time=runs[[0, 0, 1]]), plain.assign_coords(time=runs[[1, 0, 1]])):
        assert "times; keep one of them" in refused(by_valid_time, twice, "x")


def test_a_zarr_that_would_run_code(tmp_path: Path) -> None:
    """Zarr runs any codec that an array names, Python's pickle too."""
    data = xr.Dataset({"t2m": field(290.0, time=1)}, GRID | {"time": [START]})
    data.to_zarr(tmp_path / "w.zarr", zarr_format=2, consolidated=False)
    about = tmp_path / "w.zarr" / "t2m" / ".zarray"
    about.write_text(about.read_text().replace('"filters": null', '"filters": [{"id": "pickle"}]'))
    assert '"pickle"' in about.read_text()
    assert "t2m/.zarray names the codec pickle" in refused(make_source, f"file:{tmp_path / 'w.zarr'}")
