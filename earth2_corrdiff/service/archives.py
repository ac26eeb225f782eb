# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Members as a tar of npy files, piece by piece and always the same bytes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

BLOCK = 512
PIECE = 2**18  # bytes that are handed to the network at once
END = bytes(2 * BLOCK)
"""What ends a tar: a client that misses it knows that members are missing."""


def member_name(sample: int, state: int) -> str:
    """``003_000.npy``: the NIM's name of a member."""
    return f"{sample:03d}_{state:03d}.npy"


def member_size(shape: Sequence[int]) -> int:
    """Bytes of one member of this shape in the tar."""
    data = len(_npy_header(shape)) + 4 * int(np.prod(shape))
    return BLOCK + data + -data % BLOCK


def member_pieces(name: str, values: NDArray[np.float32]) -> Iterator[bytes]:
    """One member of the tar: its header, its npy, and what fills the last block.

    Parameters
    ----------
    name : str
        Of the file in the tar
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
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
    )
    return file.getvalue()
