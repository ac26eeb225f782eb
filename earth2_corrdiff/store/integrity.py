# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Damage of a store that is resumed: chunks that are lost, empty, or do not match their checksum.

A power failure, a full disk or a bad cable leave files that are empty, cut or changed, also of members that
were complete. The size of every chunk is checked; the newest chunks, or all on request, are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore, ObjectStore

from earth2_corrdiff.base.errors import first_line
from earth2_corrdiff.base.object_path import check_reached
from earth2_corrdiff.store.layout import ERROR, OUTPUT, VALID, Layout
from earth2_corrdiff.store.objects import Listing, listing
from earth2_corrdiff.store.paths import SEED

READ = 2**30
"""Bytes that are read by default, in a few seconds."""
FOLDERS = 64
"""Folders of an object store whose listings are kept."""
LEAST = 2**16
"""Bytes that a chunk counts at least: opening a file takes time, too."""


def chunk_files(array: zarr.Array[Any], where: Sequence[int]) -> list[Path]:
    """Files of the part of an array at a position along its first axes; none of a store in no folder."""
    store = array.store_path.store
    return [store.root / key for key in _keys(array, where)] if isinstance(store, LocalStore) else []


def _keys(array: zarr.Array[Any], where: Sequence[int]) -> list[str]:
    """Names of its chunks in the store."""
    first = [i // chunk for i, chunk in zip(where, array.chunks, strict=False)]
    axes = zip(array.shape[len(where) :], array.chunks[len(where) :], strict=True)
    rest = product(*(range(ceil(size / chunk)) for size, chunk in axes))
    keys = (array.metadata.encode_chunk_key((*first, *last)) for last in rest)
    return [f"{array.store_path.path}/{key}" for key in keys]


def chunks_there(array: zarr.Array[Any], where: Sequence[int]) -> list[tuple[int, ...]] | None:
    """Positions, along the axes after ``where``, of the elements of an array whose files exist.

    None if only reading can show it: neither in a folder nor in an object store, or with several elements in
    a chunk. Of many members few may be written, and Zarr would look for each of them.
    """
    store, zeros = array.store_path.store, (0,) * array.ndim
    first = "/".join(map(str, ("c", *zeros)))
    if not isinstance(store, LocalStore | ObjectStore) or array.metadata.encode_chunk_key(zeros) != first:
        return None
    if any(chunk != 1 for chunk in array.chunks):
        return None
    folder = "/".join((array.store_path.path, "c", *map(str, where)))
    shape, found = array.shape[len(where) :], []
    for parts in _below(store, folder):
        if len(parts) == len(shape) and all(part.isdecimal() for part in parts):
            position = tuple(map(int, parts))
            if all(i < size for i, size in zip(position, shape, strict=True)):
                found.append(position)
    return found


def _below(store: LocalStore | ObjectStore[Any], folder: str) -> Iterator[tuple[str, ...]]:
    """Parts of the paths of all that is below a folder of a store."""
    if isinstance(store, ObjectStore):
        yield from (tuple(key.removeprefix(f"{folder}/").split("/")) for key in listing(store, folder))
    else:
        top = store.root / folder
        yield from (path.relative_to(top).parts for path in top.rglob("*"))


@dataclass(frozen=True)
class Part:
    """Arrays of a member, or of the coarse input of a case.

    Attributes
    ----------
    arrays : tuple[str, ...]
        Names of the arrays
    finite : tuple[str, ...]
        Those of them that are finite everywhere
    where : tuple[int, ...]
        Position along their first axes
    case : int | None
        Of a member, whose outputs have no values where the coarse input is missing
    """

    arrays: tuple[str, ...]
    finite: tuple[str, ...]
    where: tuple[int, ...]
    case: int | None = None


class Integrity:
    """Search for damaged members of a store.

    Parameters
    ----------
    root : zarr.Group
        The store
    layout : Layout
        Its layout
    variables : Sequence[str]
        Variables of the coarse input that the model takes: they are finite everywhere
    """

    def __init__(self, root: zarr.Group, layout: Layout, variables: Sequence[str]) -> None:
        self.root, self.layout = root, layout
        self._variables = tuple(f"{name}_lowres" for name in variables if name in layout.lowres)
        self._errors = (ERROR,) if layout.bounds else ()
        self._listed: dict[str, Listing] = {}

    def damaged(self, written: list[list[int]], every_byte: bool) -> Iterator[tuple[int, int, str]]:
        """Case, number and fault of each damaged member.

        A damaged coarse input counts as damage of the first member of its case: it is written with that.

        Parameters
        ----------
        written : list[list[int]]
            Members of each case that should be complete
        every_byte : bool
            Read all of them; otherwise the newest ones, and check the size of all others
        """
        left = 0 if isinstance(self.root.store, ObjectStore) else READ  # there a put is whole, or is not
        for case, member in self._newest_first(written):
            parts = [self._member(case, member)]
            if member == 0:
                parts.append(self._coarse(case))
            for part in parts:
                fault = self._by_size(part)
                if fault is None and (every_byte or left > 0):
                    fault = self._by_reading(part)
                    left -= self._size(part)
                if fault is not None:
                    yield case, member, fault
                    break

    def _member(self, case: int, member: int) -> Part:
        arrays = (*self.layout.outputs, *self._errors)
        return Part(arrays, arrays, (*self.layout.cases.index(case), member), case)

    def _coarse(self, case: int) -> Part:
        arrays = tuple(f"{name}_lowres" for name in self.layout.lowres)
        return Part(arrays, self._variables, self.layout.cases.index(case))

    def _newest_first(self, written: list[list[int]]) -> list[tuple[int, int]]:
        """All members, the newest first: a power failure damages those."""
        found = []
        for case, members in enumerate(written):
            where = self.layout.cases.index(case)
            for member in members:
                times = [written for _, written in self._status(SEED, (*where, member))]
                found.append((max(times, default=0.0), case, member))
        return [(case, member) for _, case, member in sorted(found, reverse=True)]

    def _by_size(self, part: Part) -> str | None:
        """The first chunk that is lost or empty."""
        for name in part.finite:
            for size, _ in self._status(name, part.where):
                if not size:
                    return f"{name} is {'lost' if size is None else 'empty'}"
        return None

    def _by_reading(self, part: Part) -> str | None:
        """The first array that cannot be read, or is not finite."""
        try:
            gaps = {} if part.case is None else self._gaps(part.case)
        except Exception as error:  # as below
            return f"the coarse input cannot be read: {first_line(error)}"
        for name in part.arrays:
            try:
                values = np.asarray(self._array(name)[part.where])
            except Exception as error:  # codecs and stores have no common class for damage
                check_reached(error)
                return f"{name} cannot be read: {first_line(error)}"
            if name in part.finite and not (np.isfinite(values) != gaps.get(name, False)).all():
                return f"{name} is lost, or not finite"
        return None

    def _gaps(self, case: int) -> dict[str, NDArray[np.bool_]]:
        """Cells ``[H, W]`` of each output of a case that have no value; none where all have one."""
        if self.layout.missing is None:
            return {}
        where = self.layout.cases.index(case)
        coarse = [np.asarray(self._array(f"{name}_lowres")[where]) for name in self.layout.lowres]
        found = self.layout.missing(torch.from_numpy(np.stack(coarse))).numpy()
        return dict(zip(self.layout.outputs, found, strict=bool(self.layout.outputs)))

    def _size(self, part: Part) -> int:
        statuses = (status for name in part.arrays for status in self._status(name, part.where))
        return sum(max(size or 0, LEAST) for size, _ in statuses)

    def _status(self, name: str, where: tuple[int, ...]) -> list[tuple[int | None, float]]:
        """Size and time of the chunks of a part of an array; those of a time are listed at once."""
        if len(self._listed) > FOLDERS:
            self._listed.clear()
        return _statuses(self._array(name), where, self._listed)

    def _array(self, name: str) -> Any:
        return self.root[name]


def _statuses(
    array: zarr.Array[Any], where: Sequence[int], listed: dict[str, Listing]
) -> list[tuple[int | None, float]]:
    """Size and time of the chunks of a part of an array; none of a store that cannot tell them."""
    store = array.store_path.store
    if not isinstance(store, ObjectStore):
        return [_status(file) for file in chunk_files(array, where)]
    keys = _keys(array, where)
    folder = "/".join(keys[0].split("/")[: 3 if array.ndim > 1 else 2])
    if folder not in listed:
        listed[folder] = listing(store, folder)
    return [listed[folder].get(key, (None, 0.0)) for key in keys]


def restore(root: zarr.Group, layout: Layout) -> list[str]:
    """Write lost or unreadable coordinates and constant fields again, from the layout; return their names.

    To be called for a store of the same run only: other values that can be read stay as they are.
    """
    restored = []
    for name, values in _constants(layout).items():
        array: Any = root.get(name)
        if array is not None and array.shape == values.shape and not _is_whole(array, values):
            array[...] = values
            restored.append(name)
    return restored


def _constants(layout: Layout) -> dict[str, NDArray[Any]]:
    """Arrays that do not depend on the results."""
    found: dict[str, NDArray[Any]] = {**layout.static, **layout.latlon}
    for coords in (layout.output_coords(), layout.lowres_coords()):
        bent = [name for name, values in coords.items() if values.ndim == 2]  # on axes ilat, ilon
        found |= {f"i{name}": np.arange(coords[name].shape[axis]) for axis, name in enumerate(bent)} | coords
    if layout.cases.leads is not None:
        found[VALID] = layout.cases.valid_times
    return found | ({OUTPUT: np.arange(len(layout.bounds))} if layout.bounds else {})


def _is_whole(array: Any, values: NDArray[Any]) -> bool:
    """True if an array is complete and can be read; Zarr writes no chunk that holds its fill value alone."""
    try:
        found = np.asarray(array[...])
    except Exception as error:  # codecs and stores have no common class for damage
        check_reached(error)
        return False
    return all(size for size, _ in _statuses(array, (), {})) or np.array_equal(found, values)


def _status(path: Path) -> tuple[int | None, float]:
    """Size and time of a file; None and 0 if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None, 0.0
    return status.st_size, status.st_mtime
