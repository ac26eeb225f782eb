# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Sizes of a run: judged before the work, said where they are large, and counted right."""

from __future__ import annotations

import os
import shutil
import time
from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from earth2studio.io import XarrayBackend, ZarrBackend
from loguru import logger
from run_kit import TIMES, Weather, contents, load

from earth2_corrdiff import InputError, downscale
from earth2_corrdiff.base.times import to_leads
from earth2_corrdiff.cli.plot import parse_samples
from earth2_corrdiff.model.spec import MOST_STEPS, Sampling
from earth2_corrdiff.run.downscaling import Downscaling, Options
from earth2_corrdiff.sources import make_forecast
from earth2_corrdiff.store.error_bounds import Compression
from earth2_corrdiff.store.sizes import Size, check_memory, size_text

H, W = 16, 24
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three inputs on 6 x 8 points, two outputs on 16 x 24."""
    return tiny.make_package(tmp_path_factory.mktemp("package"))


@pytest.fixture
def lines() -> Iterator[list[str]]:
    found: list[str] = []
    handle = logger.add(found.append, level="INFO", format="{message}")
    yield found
    logger.remove(handle)


def disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2 * free, free, free))


@pytest.mark.slow
def test_numbers_by_hand(package: Path, tmp_path: Path) -> None:
    """Two times of three members: what the store then holds is what was counted."""
    model = load(package, number_of_samples=3)
    run = Downscaling(TIMES, model, Weather(), tmp_path / "run.zarr")
    size = run.product.size(run.members)
    h, w = model.spec.input_grid.shape
    assert (size.cases, size.members, size.points) == (2, 6, H * W)
    assert size.bytes == 4 * (6 * 2 * H * W + 2 * 3 * h * w)
    assert size.files == 6 * (2 + 1) + 2 * 3 and size.evaluations == run.evaluations
    list(run)
    constant = ("lat", "lon", "ilat", "ilon", "time", "sample", "orography")
    chunks = {name for name in contents(tmp_path / "run.zarr") if "/c/" in name}
    assert sum(not name.startswith(constant) for name in chunks) == size.files


@pytest.mark.slow
def test_a_store_that_cannot_fit_its_disk_is_refused(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    """By what its bytes can be compressed to at best; nothing is fetched, computed or made."""
    source, model = Weather(), load(package, number_of_samples=1000)
    bytes_ = Downscaling(TIMES, model, source, tmp_path / "run.zarr").product.size(2000).bytes
    disk(monkeypatch, bytes_ // 5)
    for where in (tmp_path / "run.zarr", tmp_path / "deep/er/run.zarr"):
        with pytest.raises(
            InputError, match=r"run.zarr needs 1.54 MB at least \(2 cases, 2000 members, .* as"
        ):
            iter(Downscaling(TIMES, model, source, where))
    assert not source.asked and not list(tmp_path.iterdir())
    bounded = Options(compress=Compression(defaults=True))
    iter(Downscaling(TIMES, model, source, tmp_path / "run.zarr", bounded))  # takes less
    assert lines == []


@pytest.mark.slow
def test_a_resumed_run_needs_room_for_what_is_missing(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(package, number_of_samples=8)
    run = Downscaling(TIMES, model, Weather(), tmp_path / "run.zarr", Options(1))
    members = iter(run)
    for _ in range(15):
        next(members)
    members.close()  # type: ignore[attr-defined]
    disk(monkeypatch, run.product.size(16).stored // 2)
    with pytest.raises(InputError, match="free on its disk"):
        iter(Downscaling(TIMES, model, Weather(), tmp_path / "other.zarr", Options(1)))
    rest = Downscaling(TIMES, model, Weather(), tmp_path / "run.zarr", Options(1, resume=True))
    assert len(list(rest)) == 1


def test_a_disk_takes_so_many_files(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = os.statvfs(tmp_path)
    few = os.statvfs_result((*about[:5], 1000, 100, 50, *about[8:]))
    monkeypatch.setattr(os, "statvfs", lambda path: few)
    with pytest.raises(InputError, match="needs 66 files .* its disk takes 50 more"):
        iter(Downscaling(TIMES, load(package, number_of_samples=10), Weather(), tmp_path / "run.zarr"))


@pytest.mark.parametrize("samples", [10**9, 10**15, 10**30])
def test_members_that_cannot_be_counted(package: Path, tmp_path: Path, samples: int) -> None:
    """Refused at once, whatever the machine: nothing as long as the members is made."""
    start = time.monotonic()
    with pytest.raises(InputError, match=f"2 cases with {2 * samples} members need .*|the store .* needs "):
        model = load(package, number_of_samples=samples)
        iter(Downscaling(TIMES, model, Weather(), tmp_path / "run.zarr"))
    assert time.monotonic() - start < 20 and not list(tmp_path.iterdir())


def test_memory_of_one_member() -> None:
    size = Size(1, 1, 6, outputs=4, coarse=12, points=10**10, coarse_points=100, channels=14)
    with pytest.raises(InputError, match="one member on 10000000000 points needs 1.04 TB of memory at least"):
        check_memory(size, 10**12, "cuda:0", 80 * 10**9)
    check_memory(replace(size, points=10**8), 10**12, "cuda:0", 80 * 10**9)


@pytest.mark.parametrize("backend", [lambda: ZarrBackend(), lambda: XarrayBackend(OrderedDict())])
def test_backends_in_memory(package: Path, monkeypatch: pytest.MonkeyPatch, backend: Any) -> None:
    monkeypatch.setattr("earth2_corrdiff.store.target.free_bytes", lambda device: 10**5)
    with pytest.raises(InputError, match="the fields need 30.7 MB of memory, and 100 kB are free"):
        downscale(TIMES, load(package, number_of_samples=5000), Weather(), backend())


@pytest.mark.slow
def test_what_is_large_says_its_size_and_goes_on(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    disk(monkeypatch, 10**12)
    model = load(package, number_of_samples=1)
    members = iter(Downscaling("2024-01-01T00/2024-03-01T00/1h", model, Weather(), tmp_path / "run.zarr"))
    assert len(lines) == 1 and lines[0].startswith("a large run: 1441 cases, 1441 members, ")
    assert lines[0].endswith(" MB as float32, 1 TB free\n")
    assert next(members)[1] == 0


def test_steps(package: Path) -> None:
    assert Sampling("euler", MOST_STEPS).calls == MOST_STEPS
    for steps in (MOST_STEPS + 1, 10**12):
        with pytest.raises(InputError, match=f"the number of steps must be 10000 or less, got {steps}"):
            load(package).number_of_steps = steps


@pytest.mark.slow
def test_many_lead_times_take_no_time(package: Path, tmp_path: Path) -> None:
    """As many as hours in eight years, which took 37 s; half as many take half as long."""
    start = time.monotonic()
    leads = to_leads("0/72000/1h")
    assert time.monotonic() - start < 5
    assert len(leads) == 72001 and leads[-1] == np.timedelta64(72000, "h")
    assert len(make_forecast("demo_fx").cases(TIMES, leads)) == 2 * 72001
    for text, says in (("3,6,0/12/6h", "6 h is given twice"), ("9,3,9", "9 h is given twice")):
        with pytest.raises(InputError, match=says):
            to_leads(text)
    with pytest.raises(InputError, match="must not be negative, got -3 h"):
        to_leads("6,-3,-4")


def test_members_to_plot_are_no_endless_list() -> None:
    with pytest.raises(InputError, match="--samples takes members like"):
        parse_samples(["0-99999999999"])


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 kB"), (1500, "1.5 kB"), (999_600, "1 MB"), (12_345_678_901, "12.3 GB"), (2e30, "2e+12 EB")],
)
def test_size_in_words(number: float, text: str) -> None:
    assert size_text(number) == text
