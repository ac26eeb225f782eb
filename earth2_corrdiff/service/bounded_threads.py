# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Threads of their own for one kind of slow work, so that it blocks neither the event loop nor other work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from earth2_corrdiff.service.errors import ServiceError

T = TypeVar("T")
P = ParamSpec("P")


class BoundedThreads:
    """Threads for one kind of work, with a limit of calls.

    Parameters
    ----------
    what : str
        The kind of work, as in "drawing figures"
    threads : int
        Number of threads
    most : int
        Most calls that wait or run; one more is refused
    """

    def __init__(self, what: str, threads: int, most: int) -> None:
        self.what, self.most, self.calls = what, most, 0
        self._threads = ThreadPoolExecutor(threads, f"corrdiff-{what.split()[0]}")

    async def __call__(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The value of ``work(*args, **kwargs)``.

        Raises
        ------
        ServiceError
            429 where too many calls wait already
        """
        if self.calls >= self.most:
            text = f"{self.calls} requests wait for {self.what} already; try again later"
            raise ServiceError(429, text, retry_after=5)
        self.calls += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, partial(work, *args, **kwargs)
            )
        finally:
            self.calls -= 1
