# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Answers to probes while the service is still being imported, by a small process of its own.

PyTorch and other libraries take seconds to import, and hold Python's lock for much of that time, so no thread
of the same process could answer a probe. This file is run as a program with nothing but the standard library;
it listens on the service's socket until the service takes over or ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys

SECONDS = 5.0  # for a request to arrive, and for its answer to be taken
MOST = 256  # connections at one time
STATE = "loading"
DETAIL = f"the service is not ready, it is {STATE}"
HEADERS = "cache-control: no-store\r\nx-content-type-options: nosniff\r\nconnection: close\r\n"


class StartupAnswers:
    """The process that answers, as a context; it ends with the context, or at ``close``.

    Parameters
    ----------
    sock : socket.socket
        Bound, but not listening: the port accepts connections once the process can answer

    Raises
    ------
    OSError
        If another process listens there already
    """

    def __init__(self, sock: socket.socket) -> None:
        self._line, theirs = socket.socketpair()
        self._process: subprocess.Popen[bytes] | None = None
        command = [sys.executable, "-I", "-S", __file__, str(sock.fileno()), str(theirs.fileno())]
        with theirs, contextlib.suppress(OSError, TypeError):  # the service works without it, too
            self._process = subprocess.Popen(  # noqa: S603 - this file, with two numbers
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(sock.fileno(), theirs.fileno()),
                cwd="/",
            )
        self._line.settimeout(SECONDS)
        with contextlib.suppress(TimeoutError):
            code = self._line.recv(64)
            if code.isdigit() and code != b"0":
                self.close()
                raise OSError(int(code), os.strerror(int(code)))

    def close(self) -> None:
        """End it when it has answered what it accepted; returns at once. Safe to call twice."""
        self._line.close()

    def __enter__(self) -> StartupAnswers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        if self._process is not None:
            try:
                self._process.wait(2 * SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def main(sock: socket.socket, line: socket.socket) -> None:
    """Answer until the other end of the line is closed."""
    for name in (signal.SIGINT, signal.SIGTERM):  # they are for the service, which ends this process
        signal.signal(name, signal.SIG_IGN)
    asyncio.run(_serve(sock, line))


async def _serve(sock: socket.socket, line: socket.socket) -> None:
    line.setblocking(False)
    loop = asyncio.get_running_loop()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(asyncio.all_tasks()) <= MOST:
            with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError):
                async with asyncio.timeout(SECONDS):
                    await _answer(reader, writer)
        writer.transport.abort()

    try:
        server = await asyncio.start_server(accepted, sock=sock, backlog=512)
    except OSError as error:
        await loop.sock_sendall(line, str(error.errno or 1).encode())
        return
    await loop.sock_sendall(line, b"0")
    with contextlib.suppress(OSError):
        await loop.sock_recv(line, 1)  # nothing is ever sent: the other end was closed
    server.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SECONDS):  # a connection that was just accepted becomes a task of its own
            while others := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(others)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request, and the end of the connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    path = (head.split(b" ", 2) + [b"", b""])[1].partition(b"?")[0]
    status, headers, content = "503 Service Unavailable", "retry-after: 5\r\n", {"detail": DETAIL}
    if path == b"/v1/health/live":
        status, headers, content = "200 OK", "", {"status": "live"}
    elif path == b"/v1/health/ready":
        content = {"status": STATE, **content}
    body = json.dumps(content, separators=(",", ":"))
    start = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    writer.write(f"{start}{headers}{HEADERS}\r\n{body}".encode())
    await writer.drain()
    writer.write_eof()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):  # a client that still sends its body would not see the answer
            while await reader.read(2**16):
                pass


if __name__ == "__main__":
    main(*(socket.socket(fileno=int(number)) for number in sys.argv[1:3]))
