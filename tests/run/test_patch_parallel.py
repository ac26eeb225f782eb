# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Several processes share the patches of each member: the fields of one process, whoever dies."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from rank_kit import Hook, Outcome, job
from run_kit import TIMES, refused, weather_file
from tiny import make_downscaler, small_package, weather

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.processes import Processes
from earth2_corrdiff.run import patch_parallel

pytestmark = pytest.mark.slow

STORE, DOMAIN = "run.zarr", (24, 36)
CUT = ("--patch", "12x16", "--overlap", 2, "--boundary", 1)


@pytest.fixture(scope="module")
def argv(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """Two times, two members, two steps of Heun's method, nine patches."""
    package = small_package(tmp_path_factory.mktemp("package"), DOMAIN, bent=False)
    options = ("--source", "demo", "--samples", 2, "--seed", 3, "--output", STORE, "--device", "cpu")
    return (*TIMES, "--package", package, *options, "--precision", "fp32", *CUT)


@pytest.fixture(scope="module")
def whole(argv: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of one process."""
    folder = tmp_path_factory.mktemp("whole")
    (only,) = job(folder, 1, *argv)
    assert only.status == 0 and len(only.wrote) == 4
    return folder / STORE


def agree(store: Path, other: Path) -> None:
    """Two stores have the same fields to rounding, and say the same of themselves."""
    ours, theirs = xr.open_zarr(store), xr.open_zarr(other)
    assert {k: v for k, v in ours.attrs.items() if k != "command"} == {
        k: v for k, v in theirs.attrs.items() if k != "command"
    }
    np.testing.assert_array_equal(ours.member_seed, theirs.member_seed)
    for name in ("t2m", "mrr"):
        a, b = ours[name].values.astype(np.float64), theirs[name].values.astype(np.float64)
        assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(b) and np.isfinite(b).all()


def ended(outcomes: list[Outcome], *statuses: int) -> None:
    assert [outcome.status for outcome in outcomes] == list(statuses), outcomes
    for outcome in outcomes:
        assert "Traceback" not in outcome.err


@pytest.mark.process
def test_the_fields_of_one_process(argv: tuple[object, ...], whole: Path, tmp_path: Path) -> None:
    """The first process says and writes all; the others say nothing."""
    first, *others = job(tmp_path, 3, *argv, "--shard-patches")
    ended([first, *others], 0, 0, 0)
    agree(tmp_path / STORE, whole)
    assert len(first.wrote) == 4 and first.out.startswith(f"wrote {STORE}: 2 times x 2 members of ")
    assert "on cpu, 3 processes\n" in first.err and "12/12" in first.err
    for other in others:
        assert other.out == other.err == "" and not other.wrote
    assert {path.name for path in tmp_path.iterdir()} == {STORE}


@pytest.mark.process
@pytest.mark.parametrize(("world", "dies"), [(3, 2), (2, 0)])
def test_a_process_is_killed(
    argv: tuple[object, ...], whole: Path, tmp_path: Path, world: int, dies: int
) -> None:
    """The others end with a sentence, and the store goes on with any number of processes."""
    hooks = {dies: Hook(die_at=2) if dies == 0 else Hook(die_sum=8)}
    outcomes = job(tmp_path, world, *argv, "--shard-patches", hooks=hooks)
    assert outcomes[dies].status == -signal.SIGKILL
    for rank, outcome in enumerate(outcomes):
        if rank != dies:
            assert outcome.status == 2 and "Traceback" not in outcome.err, outcome
            assert "process of this job has ended; see its message" in outcome.err.splitlines()[-1]
    if dies:
        assert f"{STORE} keeps what is done; go on with --resume" in outcomes[0].err
    seeds = xr.open_zarr(tmp_path / STORE).member_seed.values
    assert 0 < (seeds == -1).sum() < 4
    again = job(tmp_path, 2, *argv, "--shard-patches", "--resume")
    ended(again, 0, 0)
    assert len(again[0].wrote) == (seeds == -1).sum()
    agree(tmp_path / STORE, whole)


@pytest.mark.process
def test_cases_that_fail_are_left_out(argv: tuple[object, ...], tmp_path: Path) -> None:
    """``--keep-going`` is the first process's affair: the others never see such a case."""
    path = weather_file(tmp_path / "weather.nc")
    ds = xr.load_dataset(path)
    ds["t2m"][0] = np.nan
    ds.to_netcdf(path)
    first, second = job(tmp_path, 2, *argv, "--source", f"file:{path}", "--keep-going", "--shard-patches")
    ended([first, second], 3, 0)
    assert "failed: 2024-07-24T12:00" in first.err and first.wrote == ["1/0", "1/1"] and second.err == ""


@pytest.mark.process
def test_what_is_refused(argv: tuple[object, ...], tmp_path: Path) -> None:
    for options, words in (
        (("--patch", "none"), "--overlap and --boundary go with patches"),
        (
            ("--patch", "24x36", "--overlap", 0),
            "--shard-patches: the denoiser sees the domain in one piece; give",
        ),
    ):
        first, second = job(tmp_path, 2, *argv, *options, "--shard-patches")
        ended([first, second], 2, 2)
        assert words in first.err and first.err.count("\n") == 1 and second.err.count("\n") == 1
    (tmp_path / STORE).mkdir()
    first, second = job(tmp_path, 2, *argv, "--shard-patches")
    ended([first, second], 2, 2)
    assert "is not a store of a run" in first.err and "is not a store of a run" in second.err


def test_one_process_has_nobody_to_share_with(
    argv: tuple[object, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    assert "this is the only one" in refused(capfd, *argv, "--shard-patches")


def test_more_processes_than_patches(argv: tuple[object, ...]) -> None:
    from earth2_corrdiff.base.errors import InputError
    from earth2_corrdiff.run.patch_parallel import check_shares

    check_shares(4, 4)
    with pytest.raises(InputError, match="5 processes cannot share 4 patches; start 4 at most"):
        check_shares(4, 5)


def test_a_sampling_of_a_call_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other processes would sample as the model does, and other fields would be summed."""
    model = make_downscaler()
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(patch_parallel, "_sharing", lambda processes, downscaler: downscaler)
    monkeypatch.setattr(patch_parallel, "_broadcast", sent.append)
    monkeypatch.setattr(patch_parallel, "_total", lambda x: x)
    with patch_parallel.lead(Processes(), model) as members:
        with pytest.raises(InputError, match="sampling of a call"):
            members(weather(1), [1], sampling=replace(model.sampling, steps=model.sampling.steps + 1))
        assert sent == []
        assert len(list(members(weather(1), [1], sampling=model.sampling))) == len(sent) == 1
