# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The place of a store: what may be there, how a new store gets there whole, and what is tidied up."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from earth2_corrdiff.errors import InputError


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
        If the store exists and neither ``overwrite`` nor ``resume`` is asked for, or something else is there
    """
    with writing(path, kept=False):
        _undo(path)
        if path.exists():
            if recorded(path) is None:
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
    try:
        about = json.loads((path / "zarr.json").read_text(encoding="utf-8")).get("attributes", {})
    except (OSError, ValueError, AttributeError):
        return None
    return about if isinstance(about, dict) and "package_sha256" in about else None


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Where to make a store: at the end of the block it is moved to its place, over what was there.

    There is a whole store or none: the new one is made beside its place, and the old one waits there
    until the new one has taken it.
    """
    real, fresh, old = _places(path)
    try:
        with writing(path, kept=False):
            real.parent.mkdir(parents=True, exist_ok=True)
            for left in (fresh, old):
                shutil.rmtree(left, ignore_errors=True)
            yield fresh
            if real.exists():
                real.rename(old)
            fresh.rename(real)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        _undo(path)


def tidy(path: Path) -> None:
    """Remove what killed writes and replacements have left; nobody else may be at work there."""
    for partial in path.rglob("*.partial"):
        partial.unlink(missing_ok=True)
    for left in _places(path)[1:]:
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
