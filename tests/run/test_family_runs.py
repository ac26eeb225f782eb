# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Runs of the newer models through the commands: from files of coarse weather to stores and pictures."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from cmip6_kit import COARSE, INPUTS, INVARIANTS, OUTPUTS, SHAPE, make_cmip6

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.cli import plot, run, verify
from earth2_corrdiff.model.options import ModelOptions
from earth2_corrdiff.plotting import open_store
from earth2_corrdiff.run.packages import load_model
from earth2_corrdiff.sources import Inputs, make_source

DAYS = np.array([f"2037-09-0{day}T12" for day in (5, 6, 7, 8)], "datetime64[ns]")


def command(module: Any, *words: object) -> tuple[int, str]:
    """Status and output of a command."""
    text = io.StringIO()
    with redirect_stdout(text), redirect_stderr(text):
        status = module.main([str(word) for word in words])
    return status, text.getvalue()


@pytest.fixture(scope="module")
def climate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A package of the layout of CMIP6, and four days of its input, with gaps in the sea ice."""
    folder = tmp_path_factory.mktemp("climate")
    package = make_cmip6(folder / "package")
    stats = json.loads((package / "stats.json").read_text())
    stats["input"]["t2m"] = {"mean": 280.0, "std": 10.0}
    (package / "stats.json").write_text(json.dumps(stats))
    (h, w), rng = COARSE, np.random.default_rng(1)
    values = {"t2m": rng.uniform(250, 300, (4, h, w)), "snc": rng.uniform(0, 100, (4, h, w))}
    values["siconc"] = np.where(rng.random((4, h, w)) < 0.5, np.nan, 40.0)
    grid = xr.open_dataset(package / "input_latlon_grid.nc")
    data = {name: (("time", "lat", "lon"), field.astype("f4")) for name, field in values.items()}
    xr.Dataset(data, {"time": DAYS, "lat": grid.lat, "lon": grid.lon}).to_netcdf(folder / "days.nc")
    return package, folder / "days.nc"


def test_hours_of_days_from_daily_means(climate: tuple[Path, Path], tmp_path: Path) -> None:
    """Valid times of two days: each equal to the model's own call on three days around its own."""
    package, days = climate
    store = tmp_path / "out.zarr"
    words = (
        "2037-09-06T03",
        "2037-09-06T21",
        "2037-09-07T03",
        "--package",
        package,
        "--source",
        f"file:{days}",
    )
    settings = ("--precision", "fp32", "--device", "cpu", "--samples", 2, "--seed", 4, "--output", store)
    status, said = command(run, *words, *settings, "--compress", "bounded,t2m=0.1,q700=0.01")
    assert status == 0, said
    ds = open_store(store)
    assert (
        ds["t2m"].shape == (3, 2, *SHAPE) and set(OUTPUTS) <= set(ds) and ds.attrs["coarse"] == "daily means"
    )
    model = load_model(ModelOptions(str(package), "cpu", "fp32"))
    with xr.open_dataset(days) as file:
        x = torch.from_numpy(np.stack([file[name].values for name in INPUTS], axis=1))
        np.testing.assert_array_equal(ds["t2m_lowres"][2], file["t2m"][2])  # of the day itself
    for case, (time, first) in enumerate((("2037-09-06T21", 0), ("2037-09-07T03", 1)), 1):
        seeds = [int(seed) for seed in ds["member_seed"][case]]
        wanted = model.downscaler(x[None, first : first + 3], seeds, valid_times=[np.datetime64(time)])
        np.testing.assert_allclose(ds["u10m"][case], wanted[0, :, 0], atol=0.021)
    invariants = xr.open_dataset(package / "invariants.nc")
    for name in INVARIANTS:  # the right way up
        np.testing.assert_array_equal(ds[name], invariants[name])
    before = ds["u10m"].values
    for path in (store / "u10m" / "c" / "1").rglob("*"):
        if path.is_file():
            path.unlink()
    status, said = command(run, *words, *settings, "--compress", "bounded,t2m=0.1,q700=0.01", "--resume")
    assert status == 0 and "2 of 6 members were missing" in said  # gaps in sea ice are none in the store
    np.testing.assert_array_equal(open_store(store)["u10m"], before)
    status, said = command(
        plot, store, "--variables", "t2m", "ws10m", "--sample", 0, "--output-dir", tmp_path
    )
    assert status == 2 and "no quantity ws10m" in said
    status, said = command(verify, store, "--truth", store, "--package", package, "--no-report")
    assert status == 2 and "takes fields of several days" in said


def test_days_are_read_once_for_all_their_hours(climate: tuple[Path, Path]) -> None:
    package, days = climate
    spec = load_model(ModelOptions(str(package), "cpu", "fp32")).spec
    source = make_source(f"file:{days}")
    read: list[Any] = []
    data = source.data
    source.__dict__["data"] = lambda time, names: (read.append(time[0]), data(time, names))[1]
    inputs = Inputs.of(source, source.cases("2037-09-06T00/2037-09-07T18/6h"), spec)
    assert inputs.fetch(0, INPUTS).shape == (3, 3, *COARSE)
    for number in range(1, 8):
        inputs.fetch(number, INPUTS)
    assert read == list(DAYS)
    assert inputs.whole == ["t2m"]


@pytest.mark.parametrize(
    ("times", "source", "says"),
    [
        (
            "2037-09-05T00",
            "days",
            "has 4 times from 2037-09-05T12:00 to 2037-09-08T12:00; got 2037-09-04T12:00",
        ),
        ("2037-09-09T00", "days", "got 2037-09-09T12:00"),
        ("2024-07-24T00", "demo", "the source demo has no siconc, snc"),
        (
            "2020-07-24T00",
            "arco",
            "has no siconc|takes daily means, and the source arco has fields of an hour",
        ),
        ("2037-09-06T00", "cmip6:CanESM5", "names no climate model; use cmip6:MODEL,SCENARIO,MEMBER"),
        ("2037-09-06T00", "cmip6:CanESM5,ssp585,r1i1p2f1", "pip install intake-esgf"),
    ],
)
def test_sources_that_do_not_fit_daily_means(
    climate: tuple[Path, Path], tmp_path: Path, times: str, source: str, says: str
) -> None:
    package, days = climate
    name = f"file:{days}" if source == "days" else source
    with pytest.raises(InputError, match=says):
        made = make_source(name)
        Inputs.of(made, made.cases(times), load_model(ModelOptions(str(package), "cpu", "fp32")).spec)
