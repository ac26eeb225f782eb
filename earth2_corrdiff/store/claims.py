# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Work claims for several processes that write one store: locks of the operating system in a small file.

Byte 0 of the file is locked by every process that writes the store, byte 1 + i by the process that computes
piece i. The locks of a process end with it, killed or not: there is no timeout. On file systems without locks
pieces may be computed twice; the same bytes are then written twice, each file as a whole.

The lock of byte 0 belongs to the open file, so two runs in one process exclude each other. Those of the
pieces belong to the process: if one thread carries both runs, one must not wait for the other, so both may
compute a piece.
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
"""True if the system has locks of open files, in the form that is packed here."""
KINDS = {fcntl.LOCK_EX: fcntl.F_WRLCK, fcntl.LOCK_SH: fcntl.F_RDLCK, fcntl.LOCK_UN: fcntl.F_UNLCK}
SECOND = 2**40
"""First piece of the store that replaces another one and shares its lock file."""


class Claims:
    """The presence of a process at a store, and its claims of pieces of the work.

    Parameters
    ----------
    path : Path
        The lock file, made if it is missing and removed by the last process that leaves
    join : bool, optional
        Share the store with other processes, by default; otherwise be alone or leave at once

    Attributes
    ----------
    first : int
        Number of the first piece
    alone : bool
        True if no other process was there; none can come until ``share`` is called

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
                self._lock(fcntl.LOCK_SH, 0)  # waits while another process makes the store
            if self._is_there():
                return
            self._file.close()  # it was removed by the last process that left: lock the next file

    def share(self) -> None:
        """Let other processes come."""
        self._lock(fcntl.LOCK_SH, 0)
        self.alone = False

    def take(self, piece: int) -> bool:
        """Claim a piece; False if another process has it."""
        return self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB, 1 + self.first + piece)

    def drop(self, piece: int) -> None:
        """Release a piece."""
        self._lock(fcntl.LOCK_UN, 1 + self.first + piece)

    def close(self) -> None:
        """Release all pieces, and remove the file if no other process is there."""
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
        """True if the lock was granted, as every lock is on a file system without locks."""
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
    """Lock byte 0 for an open file; for the process if the system has no other lock."""
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
