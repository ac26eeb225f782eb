# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What the service allows: every limit in one place."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from earth2_corrdiff.base.errors import InputError

MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """Limits and options of a service.

    Attributes
    ----------
    max_samples, max_steps, max_states : int
        Most members, solver steps and input states of one request
    max_body : int
        Most bytes of a request's body
    queue : int
        Most requests that wait or are worked on; one more is answered 429
    clients : int
        Most requests with a body that are received or answered at one time, and as many without; one more is
        answered 429
    streams : int
        Most downloads and streams of events at one time: they have places of their own
    seconds : float
        Longest time from a request's arrival to the end of its answer
    drain_seconds : float
        How long a service that is told to stop may go on with what it has accepted, until its end
    max_batch : int | None
        Most members in one network call; by default 1 on the CPU, and on a GPU what its memory holds
    sharing : bool
        Whether members of different requests may share a network call. On a GPU that is faster, but there
        a member's last bits may depend on its company
    api_key : str | None
        Asked of every request but those for health, the documentation and the page; never logged
    hosts : tuple[str, ...]
        Names in the ``Host`` header that are answered; all of them where it is empty
    jobs : Path
        Folder of the jobs of ``/v1/downscale``
    max_jobs : int
        Most jobs that wait or run; one more is answered 429
    max_times : int
        Most times of one job
    keep_jobs : int
        Finished jobs that are kept; the oldest goes first
    sources : tuple[str, ...]
        What a job may name as its source: nothing else is opened

    Raises
    ------
    InputError
        If a limit is not positive
    """

    max_samples: int = 64
    max_steps: int = 100
    max_states: int = 16
    max_body: int = 64 * MIB
    queue: int = 32
    clients: int = 64
    streams: int = 32
    seconds: float = 600.0
    drain_seconds: float = 30.0
    max_batch: int | None = None
    sharing: bool = True
    api_key: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = ()
    jobs: Path = Path("outputs/jobs")
    max_jobs: int = 8
    max_times: int = 16
    keep_jobs: int = 20
    sources: tuple[str, ...] = ("demo",)

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, bool) and isinstance(value, int | float) and not value > 0:
                raise InputError(f"{item.name} must be more than 0, got {value}")
        if self.api_key is not None and len(self.api_key) < 8:
            raise InputError("an API key must have 8 characters or more")
