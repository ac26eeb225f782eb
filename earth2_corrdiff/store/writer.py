# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The writer of a store through Earth2Studio's ``ZarrBackend``, resumable after any interruption.

A member of a case is an address in the store. Its fields are written first and flushed to the disk, its seed
last: a member with a seed is complete. No two members share a chunk, so several processes can fill one store.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from loguru import logger
from numpy.typing import NDArray
from torch import Tensor
from zarr.storage import LocalStore, ObjectStore

from earth2_corrdiff.base.errors import InputError, TakenError, first_line
from earth2_corrdiff.base.files import flush, writing
from earth2_corrdiff.base.object_path import AnyPath, ObjectPath, check_reached
from earth2_corrdiff.base.studio import ZarrBackend
from earth2_corrdiff.store.arrays import lay_out
from earth2_corrdiff.store.bounded_error import BoundedFields
from earth2_corrdiff.store.error_bounds import Kept
from earth2_corrdiff.store.integrity import Integrity, chunk_files, chunks_there, restore
from earth2_corrdiff.store.layout import ERROR, Layout, finite_members
from earth2_corrdiff.store.objects import Presence, backend, complete, filled, zarr_store
from earth2_corrdiff.store.paths import KEPT, SEED, UNWRITTEN, make, metadata_fault, recorded, same_folder

LISTED = 5
"""Damaged members that are logged one by one."""
UNREADABLE = -2
"""Stands for a seed that cannot be read."""


class Store:
    """A Zarr store with its arrays, to be filled.

    Parameters
    ----------
    io : ZarrBackend
        Empty, or with the store of an earlier run of the same layout, to resume it
    layout : Layout
        Its layout
    resume : bool, optional
        Go on with the store that is there; by default it is refused
    name : Path | None, optional
        Its path in messages

    Raises
    ------
    InputError
        If the backend holds other data, or a store of other times, members, grids or settings, which the
        message names; or if its codecs are not installed, or are the backend's own
    """

    def __init__(
        self, io: ZarrBackend, layout: Layout, resume: bool = False, name: AnyPath | None = None
    ) -> None:
        self.io, self.layout, self.name = io, layout, name or io.root.store
        if SEED in io.root and resume:
            kept = tuple(name for name in layout.lowres if f"{name}_lowres" in io.root)
            self.layout = replace(layout, lowres=kept)
            with _readable(self.name):
                _check_same(io, layout, self.name)
        elif len(io.root):
            raise InputError(f"{self.name} is not empty; give an empty backend, or ask to resume its run")
        elif layout.bounds and io.zarr_codecs is not None:
            raise InputError("the ZarrBackend has zarr_codecs of its own; leave them out, or do not compress")
        else:
            with writing(self.name):
                lay_out(io, layout)
        store = io.root.store
        self._folder = store.root if isinstance(store, LocalStore) else None
        self._stat = None if self._folder is None else self._folder.stat()
        self._presence = Presence(store) if isinstance(store, ObjectStore) else None
        self._bounded = BoundedFields(io.root, self.layout, self.name)

    @classmethod
    def create(cls, path: AnyPath, layout: Layout, name: AnyPath | None = None) -> Store:
        """Make a store beside its path and move it there, so that there is a complete one or none.

        Parameters
        ----------
        path : Path or ObjectPath
            Its path
        layout : Layout
            Its layout
        name : Path or ObjectPath, optional
            Its name in messages, by default its path

        Raises
        ------
        TakenError
            If another process was first
        InputError
            If the path cannot be written
        """
        name = name or path
        if not make(path, lambda fresh: cls(ZarrBackend(str(fresh)), layout, name=name), name):
            raise TakenError(
                f"the output {name} was made by another process meanwhile; use --resume to go on with it"
            )
        return cls.resume(path, layout, name)

    @classmethod
    def resume(cls, path: AnyPath, layout: Layout, name: AnyPath | None = None) -> Store:
        """Open the store of an interrupted run; coordinates that are damaged are written again.

        Raises
        ------
        InputError
            If it was made for other times, members, grids or settings, which the message names; or if
            its metadata are damaged
        """
        name = name or path
        fault = metadata_fault(path)
        if fault and isinstance(path, ObjectPath) and not layout.other_settings(recorded(path) or {}):
            with writing(name), filled(lambda fresh: cls(ZarrBackend(str(fresh)), layout)) as folder:
                complete(path, folder)
            fault = metadata_fault(path)
        if fault:
            raise InputError(f"the store {name} is damaged ({fault}); use --overwrite")
        with _readable(name):
            # not the consolidated copy of the metadata: that one cannot be changed
            root = zarr.open_group(zarr_store(path), mode="r+", use_consolidated=False)
            _restore(root, layout, name)
            io = ZarrBackend(str(path)) if isinstance(path, Path) else backend(path)
            io.root = root if isinstance(path, Path) else io.root
            return cls(io, layout, resume=True, name=name)

    def missing(self, case: int) -> list[int]:
        """Members of a case that are not complete."""
        where = self.layout.cases.index(case)
        return _missing(all_seeds(self.io.root, where), self.layout.seeds[where])

    def all_missing(self) -> list[list[int]]:
        """Members of every case that are not complete."""
        shape = (-1, self.layout.members)
        pairs = zip(all_seeds(self.io.root).reshape(shape), self.layout.seeds.reshape(shape), strict=True)
        return [_missing(found, seeds) for found, seeds in pairs]

    def take_back(
        self, variables: Sequence[str], every_byte: bool = False, own: Container[int] | None = None
    ) -> int:
        """Mark damaged members as not complete; return their number.

        Parameters
        ----------
        variables : Sequence[str]
            Variables of the coarse input that are finite everywhere
        every_byte : bool, optional
            Read all members; by default the newest ones, and check the file sizes of all others
        own : Container[int] | None, optional
            Members by ``case * members + member`` that are looked at, by default all
        """
        found = 0
        for case, member, fault in self._faults(variables, every_byte, own):
            with writing(self.name, KEPT):
                self.io.root[SEED][*self.layout.cases.index(case), member] = UNWRITTEN
            found += 1
            if found <= LISTED:
                logger.warning(
                    "member {} at {} is damaged and is computed again: {}",
                    *(member, self.layout.cases[case], fault),
                )
        if found > LISTED:
            logger.warning("{} members are damaged and are computed again", found)
        return found

    def _faults(
        self, variables: Sequence[str], every_byte: bool, own: Container[int] | None
    ) -> Iterator[tuple[int, int, str]]:
        """Case, number and fault of each member with a damaged seed or damaged fields."""
        seeds, members = all_seeds(self.io.root), self.layout.members
        flat = (seeds.ravel(), self.layout.seeds.ravel())
        written: list[list[int]] = [[] for _ in range(len(self.layout.cases))]
        for number, (found, seed) in enumerate(zip(*flat, strict=True)):
            if found == UNWRITTEN or (own is not None and number not in own):
                continue
            case, member = divmod(number, members)
            if found == seed:
                written[case].append(member)
            else:
                yield case, member, f"{SEED} is not its seed"
        yield from Integrity(self.io.root, self.layout, variables).damaged(written, every_byte)

    def write_lowres(self, case: int, x: Tensor) -> None:
        """Write the coarse input ``[C, h, w]`` of a case."""
        names = [f"{name}_lowres" for name in self.layout.lowres]
        leading = (1,) * len(self.layout.cases.shape)
        with writing(self.name, KEPT):
            self._check_there()
            fields = [field.cpu().reshape(*leading, *field.shape) for field in x]
            self._write(fields, self.layout.lowres_coords(case), names)
            self._flush(names, self.layout.cases.index(case))

    def write_members(self, case: int, first: int, block: Tensor, missing: Tensor | None = None) -> None:
        """Write members ``first, first + 1, …`` of a case, ``[m, Co, H, W]``, their seeds last.

        They have no value (NaN) where ``missing [Co, H, W]`` is True.

        Raises
        ------
        MemberError
            If some are not finite elsewhere, or too large for their bounds: the others are written
        InputError
            If the disk is full, or the store is no longer there
        """
        with writing(self.name, KEPT):
            for i, fields in finite_members(self.layout, case, first, block, missing, self._bounded.check):
                self._write_member(case, i, fields)

    def _write_member(self, case: int, i: int, fields: Tensor) -> None:
        coords, where = self.layout.output_coords(case), self.layout.cases.index(case)
        coords["sample"] = np.array([i])
        self._check_there()
        self._write(*_variables(fields[None], coords, self.layout))
        self._bounded.verify(case, i, fields)
        errors = (ERROR,) if self.layout.bounds else ()
        self._flush((*self.layout.outputs, *errors), (*where, i))
        self._check_there()
        self.io.root[SEED][*where, i] = self.layout.seeds[*where, i]
        self._flush((SEED,), (*where, i))

    def _write(self, fields: Any, coords: OrderedDict[str, Any], names: Any) -> None:
        """Write fields through the backend, which may write in the background."""
        self.io.write(fields, coords, names)
        if hasattr(self.io, "flush"):
            self.io.flush()

    def _flush(self, names: Iterable[str], where: Sequence[int]) -> None:
        """Wait until a part of some arrays is on the disk, so that no seed is there without its fields."""
        if self._folder is not None:
            files = [file for name in names for file in chunk_files(self._array(name), where)]
            flush((file for file in files if file.exists()), self._folder)

    def _check_there(self) -> None:
        """Refuse to write if the store was removed or replaced: Zarr would not notice."""
        gone = self._presence is not None and not self._presence()
        if gone or (self._folder is not None and not same_folder(self._folder, self._stat)):
            raise InputError(
                f"{self.name} was removed or replaced while the run was writing it; remove what is left of "
                "it, and start again without --resume"
            )

    def _array(self, name: str) -> Any:
        return self.io.root[name]

    def finish(self) -> dict[str, Kept]:
        """Errors and sizes of the variables with bounds, recorded in the store once it is complete.

        Any number of processes may call it, at once or again: they write the same bytes.
        """
        with writing(self.name, KEPT):
            self._check_there()
            return self._bounded.finish(lambda: not any(self.all_missing()))


class Plain:
    """Any other Earth2Studio backend: fields without provenance, not resumable."""

    def __init__(self, io: Any, layout: Layout) -> None:
        if layout.bounds:
            raise InputError("only a Zarr store can be compressed; give a path or a ZarrBackend, or leave it")
        self.io, self.layout = io, layout
        try:
            io.add_array(layout.output_coords(), list(layout.outputs))
        except Exception as error:  # of whatever class: it comes before anything is computed
            raise InputError(
                f"the backend {type(io).__name__} cannot hold the output ({first_line(error)}); give the "
                "path of a store, or a ZarrBackend"
            ) from error

    def missing(self, case: int) -> list[int]:
        """All members."""
        return list(range(self.layout.members))

    def all_missing(self) -> list[list[int]]:
        """All members of every case."""
        return [self.missing(case) for case in range(len(self.layout.cases))]

    def write_lowres(self, case: int, x: Tensor) -> None:
        """Do nothing: only Zarr stores keep the coarse input."""

    def write_members(self, case: int, first: int, block: Tensor, missing: Tensor | None = None) -> None:
        """Write members ``first, first + 1, …`` of a case: ``[m, Co, H, W]``; NaN where they are missing.

        Raises
        ------
        MemberError
            If some are not finite elsewhere: the others are written
        """
        coords = self.layout.output_coords(case)
        for i, fields in finite_members(self.layout, case, first, block, missing):
            coords["sample"] = np.array([i])
            self.io.write(*_variables(fields[None], coords, self.layout))

    def finish(self) -> dict[str, Kept]:
        """Return nothing: there are no bounds."""
        return {}


def _missing(found: Any, seeds: Any) -> list[int]:
    return [int(i) for i in np.flatnonzero(found != seeds)]


def all_seeds(root: zarr.Group, where: Sequence[int] = ()) -> NDArray[np.int64]:
    """Seeds of the members of one case, or ``[*S, M]`` of all; ``UNREADABLE`` where they are damaged."""
    array: Any = root[SEED]
    shape = array.shape[len(where) :]
    there = chunks_there(array, where)
    if there is None or 2 * len(there) > np.prod(shape):
        try:
            return np.asarray(array[*where, ...])
        except Exception as error:  # codecs and stores have no common class for damage
            check_reached(error)
            there = list(np.ndindex(shape))
    found = np.full(shape, UNWRITTEN, dtype=np.int64)
    for member in there:
        try:
            found[member] = array[*where, *member]
        except Exception as error:  # as above
            check_reached(error)
            found[member] = UNREADABLE
    return found


@contextmanager
def _readable(name: object) -> Iterator[None]:
    """Turn any error of a damaged store into an InputError of one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # codecs and stores have no common class for damage
        check_reached(error, name)
        raise InputError(f"the store {name} is damaged ({first_line(error)}); use --overwrite") from error


def _restore(root: zarr.Group, layout: Layout, name: object) -> None:
    """Write damaged coordinates again, if everything readable belongs to this run."""
    array: Any = root.get(SEED)
    if array is None or array.shape != layout.seeds.shape or layout.other_settings(dict(root.attrs)):
        return
    found = all_seeds(root)
    if ((found >= 0) & (found != layout.seeds)).any():
        return
    with writing(name, KEPT):
        for array_name in restore(root, layout):
            logger.warning("{} of {} was damaged and is written again", array_name, name)


def _variables(block: Tensor, coords: OrderedDict[str, Any], layout: Layout) -> tuple[Any, Any, Any]:
    """Members ``[m, Co, H, W]`` of one case as arguments of a backend's ``write``: a list over variables."""
    leading = (1,) * len(layout.cases.shape)
    fields = [each.reshape(*leading, *each.shape) for each in block.transpose(0, 1).cpu()]
    return fields, coords, np.array(layout.outputs)


def _check_same(io: ZarrBackend, layout: Layout, name: object) -> None:
    """Refuse the store of another run, by all that must be equal to go on with it."""
    attributes = dict(io.root.attrs)
    other = layout.differences(attributes, {name: io.root[name] for name in io.root})
    if not other:
        found = all_seeds(io.root)
        written = found[found >= 0]
        if written.size and not np.isin(written, layout.seeds).any():
            other = ["other seeds of its members"]
    if other:
        raise InputError(
            f"{name} belongs to another run, it has {'; '.join(other)}; use --overwrite or another --output"
        )
    if attributes.get("versions") != layout.attributes.get("versions"):
        logger.warning("{} was begun with other software versions: members may differ in the last bits", name)
