# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The processes of one job, started by ``torchrun`` or ``srun``: who is first, what it says, how far all are.

They share their work through the store alone (``claims``). What they say to each other goes through
PyTorch's ``TCPStore``: once that the store is ready, and now and then how many steps were done.
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

from earth2_corrdiff.errors import InputError

CONTACT = timedelta(minutes=5)
"""Until the first process must have answered: the launcher starts them at about the same time."""
ARRIVAL = 30
"""Seconds that the first process waits at its end for one that has not even started."""
INTERVAL = 0.5
"""Seconds between two looks."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of its job.

    Attributes
    ----------
    rank, world : int
        Number of this process, from 0, and how many there are
    local : int
        Number of this process on its machine: which GPU it takes
    attempt : int
        How often the launcher has started the job again
    board : Any
        Where they leave messages: a store of ``torch.distributed``; None for a single process
    hosts : bool
        Whether the board ends with this process
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    attempt: int = 0
    board: Any = None
    hosts: bool = False

    @property
    def first(self) -> bool:
        """Whether this process makes the store and speaks for all."""
        return self.rank == 0

    def tell(self, **said: Any) -> None:
        """Tell the others that the store is ready, or why there will be none; the first word counts."""
        if self.board is not None:
            self.board.compare_set("said", "", json.dumps(said))

    def hear(self) -> dict[str, Any]:
        """Wait for what the first process tells.

        Raises
        ------
        InputError
            If it has gone
        """
        try:
            while not self.board.check(["said"]):
                sleep(INTERVAL)
            said: dict[str, Any] = json.loads(self.board.get("said"))
            self.board.set(f"heard/{self.rank}", "")
        except RuntimeError as error:  # of torch.distributed, for a connection that is lost
            raise InputError("the first process of this job has ended; see what it said") from error
        return said

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """What the first process is refused, it tells the others."""
        try:
            yield
        except InputError as error:
            if self.first:
                self.tell(refused=str(error))
                self.leave()
            raise

    def leave(self) -> None:
        """The end; whoever holds the board first waits until all others have read it."""
        if self.hosts:
            self.arrived(ARRIVAL)

    def arrived(self, patience: float) -> bool:
        """Whether all others have heard the first process, within so many seconds."""
        end, others = monotonic() + patience, [f"heard/{rank}" for rank in range(1, self.world)]
        while not self.board.check(others):
            if monotonic() > end:
                return False
            sleep(INTERVAL)
        return True


class Steps:
    """Steps of all processes: each adds its own now and then; the first one shows the sum.

    Parameters
    ----------
    ranks : Ranks
        The processes
    show : Callable[[int], None]
        Called with the number of steps just done, by all
    """

    def __init__(self, ranks: Ranks, show: Callable[[int], None]) -> None:
        self._board, self._show = ranks.board, show
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
            except RuntimeError:  # the first process has gone: nobody looks any more
                self._board = None
        self._show(total - self._shown)
        self._own, self._shown, self._next = 0, total, monotonic() + INTERVAL


def launched(environ: Mapping[str, str]) -> Ranks:
    """This process as the launcher's environment variables describe it; nobody is spoken to.

    Parameters
    ----------
    environ : Mapping[str, str]
        With RANK, WORLD_SIZE and LOCAL_RANK of ``torchrun``, or SLURM_PROCID, SLURM_NTASKS and
        SLURM_LOCALID of ``srun``; without them it is a single process

    Raises
    ------
    InputError
        If they are no numbers that fit
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT")
    if "SLURM_STEP_ID" in environ and "RANK" not in environ:
        names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_RESTART_COUNT")
    values = [environ.get(name, default) for name, default in zip(names, "0100", strict=True)]
    if not all(value.isdecimal() for value in values) or int(values[0]) >= int(values[1]):
        said = " ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
        raise InputError(f"the environment variables {said} are no launcher's; unset them")
    rank, world, local, attempt = map(int, values)
    return Ranks(rank, world, local, attempt)


def meet(ranks: Ranks, environ: Mapping[str, str]) -> Ranks:
    """The same process, with a board where the processes of the job leave messages.

    Raises
    ------
    InputError
        If the first process does not answer
    """
    if ranks.world == 1:
        return ranks
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    host, port = _address(environ)
    hosted = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    server = ranks.first and not hosted
    try:
        store = TCPStore(host, port, is_master=server, timeout=CONTACT, wait_for_workers=False)
    except RuntimeError as error:
        raise InputError(
            f"the processes of this job cannot meet at {host}:{port}; set MASTER_ADDR and MASTER_PORT to the "
            "first one's machine and a free port"
        ) from error
    return replace(ranks, board=PrefixStore(f"corrdiff-{ranks.attempt}", store), hosts=server)


def _address(environ: Mapping[str, str]) -> tuple[str, int]:
    """Where the first process can be spoken to."""
    nodes = environ.get("SLURM_STEP_NODELIST", "127.0.0.1")  # node[03-07,11],other2
    first = re.match(r"([^\[,]+)(?:\[(\d+))?", nodes)
    host = nodes if first is None else first[1] + (first[2] or "")
    job = int(environ.get("SLURM_JOB_ID", "0")) + int(environ.get("SLURM_STEP_ID", "0"))
    return environ.get("MASTER_ADDR", host), int(environ.get("MASTER_PORT", 15000 + job % 15000))
