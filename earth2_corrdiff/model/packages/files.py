# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Files of packages, read for every layout: JSON, grids and invariants in NetCDF, checksums."""

from __future__ import annotations

import hashlib
import math
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from earth2_corrdiff.base.documents import MOST_BYTES, parse_json
from earth2_corrdiff.base.errors import InputError, MissingFileError, first_line, listed
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.model.packages.netcdf import MOST_POINTS, open_netcdf


class Files(Protocol):
    """Earth2Studio's ``Package``, as far as it is needed: a file name → a local path."""

    def resolve(self, file_path: str) -> str: ...


@dataclass(frozen=True)
class Folder:
    """A local directory as a package."""

    root: Path

    def resolve(self, file_path: str) -> str:
        """Path of a file; it need not exist."""
        return str(self.root / file_path)


def find(files: Files, name: str) -> Path | None:
    """Local path of a package's file; None where there is no such file, InputError where it is unknown."""
    if not _is_there(files, name):
        return None
    try:
        path = Path(files.resolve(name))
    except FileNotFoundError:
        return None
    except Exception as error:  # every remote file system has its own
        if isinstance(error, HTTPException) and "not found" in str(error):  # Earth2Studio's, of the registry
            return None
        raise InputError(
            f"the package {describe(files)} cannot be read: {type(error).__name__}: {first_line(error)}"
        ) from error
    return path if path.is_file() else None


def _is_there(files: Files, name: str) -> bool:
    """False where a local folder has no such file; only the folder's own regular files are opened.

    Raises
    ------
    InputError
        If it is a folder, a pipe, a device, or a link that leads nowhere or out of the package
    """
    root = describe(files)
    if "://" in root or not Path(root).is_dir():
        return True  # remote files come from a cache
    path, home = Path(root) / name, Path(root).resolve()
    if home.parent.name == "snapshots":  # of Hugging Face's cache, whose files are links into blobs/
        home = home.parent.parent
    try:
        if not path.is_symlink() and not path.exists():
            return False
        real = path.resolve(strict=True)
        plain = stat.S_ISREG(real.stat().st_mode)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read: {first_line(error)}") from error
    if not real.is_relative_to(home):
        raise InputError(f"{path} is a link to a file outside the package; put a copy of the file there")
    if not plain:
        raise InputError(f"{path} is not a regular file")
    return True


def need(files: Files, name: str) -> Path:
    """Local path of a package's file; InputError where there is none."""
    path = find(files, name)
    if path is None:
        raise MissingFileError(f"the package {describe(files)} has no {name}")
    return path


def describe(files: Files) -> str:
    """Name of a package for messages and provenance."""
    return str(getattr(files, "root", files))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file; InputError for anything else."""
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise InputError(f"{path} has {size} bytes, more than the {MOST_BYTES} that its JSON may have")
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def read_grid(path: Path, names: tuple[str, str] = ("lat", "lon")) -> Grid:
    """The grid of a NetCDF file from the variables of these names.

    Raises
    ------
    InputError
        If there is no grid, or it is too large
    """
    with open_netcdf(path) as file:
        missing = [name for name in names if name not in file]
        if missing:
            raise InputError(f"{path} has no {' and no '.join(missing)}")
        shapes = [file.shape(name) for name in names]
        if len(shapes[0]) not in (1, 2) or (len(shapes[0]) == 2 and shapes[0] != shapes[1]):
            both = " and ".join(names)
            raise InputError(f"{path}: {both} must be both 1-D, or 2-D of one shape; got {shapes}")
        if len(shapes[0]) == 1 and math.prod(shapes[0] + shapes[1]) > MOST_POINTS:
            raise InputError(f"{path}: a grid of {shapes[0][0]} x {shapes[1]} points is too large")
        return Grid(*(_numbers(file.read(name)) for name in names))


def _numbers(axis: NDArray[Any]) -> NDArray[np.floating[Any]]:
    """A coordinate as floating-point numbers of the machine's byte order."""
    kind = axis.dtype if axis.dtype.kind == "f" and axis.dtype.itemsize >= 4 else np.dtype(np.float64)
    return np.ascontiguousarray(axis, dtype=kind.newbyteorder("="))


def read_invariants(
    files: Files, names: list[str] | None, domain: tuple[int, int]
) -> tuple[tuple[str, ...], NDArray[np.float32] | None]:
    """Names and fields ``[C, H, W]`` of ``invariants.nc``: those that are named, or all, or none.

    Raises
    ------
    InputError
        If a field is missing or has another shape
    """
    path = find(files, "invariants.nc")
    if path is None and not names:
        return (), None
    path = path or need(files, "invariants.nc")
    with open_netcdf(path) as file:
        names = file.names if names is None else names
        missing = [name for name in names if name not in file]
        if missing:
            raise InputError(f"{path} has no {listed(missing)}, which metadata.json names")
        for name in names:
            if file.shape(name) != domain:
                want, got = (len(names), *domain), (len(names), *file.shape(name))
                raise InputError(f"the invariants have shape {got}, but the output grid asks for {want}")
        fields = [file.read(name).astype(np.float32) for name in names]
    return tuple(names), np.stack(fields) if fields else None


def checksum(paths: Iterable[Path]) -> str:
    """SHA-256 of the contents of files, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        for block in _blocks(path):
            digest.update(block)
    return digest.hexdigest()


def _blocks(path: Path, size: int = 2**20) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(size):
            yield block
