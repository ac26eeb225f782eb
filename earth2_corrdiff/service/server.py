# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Uvicorn server that a failed engine ends, and that a signal stops with exit status 0."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from earth2_corrdiff.service.connection import HEAD, Connection
from earth2_corrdiff.service.engine import Engine

SLACK = 2.0  # seconds of the drain, a quarter at most, that answers have to reach their clients


class Server(uvicorn.Server):
    """Server of an application of :func:`create_app` until a signal, or until its engine fails.

    Parameters
    ----------
    app : FastAPI
        The application
    drain_seconds : float
        Longest time from a signal to the end, in which accepted requests are finished; a second Ctrl-C
        ends that
    on_ready : Callable[[], None]
        Called once, when requests are accepted
    access_log : bool, optional
        True if Uvicorn logs each request, too
    on_listening : Callable[[], None] | None, optional
        Called once, when connections are accepted
    on_signal : Callable[[], None] | None, optional
        Called in the signal's handler
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
        self._drain_seconds, self._on_ready, self._was_ready = drain_seconds, on_ready, False
        self._on_listening, self._on_signal = on_listening, on_signal

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections."""
        await super().startup(sockets)
        if self._on_listening is not None:
            self._on_listening()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop after a signal."""
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # Uvicorn would raise them again at the end
        if self._on_signal is not None:
            self._on_signal()

    async def on_tick(self, counter: int) -> bool:
        """Look at the engine and the connections, ten times a second; True if the server must stop."""
        if self.engine.ready and not self._was_ready:
            self._was_ready = True
            self._on_ready()
        if counter % 10 == 0:
            for connection in self._connections:
                connection.look(asyncio.get_running_loop().time())
        return await super().on_tick(counter) or self.engine.state == "failed"

    @property
    def _connections(self) -> list[Connection]:
        return [each for each in self.server_state.connections if isinstance(each, Connection)]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new requests, and finish what was accepted as far as there is time."""
        closing = asyncio.create_task(self._close())
        await super().shutdown(sockets)
        if self.force_exit:
            await asyncio.to_thread(self.engine.close, 0)
        await closing

    async def _close(self) -> None:
        """Close the engine, then the connections: a request that is still being sent is not answered."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._drain_seconds
        work = self._drain_seconds - min(SLACK, self._drain_seconds / 4)
        await asyncio.to_thread(self.engine.close, work)
        while (connections := self._connections) and not self.force_exit:
            for connection in connections:
                if connection.unfinished or loop.time() >= end:
                    connection.abort()
            await asyncio.sleep(0.05)
