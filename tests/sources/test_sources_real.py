# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Real GFS files: through the stock GFS class over a mirror (``gfs:DIR``), and as GRIB (``file:PATH``)."""

from __future__ import annotations

import os
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import gfs_files
import numpy as np
import pytest
from earth2studio.data import GFS
from gfs_files import FIRST, LATER, POLAND, SHARED, WINDS, WORLD, read
from loguru import logger
from obstore.store import LocalStore
from scipy.interpolate import RegularGridInterpolator

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.sources import as_source, check_input, fetch, make_forecast, make_source
from earth2_corrdiff.sources.grib import GribFile

pytestmark = [gfs_files.needed, pytest.mark.slow]

INPUTS = "tcwv z500 t500 u500 v500 z850 t850 u850 v850 t2m u10m v10m".split()
TAIWAN = np.linspace(19.25, 28, 36), np.linspace(116, 125.75, 40)
BOX = np.linspace(48, 56, 33), np.linspace(13, 25, 49)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARTH2STUDIO_CACHE", str(tmp_path / "cache"))


def truth(grib: Path, names: list[str]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Fields straight from the file by another reader, geopotential instead of height, north first."""
    found = read(grib)
    fields = [found[name].values * (9.81 if name[0] == "z" else 1.0) for name in names]
    return fields, found[names[0]].lat, found[names[0]].lon


def test_mirror_cuts_out_the_native_box(poland: Path) -> None:
    source = make_source(f"gfs:{poland}")
    names = [*INPUTS, "refc"]
    source.check_times("2024-08-04T12:00")
    source.check_variables(names)
    x, coords = fetch(source, "2024-08-04T12:00", names, *BOX)
    assert x.shape == (1, 13, 33, 49) and source.name == f"gfs:{poland}" and not source.synthetic
    expected = np.stack(truth(POLAND, names)[0])[:, ::-1]
    np.testing.assert_allclose(x[0].numpy(), expected, rtol=2e-7, atol=1e-5)
    np.testing.assert_array_equal(coords["lat"], BOX[0])
    check_input(x[:, :12], INPUTS, source, coords["time"])
    descending, _ = fetch(source, "2024-08-04T12:00", names, BOX[0][::-1], BOX[1] - 360)
    np.testing.assert_array_equal(descending.numpy(), x.numpy()[:, :, ::-1])


def test_regridded_input_equals_scipy(world: Path) -> None:
    """0.25 degree points in 2.5 degree cells: the tool's bilinear fields, SciPy's, and those of file:PATH."""
    fields, lat, lon = truth(WORLD, INPUTS)
    points = np.stack(np.meshgrid(*TAIWAN, indexing="ij"), axis=-1)
    expected = np.stack([RegularGridInterpolator((lat[::-1], lon), field[::-1])(points) for field in fields])
    stock, _ = fetch(make_source(f"gfs:{world}"), "2024-07-24T12", INPUTS, *TAIWAN)
    file = make_source(f"file:{WORLD}")
    file.check_times("2011-01-15T12:00")
    lines: list[str] = []
    handle = logger.add(lines.append, level="INFO", format="{message}")
    direct, _ = fetch(file, "2011-01-15T12:00", INPUTS, *TAIWAN)
    logger.remove(handle)
    np.testing.assert_allclose(direct[0].numpy(), expected, rtol=2e-7, atol=1e-5)
    np.testing.assert_allclose(stock[0].numpy(), expected, rtol=1e-6, atol=2e-3)
    assert [line for line in lines if "2.5 x 2.5 degrees" in line and "interpolated bilinearly" in line]


def test_seam_of_a_real_field() -> None:
    fields, lat, lon = truth(WORLD, ["t2m"])
    x, _ = fetch(
        make_source(f"file:{WORLD}"), "2011-01-15T12", ["t2m"], lat[10:20], np.array([-5.0, -2.5, 0, 2.5])
    )
    np.testing.assert_array_equal(x[0, 0].numpy(), fields[0][10:20][:, [-2, -1, 0, 1]].astype(np.float32))


def test_grib_has_all_inputs_and_refc() -> None:
    source = make_source(f"file:{POLAND}")
    names = [*INPUTS, "refc"]
    source.check_variables(names)
    source.check_times("2020-08-04T18:00")
    assert source.has("refc") and not source.has("mrr")
    x, _ = fetch(source, "2020-08-04T18:00", names, *BOX)
    expected = np.stack(truth(POLAND, names)[0])[:, ::-1]
    np.testing.assert_array_equal(x[0].numpy(), expected.astype(np.float32))
    check_input(x, names, source)


def test_several_times_of_one_grib(tmp_path: Path) -> None:
    import pygrib

    path, original = tmp_path / "two.grib2", truth(WORLD, ["t2m"])[0][0]
    with pygrib.open(str(WORLD)) as file:
        message = next(each for each in file if each["shortName"] == "2t")
    first = message.tostring()
    message["dataDate"] = 20110111
    message.values = original + 1
    path.write_bytes(message.tostring() + first)
    source = make_source(f"file:{path}")
    times = ["2011-01-15T12", "2011-01-16T12"]
    source.check_times(times)
    lat, lon = np.linspace(90, -90, 73), np.arange(0, 360, 2.5)
    for order in (times, times[::-1]):
        x, _ = fetch(source, order, ["t2m"], lat, lon)
        for i, time in enumerate(order):
            np.testing.assert_allclose(x[i, 0].numpy(), original + times.index(time), atol=0.05)
    with pytest.raises(
        InputError, match="has 2 times from 2011-01-15T12:00 to 2011-01-16T12:00; got 2011-01-17"
    ):
        source.check_times("2011-01-17T12")


@cache
def copies(grib: Path) -> list[tuple[str, bytes]]:
    """Name and bytes of the messages that are changed here."""
    import pygrib

    with pygrib.open(str(grib)) as file:
        found = ((message["shortName"], message) for message in file)
        return [(name, message.tostring()) for name, message in found if name in ("2t", "gh")]


def messages(grib: Path, short: str) -> list[Any]:
    import pygrib

    return [pygrib.fromstring(data) for name, data in copies(grib) if name == short]


def test_two_messages_for_one_variable(tmp_path: Path) -> None:
    """An analysis and a forecast for one time: the analysis. The same twice, or members: refused."""
    (forecast,), (analysis,) = messages(LATER, "2t"), messages(FIRST, "2t")
    analysis["dataDate"], analysis["dataTime"] = 20200805, 0
    path, (lat, lon) = tmp_path / "two.grib2", BOX
    for both in ((forecast, analysis), (analysis, forecast)):
        path.write_bytes(b"".join(message.tostring() for message in both))
        lines: list[str] = []
        handle = logger.add(lines.append, level="INFO", format="{message}")
        x, _ = fetch(make_source(f"file:{path}"), "2020-08-05T00", ["t2m"], lat, lon)
        logger.remove(handle)
        np.testing.assert_allclose(x[0, 0].numpy(), analysis.values, atol=1e-3)
        assert any("shortest lead time is taken, 0 h for 2020-08-05T00:00" in line for line in lines)
        cases = make_forecast(f"file:{path}").cases("2020-08-04T12", "12")
        assert len(cases) == 1
    path.write_bytes(forecast.tostring() * 2)
    with pytest.raises(
        InputError, match=r"t2m at 2020-08-05T00:00, lead time 12 h, twice: messages 1 .* and 2"
    ):
        make_source(f"file:{path}")


def test_members_of_a_grib(tmp_path: Path) -> None:
    import pygrib

    (message,) = messages(LATER, "2t")
    original, path, parts = message.values.copy(), tmp_path / "members.grib2", []
    message["productDefinitionTemplateNumber"] = 1
    message = pygrib.fromstring(message.tostring())  # with the keys of an ensemble
    for number in (0, 3):
        message["perturbationNumber"] = number
        message.values = original + number
        parts.append(message.tostring())
    path.write_bytes(b"".join(parts))
    with pytest.raises(
        InputError, match="has the coarse members 0, 3; choose forecasts with --lead, and with"
    ):
        make_source(f"file:{path}")
    with pytest.raises(InputError, match="has the coarse members 0 to 3; say which"):
        make_forecast(f"file:{path}")
    source = make_forecast(f"file:{path}", "3,0")
    cases = source.cases("2020-08-04T12", "12")
    assert [case.coarse for case in cases] == [3, 0]
    for case in cases:
        x, _ = fetch(source.at(case), case.time, ["t2m"], *BOX)
        expected = original + case.coarse
        np.testing.assert_allclose(x[0, 0].numpy(), expected, atol=0.05)
    message["productDefinitionTemplateNumber"] = 2
    message = pygrib.fromstring(message.tostring())
    message["derivedForecast"] = 2  # the spread of all members
    path.write_bytes(message.tostring())
    with pytest.raises(InputError, match="no known field"):
        make_source(f"file:{path}")


def test_height_becomes_geopotential_as_earth2studio_has_it(tmp_path: Path) -> None:
    """NOAA's lexicons multiply by 9.81, ECMWF's by 9.80665."""
    message = next(each for each in messages(LATER, "gh") if each["typeOfLevel"] == "isobaricInhPa")
    name, height = f"z{message['level']}", message.values.copy()
    for centre, gravity in (("kwbc", 9.81), ("ecmf", 9.80665)):
        message["centre"] = centre
        (tmp_path / "gh.grib2").write_bytes(message.tostring())
        x, _ = fetch(make_source(f"file:{tmp_path}/gh.grib2"), "2020-08-05T00", [name], *BOX)
        np.testing.assert_allclose(float(x.mean()), gravity * height.mean(), rtol=1e-6)


def test_stock_source_over_the_mirror_serves_unchanged(world: Path) -> None:
    stock = GFS(cache=False, verbose=False)
    stock.store = LocalStore(world)
    x, _ = fetch(stock, "2024-07-24T12", ["t2m"], *TAIWAN)
    ours, _ = fetch(make_source(f"gfs:{world}"), "2024-07-24T12", ["t2m"], *TAIWAN)
    np.testing.assert_array_equal(x.numpy(), ours.numpy())
    assert as_source(stock).name == "gfs"


def test_missing_variables_are_named(winds: Path) -> None:
    source = make_source(f"gfs:{winds}")
    x, coords = fetch(source, "2024-01-06T00", INPUTS, np.linspace(19.25, 25, 24), TAIWAN[1])
    message = f"from gfs:{winds} at 2024-01-06T00:00 .* has no tcwv, z500, t500, z850, t850, t2m .*lacks"
    with pytest.raises(InputError, match=message):
        check_input(x, INPUTS, source, coords["time"])
    direct, _ = fetch(
        make_source(f"file:{WINDS}"), "2024-01-06T00", ["u500", "v10m"], TAIWAN[0][:24], TAIWAN[1]
    )
    np.testing.assert_allclose(x[0, [3, 11]].numpy(), direct[0].numpy(), atol=2e-5)


def test_domain_outside_a_regional_source(poland: Path) -> None:
    source = make_source(f"gfs:{poland}")
    names = ["tcwv", "t2m"]
    x, _ = fetch(source, "2024-08-04T12", names, *TAIWAN)
    with pytest.raises(InputError, match="no values at all; the source does not cover the model's domain"):
        check_input(x, names, source)
    x, _ = fetch(source, "2024-08-04T12", names, BOX[0] + 2, BOX[1])
    with pytest.raises(InputError, match="tcwv is NaN or infinite at 24.2 % of the points"):
        check_input(x, names, source)
    with pytest.raises(
        InputError, match="covers 48 to 56 N and 13 to 25 E, but the model needs 19.25 to 28 N"
    ):
        fetch(make_source(f"file:{POLAND}"), "2020-08-04T18", INPUTS, *TAIWAN)


def test_times_that_the_mirror_lacks(world: Path) -> None:
    source = make_source(f"gfs:{world}")
    path = r"gfs\.20240724/18/atmos/gfs\.t18z\.pgrb2\.0p25\.f000 is missing; the folder has the days 20240724"
    with pytest.raises(InputError, match=path):
        source.check_times("2024-07-24T18:00")
    with pytest.raises(InputError, match=r"/gfs\.20210322/06/gfs\.t06z"):  # the older layout
        source.check_times("2021-03-22T06:00")
    with pytest.raises(InputError, match="00, 06, 12 and 18 UTC since 2021-01-01; got 2024-07-24T13:00"):
        source.check_times(["2024-07-24T12:00", "2024-07-24T13:00"])
    with pytest.raises(InputError, match="could not fetch 2024-07-24T18:00 .*lacks this time"):
        fetch(source, "2024-07-24T18:00", INPUTS, *TAIWAN)


@pytest.mark.parametrize("damage", ["cut", "zeros", "index cut", "index html", "index empty"])
def test_damaged_mirror(world: Path, tmp_path: Path, damage: str, capfd: pytest.CaptureFixture[str]) -> None:
    name = "gfs.20240724/12/atmos/gfs.t12z.pgrb2.0p25.f000"
    (tmp_path / name).parent.mkdir(parents=True)
    grib, index = (world / name).read_bytes(), (world / f"{name}.idx").read_bytes()
    half = len(grib) // 2
    damaged = {
        "cut": (grib[:half], index),
        "zeros": (grib[:half] + bytes(len(grib) - half), index),
        "index cut": (grib, index[:200]),
        "index html": (grib, b"<html>403 Forbidden</html>\n"),
        "index empty": (grib, b""),
    }
    for file, data in zip((tmp_path / name, tmp_path / f"{name}.idx"), damaged[damage], strict=True):
        file.write_bytes(data)
    with pytest.raises(
        InputError, match="could not fetch 2024-07-24T12:00 from gfs:.*damaged.*copy it again"
    ):
        fetch(make_source(f"gfs:{tmp_path}"), "2024-07-24T12", INPUTS[-3:], *TAIWAN)
    assert "never retrieved" not in capfd.readouterr().err
    assert not list(Path(os.environ["EARTH2STUDIO_CACHE"]).rglob("*.idx*"))


def test_cut_off_cache_heals(world: Path) -> None:
    """What a killed run leaves in the cache of the bucket is read again, not decoded for ever."""
    source = make_source("gfs")
    source.data.store = LocalStore(world)  # type: ignore[attr-defined]
    names = ["t2m", "u10m", "v10m"]
    x, _ = fetch(source, "2024-07-24T12", names, *TAIWAN)
    cached = [path for path in Path(os.environ["EARTH2STUDIO_CACHE"]).rglob("*") if path.is_file()]
    assert len(cached) == 4  # with the index
    for i, path in enumerate(sorted(cached)):
        data = path.read_bytes()
        path.write_bytes([b"", data[: len(data) // 2], data[:-2] + b"\0\0"][i % 3])
    again, _ = fetch(source, "2024-07-24T12", names, *TAIWAN)
    np.testing.assert_array_equal(again.numpy(), x.numpy())


@pytest.mark.parametrize("end", [0, 3, 100, 700_000, -5])
def test_cut_off_grib(tmp_path: Path, end: int) -> None:
    path = tmp_path / "cut.grib2"
    path.write_bytes(POLAND.read_bytes()[:end])
    with pytest.raises(InputError, match="is cut off in its last message|cannot open .* is it complete"):
        make_source(f"file:{path}")


def parts(grib: bytes) -> list[int]:
    """Where each message begins, and where the last one ends."""
    found = [0]
    while found[-1] < len(grib):
        found.append(found[-1] + int.from_bytes(grib[found[-1] + 8 : found[-1] + 16]))
    return found


def some_messages(first: int, last: int) -> bytes:
    """Of the 588 messages of a file."""
    whole = POLAND.read_bytes()
    bounds = parts(whole)
    return whole[bounds[first] : bounds[last]]


HEADER = b"\x01\r\r\n123 \r\r\nHTXX01 KWBC 241200\r\r\n"


@pytest.mark.parametrize("how", ["zeros", "noise", "removed", "doubled", "from a head", "a section", "text"])
def test_damaged_grib(tmp_path: Path, how: str) -> None:
    """Of some messages, one in the middle or what follows it is lost: said, not passed over."""
    whole, path = some_messages(280, 308), tmp_path / "damaged.grib2"
    start = parts(whole)[14]
    inside = start + 300
    data = {
        "zeros": whole[:inside] + bytes(2000) + whole[inside + 2000 :],
        "noise": whole[:inside] + b"\xa5" * 2500 + whole[inside + 2500 :],
        "removed": whole[:inside] + whole[inside + 100 :],
        "doubled": whole[: inside + 100] + whole[inside:],
        "from a head": whole[:start] + bytes(100) + whole[start + 100 :],
        "a section": whole[: start + 16] + bytes(9) + whole[start + 25 :],
        "text": whole[:start] + b"grib" + whole[start + 4 :],
    }[how]
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        make_source(f"file:{path}")
    assert str(caught.value) == f"the GRIB file {path} is damaged at byte {start}; copy it again"


def test_what_lies_between_the_messages_of_a_grib(tmp_path: Path) -> None:
    """Headers and ends of bulletins, and padding: the same fields are read."""
    whole, path, plain = some_messages(420, 450), tmp_path / "bulletins.grib2", tmp_path / "plain.grib2"
    plain.write_bytes(whole)
    bounds = parts(whole)
    wrapped = [HEADER + whole[a:b] + b"\r\r\n\x03" + bytes(64) for a, b in pairwise(bounds)]
    path.write_bytes(b"".join(wrapped) + bytes(10_000))
    first, other = GribFile(path), GribFile(plain)
    assert len(bounds) == 31 and list(first.names(0)) == list(other.names(0))
    np.testing.assert_array_equal(*(file.read([(0, "t2m")])[0, "t2m"] for file in (first, other)))


def test_grib_without_a_known_field() -> None:
    radar = SHARED / "data/reflectivity/MRMS_MergedReflectivityQCComposite_00.50_20220704-110040.grib2"
    with pytest.raises(InputError, match="no known field on a regular latitude-longitude grid"):
        make_source(f"file:{radar}")
    polar = SHARED / "data/t2m_pair/CMC_hrdps_east_TMP_TGL_2_ps2.5km_2019081112_P024-00.grib2"
    with pytest.raises(InputError, match="no known field on a regular latitude-longitude grid"):
        make_source(f"file:{polar}")


def test_grib_of_another_centre() -> None:
    source = make_source(f"file:{SHARED}/data/t2m_pair/CMC_glb_TMP_TGL_2_latlon.24x.24_2019081112_P024.grib2")
    source.check_times("2019-08-12T12:00")
    x, _ = fetch(source, "2019-08-12T12:00", ["t2m"], np.linspace(23, 25, 9), np.linspace(120, 122, 9))
    check_input(x, ["t2m"], source)
    with pytest.raises(InputError, match="has no u10m; it has t2m"):
        source.check_variables(["t2m", "u10m"])
