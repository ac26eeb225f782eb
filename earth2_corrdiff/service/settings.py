# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Limits and options of a service."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from earth2_corrdiff.base.errors import InputError

MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """All limits and options of a service.

    Attributes
    ----------
    max_samples, max_steps, max_states : int
        Most members, solver steps and coarse input cases of one request
    max_body : int
        Most bytes of a request's body
    queue : int
        Most requests that wait or are worked on; one more is answered 429
    clients : int
        Most requests with a body that are received or answered at one time, and as many without; one more is
        answered 429
    streams : int
        Most downloads and streams of events at one time, counted apart
    seconds : float
        Longest time from a request's arrival to the end of its answer
    drain_seconds : float
        Longest time from the signal to stop to the end, in which accepted requests are finished
    max_batch : int | None
        Most members in one network call; by default 1 on the CPU, and on a GPU what its memory holds
    sharing : bool
        True if members of different requests may share a network call. That is faster on a GPU, but there
        the last bits of a member may depend on the others of its call
    api_key : str | None
        Required in every request but those for health, the documentation and the page; never logged
    hosts : tuple[str, ...]
        Accepted names in the ``Host`` header; all of them where it is empty
    jobs : Path
        Folder of the jobs of ``/v1/downscale``
    max_jobs : int
        Most jobs that wait or run; one more is answered 429
    max_times : int
        Most times of one job
    keep_jobs : int
        Most finished jobs that are kept; the oldest is removed first
    sources : tuple[str, ...]
        Accepted sources of jobs: nothing else is opened

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
