# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Several processes fill one store: the same bytes as from one, whoever does what, and whoever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import xarray as xr
from rank_kit import Hook, Outcome, at_work, finish, free_port, job, start
from run_kit import ROOT, TIMES, Weather, contents, load, same
from tiny import small_package

from earth2_corrdiff import InputError, downscale
from earth2_corrdiff.base.processes import Processes, Steps, launched, meet
from earth2_corrdiff.run.downscaling import Options
from earth2_corrdiff.run.share import Share
from earth2_corrdiff.store.claims import Claims

STORE = "run.zarr"


@pytest.fixture(scope="module")
def argv(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """Two times, five members, two steps of Heun's method."""
    package = small_package(tmp_path_factory.mktemp("package"))
    options = ("--source", "demo", "--samples", 5, "--seed", 3, "--output", STORE, "--device", "cpu")
    return (*TIMES, "--package", package, *options)


@pytest.fixture(scope="module")
def whole(argv: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of one process."""
    folder = tmp_path_factory.mktemp("whole")
    (only,) = job(folder, 1, *argv)
    assert only.status == 0 and len(only.wrote) == 10
    return folder / STORE


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where a test's processes work; nothing but the store is left there."""
    yield tmp_path
    assert {path.name for path in tmp_path.iterdir()} <= {STORE, "died", "waits", "second"}


def ended(outcomes: list[Outcome], *statuses: int) -> None:
    assert [outcome.status for outcome in outcomes] == list(statuses), outcomes
    for outcome in outcomes:
        assert "Traceback" not in outcome.err


@pytest.mark.process
def test_two_processes_share_a_run(argv: tuple[object, ...], whole: Path, folder: Path) -> None:
    """One says all there is to say; each does its part, and none what the other has done."""
    hooks = {0: Hook(wait_at=2, until="second"), 1: Hook(wait_at=1, until=STORE, waits="second")}
    first, second = job(folder, 2, *argv, hooks=hooks)
    ended([first, second], 0, 0)
    same(folder / STORE, whole)
    assert first.wrote and second.wrote
    assert sorted(first.wrote + second.wrote) == sorted(f"{t}/{i}" for t in range(2) for i in range(5))
    assert first.out.startswith(f"wrote {STORE}: 2 times x 5 members of ") and first.out.count("\n") == 1
    assert "on cpu, 2 processes\n" in first.err and "30/30" in first.err
    assert second.out == "" and second.err == ""


@pytest.mark.process
@pytest.mark.parametrize(("world", "dies"), [(3, 2), (2, 0)])
def test_a_process_is_killed(
    argv: tuple[object, ...], whole: Path, folder: Path, world: int, dies: int
) -> None:
    """The others end; what is left is done by those that live, or by a resumed run of another size."""
    others = {rank: Hook(wait_at=2) for rank in range(world) if rank != dies}
    if dies == 0:  # once the other one has come: before, it has nobody to go on from
        others[1] = Hook(wait_at=1, waits="second")
    doomed = Hook(die_at=2) if dies else Hook(die_at=2, wait_at=2, until="second")
    outcomes = job(folder, world, *argv, hooks={dies: doomed, **others})
    assert outcomes[dies].status == -signal.SIGKILL
    for rank in others:
        assert outcomes[rank].status == 0, outcomes[rank].err
    seeds = xr.open_zarr(folder / STORE).member_seed.values
    if dies:  # the first process goes on until nothing is missing
        assert (seeds != -1).all()
    again = job(folder, 3, *argv, "--resume")
    ended(again, 0, 0, 0)
    assert sum(len(outcome.wrote) for outcome in again) == (seeds == -1).sum()
    same(folder / STORE, whole)


@pytest.mark.process
def test_all_are_killed(argv: tuple[object, ...], whole: Path, folder: Path) -> None:
    """As when a launcher ends all processes because one has died; then one goes on, then two."""
    hooks = {0: Hook(die_at=3, wait_at=2), 1: Hook(die_at=1), 2: Hook(die_at=2)}
    outcomes = job(folder, 3, *argv, hooks=hooks)
    assert [outcome.status for outcome in outcomes[:2]] == [-signal.SIGKILL] * 2
    assert outcomes[2].status == -signal.SIGKILL or "first process of this job has ended" in outcomes[2].err
    (alone,) = job(folder, 1, *argv, "--resume", hooks={0: Hook(die_at=3)})
    assert alone.status == -signal.SIGKILL
    ended(job(folder, 2, *argv, "--resume"), 0, 0)
    same(folder / STORE, whole)


@pytest.mark.process
def test_independent_jobs_fill_one_store(argv: tuple[object, ...], whole: Path, folder: Path) -> None:
    """Three shells with ``--resume``: no member is done twice, and all end when the store is complete."""
    (killed,) = job(folder, 1, *argv, hooks={0: Hook(die_at=2)})
    jobs = [start(folder, {}, (*argv, "--resume")) for _ in range(3)]
    outcomes = [finish(process) for process in jobs]
    ended(outcomes, 0, 0, 0)
    same(folder / STORE, whole)
    wrote = [member for outcome in outcomes for member in outcome.wrote]
    assert len(wrote) == len(set(wrote)) == 10 - len(killed.wrote)
    assert all(STORE in outcome.out and "30/30" in outcome.err for outcome in outcomes)


@pytest.mark.process
def test_a_store_at_work_is_not_replaced(argv: tuple[object, ...], whole: Path, folder: Path) -> None:
    with at_work(folder, *argv):
        before = contents(folder / STORE)
        partial = folder / STORE / "t2m/c/.half.partial"
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(b"somebody is writing this")
        (other,) = job(folder, 1, *argv, "--overwrite")
        assert other.status == 2 and f"another process is writing {STORE}; join it with" in other.err
        assert partial.exists() and contents(folder / STORE).items() >= before.items()
        partial.unlink()
    same(folder / STORE, whole)


@pytest.mark.process
def test_what_is_refused_is_said_once(argv: tuple[object, ...], folder: Path) -> None:
    """Bad options, bad times, an output that is there: one line, from the first process."""
    for wrong, says in (
        (("--steps", "0"), "--steps must be 1 or more"),
        (("--source", "gfs:none"), "none is not one"),
    ):
        first, second = job(folder, 2, *argv, *wrong)
        ended([first, second], 2, 2)
        assert says in first.err and first.err.count("\n") == 1 and second.out + second.err == ""
    (folder / STORE).mkdir()
    first, second = job(folder, 2, *argv)
    ended([first, second], 2, 2)
    assert "is not a store of a run" in first.err and second.err == ""


@pytest.mark.process
def test_a_job_that_is_started_again_goes_on(argv: tuple[object, ...], whole: Path, folder: Path) -> None:
    """As ``torchrun --max-restarts`` does it: with the same options, and the count in the environment."""
    (killed,) = job(folder, 1, *argv, hooks={0: Hook(die_at=4)})
    assert killed.status == -signal.SIGKILL
    again = finish(start(folder, {"TORCHELASTIC_RESTART_COUNT": "1"}, (*argv, "--overwrite")))
    assert again.status == 0 and again.out.startswith(f"completed {STORE} (7 of 10 members were missing)")
    same(folder / STORE, whole)


@pytest.mark.process
def test_the_example(tmp_path: Path) -> None:
    """As a user starts it, with ``torchrun``: a forecast of the demo, with coarse members."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    words = ["bash", str(ROOT / "examples/two_processes.sh"), STORE]
    environ = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        words, cwd=folders[1], env=environ, capture_output=True, text=True, timeout=300, check=True
    )
    assert f"wrote {STORE}: 1 forecast x 3 lead times x 2 coarse members x 3 members of" in done.stdout
    assert "0 days 12:00:00" in done.stdout
    command = xr.open_zarr(folders[1] / STORE).attrs["command"].split()[1:]
    (alone,) = job(folders[0], 1, *command)
    assert alone.status == 0
    same(folders[1] / STORE, folders[0] / STORE)


# the parts


def test_what_launchers_say() -> None:
    assert launched({}) == Processes()
    torchrun = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "TORCHELASTIC_RESTART_COUNT": "2"}
    assert launched(torchrun) == Processes(3, 8, 1, 2)
    slurm = {"SLURM_PROCID": "5", "SLURM_NTASKS": "6", "SLURM_LOCALID": "1"}
    assert launched({**slurm, "SLURM_STEP_ID": "0"}) == Processes(5, 6, 1)
    assert launched(slurm) == Processes()  # in a batch script, but not started by srun
    assert launched({**slurm, "SLURM_STEP_ID": "0", **torchrun}) == Processes(3, 8, 1, 2)
    step = {**slurm, "SLURM_STEP_ID": "3", "SLURM_STEP_NUM_TASKS": "8"}  # of an allocation of 6
    assert launched(step) == Processes(5, 8, 1)
    assert launched({**step, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}) == Processes(0, 1, 1)
    for shell in ("4294967290", "4294967291"):  # the interactive step, the batch script
        assert launched({**slurm, "SLURM_STEP_ID": shell}) == Processes()
    with pytest.raises(InputError, match="SLURM_STEP_ID=x is not a valid number of the launcher; unset it"):
        launched({**slurm, "SLURM_STEP_ID": "x"})
    for wrong in ({"RANK": "x"}, {"RANK": "2", "WORLD_SIZE": "2"}, {"WORLD_SIZE": "0"}):
        with pytest.raises(InputError, match="are no launcher's; unset them"):
            launched(wrong)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("node7", "node7"), ("node[03-07,11],x2", "node03"), ("a-1,b-2", "a-1"), ("gpu[5,7]", "gpu5")]
    + [("rack[1-2]n[03-04].example", "rack1n03.example"), ("r[1,2]n7,x", "r1n7")],
)
def test_where_the_processes_of_srun_meet(nodes: str, host: str) -> None:
    from earth2_corrdiff.base.processes import _address

    environ = {"SLURM_STEP_NODELIST": nodes, "SLURM_JOB_ID": "123456", "SLURM_STEP_ID": "2"}
    assert _address(environ) == (host, 15000 + 123458 % 15000)
    assert _address({**environ, "MASTER_ADDR": "here", "MASTER_PORT": "29500"}) == ("here", 29500)
    with pytest.raises(InputError, match="MASTER_PORT=http is not a valid number"):
        _address({**environ, "MASTER_PORT": "http"})


def test_steps_of_all_processes_add_up() -> None:
    environ = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    first, second = meet(Processes(0, 2), environ), meet(Processes(1, 2), environ)
    shown: list[int] = []
    of_first, of_second = Steps(first, shown.append), Steps(second, lambda steps: None)
    for _ in range(5):
        of_first(2)
        of_second(3)
    of_second.exchange()
    of_first.exchange()
    assert sum(shown) == 25
    first.announce(seed=7)
    first.announce(refused="too late")
    assert second.message() == {"seed": 7}
    first.leave()


def test_the_first_process_has_gone() -> None:
    environ = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    first, second = meet(Processes(0, 2), environ), meet(Processes(1, 2), environ)
    object.__setattr__(first, "board", None)  # its server ends with it
    with pytest.raises(InputError, match="the first process of this job has ended"):
        second.message()
    Steps(second, lambda steps: None)(1)  # nobody looks, nothing happens


@pytest.mark.slow
def test_nobody_to_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import timedelta

    monkeypatch.setattr("earth2_corrdiff.base.processes.CONTACT", timedelta(seconds=1))
    environ = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with pytest.raises(InputError, match="cannot meet at 127.0.0.1:.*; set MASTER_ADDR and MASTER_PORT"):
        meet(Processes(1, 2), environ)


@pytest.mark.slow
def test_only_a_store_on_disk_is_shared(argv: tuple[object, ...]) -> None:
    from earth2studio.io import XarrayBackend

    with pytest.raises(InputError, match="several processes share a Zarr store on disk alone"):
        options = Options(processes=Processes(0, 2))
        downscale(TIMES, load(argv[3]), Weather(), XarrayBackend(), options=options)  # type: ignore[arg-type]


def test_claims_come_and_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with Claims(path) as claims:
        assert claims.alone and path.exists() and claims.take(3) and claims.take(3)
        claims.share()
        assert not claims.alone
        claims.drop(3)
    assert not path.exists()
    claims.close()  # again: nothing


def test_without_locks_everything_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from loguru import logger

    def no_locks(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    lines: list[str] = []
    handle = logger.add(lines.append, level="WARNING", format="{message}")
    monkeypatch.setattr("fcntl.lockf", no_locks)
    with Claims(tmp_path / "lock") as claims:
        assert claims.alone and claims.take(1)
    logger.remove(handle)
    assert lines == [f"no locks at {tmp_path}: several processes may do the same work\n"]


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize(("cases", "members", "batch"), [(1, 5, 1), (1, 64, 4), (3, 4, 1), (40, 2, 2)])
def test_shares_cover_everything(world: int, cases: int, members: int, batch: int) -> None:
    """Alone each process would do all; the parts that they begin with are disjoint and of about one size."""
    every = [list(range(members)) for _ in range(cases)]
    every[0] = every[0][1:]  # something is there already
    shares = [Share(lambda case: every[case], members, None, Processes(rank, world)) for rank in range(world)]
    for share in shares:
        done = [(case, i) for case, block in share.of(every, batch) for i in block]  # type: ignore[misc]
        assert sorted(done) == [(case, i) for case, block in enumerate(every) for i in block]
    pieces = shares[0]._pieces(every, batch)
    assert sum(piece.count for piece in pieces) == sum(map(len, every))
    sizes = [sum(piece.count for piece in pieces[rank::world]) for rank in range(world)]
    assert max(sizes) - min(sizes) <= 2 * max(piece.count for piece in pieces)
    assert world == 1 or len(pieces) >= min(2 * world, sum(-(-len(block) // batch) for block in every))
