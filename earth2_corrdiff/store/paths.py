# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The place of a store: what may be there, how a new store gets there whole, and what is tidied up."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from earth2_corrdiff.base.errors import InputError

SEED = "member_seed"
SEED_NAME = "seed of the member's noise"
"""How the ``long_name`` of the members' seeds begins: no other program's store has such an array."""
NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EBADF}
"""What file systems answer that cannot flush a folder."""


@contextmanager
def writing(place: object, kept: bool = True) -> Iterator[None]:
    """Turn an error of the file system into one line; what is written stays, and can be resumed."""
    try:
        yield
    except OSError as error:
        hint = "; what is written is kept, go on with --resume" if kept else ""
        raise InputError(f"cannot write {place}: {error.strerror or error}{hint}") from error


def check_target(path: Path, overwrite: bool, resume: bool) -> None:
    """Refuse a place that is taken or cannot be written, before anything is computed.

    Raises
    ------
    InputError
        If the store exists and neither ``overwrite`` nor ``resume`` is asked for, if it is damaged so that
        only ``overwrite`` helps, or if something else is there
    """
    with writing(path, kept=False):
        _undo(path)
        if path.exists():
            if is_headless(path):
                goes_on = resume and recorded(replacement(path)) is not None
                if not overwrite and not goes_on:
                    raise InputError(f"the store {path} is damaged ({metadata_fault(path)}); use --overwrite")
            elif recorded(path) is None:
                raise InputError(f"the output {path} exists and is no store of a run; give another --output")
            if not overwrite and not resume:
                raise InputError(f"the output {path} exists; use --resume to go on with it, or --overwrite")
        parent = next(p for p in path.absolute().parents if p.exists())
        if not parent.is_dir():
            raise InputError(f"cannot write {path}: {parent} is no directory")
        with tempfile.TemporaryFile(dir=parent):
            pass  # permissions do not tell about read-only and special file systems: try


def recorded(path: Path) -> dict[str, Any] | None:
    """Attributes of the store that a run left at a path; None if there is no such store."""
    about = (_node(path) or {}).get("attributes")
    return about if isinstance(about, dict) and "package_sha256" in about else None


def is_headless(path: Path) -> bool:
    """Whether a folder is the store of a run whose own metadata are lost: the members' seeds tell.

    A folder with readable metadata that are not those of a run is no such store, whatever else it holds.
    """
    about = (_node(path / SEED) or {}).get("attributes")
    name = about.get("long_name") if isinstance(about, dict) else None
    return _node(path) is None and isinstance(name, str) and name.startswith(SEED_NAME)


def metadata_fault(path: Path) -> str | None:
    """What of the metadata of a Zarr store (format 3) is lost or cannot be read; None if it is whole.

    The store's copy of all metadata says which arrays there should be. Readers that use the copy alone show
    nothing of such damage.
    """
    about = _node(path)
    if about is None:
        return f"its zarr.json {_lost(path)}"
    copy = about.get("consolidated_metadata")
    listed = copy.get("metadata") if isinstance(copy, dict) else None
    for name in listed if isinstance(listed, dict) else ():
        if _node(path / name) is None:
            return f"zarr.json of {name} {_lost(path / name)}"
    return None


def _node(path: Path) -> dict[str, Any] | None:
    """The metadata of a group or an array; None where they are lost or cannot be read."""
    try:
        found = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found.get("node_type") in ("group", "array") else None


def _lost(path: Path) -> str:
    return "cannot be read" if (path / "zarr.json").exists() else "is lost"


@contextmanager
def replaced(path: Path, place: object = None) -> Iterator[Path]:
    """Where to make a store: at the end of the block it is moved to its place, over what was there.

    There is a whole store or none: the new one is made beside its place and flushed to the disk, and the old
    one waits there until the new one has taken it.

    Parameters
    ----------
    path : Path
        The place
    place : object, optional
        As messages call it, by default as it is
    """
    fresh = _places(path)[1]
    try:
        with writing(place or path, kept=False):
            path.resolve().parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(fresh, ignore_errors=True)
            yield fresh
            flush((file for file in fresh.rglob("*") if file.is_file()), fresh)
            exchange(fresh, path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        _undo(path)


def exchange(new: Path, path: Path) -> None:
    """Move a store that is whole to its place; the old one waits beside it until that is done.

    Raises
    ------
    OSError
        If the file system refuses
    """
    real, _, old = _places(path)
    shutil.rmtree(old, ignore_errors=True)
    if real.exists():
        real.rename(old)
    new.rename(real)
    flush([], real.parent)
    shutil.rmtree(old, ignore_errors=True)


def replacement(path: Path) -> Path:
    """Where a new store grows that shall replace the one at a path, once it is complete."""
    return beside(path, "next")


def remove_replacement(path: Path) -> None:
    """Give up what an interrupted replacement has left; nobody else may be at work there."""
    shutil.rmtree(replacement(path), ignore_errors=True)


def same_folder(path: Path, was: os.stat_result | None) -> bool:
    """Whether a folder of Zarr is still the one whose status was looked up, and has its metadata."""
    try:
        now = path.stat()
        (path / "zarr.json").stat()
    except OSError:
        return False
    return was is None or os.path.samestat(now, was)


def flush(files: Iterable[Path], root: Path) -> None:
    """Wait until files, and their names in the folders below ``root``, are on the disk.

    A file that was renamed into its place may be empty after a power failure, unless this was called.

    Raises
    ------
    OSError
        If the disk is full, or a file is not there
    """
    folders = {root}
    for file in files:
        _sync(file)
        folders.update(folder for folder in file.parents if root in folder.parents)
    for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
        try:
            _sync(folder)
        except OSError as error:
            if error.errno not in NO_SYNC:
                raise


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def tidy(path: Path) -> None:
    """Remove what killed writes and replacements have left; nobody else may be at work there.

    A replacement that has begun to grow stays: it can be resumed.
    """
    for store in (path, replacement(path)):
        for partial in store.rglob("*.partial"):
            partial.unlink(missing_ok=True)
    for each in (path, replacement(path)):
        for left in _places(each)[1:]:
            shutil.rmtree(left, ignore_errors=True)


def beside(path: Path, suffix: str) -> Path:
    """A hidden path beside the store's real one, behind links."""
    real = path.resolve()
    return real.with_name(f".{real.name}.{suffix}")


def _places(path: Path) -> tuple[Path, Path, Path]:
    """Where a store is behind links, where it is made, and where the one that it replaces waits."""
    return path.resolve(), beside(path, "new"), beside(path, "old")


def _undo(path: Path) -> None:
    """Put the old store back where its replacement ended between the two moves."""
    if path.resolve().name:
        real, _, old = _places(path)
        if old.exists() and not real.exists():
            old.rename(real)
