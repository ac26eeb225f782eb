# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Trainings that Slurm starts: by ``srun``, in an interactive shell, with a process that is missing."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from training_kit import write_config, write_pairs
from training_processes import THREADS, finish, start

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.processes import Processes, process_group

SHORT = {"regression__steps": 2, "diffusion__steps": 2}
INTERACTIVE = str(0xFFFFFFFA)  # Slurm's number of the step that an interactive shell is


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.zarr")


def free_job() -> int:
    """A job whose port is free."""
    for job in range(7, 15000, 41):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", 15000 + job)) != 0:
                return job
    raise AssertionError("no free port")


def task(rank: int, tasks: int, job: int, **more: str) -> dict[str, str]:
    """The environment that ``srun`` gives one of its tasks, in an allocation of four; no MASTER_ADDR."""
    return {
        "SLURM_JOB_ID": str(job),
        "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": "4",
        "SLURM_STEP_NUM_TASKS": str(tasks),
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "SLURM_STEP_NODELIST": "127.0.0.1",
        **more,
    }


@pytest.mark.process
def test_tasks_of_srun_train_together(tmp_path: Path, pairs: Path) -> None:
    config, job = write_config(tmp_path, pairs, **SHORT), free_job()
    said = [tmp_path / f"said-{rank}.txt" for rank in range(2)]
    argv = [str(config), *THREADS]
    started = [start(text, argv, task(rank, 2, job)) for rank, text in enumerate(said)]
    statuses = [finish(process) for process in started]
    texts = [text.read_text() for text in said]
    assert statuses == [0, 0], texts
    assert "the package is in" in texts[0] and texts[1] == ""
    assert (tmp_path / "package" / "diffusion.mdlus").exists()


@pytest.mark.process
@pytest.mark.parametrize("number", ["0", INTERACTIVE])
def test_one_process_in_a_shell_of_a_larger_allocation(tmp_path: Path, pairs: Path, number: str) -> None:
    """``srun --pty bash``, and the interactive step of ``salloc``: alone, whatever the allocation has."""
    told = tmp_path / "said.txt"
    argv = [str(write_config(tmp_path, pairs, **SHORT)), *THREADS]
    status = finish(start(told, argv, task(0, 1, 4711, SLURM_STEP_ID=number)))
    assert status == 0 and "the package is in" in told.read_text(), told.read_text()


@pytest.mark.slow
def test_a_task_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("earth2_corrdiff.base.processes.MEETING", 1)
    with (
        pytest.raises(
            InputError, match=r"the 3 processes of this job did not meet at .* within 1 s; start all"
        ),
        process_group(Processes(0, 3), task(0, 3, free_job()), "gloo"),
    ):
        raise AssertionError("they met")
