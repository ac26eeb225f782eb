# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Who does what, where several processes fill one store: locks of the operating system in one small file.

Byte 0 of the file says that somebody is at work, byte 1 + i that somebody has taken piece i. Whoever ends,
killed or not, loses its locks at once, so nothing goes stale and nothing has to be timed out. Where a file
system has no locks, pieces may be done twice: the same bytes are then written twice, each file as a whole.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Self

from loguru import logger

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
TAKEN = {errno.EACCES, errno.EAGAIN}


class Claims:
    """Being at work at a store, and having taken pieces of that work.

    Parameters
    ----------
    path : Path
        The file of the locks; made where it is missing, and removed by the last one to leave

    Attributes
    ----------
    alone : bool
        Whether nobody else was at work when this one came, and nobody can come until ``share`` is called

    Raises
    ------
    OSError
        If the file cannot be made
    """

    def __init__(self, path: Path) -> None:
        self._path, self._locks = path, True
        while True:
            self._file: BinaryIO = path.open("a+b")
            self.alone = self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB, 0)
            if not self.alone:
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
        return self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB, 1 + piece)

    def drop(self, piece: int) -> None:
        """Give back a piece before the end."""
        self._lock(fcntl.LOCK_UN, 1 + piece)

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
            fcntl.lockf(self._file, how, 1, byte)
        except OSError as error:
            if error.errno in TAKEN:
                return False
            if error.errno not in NO_LOCKS:
                raise
            self._locks = False
            logger.warning("no locks at {}: several processes may do the same work", self._path.parent)
        return True
