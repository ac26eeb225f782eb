# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""TCP sockets of the service."""

from __future__ import annotations

import socket

from earth2_corrdiff.base.errors import InputError


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket; see :func:`bind`."""
    sock = bind(host, port)
    sock.listen(512)
    return sock


def bind(host: str, port: int) -> socket.socket:
    """A TCP socket with its address, not listening yet.

    asyncio switches Nagle's algorithm off where the socket says that it is TCP, and not where it leaves the
    protocol open as ``socket.create_server`` does: every small answer would then wait 40 ms for the client's
    delayed acknowledgement.

    Raises
    ------
    InputError
        If the address does not belong to this machine, or the port is taken or not allowed
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, socket.IPPROTO_TCP)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
        except BaseException:
            sock.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:
        raise cannot_listen(host, port, error) from error
    return sock


def cannot_listen(host: str, port: int, error: Exception) -> InputError:
    """The error for an address that cannot be used."""
    reason = getattr(error, "strerror", None) or error
    return InputError(f"cannot listen on {host} port {port} ({reason}); give another --host or --port")
