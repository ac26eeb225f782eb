# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Atomic writes of files and folders, flushed to the disk, and checks that a path can be written."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from earth2_corrdiff.base.errors import InputError, first_line, renamed
from earth2_corrdiff.base.object_path import SCHEMES, AnyPath, BaseError, ObjectPath, refusal

NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EBADF}
"""Errors of file systems that cannot flush a folder."""


@contextmanager
def writing(path: object, hint: str = "") -> Iterator[None]:
    """Turn an error of the file system into an InputError of one line, with a hint at its end."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or first_line(error)}{hint}") from error
    except BaseError as error:
        refused = refusal(path, error)
        raise renamed(refused, f"{refused}{hint}") from error


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a path beside another; what is written there is moved to its place when the block ends.

    So there is a whole file or folder, or what was there before, even after a power failure.

    Raises
    ------
    OSError
        If the file system refuses
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        flush([part] if part.is_file() else (file for file in part.rglob("*") if file.is_file()), path.parent)
        if path.is_dir() and part.is_dir():
            shutil.rmtree(path)
        part.replace(path)
        flush([], path.parent)
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)


def check_writable(path: AnyPath) -> None:
    """Refuse a path where no file or folder can be made; its parent folders may be missing.

    Raises
    ------
    InputError
        If it is below a file, or the file system or object store refuses
    """
    if isinstance(path, ObjectPath):
        probe = path.with_name(f".{path.name}.probe")
        probe.write_bytes(b"")
        probe.remove([""])
        return
    _refuse_url(path)
    parent = next(p for p in path.absolute().parents if p.exists())
    if not parent.is_dir():
        raise InputError(f"cannot write {path}: {parent} is not a directory")
    _try(path, parent)


def check_file(path: Path) -> None:
    """Refuse a path where no file can be written; InputError as of `check_writable`, or if it is a folder."""
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder")
    check_writable(path)


def make_folder(folder: Path, hint: str = "") -> None:
    """Make a folder, if it is missing, in which files can be written; InputError if that fails."""
    _refuse_url(folder)
    with writing(folder, hint):
        folder.mkdir(parents=True, exist_ok=True)
    _try(folder, folder, hint)


def _refuse_url(path: Path) -> None:
    """Refuse a URL that was taken for a path: it would become folders of its name."""
    if str(path).startswith(tuple(f"{scheme}:/" for scheme in (*SCHEMES, "file"))):
        raise InputError(f"{path} is a URL; give a path on a disk here")


def _try(path: Path, folder: Path, hint: str = "") -> None:
    """Make a file for a moment: permissions do not show read-only and special file systems."""
    with writing(path, hint), TemporaryFile(dir=folder):
        pass


def flush(files: Iterable[Path], root: Path) -> None:
    """Wait until files, and their names in the folders below ``root``, are on the disk.

    Without this, a renamed file may be empty after a power failure.

    Raises
    ------
    OSError
        If the disk is full, or a file is missing
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
