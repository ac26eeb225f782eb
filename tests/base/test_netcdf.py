# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""NetCDF files in several threads: one at a time opens, reads or closes, whatever it reads them for."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as ended
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from earth2_corrdiff.base.netcdf import TURNS
from earth2_corrdiff.model.packages.netcdf import open_netcdf
from earth2_corrdiff.sources.formats import open_dataset


@pytest.fixture(params=["h5netcdf", "scipy"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """HDF5, and the classic format."""
    data = xr.Dataset({"t2m": (("y", "x"), np.arange(12.0).reshape(3, 4))})
    data.to_netcdf(tmp_path / "a.nc", engine=request.param)
    return tmp_path / "a.nc"


def waits(step: Callable[[], Any]) -> Any:
    """What a step returns that another thread does once this one has released the lock."""
    with ThreadPoolExecutor(1) as pool:
        with TURNS:
            found = pool.submit(step)
            assert not ended([found], timeout=0.05).done
        return found.result()


def package_field(path: Path) -> Any:
    with open_netcdf(path) as file:
        return file.read("t2m")


def test_each_step_waits_for_its_turn(path: Path) -> None:
    data = waits(lambda: open_dataset(path))
    again = pickle.loads(pickle.dumps(data))  # as for a worker of a cluster
    for each in (data, again):
        assert waits(lambda each=each: each["t2m"].isel(x=1).to_numpy()).tolist() == [1, 5, 9]
    assert waits(lambda: package_field(path)).shape == (3, 4)
    waits(data.close)


@pytest.mark.slow
def test_many_threads(tmp_path: Path) -> None:
    """They open, read and drop files at once."""
    for number in range(3):
        values = np.random.default_rng(number).normal(size=(2, 30, 40))
        data = xr.Dataset({name: (("t", "y", "x"), values) for name in "abcd"})
        data.to_netcdf(tmp_path / f"{number}.nc", engine="h5netcdf")

    def total(number: int) -> float:
        return float(open_dataset(tmp_path / f"{number % 3}.nc")["a"].isel(t=1).to_numpy().sum())

    with ThreadPoolExecutor(4) as pool:
        sums = list(pool.map(total, range(60)))
    assert sums == [total(number) for number in range(3)] * 20
