# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The socket that the service listens on."""

from __future__ import annotations

import socket

from earth2_corrdiff.errors import InputError


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket.

    asyncio switches Nagle's algorithm off where the socket says that it is TCP, and not where it leaves the
    protocol open as ``socket.create_server`` does: every small answer would then wait 40 ms for the client's
    delayed acknowledgement.

    Raises
    ------
    InputError
        If the address is none of this machine, or the port is taken or not allowed
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, socket.IPPROTO_TCP)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(512)
        except BaseException:
            sock.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot listen on {host} port {port} ({said}); give another --host or --port"
        ) from error
    return sock
