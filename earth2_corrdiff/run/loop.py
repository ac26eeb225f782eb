# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The loop of a run: members are computed while the next input is fetched and the last block is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from earth2_corrdiff.base.background import Background, prefetched
from earth2_corrdiff.base.errors import InputError, MemberError, UnavailableError, renamed
from earth2_corrdiff.model.downscaler import Progress
from earth2_corrdiff.model.spec import Sampling
from earth2_corrdiff.run.tasks import Task
from earth2_corrdiff.store.states import States
from earth2_corrdiff.store.writer import Plain, Store

T = TypeVar("T")
MakeMembers = Callable[..., Iterator[tuple[int, int, Tensor]]]
"""A function with the parameters of ``Downscaler.members``."""
STAGES = ("fetch", "compute", "write")


@dataclass
class Tally:
    """Progress of a run so far.

    Attributes
    ----------
    seconds : dict[str, float]
        Time that it waited for the input, for the networks and for the disk. Fetching and writing beside the
        compute do not count
    written : int
        Members computed and written
    failed : dict[int, InputError]
        Cases whose input could not be used, or with members that are not finite, where the run went on
        without them, and why
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    written: int = 0
    failed: dict[int, InputError] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Add another one, of the same run."""
        self.written += other.written
        self.failed |= other.failed
        for stage, seconds in other.seconds.items():
            self.seconds[stage] += seconds

    @contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        """Count the time of the block."""
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += perf_counter() - start

    def timed(self, stage: str, values: Iterable[T]) -> Iterator[T]:
        """The same values; the time until each of them arrives is counted."""
        start = perf_counter()
        for value in values:
            self.seconds[stage] += perf_counter() - start
            yield value
            start = perf_counter()
        self.seconds[stage] += perf_counter() - start


class Tallied:
    """A run with a tally and a progress bar."""

    _tally: Tally
    progress: Progress | None

    @property
    def seconds(self) -> dict[str, float]:
        """Time spent waiting, by stage."""
        return self._tally.seconds

    @property
    def written(self) -> int:
        """Members computed and written so far."""
        return self._tally.written

    @property
    def failed(self) -> dict[int, InputError]:
        """Cases that the run went on without, and why."""
        return self._tally.failed

    @property
    def may_pass(self) -> bool:
        """True if nothing was written, and all that failed may work later."""
        return not self.written and all(isinstance(e, UnavailableError) for e in self.failed.values())

    def _advance(self, steps: int) -> None:
        if self.progress is not None:
            self.progress(steps)


@dataclass(frozen=True)
class Job:
    """Members of one case to compute.

    Attributes
    ----------
    case : int
        Number of the case
    members : Sequence[int]
        Rising numbers
    coarse : Tensor
        ``[C (+ 1), h, w]``: the model's input, checked, and a further variable that the store keeps
    """

    case: int
    members: Sequence[int]
    coarse: Tensor


def jobs(
    tasks: Iterable[Task],
    fetch: Callable[[int], Tensor],
    ready: dict[int, Tensor],
    failed: dict[int, InputError] | None = None,
) -> Iterator[Job]:
    """Tasks with their inputs; the input of consecutive tasks of one case is fetched once.

    Parameters
    ----------
    tasks : Iterable[Task]
        Cases with members to compute
    fetch : Callable[[int], Tensor]
        Fetches and checks the input of a case
    ready : dict[int, Tensor]
        Inputs that are fetched already
    failed : dict[int, InputError] | None, optional
        Receives the cases whose input cannot be used, and why; by default the first one is an error

    Raises
    ------
    InputError
        If the input of a case cannot be fetched or used
    """
    for task in tasks:
        try:
            ready = ready if task.case in ready else {task.case: fetch(task.case)}
        except InputError as error:
            if failed is None:
                raise
            failed[task.case] = renamed(error)
        else:
            yield Job(task.case, task.members, ready[task.case])


class MemberLoop:
    """Computes jobs and writes them.

    Parameters
    ----------
    members : MakeMembers
        ``Downscaler.members``, or a function that computes the same on several processes
    inputs : int
        Number of the model's input variables
    store : Store, Plain or States
        Receives the members; has their seeds
    tally : Tally
        Is kept up to date
    sampling : Sampling
        How to sample
    max_batch : int or None
        Most members in one network call
    progress : Callable, optional
        Called with the number of denoising steps just done, over all members
    failed : dict[int, InputError] or None
        Receives the cases with members that cannot be kept, and why; by default the first is an error
    """

    def __init__(
        self,
        members: MakeMembers,
        inputs: int,
        store: Store | Plain | States,
        tally: Tally,
        sampling: Sampling,
        max_batch: int | None = None,
        progress: Progress | None = None,
        failed: dict[int, InputError] | None = None,
    ) -> None:
        self.members, self.inputs, self.store, self.tally = members, inputs, store, tally
        self.sampling, self.max_batch, self.progress, self.failed = sampling, max_batch, progress, failed

    def __call__(self, jobs: Iterable[Job]) -> Iterator[tuple[int, int]]:
        """Do the jobs; yield the case and number of each member once it is written.

        While the members of a block are computed, the block before it is written: never more than one, so
        the memory does not grow with the members. The coarse input is kept with the first member.

        Raises
        ------
        InputError
            That of the jobs, or if one member alone does not fit the memory, or the disk is full, or a
            member is not finite
        """
        writing: _Writing | None = None
        try:
            for job in self.tally.timed("fetch", prefetched(jobs)):
                lowres = job.coarse if job.members[0] == 0 else None
                gaps = self.store.layout.missing
                missing = None if gaps is None else gaps(job.coarse)
                for first, block in self._blocks(job):
                    yield from self._finish(writing)
                    writing = self._write(job.case, first, block, lowres, missing)
                    lowres = None
            yield from self._finish(writing)
        except InputError:
            yield from self._finish(writing)  # what was done before it counts
            raise
        finally:
            if writing is not None:
                writing.done.wait()  # nothing is written once a run has ended, however it ended

    def _blocks(self, job: Job) -> Iterator[tuple[int, Tensor]]:
        """Members as blocks ``[m, Co, H, W]`` of neighbours with the first one's number."""
        coarse, case = job.coarse[None, ..., : self.inputs, :, :], self.store.layout.cases[job.case]
        hours = [None if case.lead is None else float(case.lead / np.timedelta64(1, "h"))]
        for run in _consecutive(job.members):
            seeds = [int(seed) for seed in self.store.layout.case_seeds(job.case)[run]]
            blocks = self.members(
                coarse, seeds, self.max_batch, self.progress, hours, self.sampling, [case.valid]
            )
            for _, first, block in self.tally.timed("compute", blocks):
                yield run[0] + first, block

    def _write(
        self, case: int, first: int, block: Tensor, lowres: Tensor | None, missing: Tensor | None
    ) -> _Writing:
        host, ready = _to_host(block)

        def write() -> None:
            ready()
            if lowres is not None:
                middle = lowres if lowres.ndim == 3 else lowres[len(lowres) // 2]  # of several hours
                self.store.write_lowres(case, middle[: len(self.store.layout.lowres)])
            self.store.write_members(case, first, host, missing)

        return _Writing(case, first, len(block), ready, Background(write))

    def _finish(self, writing: _Writing | None) -> Iterator[tuple[int, int]]:
        """Wait until a block is written, unless it has been waited for; yield its members.

        Raises
        ------
        MemberError
            At the end, if some of them cannot be kept and the run shall not go on without them
        """
        if writing is None or writing.finished:
            return
        writing.finished = True
        with self.tally.clock("compute"):
            writing.ready()
        refused: MemberError | None = None
        with self.tally.clock("write"):
            try:
                writing.done.result()
            except MemberError as error:
                refused = error
        members = range(writing.first, writing.first + writing.members)
        kept = [i for i in members if refused is None or i not in refused.members]
        self.tally.written += len(kept)
        yield from ((writing.case, i) for i in kept)
        if refused is not None and self.failed is None:
            raise refused
        if refused is not None and self.failed is not None:
            before = self.failed.get(writing.case)
            self.failed[writing.case] = renamed(refused, f"{before}; {refused}" if before else None)


@dataclass
class _Writing:
    """A block that is being written; ``ready`` waits until it has left the device."""

    case: int
    first: int
    members: int
    ready: Callable[[], None]
    done: Background[None]
    finished: bool = False


def _to_host(block: Tensor) -> tuple[Tensor, Callable[[], None]]:
    """The block on the CPU, and a function to call before it is read.

    From a GPU it is copied while the next members are computed there.
    """
    if block.device.type != "cuda":
        return block.cpu(), lambda: None
    host = torch.empty(block.shape, dtype=block.dtype, pin_memory=True)
    host.copy_(block, non_blocking=True)
    copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(block.device))
    return host, copied.synchronize


def _consecutive(members: Sequence[int]) -> list[list[int]]:
    """Split rising numbers into runs without gaps."""
    runs = groupby(enumerate(members), lambda pair: pair[1] - pair[0])
    return [[i for _, i in run] for _, run in runs]
