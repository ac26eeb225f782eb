# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Runs on Dask's workers: the bytes of one process, whoever does what, and whoever dies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import xarray as xr
import zarr
from distributed import Client, LocalCluster
from earth2studio.io import XarrayBackend
from object_kit import objects, s3
from rank_kit import dying_source, forked_workers
from run_kit import TIMES, Weather, command, contents, load, make_package, refused, same, weather_file

from earth2_corrdiff import InputError, downscale
from earth2_corrdiff.model.options import ModelOptions
from earth2_corrdiff.run import cluster
from earth2_corrdiff.run.cluster import ClusterRun, Recipe, Work, connected
from earth2_corrdiff.run.options import Options
from earth2_corrdiff.sources import make_source
from earth2_corrdiff.store.error_bounds import Compression

pytestmark = pytest.mark.slow

STORE, SEED = "run.zarr", 3
BOUNDED = Compression.parse("bounded")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("package"), number_of_samples=5)


@pytest.fixture(scope="module")
def model(package: Path) -> ModelOptions:
    return ModelOptions(str(package), "cpu", "fp32", accelerated=False)


@pytest.fixture(scope="module")
def whole(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of one process."""
    path = tmp_path_factory.mktemp("whole") / STORE
    downscale(TIMES, load(package), make_source("demo"), path, options=Options(SEED, compress=BOUNDED))
    return path


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Three workers in this process, of two threads each."""
    how = {
        "processes": False,
        "protocol": "tcp://",
        "host": "127.0.0.1",
        "dashboard_address": None,
        "memory_limit": None,
    }
    with LocalCluster(n_workers=3, threads_per_worker=2, **how) as workers, Client(workers) as client:
        yield client


def test_three_workers(model: ModelOptions, whole: Path, client: Client, tmp_path: Path) -> None:
    """As one process: progress, bytes; resumed after damage; nothing is left on the workers."""
    steps: list[int] = []
    options = Options(SEED, compress=BOUNDED)
    recipe = Recipe(TIMES, model, partial(make_source, "demo"), tmp_path / STORE, options)
    run = ClusterRun(client, recipe, steps.append)
    assert len(list(run)) == 10 and sum(steps) == run.evaluations == 30
    same(tmp_path / STORE, whole)
    assert set(run.kept) == {"mrr", "t2m", "u10m", "v10m"} and run.seconds["compute"] > 0
    (tmp_path / STORE / "t2m/c/1/3/0/0").unlink()
    go_on = Options(resume=True, compress=BOUNDED)
    again = ClusterRun(client, replace(recipe, options=go_on))
    assert len(list(again)) == again.written == 1 and (again.found, again.seed) == (9, SEED)
    same(tmp_path / STORE, whole)
    io = downscale(TIMES, model, recipe.data, tmp_path / STORE, options=go_on, client=client)
    assert io.root.attrs["seed"] == SEED
    assert not any(name.startswith("corrdiff") for names in client.run(_plugins).values() for name in names)


def _plugins(dask_worker: Any) -> list[str]:
    return list(dask_worker.plugins)


def test_the_command(
    package: Path, client: Client, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = weather_file(tmp_path / "weather.nc")
    with xr.open_dataset(path) as ds:
        ds.where(ds.time != ds.time[1]).load().to_netcdf(tmp_path / "holed.nc")
    argv = (*TIMES, "--package", package, "--seed", 4, "--output", tmp_path / STORE)
    words = ("--scheduler", client.scheduler_info()["address"], "--source", f"file:{tmp_path / 'holed.nc'}")
    status, out, err = command(capfd, *argv, *words)
    assert status == 2 and "at 2024-07-25T00:00 cannot be used" in err and "go on with --resume" in err
    status, out, err = command(capfd, *argv, *words, "--overwrite", "--keep-going")
    assert status == 3 and "but for 1 of 2 times that failed: 2 times x 5 members of mrr, t2m" in out
    assert "3 workers" in out and "failed: 2024-07-25T00:00: the input from file:" in err
    assert (zarr.open_group(tmp_path / STORE)["member_seed"][:] >= 0).tolist() == [[True] * 5, [False] * 5]
    assert "--scheduler" not in zarr.open_group(tmp_path / STORE).attrs["command"]
    for more, says in (
        (("--workers", 2, "--task", "1/2"), "--workers or --scheduler computes the whole run; leave out"),
        (("--workers", 0), "--workers must be 1 or more, got 0"),
        (("--scheduler", "127.0.0.1:1", "--resume"), "no scheduler of Dask answers at 127.0.0.1:1"),
    ):
        assert says in refused(capfd, *argv, *more)


def test_what_is_refused(model: ModelOptions, package: Path, client: Client, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="each worker loads the model; give ModelOptions"):
        downscale(TIMES, load(package), Weather(), tmp_path / STORE, client=client)
    with pytest.raises(InputError, match="workers share a Zarr store; give the output as a path"):
        downscale(TIMES, model, Weather(), XarrayBackend(), client=client)
    with pytest.raises(InputError, match="no package|is missing|lacks"):
        gone = ModelOptions(str(tmp_path / "none"), "cpu")
        downscale(TIMES, gone, partial(make_source, "demo"), tmp_path / STORE, client=client)


def test_each_worker_has_its_gpu_and_cores(model: ModelOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a LocalCluster by their number; others have what their machine gives them."""
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(cluster, "find_device", lambda *what: asked.append(what) or "cpu")
    monkeypatch.setattr(cluster, "load_model", lambda options: options.device)
    for name in (3, "SLURMCluster-3"):
        work = Work(Recipe(TIMES, replace(model, device="auto"), None, STORE))
        work.setup(SimpleNamespace(name=name))
        assert work._model == "cpu"
    assert asked == [("auto", 3), ("auto", None)]
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(cluster, "LocalCluster", lambda **how: made.append(how) or nullcontext())
    monkeypatch.setattr(cluster, "Client", nullcontext)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    for workers, own, threads in ((4, 8, "2"), (16, 8, "1"), (4, 1, "1")):
        monkeypatch.setattr("torch.get_num_threads", lambda own=own: own)
        with connected(workers, None):
            how = made.pop()
        assert how["n_workers"] == workers and how["env"]["OMP_NUM_THREADS"] == threads


@pytest.mark.process
def test_a_worker_is_killed(model: ModelOptions, whole: Path, tmp_path: Path) -> None:
    """Of three processes one, by SIGKILL in the middle of its task: another one computes what is missing.

    On a disk, and in an object store.
    """
    armed = tmp_path / "armed"
    options = Options(SEED, compress=BOUNDED, max_batch=2)
    with s3() as bucket, forked_workers(), connected(3, None) as client:
        keys = (("endpoint_url", os.environ["AWS_ENDPOINT_URL"]), ("key", "key"), ("secret", "secret"))
        for output in (tmp_path / STORE, replace(bucket / STORE, options=keys)):
            armed.touch()
            recipe = Recipe(TIMES, model, partial(dying_source, str(armed)), output, options)
            assert len(list(ClusterRun(client, recipe))) == 10
            assert not armed.exists() and (tmp_path / "died").exists()
            (tmp_path / "died").unlink()
        assert objects(bucket / STORE) == contents(whole)
    same(tmp_path / STORE, whole)
