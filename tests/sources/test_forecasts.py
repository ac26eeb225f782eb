# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Forecast sources: which there are, what each can serve, and that the right fields come out."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gfs_files
import numpy as np
import pytest
import xarray as xr
from earth2studio.data import GEFS_FX, GFS_FX, fetch_data
from earth2studio.data.ecmwf import IFS_ENS_FX, IFS_FX
from forecast_kit import HOUR, LEADS, TIMES, Forecasts, forecast_dataset, forecast_file
from gfs_files import LATER, POLAND, WORLD, load_tool, read
from run_kit import COARSE, NAMES

from earth2_corrdiff import InputError
from earth2_corrdiff.base.cases import Case, Cases
from earth2_corrdiff.base.times import lead_text, to_leads, to_times
from earth2_corrdiff.sources import (
    Forecast,
    as_source,
    calendars,
    check_input,
    fetch,
    make_forecast,
    make_source,
)
from earth2_corrdiff.sources.forecasts import parse_members

SOME = ([*NAMES, "refc"], ["z500", "t2m", "refc"])  # a field of a mirror takes long to read


def refused(call: Any, *args: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    message = str(caught.value)
    assert "\n" not in message and 20 < len(message) < 500
    return message


# cases


def test_cases_are_numbered_with_the_last_axis_fastest() -> None:
    cases = Cases(to_times(TIMES), to_leads(LEADS), (0, 3))
    assert (
        len(cases) == 12
        and cases.shape == (2, 3, 2)
        and list(cases.axes)
        == [
            "time",
            "lead_time",
            "ensemble",
        ]
    )
    assert [cases.index(i) for i in (0, 1, 2, 11)] == [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 2, 1)]
    assert str(cases[3]) == "2024-07-24T00:00 + 6 h, coarse member 3"
    assert cases[3].valid == np.datetime64("2024-07-24T06") and len(list(cases)) == 12
    np.testing.assert_array_equal(cases.valid_times, to_times(TIMES)[:, None] + to_leads(LEADS))


def test_cases_of_analyses() -> None:
    cases = Cases(to_times(TIMES))
    assert cases.shape == (2,) and list(cases.axes) == ["time"] and str(cases[1]) == "2024-07-24T06:00"
    assert cases[1] == Case(np.datetime64("2024-07-24T06", "ns")) and cases[1].valid == cases.times[1]


# what archives have


STOCK = {
    "gfs_fx": (calendars.GFS_FX, GFS_FX(verbose=False), GFS_FX._validate_leadtime, "2021-02-26"),
    "gefs_fx": (calendars.GEFS_FX, GEFS_FX(verbose=False), GEFS_FX._validate_leadtime, "2020-09-23"),
}


@pytest.mark.parametrize("name", STOCK)
def test_what_is_allowed_the_stock_class_has(name: str) -> None:
    archive, stock, validate, first = STOCK[name]
    assert archive.first == np.datetime64(first)
    stock._validate_time([archive.first.astype("datetime64[us]").item()])
    allowed = []
    for hours in range(400):
        try:
            archive.check(np.array([archive.first]), make_forecast(name), to_leads([hours]))
        except InputError:
            continue
        validate([timedelta(hours=hours)])
        allowed.append(hours)
    assert allowed[0] == 0 and allowed[-1] == 384 and {120, 240, 378} < set(allowed)


@pytest.mark.parametrize("kind", [IFS_FX, IFS_ENS_FX])
def test_ecmwf_has_what_is_allowed(kind: Any) -> None:
    """All lead times of all four runs of a day, as the stock classes check them without their client."""
    stock = SimpleNamespace(_model="IFS", client=SimpleNamespace(source="aws"))
    for time in to_times("2024-03-01T00/2024-03-01T18/6h"):
        start = time.astype("datetime64[us]").item()
        kind._validate_time(stock, [start])
        for hours in range(370):
            try:
                kind._validate_leadtime(stock, [start], [timedelta(hours=hours)])
                has = True
            except ValueError:
                has = False
            try:
                calendars.IFS_FX.check(np.array([time]), make_forecast("ifs_fx"), to_leads([hours]))
                assert has, (time, hours)
            except InputError:
                assert not has, (time, hours)


@pytest.mark.parametrize(
    ("name", "time", "lead", "says"),
    [
        (
            "gfs_fx",
            "2021-02-25T18",
            "6h",
            "has forecasts from 00, 06, 12 and 18 UTC since 2021-02-26; got 2021-02-",
        ),
        (
            "gfs_fx",
            "2024-07-24T03",
            "6h",
            "from 00, 06, 12 and 18 UTC since 2021-02-26; got 2024-07-24T03:00",
        ),
        ("gfs_fx", "2199-01-01", "6h", "got 2199-01-01T00:00, which lies in the future"),
        (
            "gfs_fx",
            "2024-07-24",
            "121h",
            "lead times every hour to 120 h, then every 3 hours to 384 h; got 121 h",
        ),
        ("gfs_fx", "2024-07-24", "90min", "got 90 min"),
        ("gfs_fx", "2024-07-24", "385h", "got 385 h"),
        ("gefs_fx", "2024-07-24", "0/6/1h", "every 3 hours to 240 h, then every 6 hours to 384 h; got 1 h"),
        ("ifs_fx", "2024-07-24T06", "150h", "from 06 and 18 UTC end at 144 h; got 2024-07-24T06:00 + 150 h"),
        ("ifs_ens_fx", "2024-02-01", "0", "since 2024-03-01; got 2024-02-01T00:00"),
    ],
)
def test_forecasts_that_an_archive_cannot_have(name: str, time: str, lead: str, says: str) -> None:
    assert says in refused(make_forecast(name).cases, time, lead)


def test_names_and_members() -> None:
    assert make_forecast("gfs_fx").coarse is None and make_forecast("gefs_fx", "0-4,7").coarse == (
        0,
        1,
        2,
        3,
        4,
        7,
    )
    assert "has the members 0 to 30; got 31" in refused(make_forecast, "gefs_fx", "0-31")
    assert "has the members 1 to 50; got 0" in refused(make_forecast, "ifs_ens_fx", "0-3")
    message = refused(make_forecast, "gfs_fx", "0-4")
    assert (
        "has one forecast, no members; leave out --coarse-members, or use one of gefs_fx, ifs_ens" in message
    )
    assert "the source gfs has no lead times; leave out --lead, or use gfs_fx" in refused(
        make_forecast, "gfs"
    )
    assert "the source arco has no lead times" in refused(make_source("arco").cases, "2024-07-24", "6h")
    assert "the source gfs_fx has forecasts; say which, as --lead 0/48/6h" in refused(make_source, "gfs_fx")
    assert "has forecasts; say which" in refused(make_forecast("gfs_fx").cases, "2024-07-24")
    assert "there is no source 'gfx'; choose one of gfs, arco" in refused(make_forecast, "gfx")
    for folder in ("gfs_fx:none", "ifs_fx:none"):
        assert "needs a folder laid out like NOAA's bucket" in refused(make_forecast, folder)
    assert "fetch those of one case" in refused(fetch, make_forecast("demo_fx"), TIMES[0], ["t2m"], [0], [0])


@pytest.mark.parametrize("text", ["", "a", "0-", "-3", "4-2", "0,,1", "1,1", "0-2,2", "1.5", "999999"])
def test_what_are_no_members(text: str) -> None:
    assert "coarse member" in refused(parse_members, text)


def test_variables() -> None:
    for name in ("gfs_fx", "gefs_fx", "ifs_fx", "ifs_ens_fx", "demo_fx"):
        make_forecast(name).check_variables(NAMES)
    assert make_forecast("gfs_fx").has("refc") and not make_forecast("gefs_fx").has("refc")
    assert "the source gefs_fx has no mrr" in refused(
        make_forecast("gefs_fx").check_variables, ["t2m", "mrr"]
    )


def test_ecmwf_needs_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    from earth2_corrdiff.sources import remote

    monkeypatch.setattr(remote, "find_spec", lambda package: None)
    for name, members in (("ifs_fx", None), ("ifs_ens_fx", "1-2")):
        source = make_forecast(name, members)
        case = source.cases("2024-07-24", "6h")[0]
        assert "run: pip install ecmwf-opendata" in refused(
            fetch, source.at(case), case.time, ["t2m"], [0], [0]
        )


# Earth2Studio's classes over local mirrors


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARTH2STUDIO_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
@gfs_files.needed
@pytest.mark.usefixtures("own_cache")
def test_gfs_forecasts_of_a_mirror(poland: Path, tmp_path: Path) -> None:
    """Two lead times of one real forecast, through the stock class; the fields are those of their files."""
    folder = tmp_path / "mirror"
    run = folder / "gfs.20240804/12/atmos"
    run.mkdir(parents=True)
    for hours, analysis in ((6, 12), (12, 18)):
        for end in ("", ".idx"):
            file = poland / f"gfs.20240804/{analysis}/atmos/gfs.t{analysis}z.pgrb2.0p25.f000{end}"
            shutil.copy(file, run / f"gfs.t12z.pgrb2.0p25.f{hours:03d}{end}")
    source = make_forecast(f"gfs_fx:{folder}")
    cases = source.cases("2024-08-04T12", "6,12")
    lat, lon = np.linspace(48, 56, 33), np.linspace(13, 25, 49)
    for case, grib, names in zip(cases, (POLAND, LATER), SOME, strict=True):
        x, _ = fetch(source.at(case), case.time, names, lat, lon)
        found = read(grib)
        for i, name in enumerate(names):
            expected = found[name].values[::-1] * (9.81 if name[0] == "z" else 1)
            np.testing.assert_allclose(x[0, i], expected, rtol=2e-7, atol=1e-5)
        check_input(x, names, source.at(case))
    message = refused(source.cases, "2024-08-04T12", "6/18/6h")
    assert "has no forecast of 2024-08-04T12:00 + 18 h: the file" in message and "f018 is missing" in message


def gefs_messages(values: dict[str, float]) -> list[tuple[str, bytes]]:
    """GRIB messages on GEFS's grid with their index lines: fields that rise by 5 from west to east."""
    import pygrib

    tool = load_tool()
    with pygrib.open(str(WORLD)) as file:
        message = next(each for each in file if each["shortName"] == "2t")
    message["Ni"], message["Nj"] = 720, 361
    for axis in ("i", "j"):
        message[f"{axis}DirectionIncrementInDegrees"] = 0.5
    message["longitudeOfLastGridPointInDegrees"] = 359.5
    found = []
    for name, value in values.items():
        message.values = np.broadcast_to(value + np.linspace(0, 5, 720), (361, 720))
        field = tool.FIELDS[name]
        found.append((f"{field.name}:{field.level}", message.tostring()))
    return found


def write_gefs(folder: Path, member: int, hours: int, values: dict[str, float]) -> None:
    path = calendars.gefs_path(folder, member, np.datetime64("2024-07-24T06"), hours)
    path.parent.mkdir(parents=True, exist_ok=True)
    offset, lines = 0, []
    with path.open("wb") as grib:
        for number, (label, message) in enumerate(gefs_messages(values), start=1):
            lines.append(f"{number}:{offset}:d=2024072406:{label}:{hours} hour fcst:ENS=+{number}")
            offset += grib.write(message)
    path.with_name(path.name + ".idx").write_text("\n".join(lines) + "\n")


@pytest.mark.slow
@gfs_files.needed
@pytest.mark.usefixtures("own_cache")
def test_gefs_members_of_a_mirror(tmp_path: Path) -> None:
    """Each member's fields at each lead time, cut out of 0.5 degrees and interpolated to 0.25."""
    base = {"z500": 200.0, "tcwv": 220.0, "t2m": 290.0, "v10m": 310.0}
    for number in (0, 3):
        for hours in (0, 3):
            shifted = {name: value + 10 * number + hours for name, value in base.items()}
            write_gefs(tmp_path, number, hours, shifted)
    source = make_forecast(f"gefs_fx:{tmp_path}", "0,3")
    cases = source.cases("2024-07-24T06", "0,3h")
    assert [(case.coarse, lead_text(case.lead)) for case in cases] == [
        *((0, "0 h"), (3, "0 h"), (0, "3 h"), (3, "3 h"))
    ]
    lon = np.interp(COARSE.lon, np.arange(720) / 2, np.linspace(0, 5, 720))
    for case in cases:
        x, _ = fetch(source.at(case), case.time, list(base), COARSE.lat, COARSE.lon)
        for i, name in enumerate(base):
            value = base[name] + 10 * case.coarse + int(case.lead / HOUR)
            expected = np.broadcast_to(value + lon, (36, 40)) * (9.81 if name[0] == "z" else 1)
            np.testing.assert_allclose(x[0, i], expected, atol=0.2)
    assert make_forecast(f"gefs_fx:{tmp_path}").cases("2024-07-24T06", "0").coarse is None
    message = refused(make_forecast(f"gefs_fx:{tmp_path}", "0-3").cases, "2024-07-24T06", "0")
    assert "gep01.t06z.pgrb2a.0p50.f000 is missing" in message


# files


@pytest.mark.slow
@pytest.mark.parametrize("members", [None, (0, 3)])
@pytest.mark.parametrize("layout", ["ours", "cfgrib", "array"])
def test_forecasts_of_a_file(tmp_path: Path, members: tuple[int, ...] | None, layout: str) -> None:
    data = forecast_dataset(members)
    saved: Any = data
    if layout == "cfgrib":
        valid = data["time"] + data["lead_time"]
        names = {"lead_time": "step", "lat": "latitude", "lon": "longitude"}
        saved = data.assign_coords(valid_time=valid).rename(
            names | ({"ensemble": "number"} if members else {})
        )
        saved = saved.transpose("longitude", "step", ...)
    if layout == "array":
        saved = data.to_dataarray("variable")
    path = tmp_path / "forecast.nc"
    saved.to_netcdf(path)
    source = make_forecast(f"file:{path}", None if members is None else "3,0")
    source.check_variables(NAMES)
    cases = source.cases(TIMES, LEADS)
    assert cases.shape == ((2, 3) if members is None else (2, 3, 2))
    for case in cases:
        x, _ = fetch(source.at(case), case.time, NAMES, COARSE.lat, COARSE.lon)
        expected = data.sel(time=case.time, lead_time=case.lead)
        expected = expected if members is None else expected.sel(ensemble=case.coarse)
        np.testing.assert_array_equal(x[0], expected.to_dataarray()[[list(data).index(n) for n in NAMES]])


@pytest.mark.slow
def test_what_a_forecast_file_lacks(tmp_path: Path) -> None:
    path = forecast_file(tmp_path / "forecast.nc", (0, 3))
    source = make_forecast(f"file:{path}", "0")
    assert "has forecasts from 2024-07-24T00:00, 2024-07-24T06:00; got 2024-07-24T12:00" in refused(
        source.cases, "2024-07-24T12", "6"
    )
    assert "has the lead times 0 h, 6 h, 12 h; got 18 h" in refused(source.cases, TIMES[0], "6/18/6")
    assert "has the coarse members (0, 3); got 1" in refused(make_forecast, f"file:{path}", "0-1")
    assert "has the coarse members 0 to 3; say which, as --coarse-members" in refused(
        make_forecast, f"file:{path}"
    )
    assert "; choose forecasts with --lead, and with --coarse-members where there are" in refused(
        make_source, f"file:{path}"
    )
    forecast_dataset().isel(lead_time=0, drop=True).to_netcdf(tmp_path / "analysis.nc")
    for name in ("analysis.nc", "none.nc"):
        assert "holds no forecasts" in (message := refused(make_forecast, f"file:{tmp_path}/{name}")) or (
            "there is no file" in message
        )
    assert "has no coarse members; got 1" in refused(
        make_forecast, f"file:{forecast_file(tmp_path / 'one.nc')}", "1"
    )


@pytest.mark.slow
@gfs_files.needed
def test_grib_files_make_forecasts(tmp_path: Path) -> None:
    """Two lead times of one real GFS run, each in a file of its own."""
    for grib in (POLAND, LATER):
        (tmp_path / grib.name).symlink_to(grib)
    source = make_forecast(f"file:{tmp_path}/*.grib2")
    lat, lon = np.linspace(48, 56, 33), np.linspace(13, 25, 49)
    cases = source.cases("2020-08-04T12", "6,12h")
    for case, grib, names in zip(cases, (POLAND, LATER), SOME, strict=True):
        x, _ = fetch(source.at(case), case.time, names, lat, lon)
        found = read(grib)
        for i, name in enumerate(names):
            expected = found[name].values[::-1] * (9.81 if name[0] == "z" else 1)
            np.testing.assert_array_equal(x[0, i], expected.astype(np.float32))
    assert source.coarse is None and source.has("refc") and not source.has("mrr")
    assert "has the lead times 6 h, 12 h; got 18 h" in refused(source.cases, "2020-08-04T12", "18")


# sources of the user's own


def test_own_sources() -> None:
    one = as_source(Forecasts())
    assert (
        isinstance(one, Forecast) and one.coarse is None and one.name == "Forecasts" and not one.has("refc")
    )
    several = as_source([Forecasts(0), Forecasts(2)])
    assert isinstance(several, Forecast) and several.coarse == (0, 1)
    cases = several.cases(TIMES, LEADS)
    x = [fetch(several.at(cases[i]), cases[i].time, ["t2m"], COARSE.lat, COARSE.lon)[0] for i in (2, 3)]
    assert np.allclose(x[1] - x[0], 2, atol=1e-4)
    stock, _ = fetch_data(Forecasts(2), to_times(TIMES[:1]), np.array(["t2m"]), to_leads("6h"))
    np.testing.assert_array_equal(x[1][0], stock[0, 0])
    assert as_source(GFS_FX(verbose=False)).name == "gfs_fx"
    ensemble = as_source([GEFS_FX("gec00", verbose=False), GEFS_FX("gep01", verbose=False)])
    assert ensemble.name == "gefs_fx" and ensemble.has("t2m") and not ensemble.has("mrr")
    assert "has lead times every 3 hours" in refused(ensemble.cases, TIMES[0], "1h")
    for wrong in ([], [42], [Forecasts(), 42], 42):
        assert "a data source is called with (time, variable)" in refused(as_source, wrong)


@pytest.mark.slow
def test_the_demo_has_forecasts() -> None:
    """The control is perfect, the members spread with the lead time, and it says that it is synthetic."""
    source = make_forecast("demo_fx", "0-4")
    assert source.synthetic and source.has("refc")
    cases = source.cases("2024-07-24T12", "0,48h")
    fields = {
        (case.coarse, int(case.lead / HOUR)): fetch(
            source.at(case), case.time, NAMES, COARSE.lat, COARSE.lon
        )[0]
        for case in cases
    }
    truth, _ = fetch(make_source("demo"), "2024-07-26T12", NAMES, COARSE.lat, COARSE.lon)
    np.testing.assert_array_equal(fields[0, 48], truth)
    for member in range(1, 5):
        np.testing.assert_array_equal(fields[member, 0], fields[0, 0])
        check_input(fields[member, 48], NAMES, source)
    errors = [float((fields[member, 48] - truth)[:, 9].abs().mean()) for member in range(1, 5)]
    assert min(errors) > 0.05 and errors[2] > errors[0] and errors[3] > errors[1]


def test_messages_name_the_forecast() -> None:
    def broken(array: xr.DataArray, time: str, hours: int) -> None:
        raise OSError("disk on fire")

    def hot(array: xr.DataArray, time: str, hours: int) -> None:
        array.loc[{"variable": "t2m"}] += 200

    from earth2_corrdiff.sources import Inputs

    for spoil, says in (
        (broken, "could not fetch 2024-07-24T00:00 from Forecasts member 1, lead time 6 h (disk on fire)"),
        (hot, "the input from Forecasts member 1, lead time 6 h at 2024-07-24T00:00 cannot be used: t2m is"),
    ):
        source = as_source([Forecasts(0), Forecasts(1, spoil)])
        cases = source.cases(TIMES, LEADS)
        inputs = Inputs(source, cases, NAMES, COARSE)
        assert inputs.fetch(2, NAMES).shape == (12, 36, 40)
        assert refused(inputs.fetch, 3, NAMES).startswith(says)
