# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""A store in an object store: made by one process alone, completed by any, and moved over an older one.

There are no folders to rename, and no locks: what must happen once is a conditional put. The metadata of the
store's root come first when it is made, and last when it is moved, so that there is one store or none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time
from typing import TYPE_CHECKING, Any

import obstore
from loguru import logger

from earth2_corrdiff.base.object_path import AnyPath, ObjectPath, asking

if TYPE_CHECKING:
    from zarr.storage import ObjectStore

    from earth2_corrdiff.base.studio import ZarrBackend

ROOT = "zarr.json"
MOVING = ".moving"
"""Object that a process puts below a new store before it moves it."""
STALE = 900
"""Seconds after which a process that has not renewed it is dead."""
Listing = dict[str, tuple[int, float]]
BLOCK = 1000
"""Objects that are copied before it is renewed."""


@contextmanager
def filled(fill: Callable[[Path], object]) -> Iterator[Path]:
    """A new store in a temporary folder: what is put into an object store is what would be on a disk."""
    with TemporaryDirectory() as folder:
        fill(Path(folder))
        yield Path(folder)


def make(path: ObjectPath, folder: Path) -> bool:
    """Put a store that is laid out in a local folder where there is none; False if another was first."""
    first = (path / ROOT).create((folder / ROOT).read_bytes())
    if first:
        complete(path, folder)
    return first


def complete(path: ObjectPath, folder: Path) -> None:
    """Put what a maker that died has left out: the metadata of arrays, coordinates, constant fields."""
    files = (file for file in folder.rglob("*") if file.is_file())
    path.fill({file.relative_to(folder).as_posix(): file for file in files})


def zarr_store(path: AnyPath) -> str | ObjectStore[Any]:
    """The store of Zarr at a path or URL: on a disk its own, elsewhere that of obstore."""
    return path.zarr() if isinstance(path, ObjectPath) else str(path)


def backend(path: ObjectPath) -> ZarrBackend:
    """Earth2Studio's backend of a store that is there, which it can open itself on a disk alone.

    Its metadata come from the consolidated copy: they would be asked for with each member otherwise.
    """
    import numpy as np
    import zarr

    from earth2_corrdiff.base.studio import ZarrBackend

    io = ZarrBackend()
    io.store = path.zarr()
    io.root = zarr.open_group(io.store, mode="r+", use_consolidated=True)
    arrays = dict(io.root.arrays())
    axes = {name for array in arrays.values() for name in array.metadata.dimension_names or ()}
    io.coords.update((name, np.asarray(arrays[name][:])) for name in sorted(axes & set(arrays)))
    return io


def listing(store: ObjectStore[Any], prefix: str) -> Listing:
    """Sizes and times of all objects below a prefix, by key."""
    found: Listing = {}
    with asking(store):
        for page in obstore.list(store.store, prefix=prefix):
            found.update((each["path"], (each["size"], each["last_modified"].timestamp())) for each in page)
    return found


class Presence:
    """The store that was opened: True when called, as long as it was not removed or replaced."""

    def __init__(self, store: ObjectStore[Any]) -> None:
        self._store = store.store
        self._tag, self._attributes = self._head(), self._read()

    def __call__(self) -> bool:
        try:
            tag = self._head()
            if tag != self._tag:  # the largest errors are recorded there, too
                if self._read() != self._attributes:
                    return False
                self._tag = tag
        except FileNotFoundError:
            return False
        return True

    def _head(self) -> Any:
        return obstore.head(self._store, ROOT)["e_tag"]

    def _read(self) -> Any:
        return json.loads(bytes(obstore.get(self._store, ROOT).bytes())).get("attributes")


def remove(path: ObjectPath) -> None:
    """Remove a store, its root's metadata first."""
    (path / ROOT).remove([""])
    keys = [key for key, *_ in path.entries()]
    path.remove(sorted(keys, key=lambda key: key == MOVING))


def is_moving(new: ObjectPath) -> bool:
    """True if a process has begun to move a new store."""
    return (new / MOVING).is_file()


def exchange(new: ObjectPath, path: ObjectPath) -> None:
    """Move a complete store over another one, by copies that the server makes; one process alone does it.

    Until the end the new store is complete where it was made: what a process that died has left can be done
    again.
    """
    mark = new / MOVING
    if not _taken(mark):
        logger.warning("another process moves the new store to {}; if it has died, finish it later", path)
        return
    if not (new / ROOT).is_file():  # another process has moved it
        mark.remove([""])
        return
    remove(path)
    keys = [key for key, *_ in new.entries() if key not in (ROOT, MOVING)]
    for first in range(0, len(keys), BLOCK):
        new.copy(keys[first : first + BLOCK], path)
        mark.write_bytes(b"")
    new.copy([ROOT], path)
    remove(new)


def _taken(mark: ObjectPath) -> bool:
    """True if this process alone has put an object, or has taken that of a process that died."""
    if mark.create(b""):
        return True
    try:
        about = mark.stat()
        stale = time() - about["last_modified"].timestamp() > STALE
        return stale and mark.replace(about["e_tag"], b"")
    except FileNotFoundError:
        return False
