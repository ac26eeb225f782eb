# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Damage in a store that is resumed: chunks that are lost, empty, or do not match their checksum.

A power failure, a full disk or a bad cable leave files that are empty, cut or changed, also of members that
were complete. The size of every chunk is looked at; the newest chunks, or all on request, are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from earth2studio.utils.coords import convert_multidim_to_singledim
from numpy.typing import NDArray
from zarr.storage import LocalStore

from earth2_corrdiff.base.errors import first_line
from earth2_corrdiff.store.layout import ERROR, OUTPUT, SEED, VALID, Layout

READ = 2**30
"""Bytes that are read where nothing more is asked for: a second or a few."""
LEAST = 2**16
"""Bytes that a chunk counts at least: opening a file takes as long as reading some."""


def chunk_files(array: zarr.Array[Any], where: Sequence[int]) -> list[Path]:
    """Files of the part of an array at a position along its first axes; none where it is in no folder."""
    store = array.store_path.store
    if not isinstance(store, LocalStore):
        return []
    first = [i // chunk for i, chunk in zip(where, array.chunks, strict=False)]
    axes = zip(array.shape[len(where) :], array.chunks[len(where) :], strict=True)
    rest = product(*(range(ceil(size / chunk)) for size, chunk in axes))
    folder = store.root / array.store_path.path
    return [folder / array.metadata.encode_chunk_key((*first, *last)) for last in rest]


def chunks_there(array: zarr.Array[Any], where: Sequence[int]) -> list[tuple[int, ...]] | None:
    """Positions of the elements of an array, after the first axes, whose files are there.

    None where that is not known without reading: in no folder, or with several elements in a chunk. Of many
    members few may be written, and Zarr looks for each of them.
    """
    store, zeros = array.store_path.store, (0,) * array.ndim
    first = "/".join(map(str, ("c", *zeros)))
    if not isinstance(store, LocalStore) or array.metadata.encode_chunk_key(zeros) != first:
        return None
    if any(chunk != 1 for chunk in array.chunks):
        return None
    folder = (store.root / array.store_path.path).joinpath("c", *map(str, where))
    shape, found = array.shape[len(where) :], []
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if len(parts) == len(shape) and all(part.isdecimal() for part in parts):
            place = tuple(map(int, parts))
            if all(i < size for i, size in zip(place, shape, strict=True)):
                found.append(place)
    return found


@dataclass(frozen=True)
class Part:
    """What is kept of a member, or of the coarse input of a case.

    Attributes
    ----------
    arrays : tuple[str, ...]
        Names of the arrays
    finite : tuple[str, ...]
        Those of them that have a number everywhere
    where : tuple[int, ...]
        Position along their first axes
    """

    arrays: tuple[str, ...]
    finite: tuple[str, ...]
    where: tuple[int, ...]


class Integrity:
    """Which members of a store are damaged.

    Parameters
    ----------
    root : zarr.Group
        The store
    layout : Layout
        What it holds
    variables : Sequence[str]
        Those of the coarse input that the model takes: they have a number everywhere
    """

    def __init__(self, root: zarr.Group, layout: Layout, variables: Sequence[str]) -> None:
        self.root, self.layout = root, layout
        self._variables = tuple(f"{name}_lowres" for name in variables if name in layout.lowres)
        self._errors = (ERROR,) if layout.bounds else ()

    def damaged(self, written: list[list[int]], every_byte: bool) -> Iterator[tuple[int, int, str]]:
        """Case, number and fault of each damaged member.

        Where the coarse input of a case is damaged, it is the first of its members: the input is written
        again with it.

        Parameters
        ----------
        written : list[list[int]]
            Members of each case that should be whole
        every_byte : bool
            Read all of them; otherwise the newest ones, and of all others look at the size alone
        """
        left = READ
        for case, member in self._newest_first(written):
            parts = [self._member(case, member)]
            if member == written[case][0]:
                parts.append(self._coarse(case))
            for part in parts:
                fault = self._by_size(part)
                if fault is None and (every_byte or left > 0):
                    fault = self._by_reading(part)
                    left -= self._size(part)
                if fault is not None:
                    yield case, member, fault
                    break

    def fault(self, case: int, member: int) -> str | None:
        """What is wrong with a member, or with the coarse input beside it; all of it is read."""
        parts = (self._member(case, member), self._coarse(case))
        return next(filter(None, map(self._by_reading, parts)), None)

    def _member(self, case: int, member: int) -> Part:
        arrays = (*self.layout.outputs, *self._errors)
        return Part(arrays, arrays, (*self.layout.cases.index(case), member))

    def _coarse(self, case: int) -> Part:
        arrays = tuple(f"{name}_lowres" for name in self.layout.lowres)
        return Part(arrays, self._variables, self.layout.cases.index(case))

    def _newest_first(self, written: list[list[int]]) -> list[tuple[int, int]]:
        """All members, those first that were completed last: they are what a power failure takes."""
        found = []
        for case, members in enumerate(written):
            where = self.layout.cases.index(case)
            for member in members:
                files = chunk_files(self._array(SEED), (*where, member))
                found.append((max(map(_time, files), default=0.0), case, member))
        return [(case, member) for _, case, member in sorted(found, reverse=True)]

    def _by_size(self, part: Part) -> str | None:
        """The first chunk that is lost or empty."""
        for name in part.finite:
            for file in chunk_files(self._array(name), part.where):
                if not _bytes(file):
                    return f"{name} is {'empty' if file.exists() else 'lost'}"
        return None

    def _by_reading(self, part: Part) -> str | None:
        """The first array that cannot be read, or has no number somewhere."""
        for name in part.arrays:
            try:
                values = np.asarray(self._array(name)[part.where])
            except Exception as error:  # codecs and stores have no class in common for what is damaged
                return f"{name} cannot be read: {first_line(error)}"
            if name in part.finite and not np.isfinite(values).all():
                return f"{name} is lost, or not finite"
        return None

    def _size(self, part: Part) -> int:
        files = (file for name in part.arrays for file in chunk_files(self._array(name), part.where))
        return sum(max(_bytes(file), LEAST) for file in files)

    def _array(self, name: str) -> Any:
        return self.root[name]


def restore(root: zarr.Group, layout: Layout) -> list[str]:
    """Write coordinates and constant fields again that are lost or cannot be read; return their names.

    The layout has them. To be called for a store of the same run only: what can be read and is another's
    coordinate is left as it is.
    """
    restored = []
    for name, values in _constants(layout).items():
        array: Any = root.get(name)
        if array is not None and array.shape == values.shape and not _is_whole(array, values):
            array[...] = values
            restored.append(name)
    return restored


def _constants(layout: Layout) -> dict[str, NDArray[Any]]:
    """Arrays that do not depend on what is computed."""
    found: dict[str, NDArray[Any]] = dict(layout.static)
    for coords in (layout.output_coords(), layout.lowres_coords()):
        found |= {**convert_multidim_to_singledim(coords)[0], **coords}
    if layout.cases.leads is not None:
        found[VALID] = layout.cases.valid_times
    return found | ({OUTPUT: np.arange(len(layout.bounds))} if layout.bounds else {})


def _is_whole(array: Any, values: NDArray[Any]) -> bool:
    """Whether an array is there and can be read; Zarr keeps no chunk of nothing but its fill value."""
    try:
        found = np.asarray(array[...])
    except Exception:  # codecs and stores have no class in common for what is damaged
        return False
    return all(map(_bytes, chunk_files(array, ()))) or np.array_equal(found, values)


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
