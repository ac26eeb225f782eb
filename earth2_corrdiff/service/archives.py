# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Archives made while they are sent: a tar of members, a zip of a store. Equal content has equal bytes."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import IO

import numpy as np
from numpy.typing import NDArray

from earth2_corrdiff.base.object_path import AnyPath, ObjectPath

BLOCK = 512  # bytes of a tar's blocks
PIECE = 2**18  # bytes that are handed to the network at once
END = bytes(2 * BLOCK)
"""End of a tar: without it, members are missing."""
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that a zip file can hold


def member_name(sample: int, case: int) -> str:
    """``003_000.npy``: the NIM's name of a member."""
    return f"{sample:03d}_{case:03d}.npy"


def member_size(shape: Sequence[int]) -> int:
    """Bytes of one member of this shape in the tar."""
    data = len(_npy_header(shape)) + 4 * int(np.prod(shape))
    return BLOCK + data + -data % BLOCK


def member_pieces(name: str, values: NDArray[np.float32]) -> Iterator[bytes]:
    """One member of the tar: its header, its npy file, and zeros up to the end of the last block.

    Parameters
    ----------
    name : str
        File name in the tar
    values : np.ndarray
        float32, of any shape
    """
    values = np.ascontiguousarray(values, dtype="<f4")
    npy = _npy_header(values.shape)
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(npy) + values.nbytes, 0o444, 0
    yield info.tobuf(tarfile.USTAR_FORMAT) + npy
    data = values.reshape(-1).view(np.uint8)
    for start in range(0, len(data), PIECE):
        yield data[start : start + PIECE].tobytes()
    yield bytes(-info.size % BLOCK)


def _npy_header(shape: Sequence[int]) -> bytes:
    file = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def zipped(folder: AnyPath) -> Iterator[bytes]:
    """The bytes of a zip file with everything below a folder, or a URL, which is its root.

    Nothing is compressed, as a store's chunks are already; it takes no room on disk and little memory.
    """
    sink = _Sink()
    with zipfile.ZipFile(sink, "w") as archive:
        for name in sorted(_names(folder), key=PurePosixPath):
            info = zipfile.ZipInfo(name, EPOCH)
            with _reader(folder / name) as source, archive.open(info, "w") as target:
                while piece := source.read(PIECE):
                    target.write(piece)
                    yield sink.take()
    yield sink.take()


def _names(folder: AnyPath) -> list[str]:
    """Names of all files below a folder."""
    if isinstance(folder, ObjectPath):
        return [key for key, *_ in folder.entries()]
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _reader(path: AnyPath) -> IO[bytes]:
    """A file, or an object, which is one chunk at most."""
    return io.BytesIO(path.read_bytes()) if isinstance(path, ObjectPath) else path.open("rb")


class _Sink(io.RawIOBase):
    """A file that cannot seek, from which what was written is taken."""

    def __init__(self) -> None:
        super().__init__()
        self._written = bytearray()

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._written += data
        return len(data)

    def take(self) -> bytes:
        """Everything that was written since the last call."""
        taken, self._written = bytes(self._written), bytearray()
        return taken
