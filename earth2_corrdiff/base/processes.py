# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The processes of one job, started by ``torchrun`` or ``srun``: their ranks, messages and progress.

They share their work through the store alone (``claims``). Their few messages go through PyTorch's
``TCPStore``: once that the store is ready, and now and then how many steps were done.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from time import monotonic, sleep
from typing import Any

from earth2_corrdiff.base.errors import InputError

CONTACT = timedelta(minutes=5)
"""Time within which the first process must answer: the launcher starts them at about the same time."""
ARRIVAL = 30
"""Seconds that the first process waits at its end for one that has not even started."""
INTERVAL = 0.5
"""Seconds between two looks."""
MEETING = 180
"""Seconds within which all processes of a training must have started, with their imports."""
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
    board : Any
        A store of ``torch.distributed`` with their messages; None for a single process
    hosts : bool
        True if the board ends with this process
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    attempt: int = 0
    board: Any = None
    hosts: bool = False

    @property
    def first(self) -> bool:
        """True for the process that makes the store and reports for all."""
        return self.rank == 0

    def announce(self, **message: Any) -> None:
        """Leave a message that the store is ready, or why there will be none; the first message counts."""
        if self.board is not None:
            self.board.compare_set("message", "", json.dumps(message))

    def message(self) -> dict[str, Any]:
        """Wait for the message of the first process.

        Raises
        ------
        InputError
            If it has gone
        """
        try:
            while not self.board.check(["message"]):
                sleep(INTERVAL)
            found: dict[str, Any] = json.loads(self.board.get("message"))
            self.board.set(f"read/{self.rank}", "")
        except RuntimeError as error:  # of torch.distributed, for a connection that is lost
            raise InputError("the first process of this job has ended; see its message") from error
        return found

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Announce an InputError of the first process to the others."""
        try:
            yield
        except InputError as error:
            if self.first:
                self.announce(refused=str(error))
                self.leave()
            raise

    def leave(self) -> None:
        """End; the process that holds the board first waits until all others have read it."""
        if self.hosts:
            self.arrived(ARRIVAL)

    def arrived(self, patience: float) -> bool:
        """True if all others have read the first process's message within so many seconds."""
        end, others = monotonic() + patience, [f"read/{rank}" for rank in range(1, self.size)]
        while not self.board.check(others):
            if monotonic() > end:
                return False
            sleep(INTERVAL)
        return True


class Steps:
    """Denoising steps of all processes: each adds its own now and then; the first one shows the sum.

    Parameters
    ----------
    processes : Processes
        This process among those of its job
    show : Callable[[int], None]
        Called with the number of steps just done, by all
    """

    def __init__(self, processes: Processes, show: Callable[[int], None]) -> None:
        self._board, self._show = processes.board, show
        self._own, self._shown, self._next = 0, 0, 0.0

    def __call__(self, steps: int) -> None:
        """Note steps of this process."""
        self._own += steps
        if monotonic() >= self._next:
            self.exchange()

    def exchange(self) -> None:
        """Add this process's steps to those of all, and show what is new."""
        total = self._shown + self._own
        if self._board is not None:
            try:
                total = self._board.add("steps", self._own)
            except RuntimeError:  # the first process has ended
                self._board = None
        self._show(total - self._shown)
        self._own, self._shown, self._next = 0, total, monotonic() + INTERVAL


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
    rank, size, local, attempt = map(int, values)
    return Processes(rank, size, local, attempt)


def _in_step(environ: Mapping[str, str]) -> bool:
    """True if ``srun`` started this process as a task of a step."""
    return "SLURM_STEP_ID" in environ and _number(environ, "SLURM_STEP_ID", 0) < OWN_STEPS


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    """A whole number of the environment, or InputError."""
    text = environ.get(name, str(default))
    if not text.isdecimal():
        raise InputError(f"{name}={text} is not a valid number of the launcher; unset it")
    return int(text)


def meet(processes: Processes, environ: Mapping[str, str]) -> Processes:
    """The same process, with a board for the messages of the job.

    Raises
    ------
    InputError
        If the first process does not answer
    """
    if processes.size == 1:
        return processes
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    host, port = _address(environ)
    hosted = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    server = processes.first and not hosted
    try:
        store = TCPStore(host, port, is_master=server, timeout=CONTACT, wait_for_workers=False)
    except RuntimeError as error:
        raise InputError(
            f"the processes of this job cannot meet at {host}:{port}; set MASTER_ADDR and MASTER_PORT to the "
            "first one's machine and a free port"
        ) from error
    return replace(processes, board=PrefixStore(f"corrdiff-{processes.attempt}", store), hosts=server)


def gather(processes: Processes) -> None:
    """Wait until all processes have met.

    Raises
    ------
    InputError
        If one does not come, or the first one has ended
    """
    here = [f"here/{rank}" for rank in range(processes.size)]
    end = monotonic() + MEETING
    try:
        processes.board.set(here[processes.rank], "")
        while not processes.board.check(here):
            if monotonic() > end:
                absent = [str(rank) for rank, key in enumerate(here) if not processes.board.check([key])]
                raise InputError(
                    f"of {processes.size} processes number {', '.join(absent)} did not come within "
                    f"{MEETING} s; start all of them with torchrun or srun"
                )
            sleep(INTERVAL)
    except RuntimeError as error:  # of torch.distributed, for a connection that is lost
        raise InputError("the first process of this job has ended; see its message") from error


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
