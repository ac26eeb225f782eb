# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The owner thread of the device: it loads the model and makes all members, for requests and jobs.

The first entry of the queue that is ready for a turn gets one block of members, or one step of a job, and
goes to the end: a request for one sample waits for one block, not for the 64 members of another. On a GPU
the members of all waiting requests with the same sampling share the network calls.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from time import monotonic, perf_counter
from typing import NamedTuple

import numpy as np
import torch
from loguru import logger
from torch import Tensor

from earth2_corrdiff.base.errors import NoMemoryError
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.earth2studio import CorrDiff
from earth2_corrdiff.model.spec import CorrDiffSpec, Sampling
from earth2_corrdiff.service.errors import ServiceError, internal
from earth2_corrdiff.service.metrics import Metrics
from earth2_corrdiff.service.queue import InferRequest, Member, Queue, Row, Steps, Task, Ticket
from earth2_corrdiff.service.settings import Settings

STOPPING = ("stopping", "stopped")
RETRY = 5  # seconds, where no estimate is known
WARM = (1, 2, 4)  # blocks of most requests, and the largest: a GPU captures each size by itself


class AbandonedError(Exception):
    """All requests of a block were cancelled."""


class Loaded(NamedTuple):
    """Properties of a loaded model; ``sampling`` holds for requests that name no other."""

    spec: CorrDiffSpec
    sampling: Sampling
    device: str
    precision: str


class Engine:
    """Loads a model on a thread of its own and lends it to requests and jobs, a block at a time.

    Parameters
    ----------
    load : Callable[[], CorrDiff]
        Makes the model, on its device; called once, on the owner thread
    settings : Settings
        The service's limits
    metrics : Metrics | None, optional
        Counters of requests and blocks

    Attributes
    ----------
    state : str
        ``new``, ``loading``, ``warming up``, ``ready``, ``stopping``, ``stopped`` or ``failed``
    failure : BaseException | None
        The error of a service that has failed
    """

    def __init__(
        self, load: Callable[[], CorrDiff], settings: Settings, metrics: Metrics | None = None
    ) -> None:
        self.state = "new"
        self.failure: BaseException | None = None
        self.settings, self.metrics = settings, metrics or Metrics()
        self._load, self._queue = load, Queue()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._own, name="corrdiff-owner", daemon=True)
        self._downscaler: Downscaler | None = None
        self._known: Loaded | None = None
        self._end = math.inf  # on the monotonic clock: when what is left is refused
        self._pace = 0.0  # seconds per member and network evaluation, averaged over blocks

    # for the threads that ask

    def start(self) -> None:
        """Start to load and to warm up; returns at once."""
        self.state = "loading"
        self._thread.start()

    @property
    def ready(self) -> bool:
        """True if requests and jobs are accepted."""
        return self.state == "ready"

    @property
    def loaded(self) -> Loaded:
        """Properties of the model; ServiceError 503 before it is loaded. Safe from any thread."""
        if self._known is None:
            raise self._not_ready()
        return self._known

    @property
    def spec(self) -> CorrDiffSpec:
        """Metadata of the package; errors as ``loaded``."""
        return self.loaded.spec

    @property
    def sampling(self) -> Sampling:
        """The model's default sampling; errors as ``loaded``."""
        return self.loaded.sampling

    def _not_ready(self) -> ServiceError:
        return ServiceError(503, f"the service is not ready, it is {self.state}", retry_after=RETRY)

    @property
    def waiting(self) -> tuple[int, int, int]:
        """Numbers of requests, members and jobs that wait or are worked on."""
        with self._changed:
            tickets = self._queue.tickets
            return len(tickets), sum(ticket.left for ticket in tickets), len(self._queue.jobs)

    def check(self) -> None:
        """ServiceError 503 or 429 where a request would be refused now; before its body is received."""
        with self._changed:
            self._check()

    def _check(self) -> None:
        if not self.ready:
            raise self._not_ready()
        tickets = self._queue.tickets
        if len(tickets) >= self.settings.queue:
            work = sum(ticket.left * ticket.request.sampling.calls for ticket in tickets)
            seconds = max(1, math.ceil(self._pace * work / len(tickets)))
            raise ServiceError(
                429, f"{len(tickets)} requests are waiting already; try again later", retry_after=seconds
            )

    def submit(self, request: InferRequest, deliver: Callable[[Member | ServiceError], None]) -> Ticket:
        """Put a request into the queue.

        Parameters
        ----------
        request : InferRequest
            The request
        deliver : Callable[[Member | ServiceError], None]
            Called on the owner thread, and must return at once: with each member, case by case, as soon as
            it is done, or once with an error

        Returns
        -------
        Ticket
            Call its ``sent`` for each member that is taken, and ``cancel`` to give up the rest

        Raises
        ------
        ServiceError
            503 where the service is not ready, 429 where the queue is full
        """
        with self._changed:
            self._check()
            ticket = Ticket(request, deliver, self._changed, self._limit)
            self._queue.entries.append(ticket)
            self._changed.notify_all()
        return ticket

    def submit_steps(self, steps: Steps) -> Future[object]:
        """Work through an iterator on the owner thread, between blocks of members.

        Parameters
        ----------
        steps : Callable[[CorrDiff], Iterator[object]]
            Called on the owner thread at the job's first turn, with the model; each ``next()`` is one turn
            and delays all others, so it should be one block of members. The model is shared: settings go
            with calls to it

        Returns
        -------
        Future
            The iterator's return value (``StopIteration.value``), or its exception. ``cancel()`` works at any
            time until then; the iterator, if it is a generator, is closed on the owner thread

        Raises
        ------
        ServiceError
            503 where the service is not ready
        """
        job = Task(steps)
        with self._changed:
            if not self.ready:
                raise self._not_ready()
            self._queue.entries.append(job)
            self._changed.notify_all()
        return job.future

    def drain(self) -> None:
        """Accept no more requests; go on with those that were accepted. Returns at once."""
        self._enter("stopping")

    def close(self, drain_seconds: float) -> None:
        """Accept no more requests, finish accepted ones within ``drain_seconds``, refuse the rest (503).

        Blocks until the owner thread has ended. Jobs that are not done are cancelled. Another call may make
        the time shorter, not longer.
        """
        self.drain()
        if not self._thread.is_alive():
            return
        with self._changed:
            self._end = min(self._end, monotonic() + (drain_seconds if self._known is not None else 0))
            self._changed.notify_all()
            while self.state == "stopping" and monotonic() < self._end:
                self._changed.wait(self._end - monotonic())
        self._refuse_all(ServiceError(503, "the service is stopping", retry_after=RETRY))
        self._thread.join(RETRY)

    def _refuse_all(self, fault: ServiceError) -> None:
        with self._changed:
            tickets, jobs = self._queue.tickets, self._queue.jobs
        for job in jobs:
            job.future.cancel()
        for ticket in tickets:
            ticket.cancel()
            ticket.give(fault)

    # on the owner thread

    def _own(self) -> None:
        """Load, warm up, and work until the service stops."""
        try:
            model = self._load()
            inner = self._downscaler = model.downscaler
            self._known = Loaded(model.spec, inner.sampling, str(inner.device), inner.precision)
            self._enter("warming up")
            warm_up(inner, self._limit)
            self._enter("ready")
            while (turn := self._next()) is not None:
                if isinstance(turn, Task):
                    turn.step(model)
                else:
                    self._make(inner, turn)
            self._enter("stopped")
        except BaseException as error:
            self.failure = error
            self._enter("failed")
            logger.opt(exception=error).debug("the owner thread ends")
            self._refuse_all(ServiceError(503, "the service has failed"))

    @property
    def _limit(self) -> int:
        """Most members in one block."""
        return 1 if self._downscaler is None else self._downscaler.batch_size(self.settings.max_batch)

    def _enter(self, state: str) -> None:
        """Another state; a service that stops or has failed does not become ready again."""
        order = ("new", "loading", "warming up", "ready", "stopping", "stopped", "failed")
        with self._changed:
            if order.index(state) > order.index(self.state):
                self.state = state
            self._changed.notify_all()

    def _next(self) -> list[Row] | Task | None:
        """Wait for a turn; None where the service stops and everything is done."""
        with self._changed:
            while True:
                turn = self._queue.turn(self._limit, self.settings.sharing)
                if turn is not None:
                    return turn
                if self.state in STOPPING and not self._queue.entries:
                    return None
                self._changed.wait()

    def _make(self, downscaler: Downscaler, rows: list[Row]) -> None:
        """Make and deliver these members; ``left`` are those that are not delivered yet."""
        left = [row for row in rows if not row.ticket.cancelled]

        def abandon(_: int) -> None:
            if all(row.ticket.cancelled for row in left):
                raise AbandonedError

        try:
            start = perf_counter()
            members = [(self._begin(row, start).prepared(row.case, downscaler), row.seed) for row in left]
            sampling = rows[0].ticket.request.sampling
            for block in downscaler.blocks(members, self.settings.max_batch, abandon, sampling):
                self._count(len(block), perf_counter() - start, sampling)
                self._deliver(left[: len(block)], block)
                left = left[len(block) :]
                start = perf_counter()
        except AbandonedError:
            pass
        except Exception as error:
            self._answer(left, error)
            if not isinstance(error, NoMemoryError) and not alive(downscaler.device):
                raise

    def _begin(self, row: Row, start: float) -> Ticket:
        """The ticket of a row, which waits no longer."""
        if row.ticket.started is None:
            row.ticket.started = start
            self.metrics.stage("wait", start - row.ticket.joined)
        return row.ticket

    def _count(self, members: int, seconds: float, sampling: Sampling) -> None:
        pace = seconds / members / sampling.calls
        self._pace = pace if self._pace == 0 else 0.8 * self._pace + 0.2 * pace
        self.metrics.block(members, seconds)

    def _deliver(self, rows: list[Row], block: Tensor) -> None:
        """Hand each member ``[Co, H, W]`` of a block to its client."""
        for row, field in zip(rows, block.numpy(force=True), strict=True):
            gaps = row.ticket.missing(row.case)
            if not row.ticket.finish(row):
                continue
            if (np.isfinite(field) if gaps is None else np.isfinite(field) != gaps).all():
                row.ticket.give(Member(row.case, row.sample, field))
                continue
            logger.error("member {} of a request is not finite", row.sample)
            row.ticket.cancel()
            row.ticket.give(ServiceError(500, f"member {row.sample} is not finite: it cannot be used"))

    def _answer(self, rows: list[Row], error: Exception) -> None:
        """Answer those whose block failed."""
        if isinstance(error, NoMemoryError):
            logger.error("{}", error)
            fault = ServiceError(503, "there is not enough memory for one member now", retry_after=RETRY)
        else:
            fault = internal(error)
        for ticket in {row.ticket for row in rows}:
            ticket.cancel()
            ticket.give(fault)


def warm_up(downscaler: Downscaler, limit: int) -> None:
    """Make blocks of the sizes in ``WARM``, so that the first request is as fast as the next ones."""
    spec, sampling = downscaler.spec, downscaler.sampling
    center = torch.tensor(spec.inputs.center, dtype=torch.float32)[:, None, None]
    lead = spec.lead_time_hours[0] if spec.lead_time_hours else None
    case = downscaler.prepare(center.expand(1, *spec.input_shape), lead, np.datetime64("2024-07-24"))
    brief = replace(sampling, steps=min(2, sampling.steps))
    for size in sorted({min(size, limit) for size in (*WARM, limit)}):
        for _ in downscaler.blocks([(case, seed) for seed in range(size)], size, None, brief):
            pass


def alive(device: torch.device) -> bool:
    """True if the device still answers: after some errors a GPU does not until the process ends."""
    try:
        return bool(torch.ones(1, device=device).item() == 1)
    except RuntimeError:
        return False
