# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever is wrong with a time, a source or its values is one sentence that says what to do."""

from __future__ import annotations

import socket
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from earth2_corrdiff.base.errors import InputError, UnavailableError
from earth2_corrdiff.base.times import parse_time, to_times
from earth2_corrdiff.sources import check_input, fetch, make_forecast, make_source
from earth2_corrdiff.sources.failures import explained

LAT, LON = np.linspace(19.25, 28, 36), np.linspace(116, 125.75, 40)
INPUTS = "tcwv z500 t500 u500 v500 z850 t850 u850 v850 t2m u10m v10m".split()
USUAL = dict(zip(INPUTS, [50, 57000, 268, 5, -5, 14500, 290, 3, 2, 300, 4, -4], strict=True))


def refused(call, *args, **options) -> str:
    """The message, which must be one line."""
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    message = str(caught.value)
    assert "\n" not in message and 20 < len(message) < 500
    return message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2024-13-01",
        "2024-07-24T25:00",
        "24.07.2024",
        "1e9",
        "9999-01-01",
        "0001-01-01T00+05",
    ],
)
def test_what_is_no_time(text: str) -> None:
    refused(parse_time, text)


def test_what_are_no_times() -> None:
    assert "no time was given" in refused(to_times, [])
    assert "is not a valid time" in refused(to_times, [np.datetime64("NaT")])
    assert "is not a valid time" in refused(to_times, [20240724])


@pytest.mark.parametrize(
    ("name", "time", "says"),
    [
        (
            "gfs",
            "2024-07-24T13:00",
            "has analyses at 00, 06, 12 and 18 UTC since 2021-01-01; got 2024-07-24T13:00",
        ),
        ("gfs", "2020-12-31T18:00", "since 2021-01-01; got 2020-12-31T18:00"),
        ("gfs", "2199-01-01", "which lies in the future"),
        (
            "arco",
            "2024-07-24T12:30",
            "at every full hour from 1940-01-01 to 2025-12-31T00:00; got 2024-07-24T12:30",
        ),
        ("ncar", "1939-12-31T23:00", "at every full hour since 1940-01-01"),
        ("wb2", "2023-01-11T00:00", "from 1959-01-01 to 2023-01-10T18:00; got 2023-01-11T00:00"),
        ("wb2", "2199-01-01", "which lies in the future"),
        ("arco", "2199-01-01", "which lies in the future"),
    ],
)
def test_times_that_an_archive_cannot_have(name: str, time: str, says: str) -> None:
    assert says in refused(make_source(name).check_times, ["2022-07-24T12:00", time])


@pytest.mark.process
def test_refusing_a_time_loads_nothing_heavy(tmp_path: Path) -> None:
    import subprocess

    code = (
        "import sys; from earth2_corrdiff.sources import make_source\n"
        "try: make_source('gfs').check_times('2024-07-24T13')\n"
        "except ValueError: print(sorted({'torch', 'xarray', 'earth2studio', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["", "era5", "gfs:", "file:", "arco:/tmp", "GFS", "demo:1"])
def test_unknown_sources(name: str) -> None:
    message = refused(make_source, name)
    assert "wb2, cds, demo, cmip6:MODEL,SCENARIO,MEMBER, gfs:DIR, file:PATH, on fine grids hrrr" in message


def test_places_that_are_not_there(tmp_path: Path) -> None:
    assert "needs a folder laid out like NOAA's bucket" in refused(make_source, f"gfs:{tmp_path}/none")
    assert "there is no file" in refused(make_source, f"file:{tmp_path}/none.nc")
    message = refused(make_source(f"gfs:{tmp_path}").check_times, "2024-07-24T12")
    assert (
        "gfs.20240724/12/atmos/gfs.t12z.pgrb2.0p25.f000 is missing" in message and "not a mirror" in message
    )


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89HDF\r\n\x1a\n" + bytes(500), b"CDF\x01" + bytes(40), b"GRIB"]
)
def test_files_that_are_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "input.nc"
    path.write_bytes(content)
    refused(make_source, f"file:{path}")
    (tmp_path / "empty.zarr").mkdir()
    refused(make_source, f"file:{tmp_path}/empty.zarr")


def dataset(**sizes: int) -> xr.Dataset:
    shape = {"time": 2, "lat": 36, "lon": 40} | sizes
    times = np.datetime64("2024-07-24T12", "ns") + np.arange(shape["time"]) * np.timedelta64(6, "h")
    coords = {
        "time": times,
        "lat": np.linspace(19.25, 28, shape["lat"]),
        "lon": np.linspace(116, 125.75, shape["lon"]),
    }
    return xr.Dataset({"t2m": (tuple(shape), np.full(tuple(shape.values()), 290.0))}, coords)


def test_files_of_another_layout(tmp_path: Path) -> None:
    def saved(data: xr.Dataset) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.nc"
        data.to_netcdf(path)
        return f"file:{path}"

    assert "has the dimension level of length 3; select one" in refused(make_source, saved(dataset(level=3)))
    assert "must hold fields on 1-D lat and lon" in refused(
        make_source, saved(dataset().rename(lat="y", lon="x"))
    )
    assert "needs a coordinate time" in refused(make_source, saved(dataset().isel(time=0, drop=True)))
    curvilinear = dataset().rename(lat="y", lon="x").assign_coords(lat=(("y", "x"), np.zeros((36, 40))))
    assert "1-D lat and lon" in refused(make_source, saved(curvilinear))
    bent = make_source(saved(curvilinear.assign_coords(lon=(("y", "x"), np.zeros((36, 40))))))
    message = refused(fetch, bent, "2024-07-24T12", ["t2m"], LAT, LON)
    assert "is on a grid with 2-D lat and lon, which the package does not take" in message


def test_what_a_file_lacks(tmp_path: Path) -> None:
    path = tmp_path / "input.nc"
    dataset().to_netcdf(path)
    source = make_source(f"file:{path}")
    message = refused(source.check_times, ["2024-07-24T12", "2024-07-24T15"])
    assert "has 2 times from 2024-07-24T12:00 to 2024-07-24T18:00; got 2024-07-24T15:00" in message
    assert "has no z500, u10m; it has t2m" in refused(source.check_variables, ["t2m", "z500", "u10m"])
    assert "has no z500" in refused(fetch, source, "2024-07-24T12", ["z500"], LAT, LON)
    assert "does not have the time" in refused(fetch, source, "2024-07-24T15", ["t2m"], LAT, LON)
    needs = "covers 19.25 to 28 N and 116 to 125.75 E, but the model needs 19 to 28 N and 116 to 125.75 E"
    assert needs in refused(fetch, source, "2024-07-24T12", ["t2m"], np.linspace(19, 28, 37), LON)
    assert "but the model needs" in refused(fetch, source, "2024-07-24T12", ["t2m"], LAT, LON - 0.1)


def test_a_file_that_ends_too_early(tmp_path: Path) -> None:
    path, cut = tmp_path / "input.nc", tmp_path / "cut.nc"
    dataset(time=20).to_netcdf(path, engine="netcdf4")
    data = path.read_bytes()
    for end in (200, len(data) // 2, len(data) - 100):
        cut.write_bytes(data[:end])
        with pytest.raises(InputError):
            source = make_source(f"file:{cut}")
            fetch(source, "2024-07-26T12", ["t2m"], LAT, LON)


def usual() -> torch.Tensor:
    x = torch.stack([torch.full((3, 5), float(value)) for value in USUAL.values()])
    return x[None].repeat(2, 1, 1, 1)


@pytest.mark.parametrize("convert", [lambda x: x, lambda x: x.numpy(), lambda x: x[0], lambda x: x.double()])
def test_usual_weather_passes(convert) -> None:
    check_input(convert(usual()), INPUTS, "gfs")
    array = xr.DataArray(usual().numpy(), dims=("time", "variable", "lat", "lon"))
    check_input(array, INPUTS, make_source("gfs"))


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (
            "t2m",
            lambda f: f - 273.15,
            "t2m is 26.85 to 26.85, expected within 150 to 350 K; it looks like degrees Celsius",
        ),
        ("t500", lambda f: f * 1.8 - 459.67, "degrees"),
        ("z500", lambda f: f / 9.81, "geopotential height in m instead of geopotential"),
        ("z850", lambda f: f / 9.81, "geopotential height in m instead of geopotential"),
        ("u850", lambda f: f * 1000, "expected within -150 to 150 m s-1"),
        ("tcwv", lambda f: f * -1, "expected within -1 to 150 kg m-2"),
        ("tcwv", lambda f: f * float("nan"), "it has no tcwv (NaN everywhere)"),
        (
            "v10m",
            lambda f: f / torch.tensor([0.0, 1, 1, 1, 1]),
            "v10m is NaN or infinite at 20 % of the points",
        ),
    ],
)
def test_what_is_no_weather(name: str, change, says: str) -> None:
    x, i = usual(), INPUTS.index(name)
    x[1, i] = change(x[1, i])
    times = np.array(["2024-07-24T12", "2024-07-24T18"], dtype="datetime64[ns]")
    message = refused(check_input, x, INPUTS, "file:input.nc", times)
    assert says in message and message.startswith(
        "the input from file:input.nc at 2024-07-24T18:00 cannot be used: "
    )
    refused(check_input, x, INPUTS, "file:input.nc")


def test_other_variables() -> None:
    x = torch.full((1, 3, 3, 5), 1013.0)
    assert "hPa instead of Pa" in refused(check_input, x, ["tp", "msl", "unknown"], "gfs")
    check_input(x, ["cape", "blh", "unknown"], "gfs")
    x[0, 2, 0, 0] = float("inf")
    assert "unknown is NaN or infinite at 6.67 %" in refused(
        check_input, x, ["cape", "blh", "unknown"], "gfs"
    )
    assert "no values at all" in refused(check_input, x * float("nan"), ["cape", "blh", "unknown"], "gfs")


def test_extreme_but_real_weather_passes() -> None:
    """Typhoon Tip's core, the coldest and hottest air, a deep polar low, a strong jet."""
    names = ["t2m", "t2m", "z850", "z500", "z500", "u200", "tcwv", "msl", "z1000", "q850", "refc"]
    values = [184.0, 330, 9.81 * 460, 9.81 * 4600, 9.81 * 6000, 120, 100, 87000, -9.81 * 900, 0.03, -20]
    x = torch.stack([torch.full((3, 5), float(value)) for value in values])
    check_input(x, names, "gfs")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An own cache; a proxy that nobody serves, for machines that do have a network."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("EARTH2STUDIO_CACHE", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("name", "local"),
    [("gfs", "gfs:DIR"), ("arco", "file:PATH"), ("ncar", "file:PATH"), ("wb2", "file:PATH")],
)
@pytest.mark.slow
def test_without_network(name: str, local: str, no_network: None, capfd: pytest.CaptureFixture[str]) -> None:
    source = make_source(name)
    source.check_times("2022-07-24T12:00")
    with pytest.raises(UnavailableError) as caught:  # the network may come back
        fetch(source, "2022-07-24T12:00", INPUTS, LAT, LON)
    message = str(caught.value)
    assert message.startswith(f"could not fetch 2022-07-24T12:00 from {name} (no connection to ")
    assert message.endswith(f"; without network use --demo or --source {local}")
    assert "never retrieved" not in capfd.readouterr().err


def test_full_disk_and_defects() -> None:
    def fails(error: Exception) -> None:
        with explained("gfs", "2024-07-24T12"):
            raise error

    message = refused(fails, OSError(28, "No space left on device", "/cache/x"))
    assert "No space left on device: /cache/x); free space, or point EARTH2STUDIO_CACHE" in message
    assert "no answer in time" in refused(fails, TimeoutError())
    assert "no connection to example.org" in refused(fails, ConnectionError("https://example.org refused"))
    assert "first line); the data may be damaged" in refused(fails, RuntimeError("first line\nsecond line"))
    for defect in (TypeError("x"), AttributeError("x"), MemoryError()):
        with pytest.raises(type(defect)):
            fails(defect)


class GenericError(Exception):
    """As obstore's, by its module."""


GenericError.__module__ = "obstore.exceptions"
NOW = np.datetime64("now") - np.timedelta64(6, "h")


@pytest.mark.parametrize(
    ("name", "time", "error", "passes", "says"),
    [
        ("gfs", NOW, FileNotFoundError("gfs.t12z"), True, "or does not have it yet: try again later"),
        ("gfs", "2022-07-24T12", FileNotFoundError("gfs.t12z"), False, "it lacks this time"),
        ("gfs:/mirror", NOW, FileNotFoundError("gfs.t12z"), False, "it lacks this time"),
        ("ncar", NOW, TimeoutError(), True, "--source file:PATH"),
        ("gfs_fx, lead time 6 h", NOW, ConnectionError("x"), True, "--source gfs_fx:DIR"),
        ("gefs_fx member 3, lead time 6 h", NOW, ConnectionError("x"), True, "--source gefs_fx:DIR"),
        ("ifs_fx, lead time 6 h", NOW, ConnectionError("x"), True, "--source file:PATH"),
        ("arco", "2022-07-24T12", GenericError("500 - internal"), True, "try again later, or use another"),
        ("cds", "2022-07-24T12", RuntimeError("503 Server Error"), True, "try again later, or use another"),
        ("cds", "2022-07-24T12", RuntimeError("required licences not accepted"), False, "download it again"),
        ("gfs", NOW, OSError(28, "No space left on device", "/x"), False, "free space"),
        ("file:x.nc", NOW, OSError("truncated"), False, "copy it again"),
        ("file:x.nc", NOW, TimeoutError(), False, "copy it again"),
    ],
)
def test_what_may_pass(name: str, time: object, error: Exception, passes: bool, says: str) -> None:
    with pytest.raises(InputError) as caught, explained(name, time):
        raise error
    assert isinstance(caught.value, UnavailableError) == passes and says in str(caught.value)
    assert ("gfs:DIR" in str(caught.value)) == (name == "gfs" and "without network" in str(caught.value))


def test_an_archive_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time after its end may come; one in the future, or off its cycle, is wrong."""
    source = make_source("arco")
    monkeypatch.setattr("earth2_corrdiff.sources.calendars._end", lambda source, known: known)
    with pytest.raises(
        UnavailableError, match="2026-01-02T00:00, which is not published yet; try again later"
    ):
        source.check_times("2026-01-02")
    for time in ("2199-01-01", "1939-12-31", "2026-01-02T00:30"):
        with pytest.raises(InputError) as caught:
            source.check_times(time)
        assert not isinstance(caught.value, UnavailableError)


def test_a_mirror_may_hold_what_the_bucket_has_no_longer(tmp_path: Path) -> None:
    """Times before 2021, which Earth2Studio's class refuses."""
    path = tmp_path / "gfs.20200804/18/gfs.t18z.pgrb2.0p25.f000"
    path.parent.mkdir(parents=True)
    for name in (path, path.with_name(f"{path.name}.idx")):
        name.write_bytes(b"")
    source = make_source(f"gfs:{tmp_path}")
    source.check_times("2020-08-04T18")
    make_forecast(f"gfs_fx:{tmp_path}").cases("2020-08-04T18", "0")
    assert "gfs.20200805/00/gfs.t00z.pgrb2.0p25.f000 is missing" in refused(source.check_times, "2020-08-05")
    assert "since 2021-01-01; got 2014-01-01" in refused(source.check_times, "2014-01-01")
    assert "since 2021-01-01; got 2020-08-04" in refused(make_source("gfs").check_times, "2020-08-04T18")


def test_cds_without_package_or_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from earth2_corrdiff.sources import remote

    monkeypatch.setattr(remote, "find_spec", lambda package: None)
    assert "the source cds needs cdsapi and cfgrib; run: pip install" in refused(make_source, "cds")

    def client(**options: object) -> None:
        assert options["retry_max"] < 10  # type: ignore[operator]
        raise Exception("Missing/incomplete configuration file: ~/.cdsapirc\nmore")  # as cdsapi does

    monkeypatch.setattr(remote, "find_spec", lambda package: True)
    monkeypatch.setattr("earth2studio.data.CDS_ERA5", lambda **options: types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, "cdsapi", types.SimpleNamespace(Client=client))
    assert "needs a key in ~/.cdsapirc" in refused(make_source, "cds")
