# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""NumPy files of packages: numbers alone, as many as the header claims, checked before any are read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError, first_line
from earth2_corrdiff.model.packages.netcdf import MOST_POINTS

MOST_FIELDS = 1000


def read_npy(path: Path, dims: int) -> NDArray[np.floating[Any]]:
    """Numbers of ``dims`` dimensions, float32 or float64; the last two of them are a grid.

    Raises
    ------
    InputError
        If it is not such a file, is not complete, or is larger than a package's may be
    """
    try:
        shape, kind, start = _header(path)
    except (OSError, ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise InputError(f"{path} is not a valid NumPy file ({first_line(error)})") from error
    fault = _fault(shape, kind, path.stat().st_size - start, dims)
    if fault:
        raise InputError(f"{path} {fault}")
    values: NDArray[Any] = np.load(path, allow_pickle=False)
    wide = values.dtype if values.dtype.kind == "f" and values.dtype.itemsize == 4 else np.dtype(np.float64)
    return np.ascontiguousarray(values, dtype=wide.newbyteorder("="))


def _header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, type, and position of the first number."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"the version {version} is not known")
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, kind = read(file)
        return shape, kind, file.tell()


def _fault(shape: tuple[int, ...], kind: np.dtype[Any], size: int, dims: int) -> str | None:
    """The reason why the numbers may not be read, or None."""
    if kind.kind not in "iuf" or kind.itemsize > 8:
        return f"must hold numbers, got {str(kind)[:80]}"
    if len(shape) != dims or min(shape) < 1:
        return f"must have {dims} dimensions, got the shape {str(shape)[:80]}"
    if math.prod(shape[-2:]) > MOST_POINTS or math.prod(shape[:-2]) > MOST_FIELDS:
        return f"claims {str(shape)[:80]} points, more than a package may have"
    if size < math.prod(shape) * kind.itemsize:
        return f"claims {math.prod(shape) * kind.itemsize} bytes, and has {size}"
    return None
