# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The processes of one job, as its launcher numbers them: ``torchrun``, ``srun``, arrays, indexed jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from earth2_corrdiff.base.errors import InputError

MEETING = 180
"""Seconds within which all processes of a group must have started, with their imports."""
OWN_STEPS = 0xFFFFFFF0
"""Slurm's numbers of steps that ``srun`` did not start: interactive shells, batch scripts."""


@dataclass(frozen=True)
class Processes:
    """This process among those of its job.

    Attributes
    ----------
    rank, size : int
        Number of this process, from 0, and the number of processes
    local : int
        Number of this process on its machine, by which it takes a GPU
    attempt : int
        How often the launcher has started the job again
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    attempt: int = 0

    @property
    def first(self) -> bool:
        """True for the process that leads or reports."""
        return self.rank == 0


def launched(environ: Mapping[str, str]) -> Processes:
    """This process as the launcher's environment variables describe it; no messages are sent.

    Parameters
    ----------
    environ : Mapping[str, str]
        With RANK, WORLD_SIZE and LOCAL_RANK of ``torchrun``, or SLURM_PROCID, SLURM_STEP_NUM_TASKS and
        SLURM_LOCALID of ``srun``; without them, and in the shell of an interactive Slurm job, it is a
        single process

    Raises
    ------
    InputError
        If they are not numbers that fit each other
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT")
    if "RANK" not in environ and _in_step(environ):
        # SLURM_NTASKS may be the allocation's; only old versions have nothing else
        tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
        names = ("SLURM_PROCID", tasks, "SLURM_LOCALID", "SLURM_RESTART_COUNT")
    values = [environ.get(name, default) for name, default in zip(names, "0100", strict=True)]
    if not all(value.isdecimal() for value in values) or int(values[0]) >= int(values[1]):
        found = " ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
        raise InputError(f"the environment variables {found} are no launcher's; unset them")
    return Processes(*map(int, values))


def in_array(environ: Mapping[str, str]) -> Processes:
    """This job among those of its array: of Slurm, or of an indexed job of Kubernetes; else a single one.

    Parameters
    ----------
    environ : Mapping[str, str]
        With SLURM_ARRAY_TASK_ID and its MIN, MAX, STEP and COUNT, or with JOB_COMPLETION_INDEX, which
        Kubernetes sets, and JOB_COMPLETIONS, which the manifest has to set

    Raises
    ------
    InputError
        If their number is not known: of an array with gaps, or without JOB_COMPLETIONS
    """
    if "SLURM_ARRAY_TASK_ID" in environ:
        name = "SLURM_ARRAY_TASK_"
        index, first, last = (_number(environ, name + end, 0) for end in ("ID", "MIN", "MAX"))
        step, size = (_number(environ, name + end, 1) for end in ("STEP", "COUNT"))
        if (last - first) // step + 1 != size:
            raise InputError(f"the array {first} to {last} has {size} tasks, with gaps; give --task I/N")
        return _one((index - first) // step, size)
    if "JOB_COMPLETION_INDEX" in environ:
        if "JOB_COMPLETIONS" not in environ:
            raise InputError("JOB_COMPLETIONS is not set; set it to the job's completions, or use --task I/N")
        return _one(_number(environ, "JOB_COMPLETION_INDEX", 0), _number(environ, "JOB_COMPLETIONS", 1))
    return Processes()


def _one(index: int, size: int) -> Processes:
    if not 0 <= index < size:
        raise InputError(f"the launcher's index {index} is not one of {size}; give --task I/N")
    return Processes(index, size)


def _in_step(environ: Mapping[str, str]) -> bool:
    """True if ``srun`` started this process as a task of a step."""
    return "SLURM_STEP_ID" in environ and _number(environ, "SLURM_STEP_ID", 0) < OWN_STEPS


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    """A whole number of the environment, or InputError."""
    text = environ.get(name, str(default))
    if not text.isdecimal():
        raise InputError(f"{name}={text} is not a valid number of the launcher; unset it")
    return int(text)


@contextmanager
def process_group(
    processes: Processes, environ: Mapping[str, str], backend: str, **how: Any
) -> Iterator[None]:
    """The process group of ``torch.distributed``, for the time of the block.

    Parameters
    ----------
    processes, environ : Processes, Mapping[str, str]
        This process, and where the first one is
    backend, how : str, Any
        As ``init_process_group`` takes them

    Raises
    ------
    InputError
        If a process does not come
    """
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    host, port = _address(environ)
    try:
        url, patience = f"tcp://{host}:{port}", timedelta(seconds=MEETING)
        store, rank, size = next(iter(rendezvous(url, processes.rank, processes.size, timeout=patience)))
    except RuntimeError as error:  # of torch.distributed
        raise InputError(
            f"the {processes.size} processes of this job did not meet at {host}:{port} within {MEETING} s; "
            "start all of them with torchrun or srun, or set MASTER_ADDR and MASTER_PORT to the first one's "
            "machine and a free port"
        ) from error
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, **how)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _first_node(nodes: str) -> str:
    """The first host of Slurm's node list, like ``node[03-07,11],other2`` or ``rack[1-2]n[3-4]``."""
    # not by "scontrol show hostnames": containers have Slurm's variables, but rarely its programs
    first = re.match(r"(?:[^\[,]|\[[^\]]*\])+", nodes)
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first[0]) if first else nodes


def _address(environ: Mapping[str, str]) -> tuple[str, int]:
    """Host and port of the first process.

    Raises
    ------
    InputError
        If a number of the launcher is not valid
    """
    host = _first_node(environ.get("SLURM_STEP_NODELIST", "127.0.0.1"))
    job = _number(environ, "SLURM_JOB_ID", 0) + _number(environ, "SLURM_STEP_ID", 0)
    return environ.get("MASTER_ADDR", host), _number(environ, "MASTER_PORT", 15000 + job % 15000)
