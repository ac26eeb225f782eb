# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The target of a run: a new store, a resumed or shared one, or one to replace once the new is complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from loguru import logger
from zarr.storage import LocalStore, MemoryStore

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.files import writing
from earth2_corrdiff.base.free_memory import free_bytes
from earth2_corrdiff.base.object_path import AnyPath, ObjectPath, as_path
from earth2_corrdiff.base.studio import KVBackend, XarrayBackend, ZarrBackend
from earth2_corrdiff.store.claims import SECOND, Claims
from earth2_corrdiff.store.layout import Layout
from earth2_corrdiff.store.paths import (
    KEPT,
    beside,
    check_target,
    exchange,
    recorded,
    remove_replacement,
    replacement,
    tidy,
)
from earth2_corrdiff.store.sizes import Size, check_disk, check_in_memory
from earth2_corrdiff.store.writer import Plain, Store


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
    claims : Claims | None
        Claims of this process, once a store at a path is open; other backends are not shared
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
        self.claims: Claims | None = None
        self.replaces = False
        self._store: Store | None = None
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

    def enter(self) -> None:
        """Register this process at the path; waits while another process makes the store.

        Raises
        ------
        InputError
            If the folder cannot be written
        """
        if not isinstance(self.target, Path) or self.claims is not None:
            return
        with writing(self.target):
            self.target.resolve().parent.mkdir(parents=True, exist_ok=True)
            self.claims = Claims(beside(self.target, "lock"))

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
            self.enter()
            return self._resumed(layout)
        if isinstance(self.target, ZarrBackend):
            return Store(self.target, layout, resume=True) if len(self.target.root) else None
        raise InputError("only a Zarr store can be resumed; give a path, or a ZarrBackend")

    def _resumed(self, layout: Layout) -> Store | None:
        if recorded(replacement(self.target)) is not None:
            try:
                return self.join(layout, replaces=True)
            except InputError as error:
                if recorded(self.target) is None:
                    raise
                logger.debug("{} is not resumed: {}", replacement(self.target), error)
        return self.join(layout) if self.target.exists() else None

    def join(self, layout: Layout, replaces: bool = False) -> Store:
        """Open the store at the path, or the one that grows beside it, and share it with other processes.

        Raises
        ------
        InputError
            If it belongs to another run, or is damaged
        """
        self.enter()
        store = Store.resume(replacement(self.target) if replaces else self.target, layout, self.target)
        if isinstance(self.target, Path) and self._alone:
            tidy(self.target)
        return self._opened(store, replaces)

    def create(self, layout: Layout) -> Store | Plain:
        """Make the store; if it replaces another one, beside that.

        Raises
        ------
        InputError
            If it cannot be written, or other processes are writing there
        """
        if not isinstance(self.target, AnyPath):
            return (Store if isinstance(self.target, ZarrBackend) else Plain)(self.target, layout)
        self.enter()
        if isinstance(self.target, Path) and not self._alone:
            raise InputError(
                f"another process is writing {self.target}; join it with --resume, or wait until it has ended"
            )
        check_target(self.target, self.overwrite, resume=False)
        remove_replacement(self.target)
        replaces = self.target.exists()
        path = replacement(self.target) if replaces else self.target
        return self._opened(Store.create(path, layout, self.target), replaces)

    def close(self) -> None:
        """Leave the store to other processes; the last one moves a complete replacement to its path."""
        if isinstance(self.target, ObjectPath):
            self._put_in_place()
        if self.claims is None:
            return
        self.claims.close()
        self.claims = None
        if self.replaces and self._store is not None:
            with writing(self.target, KEPT), Claims(beside(self.target, "lock"), join=False) as claims:
                if claims.alone:
                    self._put_in_place()

    def _put_in_place(self) -> None:
        """Move a complete replacement to its path."""
        path = replacement(self.target)
        if self.replaces and self._store is not None and path.exists():
            with writing(self.target, KEPT):
                if not any(self._store.all_missing()):
                    exchange(path, self.target)

    @property
    def _alone(self) -> bool:
        return self.claims is not None and self.claims.alone

    def _opened(self, store: Store, replaces: bool) -> Store:
        self._store, self.replaces = store, replaces
        if self.claims is not None:
            self.claims.first = SECOND if replaces else 0
            self.claims.share()
        return store
