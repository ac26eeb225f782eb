# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The target of a run: a new store, a resumed one, or one to replace once the new is complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import zarr
from loguru import logger
from zarr.storage import LocalStore, MemoryStore

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.files import writing
from earth2_corrdiff.base.free_memory import free_bytes
from earth2_corrdiff.base.object_path import AnyPath, ObjectPath, as_path
from earth2_corrdiff.base.studio import KVBackend, XarrayBackend, ZarrBackend
from earth2_corrdiff.store import objects
from earth2_corrdiff.store.bounded_error import record, written_errors
from earth2_corrdiff.store.error_bounds import Kept
from earth2_corrdiff.store.layout import Layout
from earth2_corrdiff.store.paths import (
    KEPT,
    check_target,
    exchange,
    metadata_fault,
    recorded,
    remove_replacement,
    replacement,
    tidy,
)
from earth2_corrdiff.store.sizes import Size, check_disk, check_in_memory
from earth2_corrdiff.store.states import States
from earth2_corrdiff.store.writer import Plain, Store, all_seeds


class Output:
    """The target of a run.

    Parameters
    ----------
    target : str | Path | IOBackend
        Path or URL of a Zarr store, or an Earth2Studio backend that is already open
    overwrite, resume : bool, optional
        Replace what is there, or go on with it; by default it is refused

    Attributes
    ----------
    replaces : bool
        True if the store grows beside another one, which it replaces when it is complete

    Raises
    ------
    InputError
        If the path is taken or cannot be written
    """

    def __init__(self, target: Any, overwrite: bool = False, resume: bool = False) -> None:
        self.target = as_path(target) if isinstance(target, str | Path) else target
        self.overwrite, self.resume = overwrite, resume
        self.replaces = False
        if isinstance(self.target, AnyPath):
            check_target(self.target, overwrite, resume)

    @property
    def keeps(self) -> str:
        """A clause for messages: what remains of a run that ends early."""
        if self.replaces:
            return f"{self.target} is as it was, what is done of the new one is kept; go on with --resume"
        return f"{self.target} keeps what is done; go on with --resume"

    def recorded(self) -> dict[str, Any]:
        """Attributes of the store that a resumed run goes on with; empty if there is none."""
        if isinstance(self.target, AnyPath):
            return recorded(replacement(self.target)) or recorded(self.target) or {}
        return dict(self.target.root.attrs) if isinstance(self.target, ZarrBackend) else {}

    def check_room(self, size: Size) -> str:
        """Refuse a run that does not fit; return the free space as text.

        Raises
        ------
        InputError
            If the disk, or the memory for a backend that keeps its fields there, is too small
        """
        store = getattr(self.target, "store", None)
        if isinstance(self.target, Path):
            return check_disk(size, self.target)
        if isinstance(store, LocalStore):
            return check_disk(size, store.root)
        if isinstance(store, MemoryStore) or isinstance(self.target, XarrayBackend | KVBackend):
            check_in_memory(size, free_bytes(torch.device("cpu")))
        return ""

    def existing(self, layout: Layout) -> Store | None:
        """The store of an earlier run, to resume it; None if there is none.

        An interrupted replacement comes first, unless it belongs to another run and the store at the path to
        this one.

        Raises
        ------
        InputError
            If it belongs to another run, or cannot be resumed
        """
        if isinstance(self.target, AnyPath):
            return self._resumed(layout)
        if isinstance(self.target, ZarrBackend):
            return Store(self.target, layout, resume=True) if len(self.target.root) else None
        raise InputError("only a Zarr store can be resumed; give a path, or a ZarrBackend")

    def _resumed(self, layout: Layout) -> Store | None:
        grown = replacement(self.target)
        if recorded(grown) is not None:
            try:
                store = Store.resume(grown, layout, self.target)
            except InputError as error:
                if recorded(self.target) is None:
                    raise
                logger.debug("{} is not resumed: {}", grown, error)
            else:
                self.replaces = True
                return store
        return Store.resume(self.target, layout, self.target) if self.target.exists() else None

    def create(self, layout: Layout) -> Store | Plain:
        """Make the store; if it replaces another one, beside that.

        Raises
        ------
        TakenError
            If another process has made it meanwhile
        InputError
            If it cannot be written
        """
        if not isinstance(self.target, AnyPath):
            return (Store if isinstance(self.target, ZarrBackend) else Plain)(self.target, layout)
        if not self.overwrite:
            return Store.create(self.target, layout)
        check_target(self.target, overwrite=True, resume=False)
        remove_replacement(self.target)
        self.replaces = self.target.exists()
        path = replacement(self.target) if self.replaces else self.target
        return Store.create(path, layout, self.target)

    def finish(self, store: Store | Plain | States) -> dict[str, Kept]:
        """What is kept within bounds; a complete store is moved to its path, without leftovers.

        Any number of processes may call it, at once or again.
        """
        kept = store.finish()
        if isinstance(self.target, AnyPath) and not any(store.all_missing()):
            with writing(self.target, KEPT):
                settle(self.target, self.replaces)
        return kept


def finish(path: AnyPath) -> tuple[int, int]:
    """Record, move to its place and tidy the store of a run whose tasks are done.

    Returns
    -------
    tuple[int, int]
        Members that are missing, and all of them; nothing is done while some are

    Raises
    ------
    InputError
        If there is no store of a run, or its metadata are damaged
    """
    grown = replacement(path) if recorded(replacement(path)) is not None else path
    if recorded(grown) is None:
        raise InputError(f"{path} is not a store of a run; give one that run-corrdiff has prepared")
    if fault := metadata_fault(grown):
        raise InputError(f"the store {path} is damaged ({fault}); use --overwrite")
    root = zarr.open_group(objects.zarr_store(grown), mode="r+", use_consolidated=False)
    seeds = all_seeds(root)
    missing = int((seeds < 0).sum())
    if not missing:
        with writing(path, KEPT):
            record(root, written_errors(root))
            settle(path, grown != path)
    return missing, seeds.size


def settle(path: AnyPath, replaces: bool) -> None:
    """Move a complete replacement to its path, and remove what killed processes left."""
    if isinstance(path, ObjectPath):
        if replaces:
            objects.exchange(replacement(path), path)
        return
    if replaces:
        exchange(replacement(path), path)
    tidy(path)
