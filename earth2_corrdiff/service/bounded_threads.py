# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Work that takes a while, beside the event loop, on threads that nothing else waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from earth2_corrdiff.service.errors import ServiceError

T = TypeVar("T")
P = ParamSpec("P")
RETRY = 5  # seconds


class Beside:
    """Threads for one kind of work.

    Parameters
    ----------
    what : str
        Of the work, as in "drawing figures"
    threads : int
        How many
    waiting : int
        Most calls that wait or are worked on; one more is refused
    """

    def __init__(self, what: str, threads: int, waiting: int) -> None:
        self.what, self.most, self.waiting = what, waiting, 0
        self._threads = ThreadPoolExecutor(threads, f"corrdiff-{what.split()[0]}")

    async def __call__(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``work(*args, **kwargs)`` returns.

        Raises
        ------
        ServiceError
            429 where too many wait already
        """
        if self.waiting >= self.most:
            text = f"{self.waiting} requests wait for {self.what} already; try again later"
            raise ServiceError(429, text, retry_after=RETRY)
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, lambda: work(*args, **kwargs)
            )
        finally:
            self.waiting -= 1
