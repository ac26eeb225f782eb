# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Untrusted Zarr: small arrays (format 2) of an archive, by a few codecs, bounded before they are read.

Zarr itself would run any codec that an array names, and one of them is Python's pickle: folders that name it
are refused.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earth2_corrdiff.base.archives import Archive
from earth2_corrdiff.base.documents import parse_json
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.object_path import AnyPath, ObjectPath

MOST_POINTS = 2**24
MOST_CHUNKS = 2**16
_BOUNDED = ("blosc", "zstd", "lz4")  # these refuse to write more than the room that they are given
ENDS = (".zarray", "zarr.json")
_PICKLE = re.compile(rb'"(numcodecs\.)?pickle"', re.IGNORECASE)
_ZLIB = {"zlib": 15, "gzip": 31}  # codec → window bits of its format


def check_codecs(path: AnyPath) -> None:
    """Refuse a Zarr folder that names Python's pickle as a codec: to read it would run code of the file.

    Raises
    ------
    InputError
        If the root or an array of it does
    """
    for name, data in _metadata(path):
        if _PICKLE.search(data):
            raise InputError(f"{path} cannot be read: {name} names the codec pickle, which runs code")


def _metadata(path: AnyPath) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of metadata of a Zarr; in an object store of what a reader looks at."""
    if isinstance(path, ObjectPath):
        below = (f"{each}/{end}" for each in path.folders() for end in ENDS)
        for name in (".zmetadata", "zarr.json", *below):
            with suppress(FileNotFoundError):
                yield name, (data := (path / name).read_bytes())
                if "/" not in name and b'"metadata"' in data:  # a copy of all of them, which a reader takes
                    return
    elif path.is_dir():
        for pattern in (".zmetadata", "zarr.json", *(f"*/{end}" for end in ENDS)):
            for file in path.glob(pattern):
                yield str(file.relative_to(path)), file.read_bytes()


def read_array(archive: Archive, path: str) -> NDArray[Any]:
    """An array of an archive.

    Parameters
    ----------
    archive : Archive
        The archive
    path : str
        Of the array's folder in it

    Raises
    ------
    ValueError
        If it does not hold numbers, holds too many, or is compressed in another way
    KeyError
        If it is not there
    """
    about = parse_json(archive.read(f"{path}/.zarray"))
    if not isinstance(about, dict) or about.get("zarr_format") != 2 or about.get("filters"):
        raise ValueError(f"{path} is no plain array of Zarr's format 2")
    shape, chunks = _sizes(about.get("shape")), _sizes(about.get("chunks"))
    dtype, fortran = _dtype(about.get("dtype")), about.get("order") == "F"
    counts = [math.ceil(n / c) for n, c in zip(shape, chunks, strict=True)]
    if max(math.prod(shape), math.prod(chunks)) > MOST_POINTS or math.prod(counts) > MOST_CHUNKS:
        raise ValueError(f"{path} claims {shape} points, more than the {MOST_POINTS} that it may have")
    fill = about.get("fill_value")
    whole = np.full([n * c for n, c in zip(counts, chunks, strict=True)], fill or 0, dtype=dtype)
    if fill is None or isinstance(fill, str):
        whole[...] = np.nan if dtype.kind == "f" else 0
    separator = "/" if about.get("dimension_separator") == "/" else "."
    present = set(archive.names)
    for index in product(*map(range, counts)):
        name = f"{path}/{separator.join(map(str, index))}"
        if name in present:
            place = tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, chunks, strict=True))
            numbers = _decoded(archive.read(name), about.get("compressor"), math.prod(chunks), dtype)
            whole[place] = numbers.reshape(chunks, order="F" if fortran else "C")
    return whole[tuple(slice(n) for n in shape)]


def _sizes(entry: Any) -> tuple[int, ...]:
    if not isinstance(entry, list) or not 1 <= len(entry) <= 4:
        raise ValueError("an array has 1 to 4 dimensions")
    if not all(type(n) is int and 1 <= n <= MOST_POINTS for n in entry):
        raise ValueError(f"the sizes of an array are whole numbers from 1 to {MOST_POINTS}")
    return tuple(entry)


def _dtype(entry: Any) -> np.dtype[Any]:
    dtype = np.dtype(entry) if isinstance(entry, str) else None
    if dtype is None or dtype.kind not in "iuf":
        raise ValueError(f"an array must hold numbers, got {str(entry)[:40]!r}")
    return dtype


def _decoded(data: bytes, compressor: Any, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The numbers of one chunk."""
    room = np.zeros(count, dtype=dtype)
    name = compressor.get("id") if isinstance(compressor, dict) else compressor
    if name is None:
        made = data
    elif name in _ZLIB:
        made = zlib.decompressobj(_ZLIB[name]).decompress(data, room.nbytes + 1)
    elif name in _BOUNDED:
        from numcodecs.registry import get_codec

        made = get_codec({"id": name}).decode(data, out=room.view(np.uint8)).tobytes()
    else:
        raise ValueError(f"an array is compressed by {str(name)[:40]!r}; use blosc, zstd, lz4 or zlib")
    if len(made) != room.nbytes:
        raise ValueError(f"a chunk holds {len(made)} bytes instead of {room.nbytes}")
    return np.frombuffer(made, dtype=dtype)
