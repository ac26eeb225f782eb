# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""HTTP connection with a deadline for everything that its client does, or leaves undone.

Uvicorn waits for ever for the head of a request, for the rest of a body that is answered already, and for
a client to take what was written before the connection was closed. It also makes an event of each chunk,
however small, in one go. The deadlines of a request's body and answer are in ``security.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

MOST = 512  # connections at one time: beyond, those without a request are closed
SECONDS = {
    "head": 8.0,  # from the connection, or the last answer, to the whole head of a request
    "rest": 5.0,  # what still comes of a body after the answer
    "end": 10.0,  # until what was written is taken, after the connection was closed
}
SLICE = 4096  # bytes that are parsed in one go
CHUNKS = 2048  # chunks of a body, however small they are; beyond that
CHUNK = 1024  # bytes of each on average
HEAD = 32 * 1024  # bytes of a request's head
ABORT = "abort"
"""Key in the scope's ``state`` of the function that ends the connection at once, with all that is unsent."""
TOO_MANY = b'{"detail": "the body comes in too many small chunks; send chunks of %d bytes or more"}' % CHUNK


class Connection(H11Protocol):
    """Uvicorn's protocol with deadlines, which :meth:`look` enforces.

    Parameters
    ----------
    config, server_state, app_state, _loop
        As in Uvicorn

    Attributes
    ----------
    since : float
        Time on the loop's clock since when it waits for the client
    """

    connections: Any
    transport: Any
    cycle: Any

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, ABORT: self.abort}, _loop)
        self._state, self.since = "head", self.loop.time()
        self._counted: Any = None  # the request whose chunks are counted
        self._received = self._breaks = 0
        self._refused = False

    def connection_made(self, transport: Any) -> None:
        """Where there are too many connections, end the one that has been silent for longest."""
        super().connection_made(transport)
        if len(self.connections) > MOST:
            silent = [each for each in self.connections if each.waits_for() == "head"]
            min(silent, key=lambda each: each.since, default=self).abort()

    def data_received(self, data: bytes) -> None:
        """Parse what comes, in pieces that take little time, until there are too many chunks."""
        for start in range(0, len(data), SLICE):
            if self._refused or self.transport.is_closing():
                return
            piece = data[start : start + SLICE]
            super().data_received(piece)
            if not self.transport.is_closing():
                self._count(piece)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, unless an answer has begun; for the application the client is gone."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()
        if self.cycle is not None:
            self._leave()

    def _count(self, piece: bytes) -> None:
        """Count the chunks of the current body: each has two line ends."""
        if self.cycle is not self._counted:
            self._counted, self._received, self._breaks = self.cycle, 0, 0
        if self.cycle is None or not any(name == b"transfer-encoding" for name, _ in self.headers):
            return
        self._received += len(piece)
        self._breaks += piece.count(b"\r\n")
        if self._breaks > 2 * (CHUNKS + self._received // CHUNK):
            self._refuse()

    def _refuse(self) -> None:
        """Answer 413, unless there is an answer already, and ignore the rest."""
        self._refused = True
        if not self.cycle.response_started:
            head = b"HTTP/1.1 413 \r\ncontent-type: application/json\r\nconnection: close\r\n"
            self.transport.write(head + b"content-length: %d\r\n\r\n" % len(TOO_MANY) + TOO_MANY)
        self._leave()

    def _leave(self) -> None:
        """Present the client as gone to the application; what it still sends is dropped."""
        self.cycle.disconnected = True
        self.cycle.message_event.set()

    def waits_for(self) -> str:
        """Which of ``SECONDS`` applies; empty where none does."""
        if self.transport is None or self.transport.is_closing():
            return "end"
        if self._refused:
            return "rest"
        if self.cycle is None:
            return "head"
        if not self.cycle.response_complete:
            return ""
        return "rest" if self.conn.their_state is h11.SEND_BODY else "head"

    def look(self, now: float) -> None:
        """End the connection where its client has taken too long; called every second."""
        state = self.waits_for()
        if state != self._state:
            self._state, self.since = state, now
        elif state and now - self.since > SECONDS[state]:
            self.abort()

    def abort(self) -> None:
        """End it at once; what is not sent yet is dropped, by the kernel too."""
        if self.transport is None:
            return
        sock = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError, AttributeError):  # it may be closed already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    @property
    def unfinished(self) -> bool:
        """True if its request has not arrived completely."""
        return self.cycle is None or (self.cycle.more_body and not self.cycle.response_complete)
