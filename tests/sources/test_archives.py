# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The ERA5 archives, through the stock classes over local stores in place of the buckets."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from obstore.store import LocalStore

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.sources import check_input, fetch, make_source

LAT, LON = np.linspace(19.25, 28, 36), np.linspace(116, 125.75, 40)
RNG = np.random.default_rng(5)
T2M = 290 + RNG.normal(size=(721, 1440)).astype(np.float32)
Z500 = 56000 + RNG.normal(size=(721, 1440)).astype(np.float32)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARTH2STUDIO_CACHE", str(tmp_path / "cache"))


def box(field: np.ndarray) -> np.ndarray:
    """The box LAT, LON of a global 0.25 degree field, by index arithmetic."""
    return field[np.round((90 - LAT) / 0.25).astype(int)][:, np.round(LON / 0.25).astype(int)]


def era5_zarr(path: Path, hours: int, index: int, levels: list[int], whole: bool = True) -> zarr.Group:
    """A Zarr like Google's, with one time written."""
    group = zarr.open_group(path, mode="w", zarr_format=2)
    names = {"2m_temperature": (T2M, 3), "geopotential": (Z500, 4)}
    for name, (field, rank) in names.items():
        inner = (721, 1440) if rank == 3 else (len(levels), 721, 1440)
        array = group.create_array(
            name, shape=(hours, *inner), chunks=(1, *inner), dtype="f4", compressors=None
        )
        values = field if rank == 3 else np.stack([field if level == 500 else 0 * field for level in levels])
        array[index] = values
        if not whole:
            chunk = next(file for file in (path / name).iterdir() if file.name[0].isdigit())
            chunk.write_bytes(chunk.read_bytes()[:1000])
    return group


def use(source: object, path: Path, levels: list[int]) -> None:
    """Put a local group in place of the bucket's."""
    group = asyncio.run(zarr.api.asynchronous.open(store=str(path), mode="r"))
    archive = source.data.archive  # type: ignore[attr-defined]
    archive.zarr_group = archive.ml_zarr_group = group
    archive.level_coords = np.array(levels)


@pytest.mark.parametrize("name", ["wb2", "arco"])
def test_zarr_archives(name: str, tmp_path: Path) -> None:
    levels = [300, 500, 850]
    start, step = ("1959-01-01", 6) if name == "wb2" else ("1900-01-01", 1)
    time = np.datetime64("2022-07-24T12")
    index = int((time - np.datetime64(start)) / np.timedelta64(step, "h"))
    era5_zarr(tmp_path / "a.zarr", index + 10, index, levels)
    source = make_source(name)
    use(source, tmp_path / "a.zarr", levels)
    source.check_times(time)
    x, _ = fetch(source, time, ["z500", "t2m"], LAT, LON)
    np.testing.assert_array_equal(x[0].numpy(), np.stack([box(Z500), box(T2M)]))
    check_input(x, ["z500", "t2m"], source)


@pytest.mark.parametrize("name", ["wb2", "arco"])
def test_damaged_chunks_are_one_sentence(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    levels, step = [500], 6 if name == "wb2" else 1
    start = np.datetime64("1959-01-01" if name == "wb2" else "1900-01-01")
    time = np.datetime64("1960-01-01T12")
    index = int((time - start) / np.timedelta64(step, "h"))
    era5_zarr(tmp_path / "a.zarr", index + 10, index, levels, whole=False)
    source = make_source(name)
    use(source, tmp_path / "a.zarr", levels)
    with pytest.raises(InputError, match=f"could not fetch 1960-01-01T12:00 from {name} .*download it again"):
        fetch(source, time, ["z500", "t2m"], LAT, LON)
    assert "never retrieved" not in capfd.readouterr().err


def ncar_file(path: Path, field: np.ndarray, name: str, levels: int) -> None:
    """A file like NCAR's with the first hours of its month or day."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coords = {
        "time": np.arange("2022-07-01", "2022-07-01T03", dtype="datetime64[h]").astype("datetime64[ns]")
    }
    coords |= {"latitude": np.linspace(90, -90, 721)[200:300], "longitude": np.arange(0, 360, 0.25)[440:520]}
    part = field[200:300, 440:520]
    if levels:
        values = np.broadcast_to(part, (3, levels, *part.shape))
        array = xr.DataArray(
            values, coords | {"level": np.arange(levels)}, ("time", "level", "latitude", "longitude")
        )
    else:
        array = xr.DataArray(
            np.broadcast_to(part, (3, *part.shape)), coords, ("time", "latitude", "longitude")
        )
    array.to_dataset(name=name).to_netcdf(path, engine="h5netcdf")


@pytest.mark.slow
def test_ncar(tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    ncar_file(
        bucket / "e5.oper.an.sfc/202207/e5.oper.an.sfc.128_167_2t.ll025sc.2022070100_2022073123.nc",
        T2M,
        "VAR_2T",
        0,
    )
    ncar_file(
        bucket / "e5.oper.an.pl/202207/e5.oper.an.pl.128_129_z.ll025sc.2022070100_2022070123.nc",
        Z500,
        "Z",
        37,
    )
    source = make_source("ncar")
    source.data.store = LocalStore(bucket)  # type: ignore[attr-defined]
    for _ in range(2):  # the second from the cache
        x, _ = fetch(source, "2022-07-01T02", ["z500", "t2m"], LAT, LON)
        np.testing.assert_array_equal(x[0].numpy(), np.stack([box(Z500), box(T2M)]))
    with pytest.raises(InputError, match="from ncar .*not found in store.*it lacks this time"):
        fetch(source, "2022-08-01T02", ["t2m", "z500"], LAT, LON)


def test_arco_is_asked_for_times_after_the_known_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import datetime

    from earth2studio.data import ARCO_ERA5

    source = make_source("arco")
    era5_zarr(tmp_path / "a.zarr", 10, 1, [500])
    use(source, tmp_path / "a.zarr", [500])
    with pytest.raises(InputError, match="to 2025-12-31T00:00; got 2026-02-01T06:00"):
        source.check_times("2026-02-01T06:00")
    monkeypatch.setattr(ARCO_ERA5, "ARCO_TIME_STOP", datetime(2026, 3, 1))
    source.check_times(["2025-12-31T06:00", "2026-02-01T06:00"])
    with pytest.raises(InputError, match="to 2026-03-01T00:00; got 2026-03-01T01:00"):
        source.check_times("2026-03-01T01:00")
