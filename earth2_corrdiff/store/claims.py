# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Who does what, where several processes fill one store: locks of the operating system in one small file.

Byte 0 of the file says that somebody is at work, byte 1 + i that somebody has taken piece i. Whoever ends,
killed or not, loses its locks at once, so nothing goes stale and nothing has to be timed out. Where a file
system has no locks, pieces may be done twice: the same bytes are then written twice, each file as a whole.

The lock of byte 0 belongs to the open file, so two runs of one process know of each other. Those of the
pieces belong to the process: one run must not wait for another that the same thread may have to go on with,
so both may do a piece.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Self

from loguru import logger

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
TAKEN = {errno.EACCES, errno.EAGAIN}
OPEN_FILE = sys.platform == "linux" and sys.maxsize > 2**32
"""Whether the system has locks that belong to an open file, in the form that is packed here."""
KINDS = {fcntl.LOCK_EX: fcntl.F_WRLCK, fcntl.LOCK_SH: fcntl.F_RDLCK, fcntl.LOCK_UN: fcntl.F_UNLCK}
SECOND = 2**40
"""First piece of a second store with the same locks: of one that grows to replace the first."""


class Claims:
    """Being at work at a store, and having taken pieces of that work.

    Parameters
    ----------
    path : Path
        The file of the locks; made where it is missing, and removed by the last one to leave
    join : bool, optional
        Be at work there beside others, by default; otherwise alone or not at all

    Attributes
    ----------
    first : int
        Number of the first piece
    alone : bool
        Whether nobody else was at work when this one came, and nobody can come until ``share`` is called

    Raises
    ------
    OSError
        If the file cannot be made
    """

    def __init__(self, path: Path, join: bool = True) -> None:
        self._path, self._locks, self.first = path, True, 0
        while True:
            self._file: BinaryIO = path.open("a+b")
            self.alone = self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB, 0)
            if not self.alone:
                if not join:
                    self._file.close()
                    return
                self._lock(fcntl.LOCK_SH, 0)  # waits while somebody else makes the store
            if self._is_there():
                return
            self._file.close()  # removed by the last one to leave, just now: lock the next file

    def share(self) -> None:
        """Let others come."""
        self._lock(fcntl.LOCK_SH, 0)
        self.alone = False

    def take(self, piece: int) -> bool:
        """Take a piece, if nobody else has."""
        return self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB, 1 + self.first + piece)

    def drop(self, piece: int) -> None:
        """Give back a piece before the end."""
        self._lock(fcntl.LOCK_UN, 1 + self.first + piece)

    def close(self) -> None:
        """Leave: give back all pieces, and remove the file if nobody else is there."""
        if self._file.closed:
            return
        with suppress(OSError):
            if self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB, 0):
                self._path.unlink(missing_ok=True)
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False

    def _lock(self, how: int, byte: int) -> bool:
        """Whether the lock was given; without locks everything is."""
        if not self._locks:
            return True
        try:
            if byte == 0:
                _lock_open_file(self._file, how)
            else:
                fcntl.lockf(self._file, how, 1, byte)
        except OSError as error:
            if error.errno in TAKEN:
                return False
            if error.errno not in NO_LOCKS:
                raise
            self._locks = False
            logger.warning("no locks at {}: several processes may do the same work", self._path.parent)
        return True


def _lock_open_file(file: BinaryIO, how: int) -> None:
    """Lock byte 0 for an open file; for the process where the system knows no other lock."""
    if OPEN_FILE:
        wait = not how & fcntl.LOCK_NB
        kind = KINDS[how & ~fcntl.LOCK_NB]
        flock = struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 1, 0)
        try:
            fcntl.fcntl(file, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, flock)
            return
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
    fcntl.lockf(file, how, 1, 0)
