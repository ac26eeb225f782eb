# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs on disk: written, gone on with, read in chunks from Zarr and NetCDF, and each way to be wrong."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from tiny import hills, straight
from training_kit import CHANNELS, COARSE_GRID, FINE_GRID, dataset, hours, plan, weather, write_pairs

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.training.pair_writer import Fields, PairWriter, fill
from earth2_corrdiff.training.pairs import PairFile

FLAT = straight(16, 24)


def check(file: PairFile, order: list[int], fine: Any = FLAT) -> None:
    """The fields of these times are those of ``weather``."""
    got = file.read(order)
    for n, number in enumerate(order):
        coarse, truth = weather(number, fine=fine)
        assert np.array_equal(got.coarse[n].numpy(), coarse) and np.array_equal(got.fine[n].numpy(), truth)
    assert got.coarse.dtype == got.fine.dtype == torch.float32 and len(got) == len(order)


@pytest.mark.slow
def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = PairFile(write_pairs(tmp_path / "pairs.zarr", 5))
    assert file.channels == CHANNELS and np.array_equal(file.times, hours(5))
    for got, want in ((file.coarse_grid, COARSE_GRID), (file.fine_grid, FINE_GRID)):
        assert np.array_equal(got.lat, want.lat) and np.array_equal(got.lon, want.lon)
    assert np.array_equal(file.invariant_fields, hills(FINE_GRID))
    check(file, [3, 0, 4, 4], FINE_GRID)
    data = xr.open_zarr(tmp_path / "pairs.zarr", consolidated=False)
    assert data["t2m"].attrs["units"] == "K" and data["t2m"].dims == ("time", "y", "x")
    assert data["t2m_lowres"].dims == ("time", "lat_lowres", "lon_lowres")


@pytest.mark.slow
def test_a_writer_goes_on_where_it_was(tmp_path: Path) -> None:
    path, times, made = tmp_path / "pairs.zarr", hours(4), []

    def make(missing: Any) -> Any:
        for case in missing:
            made.append(case.valid)
            yield weather(int(np.flatnonzero(times == case.valid)[0]))

    started = fill(PairWriter(path, plan(times)), make)
    assert [next(started), next(started)] == [3, 2]
    started.close()
    file = PairFile(path)
    assert np.array_equal(file.times, times[:2])
    assert list(fill(PairWriter(path, plan(times)), make)) == [1, 0]
    check(PairFile(path), [0, 1, 2, 3], FINE_GRID)
    assert list(fill(PairWriter(path, plan(times)), make)) == [] and made[-2:] == list(times[2:])


MOVED = replace(FINE_GRID, lat=FINE_GRID.lat + np.float32(0.01))
OTHERS: dict[str, Callable[[Any], Any]] = {
    "times": lambda p: replace(p, times=hours(4, "2021-01-01")),
    "variables": lambda p: replace(p, channels=replace(p.channels, inputs=("t2m", "u10m", "z850"))),
    "grid": lambda p: replace(p, fine_grid=MOVED),
    "invariants": lambda p: replace(p, invariants={"orography": hills(FINE_GRID)[0] + 1}),
    "attributes": lambda p: replace(p, attributes={"source": "another"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_a_writer_refuses_other_pairs(tmp_path: Path, other: Callable[[Any], Any]) -> None:
    write_pairs(tmp_path / "pairs.zarr", 4)
    PairWriter(tmp_path / "pairs.zarr", plan(hours(4)))
    with pytest.raises(InputError, match=r"pairs\.zarr holds other pairs"):
        PairWriter(tmp_path / "pairs.zarr", other(plan(hours(4))))


@pytest.mark.slow
def test_times_are_added(tmp_path: Path) -> None:
    """Later and earlier ones, once; after an interruption too; of other files, but of no other kind."""
    path = write_pairs(tmp_path / "pairs.zarr", 4)
    later = plan(hours(6))
    with pytest.raises(InputError, match="its times differ; add times with --append"):
        PairWriter(path, later)
    zarr.open_group(str(path))["mrr"].resize((9, 16, 24))  # type: ignore[union-attr, call-arg]
    with pytest.raises(InputError, match=r"cannot open the file of pairs .*; is it complete\?"):
        PairFile(path)
    for _ in range(2):
        writer = PairWriter(path, later, append=True)
        assert writer.missing() == [4, 5] and np.array_equal(PairFile(path).times, hours(4))
    assert list(fill(writer, lambda cases: (weather(number) for number, _ in enumerate(cases, 4)))) == [1, 0]
    check(PairFile(path), [5, 0, 4, 3], FINE_GRID)
    earlier = PairWriter(path, plan(hours(3, "2019-12-31T12")), append=True)
    assert earlier.missing() == [0, 1] and writer.complete == 6
    earlier.write(1, weather(7))
    file = PairFile(path)
    assert np.array_equal(file.times, hours(7, "2019-12-31T18"))
    assert np.array_equal(file.read([0]).fine[0], weather(7)[1])
    others = {**OTHERS, "synthetic": lambda p: replace(p, attributes={"source": "test", "synthetic": 1})}
    del others["times"]
    for name, other in others.items():
        with pytest.raises(InputError, match="holds other pairs"):
            PairWriter(path, other(later), append=True)
            pytest.fail(name)
    with pytest.raises(InputError, match="there are no pairs .* to append to"):
        PairWriter(tmp_path / "none.zarr", later, append=True)


@pytest.mark.slow
def test_runs_are_added(tmp_path: Path) -> None:
    """Cases are those of valid and lead time; another file is noted, and shorter lead times are refused."""
    path, hour = tmp_path / "pairs.zarr", np.timedelta64(1, "h")

    def runs(leads: list[int], source: str) -> Any:
        valid = np.repeat(hours(1), len(leads))
        return replace(plan(valid), leads=np.array(leads) * hour, attributes={"source": source})

    PairWriter(path, runs([6, 12], "a.nc")).write(0, weather(0))
    with pytest.raises(InputError, match="has lead times from 6 h on and cannot have 3 h"):
        PairWriter(path, runs([3, 6], "b.nc"), append=True)
    for source in ("b.nc", "file:b/c.nc", "b.nc"):
        writer = PairWriter(path, runs([6, 18], source), append=True)
        assert writer.missing() == [1]
    assert writer.root.attrs["source"] == "a.nc and b.nc"  # c.nc had no further times
    assert np.asarray(writer.root["lead_time"]).tolist() == [6 * 3600, 12 * 3600, 18 * 3600]
    with pytest.raises(InputError, match="with another source"):
        PairWriter(path, runs([6, 24], "arco"), append=True)


def test_a_writer_refuses_what_is_no_zarr(tmp_path: Path) -> None:
    (tmp_path / "pairs.zarr").mkdir()
    (tmp_path / "pairs.zarr" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="exists and is not a Zarr"):
        PairWriter(tmp_path / "pairs.zarr", plan(hours(2)))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        PairWriter(tmp_path / "file" / "pairs.zarr", plan(hours(2)))


# other people's files


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nc", "zarr", "zarr in chunks"])
@pytest.mark.parametrize("bent", [False, True])
def test_files_of_xarray(tmp_path: Path, kind: str, bent: bool) -> None:
    data, path = dataset(5, bent), tmp_path / f"pairs.{kind[:4].strip()}"
    if kind == "nc":
        data.to_netcdf(path)
    else:
        names = [n for n in data.data_vars if "time" in data[n].dims] if "chunks" in kind else []
        chunks = {n: {"chunks": (2, *data[n].shape[1:])} for n in names}
        data.to_zarr(path, encoding=chunks)
    file = PairFile(path, CHANNELS.inputs, CHANNELS.outputs)
    assert file.channels == CHANNELS and file.coarse_grid.shape == (7, 9) and file.fine_grid.shape == (16, 24)
    assert file.fine_grid.curvilinear == bent
    chunked = {"nc": [0, 1, 2, 3, 4], "zarr": [0] * 5, "zarr in chunks": [0, 0, 1, 1, 2]}
    assert file.chunks.tolist() == chunked[kind]
    check(file, [4, 0, 3], FINE_GRID if bent else FLAT)
    by_name = PairFile(path)
    assert by_name.channels.outputs == ("mrr", "t2m") and by_name.channels.inputs == ("t2m", "u10m", "z500")


def test_times_in_disorder_and_incomplete_ones(tmp_path: Path) -> None:
    data = dataset(6).isel(time=[3, 0, 5, 1, 4, 2])
    data["complete"] = ("time", np.array([1, 1, 0, 1, 1, 1], np.int8))
    data["t2m"][2] = np.nan
    names = [n for n in data.data_vars if "time" in data[n].dims and n != "complete"]
    data.to_zarr(tmp_path / "p.zarr", encoding={n: {"chunks": (2, *data[n].shape[1:])} for n in names})
    file = PairFile(tmp_path / "p.zarr", CHANNELS.inputs, CHANNELS.outputs)
    assert np.array_equal(file.times, hours(5)) and file.chunks.tolist() == [0, 1, 2, 0, 2]
    check(file, [0, 1, 2, 3, 4])


def test_dimensions_in_another_order_and_other_variables(tmp_path: Path) -> None:
    """Fields as (x, y, time), bounds, a grid mapping: what is no field of the grid is no variable."""
    data = dataset(4)
    data["t2m"], data["orography"] = data["t2m"].transpose("lon", "lat", "time"), data["orography"].T
    data["u10m_lowres"] = data["u10m_lowres"].transpose("lon_lowres", "time", "lat_lowres")
    data["crs"], data["time_bounds"] = 0, (("time", "edge"), np.zeros((4, 2)))
    data["quality"] = ("time", np.zeros(4))
    data.to_netcdf(tmp_path / "p.nc")
    file = PairFile(tmp_path / "p.nc", inputs=CHANNELS.inputs)
    assert file.channels == CHANNELS and np.array_equal(file.invariant_fields, hills(FLAT))
    check(file, [2, 1])


def test_some_variables_in_another_order(tmp_path: Path) -> None:
    dataset(3).to_netcdf(tmp_path / "p.nc")
    file = PairFile(tmp_path / "p.nc", ["z500", "t2m"], ["t2m"], [])
    got, (coarse, fine) = file.read([1]), weather(1, fine=FLAT)
    assert file.invariant_fields is None
    assert np.array_equal(got.coarse[0], coarse[[2, 0]]) and np.array_equal(got.fine[0], fine[[1]])


def lacking(name: str) -> Callable[[xr.Dataset], xr.Dataset]:
    return lambda data: data.drop_vars(name)


FAULTS: dict[str, tuple[Callable[[xr.Dataset], xr.Dataset], str]] = {
    "no grid": (lacking("lat_lowres"), "no lat_lowres and lon_lowres"),
    "no dates": (lambda d: d.assign_coords(time=np.arange(3)), "numbers as its coordinate time"),
    "no time complete": (lambda d: d.assign(complete=("time", np.zeros(3))), "no complete time"),
    "an input": (lacking("z500_lowres"), "no coarse variable z500; they have t2m, u10m"),
    "an output": (lacking("mrr"), "no fine variable mrr; they have t2m"),
    "an invariant": (lacking("orography"), "no invariant variable orography; they have none"),
    "members": (lambda d: d.assign(mrr=d["mrr"].expand_dims("sample")), "no fine variable mrr"),
    "NaN in an invariant": (
        lambda d: d.assign(orography=d["orography"].where(d["orography"] < 1000)),
        "orography .* not finite",
    ),
}


@pytest.mark.parametrize(("change", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_files_that_will_not_do(
    tmp_path: Path, change: Callable[[xr.Dataset], xr.Dataset], message: str
) -> None:
    change(dataset(3)).to_netcdf(tmp_path / "p.nc")
    with pytest.raises(InputError, match=message) as raised:
        PairFile(tmp_path / "p.nc", CHANNELS.inputs, CHANNELS.outputs, CHANNELS.invariants)
    assert "p.nc" in str(raised.value) and "\n" not in str(raised.value)


def test_what_is_no_file_of_pairs(tmp_path: Path) -> None:
    (tmp_path / "text.nc").write_text("no data")
    for path in (tmp_path / "none.zarr", tmp_path / "text.nc"):
        with pytest.raises(InputError, match=path.name):
            PairFile(path)


@pytest.mark.parametrize(("name", "value"), [("mrr", np.nan), ("u10m_lowres", np.inf)])
def test_a_value_that_is_not_finite_is_named_with_its_time(tmp_path: Path, name: str, value: float) -> None:
    data = dataset(4)
    data[name][2, 3, 4] = value
    data.to_netcdf(tmp_path / "p.nc")
    file = PairFile(tmp_path / "p.nc")
    file.read([0, 1, 3])
    with pytest.raises(InputError, match=f"{name} of 2020-01-01T12:00 in .*p.nc is not finite"):
        file.read([3, 2])


# memory


class Counted(PairFile):
    """Counts what is read and kept."""

    def _load(self, numbers: Any) -> None:
        super()._load(numbers)
        self.loaded = [*getattr(self, "loaded", []), *numbers]
        self.most = max(getattr(self, "most", 0), len(self._kept))


@pytest.mark.slow
def test_only_some_chunks_stay_in_memory(tmp_path: Path) -> None:
    file = Counted(write_pairs(tmp_path / "p.zarr", 12), keep=3)
    for index in (0, 1, 2, 0, 1, 2):
        file.read([index])
    assert file.loaded == [0, 1, 2]
    for index in range(12):
        file.read([index])
        assert len(file._kept) <= 3
    file.read(list(range(8)))  # a batch larger than that: as long as it is needed
    file.read([11])
    assert len(file._kept) <= 3 and file.most <= 3 + 8


@pytest.mark.slow
def test_several_threads_may_read(tmp_path: Path) -> None:
    """The background reads ahead while the foreground validates."""
    file = PairFile(write_pairs(tmp_path / "p.zarr", 12), keep=1)
    wanted = [weather(n)[1] for n in range(12)]

    def work(seed: int) -> bool:
        drawn = np.random.default_rng(seed).integers(0, 12, (8, 3)).tolist()
        return all(np.array_equal(file.read(b).fine, np.stack([wanted[i] for i in b])) for b in drawn)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_fields_are_pairs() -> None:
    made: Fields = weather(0)
    assert made[0].shape == (3, 7, 9) and made[1].shape == (2, 16, 24)


# what a file says is what a training gets


def test_units_are_converted(tmp_path: Path) -> None:
    data = dataset(3)
    for name in ("t2m", "t2m_lowres"):
        data[name] = (data[name].astype("f8") - 273.15).assign_attrs(units="degC")
    data["u10m_lowres"] = (data["u10m_lowres"] * 3.6).assign_attrs(units="km/h")
    data.to_netcdf(tmp_path / "p.nc")
    got = PairFile(tmp_path / "p.nc", CHANNELS.inputs, CHANNELS.outputs).read([1])
    coarse, fine = weather(1, fine=FLAT)
    np.testing.assert_allclose(got.coarse[0], coarse, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(got.fine[0], fine, rtol=1e-5, atol=1e-4)


def test_units_that_are_none_and_values_that_cannot_be(tmp_path: Path) -> None:
    wrong = dataset(3)
    wrong["t2m"].attrs["units"] = "kg"
    wrong.to_netcdf(tmp_path / "kg.nc")
    with pytest.raises(InputError, match="'kg' is not a valid unit of t2m of .*kg.nc; use K"):
        PairFile(tmp_path / "kg.nc")
    bare = dataset(3)
    bare["t2m_lowres"] = bare["t2m_lowres"] - 273.15
    bare.to_netcdf(tmp_path / "bare.nc")
    with pytest.raises(InputError, match="t2m is .*it looks like degrees Celsius"):
        PairFile(tmp_path / "bare.nc").read([0])


@pytest.mark.parametrize("sentinel", [-999.0, -99.0, 9999.0, 1e20])
def test_numbers_for_missing_values_are_counted(tmp_path: Path, sentinel: float) -> None:
    data = dataset(3)
    data["mrr"][1, :2, :3] = sentinel
    data.to_netcdf(tmp_path / "p.nc")
    file = PairFile(tmp_path / "p.nc")
    file.read([0, 2])
    with pytest.raises(InputError, match="mrr of 2020-01-01T06:00 .* 6 of 384 are missing values"):
        file.read([1])


def test_times_are_valid_times_and_there_once(tmp_path: Path) -> None:
    data, lead = dataset(3), np.timedelta64(6, "h")
    runs = data.assign_coords(valid_time=("time", data["time"].values), time=data["time"].values - lead)
    runs.to_netcdf(tmp_path / "runs.nc")
    file = PairFile(tmp_path / "runs.nc", CHANNELS.inputs, CHANNELS.outputs)
    assert np.array_equal(file.times, data["time"].values)
    check(file, [1])
    xr.concat([data, data.isel(time=[1])], "time", data_vars="minimal").to_netcdf(tmp_path / "twice.nc")
    with pytest.raises(InputError, match="has the time 2020-01-01T06:00 2 times"):
        PairFile(tmp_path / "twice.nc")
