# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""A folder as a zip file, made while it is sent: it takes no room on disk and little memory.

Nothing is compressed, as a store's chunks are already. The same folder gives the same bytes.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

PIECE = 2**18
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first that a zip file can hold


class _Sink(io.RawIOBase):
    """What a zip file is written to, piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """All that was written since the last time."""
        found, self.pieces = b"".join(self.pieces), []
        return found


def zipped(folder: Path) -> Iterator[bytes]:
    """The bytes of a zip file with everything below a folder, which is its root."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            about = zipfile.ZipInfo(path.relative_to(folder).as_posix(), EPOCH)
            with path.open("rb") as source, archive.open(about, "w") as target:
                while piece := source.read(PIECE):
                    target.write(piece)
                    yield sink.take()
    yield sink.take()
