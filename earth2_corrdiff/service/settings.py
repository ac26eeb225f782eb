# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Limits and options of a service."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earth2_corrdiff.base.errors import InputError

if TYPE_CHECKING:
    from earth2_corrdiff.base.object_path import AnyPath
    from earth2_corrdiff.model.options import ModelOptions

MIB = 2**20


def _limit(default: Any, text: str) -> Any:
    """A field that ``serve-corrdiff`` has an option for, with its help text."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Settings:
    """All limits and options of a service.

    A request beyond ``queue``, ``clients``, ``streams`` or ``max_jobs`` is answered 429. ``clients`` holds
    for requests with a body, and for as many without; ``streams`` are counted apart from both.

    Attributes
    ----------
    max_body : int
        Most bytes of a request's body
    sharing : bool
        True if members of different requests may share a network call. That is faster on a GPU, but there
        the last bits of a member may depend on the others of its call
    api_key : str | None
        Required in every request but those for health, the documentation and the page; never logged
    hosts : tuple[str, ...]
        Accepted names in the ``Host`` header; all of them where it is empty
    jobs : Path
        Folder of the jobs of ``/v1/downscale``
    stores : AnyPath | None
        Where their stores are instead, like a URL of an object store
    sources : tuple[str, ...]
        Accepted sources of jobs: nothing else is opened
    scheduler : str | None
        Address or file of a Dask scheduler whose workers compute the jobs; by default this process does
    options : ModelOptions | None
        Of the model that those workers load

    Raises
    ------
    InputError
        If a limit is not positive
    """

    max_samples: int = _limit(64, "most members per case of one request")
    max_steps: int = _limit(100, "most steps of one request")
    max_states: int = _limit(16, "most cases in the array of one request")
    max_body: int = 64 * MIB
    queue: int = _limit(32, "most requests that wait or are executed")
    clients: int = _limit(64, "most requests received or answered at one time")
    streams: int = _limit(32, "most downloads and streams of events at one time")
    seconds: float = _limit(600.0, "longest time from a request to the end of its answer, in seconds")
    drain_seconds: float = _limit(30.0, "time from a signal to the end, to finish what was accepted")
    max_batch: int | None = _limit(None, "most members in one network call (default: 1 on a CPU)")
    sharing: bool = True
    api_key: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = ()
    jobs: Path = Path("outputs/jobs")
    stores: AnyPath | None = None
    max_jobs: int = _limit(8, "most jobs of /v1/downscale that wait or run")
    max_times: int = _limit(16, "most times of one job")
    keep_jobs: int = _limit(20, "finished jobs that are kept; the oldest is removed first")
    sources: tuple[str, ...] = ("demo",)
    scheduler: str | None = None
    options: ModelOptions | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, bool) and isinstance(value, int | float) and not value > 0:
                raise InputError(f"{item.name} must be more than 0, got {value}")
        if self.api_key is not None and len(self.api_key) < 8:
            raise InputError("an API key must have 8 characters or more")
