# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Background calls beside the compute: the next input is fetched, and the last block is written.

One thread per call, and never more than one call of a kind in flight, so memory stays what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from threading import Thread
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Background(Generic[T]):
    """A call in a thread of its own, from now on.

    Parameters
    ----------
    call : Callable
        What to call
    *args, **kwargs
        Its arguments

    The thread is a daemon: a download that hangs does not keep the interpreter from ending.
    """

    def __init__(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> None:
        self._outcome: list[T] = []
        self._error: BaseException | None = None

        def run() -> None:
            try:
                self._outcome.append(call(*args, **kwargs))
            except BaseException as error:  # raised where the result is waited for
                self._error = error

        self._thread = Thread(target=run, name=getattr(call, "__name__", "background"), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until the call has ended, however it ended."""
        self._thread.join()

    def result(self) -> T:
        """Wait until the call has ended; return what it returned, or raise what it raised, once."""
        self.wait()
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback refers to this frame: their variables, like open files, would stay
        return self._outcome[0]


def prefetched(values: Iterable[T]) -> Iterator[T]:
    """Yield the same values, each made in the background while its predecessor is worked on.

    An error is raised where its value would have been yielded. Leaving early does not wait for the value
    that is being made; it is thrown away.
    """
    iterator, end = iter(values), object()

    def make() -> T | object:
        return next(iterator, end)

    job = Background(make)
    while (value := job.result()) is not end:
        job = Background(make)
        yield value  # type: ignore[misc]
