# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Uvicorn, ended by a failed engine too, and stopped by a signal as a matter of course."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from earth2_corrdiff.service.engine import Engine

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SLACK = 2  # seconds after the drain until connections are cut, of clients that do not read


class Server(uvicorn.Server):
    """Serves an application of :func:`create_app` until a signal, or until its engine fails.

    Parameters
    ----------
    app : FastAPI
        The application
    drain_seconds : float
        How long it goes on with what it has accepted when it is told to stop; a second Ctrl-C ends that
    on_ready : Callable[[], None]
        Called once, when requests are accepted
    access_log : bool, optional
        Whether to log each request
    """

    def __init__(
        self, app: FastAPI, drain_seconds: float, on_ready: Callable[[], None], access_log: bool = False
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=access_log,
                server_header=False,
                proxy_headers=False,
                lifespan="on",
                timeout_graceful_shutdown=math.ceil(drain_seconds) + SLACK,
            )
        )
        self.engine: Engine = app.state.engine
        self._drain_seconds, self._on_ready, self._told = drain_seconds, on_ready, False

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop."""
        if self.engine.ready and not self._told:
            self._told = True
            self._on_ready()
        return await super().on_tick(counter) or self.engine.state == "failed"

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse what comes, finish what was accepted, and after ``drain_seconds`` refuse that too."""
        closing = asyncio.create_task(asyncio.to_thread(self.engine.close, self._drain_seconds))
        await super().shutdown(sockets)
        if self.force_exit:
            await asyncio.to_thread(self.engine.close, 0)
        await closing

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As Uvicorn's, but a signal that has stopped the service gracefully is done with."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {name: signal.signal(name, self.handle_exit) for name in SIGNALS}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)
