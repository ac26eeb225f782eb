# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""``--keep-going``: a time that fails is reported at the end, and leaves the others intact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from run_kit import NAMES, Weather, command, load, same, weather_file
from tiny import small_package

from earth2_corrdiff import InputError, downscale
from earth2_corrdiff.base.errors import UnavailableError
from earth2_corrdiff.run.downscaling import Downscaling, Options

pytestmark = pytest.mark.slow

TIMES = ("2024-07-24T12:00", "2024-07-24T18:00", "2024-07-25T00:00")
SEED = 4


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_package(tmp_path_factory.mktemp("package"), number_of_samples=2)


@pytest.fixture(scope="module")
def whole(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "run.zarr"
    downscale(TIMES, load(package), Weather(), path, options=Options(seed=SEED))
    return path


class Gaps(Weather):
    """Without some of the times."""

    def __init__(self, *gaps: int) -> None:
        def spoil(array: xr.DataArray) -> None:
            if str(array.time.values[0])[:16] in [TIMES[gap] for gap in gaps]:
                array[:] = np.nan

        super().__init__(spoil)


Gaps.__name__ = "Weather"  # the source is part of a run's identity


def written(store: Path) -> list[bool]:
    return (xr.open_zarr(store).member_seed != -1).all("sample").values.tolist()


@pytest.mark.parametrize("gaps", [(0,), (1, 2), (0, 2)])
def test_the_others_are_done(package: Path, whole: Path, tmp_path: Path, gaps: tuple[int, ...]) -> None:
    store = tmp_path / "run.zarr"
    options = Options(seed=SEED, keep_going=True)
    run = Downscaling(TIMES, load(package), Gaps(*gaps), store, options)
    assert len(list(run)) == run.written == 2 * (3 - len(gaps))
    assert written(store) == [t not in gaps for t in range(3)]
    assert list(run.failed) == list(gaps)
    for t, why in run.failed.items():
        assert f"the input from Weather at {TIMES[t]} cannot be used: it has no values at all" in str(why)
    for name in ("mrr", "t2m_lowres"):
        assert xr.open_zarr(store)[name][list(gaps)].isnull().all()
    downscale(TIMES, load(package), Weather(), store, options=Options(resume=True))
    same(store, whole)


def test_the_function_raises_at_the_end(package: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 of 3 cases failed: 2024-07-24T18:00: the input .*; the others"):
        options = Options(seed=SEED, keep_going=True)
        downscale(TIMES, load(package), Gaps(1), tmp_path / "run.zarr", options=options)
    assert written(tmp_path / "run.zarr") == [True, False, True]


class Late(Weather):
    """Before the last time is published."""

    def __call__(self, time: Any, variable: Any) -> xr.DataArray:
        if str(np.atleast_1d(time)[0])[:16] == TIMES[2]:
            raise UnavailableError("not published yet")
        return super().__call__(time, variable)


Late.__name__ = "Weather"


def test_what_may_pass(package: Path, tmp_path: Path) -> None:
    """Once nothing else is left; as long as something is done, it is a run with failures."""
    store, options = tmp_path / "run.zarr", Options(SEED, resume=True, keep_going=True)
    for wrote in (4, 0):
        run = Downscaling(TIMES, load(package), Late(), store, options)
        assert len(list(run)) == wrote and list(run.failed) == [2] and run.may_pass == (wrote == 0)
    with pytest.raises(UnavailableError, match="1 of 3 cases failed: .* not published yet"):
        downscale(TIMES, load(package), Late(), store, options=options)


def test_where_all_fail_nothing_is_made(package: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be used"):
        options = Options(keep_going=True)
        downscale(TIMES, load(package), Gaps(0, 1, 2), tmp_path / "run.zarr", options=options)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_no_reason_to_go_on(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from earth2_corrdiff.store.writer import Store

    def full(*args: object) -> None:
        raise InputError("cannot write run.zarr: No space left on device")

    monkeypatch.setattr(Store, "write_members", full)
    run = Downscaling(TIMES, load(package), Weather(), tmp_path / "run.zarr", Options(keep_going=True))
    with pytest.raises(InputError, match="No space left"):
        list(run)
    assert not run.failed


@pytest.fixture
def holed(tmp_path: Path) -> Path:
    """A file without the second time's values."""
    path = weather_file(tmp_path / "weather.nc", TIMES, NAMES)
    with xr.open_dataset(path) as ds:
        holed = ds.where(ds.time != ds.time[1]).load()
    holed.to_netcdf(tmp_path / "holed.nc")
    return tmp_path / "holed.nc"


def test_the_command(
    package: Path,
    holed: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = (*TIMES, "--package", package, "--source", "file:holed.nc", "--output", "run.zarr", "--keep-going")
    status, out, err = command(capfd, *argv)
    assert status == 3 and out.startswith(
        "wrote run.zarr but for 1 of 3 times that failed: 3 times x 2 members "
    )
    *_, failed, way_out = err.splitlines()
    assert failed == (
        "run-corrdiff: failed: 2024-07-24T18:00: the input from file:holed.nc at 2024-07-24T18:00 cannot be "
        "used: it has no values at all; the source does not cover the model's domain, or is damaged"
    )
    assert way_out == "run-corrdiff: run.zarr keeps the others; try the failed ones again with --resume"
    status, _, err = command(capfd, *argv, "--resume")
    assert status == 3 and failed in err  # nothing that is missing can be done
    status, _, err = command(capfd, *argv, "--task", "2/3")
    assert status == 3 and failed in err
    (tmp_path / "weather.nc").replace(tmp_path / "holed.nc")
    status, out, _ = command(capfd, *argv, "--resume")
    assert status == 0 and out.startswith("completed run.zarr (2 of 6 members were missing): ")
