# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The queue of requests and jobs: each takes turns, and none waits for all the work of another."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from earth2_corrdiff.base.times import Times
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.earth2studio import CorrDiff
from earth2_corrdiff.model.prepared import Prepared
from earth2_corrdiff.model.spec import Sampling
from earth2_corrdiff.service.errors import ServiceError

Steps = Callable[[CorrDiff], Iterator[object]]


@dataclass(frozen=True)
class InferRequest:
    """A request for members, checked by its reader.

    Attributes
    ----------
    coarse : np.ndarray
        ``[B, C, h, w]`` float32, physical units
    seeds : tuple[tuple[int, ...], ...]
        Of each case's members, ``[B][M]``
    sampling : Sampling
        Sampler of the residual
    leads : tuple[float | None, ...] | None
        Of each case, in hours; None where the package has no lead times
    times : np.ndarray | None
        Valid times ``[B]``, UTC; None where the request has none
    """

    coarse: NDArray[np.float32]
    seeds: tuple[tuple[int, ...], ...]
    sampling: Sampling
    leads: tuple[float | None, ...] | None = None
    times: Times | None = None

    @property
    def members(self) -> int:
        """Members of all cases."""
        return sum(map(len, self.seeds))


@dataclass(frozen=True)
class Member:
    """One finished field: index of its case, of its sample, and ``[Co, H, W]`` float32."""

    case: int
    sample: int
    values: NDArray[np.float32]


class Ticket:
    """A request in the queue.

    Parameters
    ----------
    request : InferRequest
        The request
    deliver : Callable[[Member | ServiceError], None]
        Called on the owner thread with each member, or once with an error
    changed : threading.Condition
        Of the queue: notified when the ticket is ready for a turn again, or cancelled
    ahead : int, optional
        Members that may wait to be sent while more are made
    """

    def __init__(
        self,
        request: InferRequest,
        deliver: Callable[[Member | ServiceError], None],
        changed: threading.Condition,
        ahead: int = 1,
    ) -> None:
        self.request, self._deliver, self._changed = request, deliver, changed
        self._prepared: dict[int, Prepared] = {}
        self.todo = deque((b, m) for b, seeds in enumerate(request.seeds) for m in range(len(seeds)))
        self.ahead, self.left, self.unsent = ahead, len(self.todo), 0
        self.cancelled = False
        self.joined = perf_counter()
        self.started: float | None = None

    @property
    def done(self) -> bool:
        """True if it needs no more turns."""
        return self.cancelled or self.left == 0

    @property
    def ready(self) -> bool:
        """True if it is ready for a turn; not while its client is slow to take members."""
        return not self.cancelled and bool(self.todo) and self.unsent <= self.ahead

    def take(self) -> Row:
        """The next of its members, to be made now."""
        self.unsent += 1
        return Row(self, *self.todo.popleft())

    def prepared(self, case: int, downscaler: Downscaler) -> Prepared:
        """The conditioning and regression of a case, computed at the first call; on the owner thread."""
        if case not in self._prepared:
            asked = self.request
            lead = None if asked.leads is None else asked.leads[case]
            time = None if asked.times is None else asked.times[case]
            coarse = torch.from_numpy(asked.coarse[case : case + 1])
            self._prepared[case] = downscaler.prepare(coarse, lead, time)
        return self._prepared[case]

    def missing(self, case: int) -> NDArray[np.bool_] | None:
        """True for output cells of a case without a value, ``[Co, H, W]``; None where all have one."""
        gaps = self._prepared[case].missing if case in self._prepared else None
        return None if gaps is None else gaps[0].numpy(force=True)

    def finish(self, row: Row) -> bool:
        """True if the request still waits for this member, which is done; called in the order of the rows."""
        with self._changed:
            self.left -= 1
            if row.sample == len(self.request.seeds[row.case]) - 1:
                self._prepared.pop(row.case, None)  # no member of this case is still to come
            return not self.cancelled

    def give(self, item: Member | ServiceError) -> None:
        """Deliver to the client; cancel where its event loop has ended."""
        try:
            self._deliver(item)
        except RuntimeError:
            self.cancel()

    def sent(self) -> None:
        """The client took a member."""
        with self._changed:
            self.unsent -= 1
            self._changed.notify_all()

    def cancel(self) -> None:
        """Give up: a block that is being made for this request alone is abandoned."""
        with self._changed:
            self.cancelled = True
            self._changed.notify_all()


@dataclass(frozen=True)
class Row:
    """One member to make."""

    ticket: Ticket
    case: int
    sample: int

    @property
    def seed(self) -> int:
        """The member's seed."""
        return self.ticket.request.seeds[self.case][self.sample]


class Task:
    """An iterator that is stepped between the blocks of others.

    Parameters
    ----------
    steps : Callable[[CorrDiff], Iterator[object]]
        Makes the iterator at the first turn
    """

    ready = True  # also when it is cancelled: its iterator is closed in a turn, on the owner thread

    def __init__(self, steps: Steps) -> None:
        self.steps, self.future = steps, Future[object]()
        self.done = False
        self._iterator: Iterator[object] | None = None

    def step(self, model: CorrDiff) -> None:
        """One turn."""
        if self.future.cancelled():
            return self._close()
        try:
            if self._iterator is None:
                self._iterator = iter(self.steps(model))
            next(self._iterator)
        except StopIteration as stop:
            self.done = True
            if self.future.set_running_or_notify_cancel():
                self.future.set_result(stop.value)
        except Exception as error:
            self.done = True
            if self.future.set_running_or_notify_cancel():
                self.future.set_exception(error)
        return None

    def _close(self) -> None:
        self.done = True
        if self._iterator is not None and hasattr(self._iterator, "close"):
            self._iterator.close()


class Queue:
    """Requests and jobs in the order of their next turn. Not safe between threads: the engine locks it."""

    def __init__(self) -> None:
        self.entries: deque[Ticket | Task] = deque()
        # It goes to the end after its turn, not before: behind entries that have come meanwhile.
        self._served: Ticket | Task | None = None

    @property
    def tickets(self) -> list[Ticket]:
        """Requests that are not done."""
        return [entry for entry in self.entries if isinstance(entry, Ticket) and not entry.done]

    @property
    def jobs(self) -> list[Task]:
        """Jobs that are not done."""
        return [entry for entry in self.entries if isinstance(entry, Task) and not entry.done]

    def turn(self, limit: int, sharing: bool) -> list[Row] | Task | None:
        """The next job to step, or at most ``limit`` rows to make; None where no entry is ready."""
        others = [entry for entry in self.entries if entry is not self._served]
        last = [entry for entry in self.entries if entry is self._served]
        self.entries = deque(entry for entry in (*others, *last) if not entry.done)
        first = self._served = next((entry for entry in self.entries if entry.ready), None)
        if not isinstance(first, Ticket):
            return first
        wanting = [ticket for ticket in self.tickets if ticket is not first and ticket.ready and sharing]
        alike = [ticket for ticket in wanting if ticket.request.sampling == first.request.sampling]
        return _rows([first, *alike], limit)


def _rows(company: list[Ticket], limit: int) -> list[Row]:
    """A block for these tickets, a row each until it is full."""
    rows: list[Row] = []
    while company and len(rows) < limit:
        rows += [ticket.take() for ticket in company[: limit - len(rows)]]
        company = [ticket for ticket in company if ticket.todo]
    return rows
