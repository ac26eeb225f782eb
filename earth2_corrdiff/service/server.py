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
from types import FrameType

import uvicorn
from fastapi import FastAPI

from earth2_corrdiff.service.connection import HEAD, Connection
from earth2_corrdiff.service.engine import Engine

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SLACK = 2.0  # seconds of the drain, a quarter at most, that answers have to reach their clients


class Server(uvicorn.Server):
    """Serves an application of :func:`create_app` until a signal, or until its engine fails.

    Parameters
    ----------
    app : FastAPI
        The application
    drain_seconds : float
        How long it may go on with what it has accepted when it is told to stop, until its end; a second
        Ctrl-C ends that
    on_ready : Callable[[], None]
        Called once, when requests are accepted
    access_log : bool, optional
        Whether Uvicorn logs each request, too
    on_listening : Callable[[], None] | None, optional
        Called once, when connections are accepted
    on_signal : Callable[[], None] | None, optional
        Called when a signal tells it to stop; in the signal's handler
    """

    def __init__(
        self,
        app: FastAPI,
        drain_seconds: float,
        on_ready: Callable[[], None],
        access_log: bool = False,
        on_listening: Callable[[], None] | None = None,
        on_signal: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                h11_max_incomplete_event_size=HEAD,
                log_config=None,
                access_log=access_log,
                server_header=False,
                proxy_headers=False,
                lifespan="on",
                timeout_graceful_shutdown=math.ceil(drain_seconds) + 1,
            )
        )
        self.engine: Engine = app.state.engine
        self._drain_seconds, self._on_ready, self._told = drain_seconds, on_ready, False
        self._on_listening, self._on_signal = on_listening, on_signal

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections."""
        await super().startup(sockets)
        if self._on_listening is not None:
            self._on_listening()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal: stop, as said above."""
        super().handle_exit(sig, frame)
        if self._on_signal is not None:
            self._on_signal()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop."""
        if self.engine.ready and not self._told:
            self._told = True
            self._on_ready()
        if counter % 10 == 0:
            self._look()
        return await super().on_tick(counter) or self.engine.state == "failed"

    def _look(self) -> None:
        """Once a second: end the connections whose clients take too long."""
        now = asyncio.get_running_loop().time()
        for connection in self._connections:
            connection.look(now)

    @property
    def _connections(self) -> list[Connection]:
        return [each for each in self.server_state.connections if isinstance(each, Connection)]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse what comes, finish what was accepted, and in time for the end refuse that too."""
        closing = asyncio.create_task(self._close())
        await super().shutdown(sockets)
        if self.force_exit:
            await asyncio.to_thread(self.engine.close, 0)
        await closing

    async def _close(self) -> None:
        """The engine, and then the connections: whoever still sends a request is not answered any more."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._drain_seconds
        work = self._drain_seconds - min(SLACK, self._drain_seconds / 4)
        await asyncio.to_thread(self.engine.close, work)
        while (connections := self._connections) and not self.force_exit:
            for connection in connections:
                if connection.unfinished or loop.time() >= end:
                    connection.abort()
            await asyncio.sleep(0.05)

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
