# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The log of ``serve-corrdiff`` on stderr, for which the service never waits."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Iterable

from earth2_corrdiff.cli.log import is_archive

MOST = 10_000  # lines that wait; those beyond are counted, not kept
ON_PURPOSE = ("ASGI callable returned without", "Cancel %s running task")
"""Uvicorn's messages about answers that break off, for which the service logs the reason."""


class Lines:
    """Text stream to stderr whose writers do not wait.

    Stderr may be a pipe that nobody reads: then a write waits for ever, and with it the event loop.

    Parameters
    ----------
    name : str
        Name of the command, for the message about lost lines
    """

    def __init__(self, name: str) -> None:
        self.name, self.lost = name, 0
        self._queue: queue.Queue[str] = queue.Queue(MOST)
        threading.Thread(target=self._write, name="corrdiff-log", daemon=True).start()

    def write(self, text: str) -> None:
        """Put a text into the queue."""
        try:
            self._queue.put_nowait(text)
        except queue.Full:
            self.lost += 1

    def flush(self) -> None:
        """Do nothing; see :meth:`finish`."""

    def finish(self, seconds: float = 1.0) -> None:
        """Wait until everything is written, at most so many seconds."""
        end = time.monotonic() + seconds
        while self._queue.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.005)

    def _write(self) -> None:
        while True:
            text = self._queue.get()
            if self.lost:
                text, self.lost = f"{self.name}: {self.lost} lines of the log were lost\n{text}", 0
            try:
                sys.stderr.write(text)
                sys.stderr.flush()
            except (OSError, ValueError):  # stderr, or its other end, is closed
                pass
            self._queue.task_done()


def configure_log(name: str, debug: bool, sources: Iterable[str] = ()) -> Lines:
    """Configure the logs of all libraries and sources that will be used; return the stream to stderr."""
    import logging

    from loguru import logger

    import earth2_corrdiff.service.app  # noqa: F401 - Earth2Studio's imports set up a log of their own
    from earth2_corrdiff.base.studio import load

    if any(map(is_archive, sources)):
        load("data")  # likewise

    lines = Lines(name)
    formatter = logging.Formatter(
        f"{name}: %(asctime)s.%(msecs)03dZ %(levelname)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(lines)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler])
    logging.getLogger("uvicorn").setLevel("INFO" if debug else "WARNING")
    errors = logging.getLogger("uvicorn.error")
    errors.addFilter(lambda record: debug or not str(record.msg).startswith(ON_PURPOSE))
    logging.getLogger("python_multipart").setLevel("ERROR")  # it warns of what clients send
    logging.captureWarnings(True)
    logger.remove()
    plain = name + ": {time:YYYY-MM-DDTHH:mm:ss.SSS!UTC}Z {level.name}: {message}"
    full = "{time} {level.name} {name}: {message}"
    # Without the values of variables in tracebacks: they may hold a client's key.
    level, text = ("DEBUG", full) if debug else ("INFO", plain)
    logger.add(lines, level=level, format=text, diagnose=False, backtrace=False)
    return lines
