# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""NetCDF files of packages, whose structure is checked before any values are read.

Such a file holds a few fields of numbers and nothing else: no groups, no links to other names or files, no
numbers in other files, and no more of them than its header claims.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from earth2_corrdiff.base import netcdf
from earth2_corrdiff.base.errors import InputError, first_line

MOST_POINTS = 2**26
"""Of a grid: 8192 x 8192."""
MOST_NAMES = 1000
MOST_CHUNKS = 2**16
_DEFLATE, _SHUFFLE, _CHECKSUM = 1, 2, 3  # numbers of HDF5's filters


class NetCDF:
    """A NetCDF file that is open for reading; made by :func:`open_netcdf`."""

    def __init__(self, path: Path, ds: xr.Dataset) -> None:
        self._path, self._ds = path, ds

    @property
    def names(self) -> list[str]:
        """Names of the variables that are not coordinates."""
        return list(map(str, self._ds.data_vars))

    def __contains__(self, name: str) -> bool:
        return name in self._ds.variables

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a variable, which is not read."""
        return tuple(self._ds[name].shape)

    def read(self, name: str) -> NDArray[Any]:
        """Values of a variable.

        Raises
        ------
        InputError
            If they are not numbers, or damaged
        """
        variable = self._ds[name]
        if variable.dtype.kind not in "iuf":
            raise InputError(f"{self._path}: {name} must hold numbers, got {variable.dtype}")
        if variable.size > MOST_POINTS:
            raise InputError(f"{self._path}: {name} has {variable.shape} points, more than {MOST_POINTS}")
        try:
            return np.asarray(variable)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"{self._path} is damaged: {name} ({first_line(error)})") from error


@contextmanager
def open_netcdf(path: Path) -> Iterator[NetCDF]:
    """Open a NetCDF file, of HDF5 or of the classic format.

    Raises
    ------
    InputError
        If it is not one, is not complete, or has content that no grid or field of a package has
    """
    try:
        classic = _magic(path).startswith(b"CDF")
        if not classic:
            _check(path)
        ds = netcdf.open_netcdf(path, "netcdf4")
    except InputError:
        raise
    except (OSError, ValueError, LookupError, RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no complete NetCDF file ({first_line(error)})") from error
    with ds:
        if classic:
            _check_classic(path, ds)
        yield NetCDF(path, ds)


def _magic(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def _check(path: Path) -> None:
    """Check the structure of an HDF5 file; files of the classic format have none."""
    import h5py

    with h5py.File(path, "r") as file:
        if len(file) > MOST_NAMES:
            raise InputError(f"{path} has more than {MOST_NAMES} names")
        for name in file:
            link = file.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise InputError(f"{path}: {name[:60]!r} is a link to another name or file; copy it in")
            if file.get(name, getclass=True) is not h5py.Dataset:
                raise InputError(f"{path}: {name[:60]!r} is a group or type; a package has variables alone")
            fault = _fault(file[name])
            if fault:
                raise InputError(f"{path}: {name[:60]!r} {fault}")


def _fault(dataset: Any) -> str | None:
    """The reason why a dataset may not be read, or None."""
    if dataset.external or dataset.is_virtual:
        return "keeps its numbers in other files; copy them in"
    if dataset.dtype.kind not in "iufS" or dataset.shape is None:
        return f"must hold numbers, got {dataset.dtype}"
    points = math.prod(dataset.shape)
    if points > MOST_POINTS:
        return f"claims {dataset.shape} points, more than the {MOST_POINTS} that a package may have"
    chunks = dataset.chunks
    if chunks is None:
        return None
    if math.prod(chunks) > MOST_POINTS:
        return f"has pieces of {chunks} points, more than the {MOST_POINTS} that a package may have"
    if dataset.id.get_num_chunks() > MOST_CHUNKS:
        return f"has more than {MOST_CHUNKS} pieces"
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    if not set(filters) <= {_DEFLATE, _SHUFFLE, _CHECKSUM} or filters.count(_DEFLATE) > 1:
        return f"is compressed by the filters {filters} of HDF5; use deflate alone"
    size = math.prod(chunks) * dataset.dtype.itemsize
    return _piece_fault(dataset.id, size, deflated=_DEFLATE in filters)


def _piece_fault(dataset: Any, size: int, deflated: bool) -> str | None:
    """The reason why a chunk of a dataset may not be read: it is larger than its header claims."""
    for i in range(dataset.get_num_chunks()):
        info = dataset.get_chunk_info(i)
        if info.size > size + size // 100 + 64:  # deflate adds that much where it fails
            return "has pieces that are larger than they claim"
        if deflated and info.filter_mask == 0:
            _, raw = dataset.read_direct_chunk(info.chunk_offset)
            try:
                if len(zlib.decompressobj().decompress(raw, size + 8)) > size + 4:  # a checksum has 4
                    return "has pieces that are larger than they claim"
            except zlib.error as error:
                return f"is damaged ({error})"
    return None


def _check_classic(path: Path, ds: xr.Dataset) -> None:
    """Refuse a file of the classic format, which is not compressed, with fewer bytes than it claims."""
    claimed = sum(
        variable.size * np.dtype(variable.encoding.get("dtype", variable.dtype)).itemsize
        for variable in ds.variables.values()
        if "source" in variable.encoding
    )
    if claimed > path.stat().st_size:
        raise InputError(f"{path} claims {claimed} bytes, and has {path.stat().st_size}")
