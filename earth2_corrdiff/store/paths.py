# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The path of a store: what may be there, how a complete new store gets there, and what is tidied up."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.files import check_writable, flush, writing
from earth2_corrdiff.base.object_path import AnyPath, ObjectPath
from earth2_corrdiff.store import objects

SEED = "member_seed"
SEED_NAME = "seed of the member's noise"
"""Begin of the ``long_name`` of the members' seeds: no other program's store has such an array."""
UNWRITTEN = -1
"""Seed of a member that is not complete."""
KEPT = "; what is written is kept, go on with --resume"
"""Hint of messages about a store that can be resumed."""

P = TypeVar("P", Path, ObjectPath, AnyPath)


def check_target(path: AnyPath, overwrite: bool, resume: bool) -> None:
    """Refuse a path that is taken or cannot be written, before anything is computed.

    Raises
    ------
    InputError
        If the store exists and neither ``overwrite`` nor ``resume`` is asked for, if it is damaged so that
        only ``overwrite`` helps, or if something else is there
    """
    if isinstance(path, ObjectPath) and _is_moving(path, resume):
        return
    with writing(path):
        if isinstance(path, Path) and (beside(path, "whole").exists() or beside(path, "old").exists()):
            _settle(path)
        if path.exists():
            if is_headless(path):
                resumable = resume and recorded(replacement(path)) is not None
                if not overwrite and not resumable:
                    raise InputError(f"the store {path} is damaged ({metadata_fault(path)}); use --overwrite")
            elif recorded(path) is None:
                raise InputError(
                    f"the output {path} exists and is not a store of a run; give another --output"
                )
            if not overwrite and not resume:
                raise InputError(f"the output {path} exists; use --resume to go on with it, or --overwrite")
        check_writable(path)


def _is_moving(path: ObjectPath, resume: bool) -> bool:
    """True if a complete store is on its way to a URL; InputError if nothing can be written there."""
    if path.url.startswith("http"):
        raise InputError(f"nothing can be written to {path}; use s3://BUCKET/PATH, gs://… or az://…")
    if not path.name:
        raise InputError(f"{path} is a bucket and not a store; use {path}/NAME.zarr")
    moving = objects.is_moving(replacement(path))
    if moving and not resume:
        raise InputError(f"the replacement of {path} was interrupted; go on with --resume")
    return moving


def recorded(path: AnyPath) -> dict[str, Any] | None:
    """Attributes of the store of a run; None if there is no such store at the path."""
    attributes = (_node(path) or {}).get("attributes")
    return attributes if isinstance(attributes, dict) and "package_sha256" in attributes else None


def is_headless(path: AnyPath) -> bool:
    """True if a folder is the store of a run whose own metadata are lost, by its members' seeds.

    A folder with readable metadata that are not those of a run is no such store, whatever else it holds.
    """
    attributes = (_node(path / SEED) or {}).get("attributes")
    name = attributes.get("long_name") if isinstance(attributes, dict) else None
    return _node(path) is None and isinstance(name, str) and name.startswith(SEED_NAME)


def metadata_fault(path: AnyPath) -> str | None:
    """What is lost or unreadable of the metadata of a Zarr store (format 3); None if they are complete.

    The store's copy of all metadata lists the arrays. Readers that use the copy alone do not notice such
    damage.
    """
    root = _node(path)
    if root is None:
        return f"its zarr.json {_lost(path)}"
    copy = root.get("consolidated_metadata")
    listed = copy.get("metadata") if isinstance(copy, dict) else None
    for name in listed if isinstance(listed, dict) else ():
        if _node(path / name) is None:
            return f"zarr.json of {name} {_lost(path / name)}"
    return None


def _node(path: AnyPath) -> dict[str, Any] | None:
    """The metadata of a group or an array; None if they are lost or cannot be read."""
    try:
        data = (path / "zarr.json").read_bytes()
    except OSError:
        return None
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found.get("node_type") in ("group", "array") else None


def _lost(path: AnyPath) -> str:
    return "cannot be read" if (path / "zarr.json").exists() else "is lost"


@contextmanager
def replaced(path: Path, name: object = None) -> Iterator[Path]:
    """Give a path for a new store, which is moved over what was at ``path`` when the block ends.

    There is a complete store or none: the new one is made beside the path and flushed to the disk, and the
    old one waits there until the new one has its place.

    Parameters
    ----------
    path : Path
        Final path of the store
    name : object, optional
        Its name in messages, by default the path
    """
    fresh = beside(path, "new")
    try:
        with writing(name or path):
            path.resolve().parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(fresh, ignore_errors=True)
            yield fresh
            flush((file for file in fresh.rglob("*") if file.is_file()), fresh)
            exchange(fresh, path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def make(path: AnyPath, fill: Callable[[Path], object], name: object = None) -> bool:
    """Make a store where there is none: filled beside its path, flushed, and moved there by one rename.

    Parameters
    ----------
    path : Path or ObjectPath
        Its path
    fill : Callable[[Path], object]
        Writes the store at the path that it is called with
    name : object, optional
        Its name in messages, by default the path

    Returns
    -------
    bool
        False if another process was first: its store stays
    """
    if isinstance(path, ObjectPath):
        with writing(name or path), objects.filled(fill) as folder:
            return objects.make(path, folder)
    fresh, real = beside(path, f"{uuid4().hex[:8]}.new"), path.resolve()
    with writing(name or path):
        real.parent.mkdir(parents=True, exist_ok=True)
        try:
            fill(fresh)
            flush((file for file in fresh.rglob("*") if file.is_file()), fresh)
            fresh.rename(real)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        flush([], real.parent)
    return True


def exchange(new: Path, path: Path) -> None:
    """Move a complete store to its path; the old one waits beside it until that is done.

    Of several processes that try, the one does it whose first rename succeeds.

    Raises
    ------
    OSError
        If the file system refuses
    """
    if not new.exists():
        return
    _settle(path)  # what a process that died has left
    with suppress(FileNotFoundError):
        new.rename(beside(path, "whole"))
        _settle(path)


def _settle(path: Path) -> None:
    """Do, or go on with, the moves of an exchange: a process may have died between them."""
    real, old, whole = path.resolve(), beside(path, "old"), beside(path, "whole")
    if whole.exists():
        shutil.rmtree(old, ignore_errors=True)
        if real.exists():
            real.rename(old)
        with suppress(FileNotFoundError):  # of two that go on with it, one does it
            whole.rename(real)
    if old.exists() and not real.exists():
        old.rename(real)
    flush([], real.parent)
    shutil.rmtree(old, ignore_errors=True)


def replacement(path: P) -> P:
    """The path beside a store where its replacement grows until that is complete."""
    return beside(path, "next")


def remove_replacement(path: AnyPath) -> None:
    """Remove an interrupted replacement."""
    if isinstance(path, ObjectPath):
        objects.remove(replacement(path))
        return
    shutil.rmtree(replacement(path), ignore_errors=True)


def same_folder(path: Path, before: os.stat_result | None) -> bool:
    """True if a folder of Zarr is still the one of this earlier status, and has its metadata."""
    try:
        now = path.stat()
        (path / "zarr.json").stat()
    except OSError:
        return False
    return before is None or os.path.samestat(now, before)


def tidy(path: Path) -> None:
    """Remove what killed processes left of a store that is complete."""
    for partial in path.rglob("*.partial"):
        partial.unlink(missing_ok=True)
    for made in (path.resolve(), replacement(path)):
        for left in made.parent.glob(f".{escape(made.name)}.*.new"):
            shutil.rmtree(left, ignore_errors=True)


def beside(path: P, suffix: str) -> P:
    """A hidden path beside the store's real one, behind links."""
    if isinstance(path, ObjectPath):
        return path.with_name(f".{path.name}.{suffix}")
    real = path.resolve()
    return real.with_name(f".{real.name}.{suffix}")
