# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Scores of a run as it computes, in one task or several, with members kept or not."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from forecast_kit import Forecasts
from run_kit import Weather, load, make_package

from earth2_corrdiff import CorrDiff, downscale
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.cli.verify import main as verify_main
from earth2_corrdiff.model.options import ModelOptions
from earth2_corrdiff.run import Options
from earth2_corrdiff.run.cluster import ClusterRun, Recipe
from earth2_corrdiff.run.tasks import Part
from earth2_corrdiff.sources import make_forecast, make_source
from earth2_corrdiff.store.states import read_sums
from earth2_corrdiff.verification import Bootstrap, Result, Settings, verify
from earth2_corrdiff.verification.files import records
from earth2_corrdiff.verification.sums import Scorer, scored

pytestmark = pytest.mark.slow
START, LEADS = "2024-07-24T00", "0/12/6h"
PERIOD = "2024-07-24T00/2024-07-24T06/6h"
FEW = Settings(variables=["t2m", "mrr"], bootstrap=Bootstrap(0))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("package"), number_of_samples=2)


@pytest.fixture(scope="module")
def model(package: Path) -> CorrDiff:
    return load(package)


def run(model: CorrDiff, store: Path, parts: int = 1, **how: Any) -> Path:
    """Forecasts of two coarse members; the last lead time has no truth."""
    for part in range(parts):
        options = Options(seed=3, part=Part(part, parts), **how)
        downscale(START, model, [Forecasts(0), Forecasts(1)], store, options=options, lead_time=LEADS)
    return store


@pytest.fixture(scope="module")
def whole(model: CorrDiff, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(model, tmp_path_factory.mktemp("whole") / "all.zarr")


@pytest.fixture(scope="module")
def truth(whole: Path) -> xr.Dataset:
    """At the first two lead times, with gaps."""
    ds, rng = xr.open_zarr(whole), np.random.default_rng(0)
    times = np.datetime64(START, "ns") + np.arange(2) * np.timedelta64(6, "h")
    shape, dims = (2, *ds["t2m"].shape[-2:]), ("time", *ds["t2m"].dims[-2:])
    values = 297 + rng.standard_normal(shape)
    values[0, :3] = np.nan
    data = {"t2m": (dims, values), "mrr": (dims, 40 * rng.random(shape))}
    return xr.Dataset(data, {"time": times, "lat": ds["lat"], "lon": ds["lon"]})


def assert_same(one: Result, other: Result) -> None:
    """All numbers to rounding, and all words."""
    rows, others = list(records(one)), list(records(other))
    assert len(rows) == len(others) > 100
    for row, wanted in zip(rows, others, strict=True):
        assert {k: v for k, v in row.items() if k not in ("value", "low", "high")} == {
            k: v for k, v in wanted.items() if k not in ("value", "low", "high")
        }
        np.testing.assert_allclose(row["value"], wanted["value"], rtol=1e-12, atol=1e-12, err_msg=str(row))
    assert one.notes == other.notes and one.about == other.about and one.members == other.members


@pytest.mark.parametrize(("keep", "parts"), [("all", 1), ("all", 5), ("none", 3), ("mean", 2)])
def test_scores_are_those_of_the_store(
    model: CorrDiff, whole: Path, truth: xr.Dataset, tmp_path: Path, keep: str, parts: int
) -> None:
    store = run(model, tmp_path / "out.zarr", parts, keep=keep, scorer=Scorer(truth, settings=FEW))
    assert_same(scored(store, Bootstrap(0)), verify(whole, truth, settings=FEW))
    every, some = xr.open_zarr(whole), xr.open_zarr(store)
    np.testing.assert_array_equal(some["member_seed"], every["member_seed"])
    if keep == "mean":
        members = every["t2m"].stack(member=("ensemble", "sample"))
        np.testing.assert_allclose(some["t2m_mean"], members.mean("member"), rtol=1e-6)
        np.testing.assert_allclose(some["t2m_spread"], members.std("member", ddof=1), rtol=1e-3, atol=1e-3)
    assert ("t2m" in some, "mrr_spread" in some) == (keep == "all", keep == "mean")


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("keep", ["all", "none"])
def test_a_state_is_scored_once(
    model: CorrDiff,
    whole: Path,
    truth: xr.Dataset,
    tmp_path: Path,
    keep: str,
) -> None:
    """Stopped before the sums of the second state are written: they are made from what is there."""
    scorer, calls = Scorer(truth, settings=FEW), []

    def score(ds: xr.Dataset) -> str:
        calls.append(ds["lead_time"].values[0])
        if len(calls) == 2:
            raise StoppedError
        return Scorer.__call__(scorer, ds)

    counting = type("Counting", (), {"check": scorer.check, "__call__": staticmethod(score)})()
    with pytest.raises(StoppedError):
        run(model, tmp_path / "out.zarr", keep=keep, scorer=counting)
    assert list(read_sums(tmp_path / "out.zarr")) == [0]
    if keep == "all":
        with pytest.raises(InputError, match="2 of 3 states are not scored"):
            scored(tmp_path / "out.zarr")
    store = run(model, tmp_path / "out.zarr", keep=keep, scorer=counting, resume=True)
    assert len(calls) == 4 and len(set(calls)) == 3
    assert_same(scored(store, Bootstrap(0)), verify(whole, truth, settings=FEW))


def test_scores_on_a_cluster(package: Path, truth: xr.Dataset, tmp_path: Path) -> None:
    truth.to_netcdf(tmp_path / "truth.nc")
    options = Options(seed=1, keep="none", scorer=Scorer(tmp_path / "truth.nc", settings=FEW))
    chosen = ModelOptions(str(package), "cpu", "fp32", accelerated=False)
    how = {"processes": False, "protocol": "tcp://", "host": "127.0.0.1", "dashboard_address": None}
    with LocalCluster(n_workers=2, threads_per_worker=2, **how) as workers, Client(workers) as client:
        for name, each in (("none", options), ("all", replace(options, keep="all", scorer=None))):
            recipe = Recipe(PERIOD, chosen, partial(make_source, "demo"), tmp_path / name, each)
            assert len(list(ClusterRun(client, recipe))) == 4
    wanted = verify(tmp_path / "all", tmp_path / "truth.nc", settings=FEW)
    assert_same(scored(tmp_path / "none", Bootstrap(0)), wanted)
    with pytest.raises(InputError, match="coarse members are computed apart"):
        source = partial(make_forecast, "demo_fx", "0,1")
        ClusterRun(client, Recipe(PERIOD, chosen, source, tmp_path / "b", options, "6h"))


def test_a_store_of_sums_alone(
    model: CorrDiff, truth: xr.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command shows them; what needs the members is refused, and a run that would keep nothing."""
    truth.to_netcdf(tmp_path / "truth.nc")
    options = Options(keep="none", scorer=Scorer(tmp_path / "truth.nc", settings=FEW), seed=1)
    downscale(START, model, Weather(), tmp_path / "out.zarr", options=options)
    assert verify_main([str(tmp_path / "out.zarr"), "--no-report", "--bootstrap", "0"]) == 0
    assert capsys.readouterr().out.startswith("2 members")
    assert verify_main([str(tmp_path / "out.zarr"), "--scales", "3"]) == 2
    assert "--scales needs the fields" in capsys.readouterr().err
    with pytest.raises(InputError, match="--keep none and has no members"):
        verify(tmp_path / "out.zarr", truth)
    with pytest.raises(InputError, match="nothing but scores"):
        Options(keep="none")
    options = Options(scorer=Scorer(truth, {"t2m": "wind"}, FEW))
    with pytest.raises(InputError, match="has no t2m.*--score-variables"):
        downscale(START, model, Weather(), tmp_path / "b.zarr", options=options)
    assert not (tmp_path / "b.zarr").exists()
