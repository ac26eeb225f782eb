# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Files of fields: found by path, folder or pattern, recognised by their first bytes, opened in one way."""

from __future__ import annotations

import glob
import hashlib
import os
import warnings
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from earth2_corrdiff.base.errors import InputError, first_line
from earth2_corrdiff.base.files import make_folder, whole, writing
from earth2_corrdiff.base.object_path import METADATA, AnyPath, ObjectPath, as_path, check_reached
from earth2_corrdiff.base.zarr_members import check_codecs

if TYPE_CHECKING:
    import xarray as xr

HDF5 = b"\x89HDF\r\n\x1a\n"
CLASSIC = (b"CDF\x01", b"CDF\x02", b"CDF\x05")
HEAD = 4096
BULLETIN = 512
"""Bytes in which a GRIB message begins where the header of a bulletin comes before it."""
OTHERS = (
    (b"PK\x03\x04", "a zip archive (the CDS packs several files so); unzip it, and give the folder"),
    (b"PK\x05\x06", "an empty zip archive; download it again"),
    (b"\x1f\x8b", "compressed with gzip; unpack it with gunzip"),
    (b"BZh", "compressed with bzip2; unpack it with bunzip2"),
    (b"\xfd7zXZ", "compressed with xz; unpack it with unxz"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard; unpack it with unzstd"),
    (b"<", "a web page (the answer of a server, perhaps an error); download the file again"),
    (b"{", "JSON (the answer of a server, perhaps an error); download the file again"),
)
"""First bytes of other files, and what to do with them."""
ZARR_FILES = (*METADATA, ".zattrs")


def open_dataset(
    path: AnyPath, what: str = "file", use: str = "a NetCDF or Zarr; GRIB as file:PATH"
) -> xr.Dataset:
    """Open a NetCDF or Zarr lazily, whatever is in it.

    Parameters
    ----------
    path : Path or ObjectPath
        The file, or the folder of the Zarr; another file of an object store is downloaded
    what : str, optional
        What it is used as, for messages
    use : str, optional
        What may be given instead, for messages

    Raises
    ------
    InputError
        If there is none, it is another kind of file, would run code, or cannot be opened
    """
    if not path.exists():
        raise InputError(f"there is no {what} {path}; use {use}")
    refuse_others(path)
    if isinstance(path, ObjectPath) and not is_zarr(path):
        path = downloaded(path)
    try:
        return open_lazily(path)
    except InputError:
        raise
    except Exception as error:  # every engine has its own
        check_reached(error, path)
        reason = first_line(error, 160)
        if "decode" in reason and "time" in reason:
            raise InputError(
                f"{path} has times that cannot be decoded ({reason}); use units like 'hours since 1970-01-01'"
            ) from error
        raise InputError(
            f"cannot open the {what} {path} as NetCDF or Zarr ({reason}); is it complete?"
        ) from error


def open_lazily(path: AnyPath) -> xr.Dataset:
    """Open a NetCDF or Zarr; errors of the libraries are not explained.

    Consolidated metadata of a Zarr are used where there are any.

    Raises
    ------
    InputError
        If a Zarr names Python's pickle as a codec
    """
    import xarray as xr

    from earth2_corrdiff.base.netcdf import open_netcdf

    check_codecs(path)
    with warnings.catch_warnings():  # a Zarr without consolidated metadata is read all the same
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.filterwarnings("ignore", "Numcodecs codecs are not in the Zarr version 3")
        if isinstance(path, ObjectPath):
            return xr.open_dataset(path.zarr(read_only=True), engine="zarr")  # type: ignore[arg-type]
        return xr.open_dataset(path, engine="zarr") if is_zarr(path) else open_netcdf(path)


def is_zarr(path: AnyPath) -> bool:
    """True if a path is a Zarr store by its contents, or is named like one."""
    return ".zarr" in path.suffixes or any((path / name).is_file() for name in ZARR_FILES)


def is_grib(path: AnyPath) -> bool:
    """True if a file is GRIB, of whichever edition, maybe behind the header of a bulletin."""
    return _is_grib(_head(path))


def _head(path: AnyPath) -> bytes:
    if isinstance(path, ObjectPath):
        return path.read_bytes(HEAD)
    with path.open("rb") as file:
        return file.read(HEAD)


def _is_grib(head: bytes) -> bool:
    start = head[:BULLETIN].find(b"GRIB")
    if start <= 0 or head.startswith((HDF5, *CLASSIC)):
        return start == 0
    header, edition = head[:start], head[start + 7 : start + 8]
    return edition in (b"\1", b"\2") and all(
        byte < 127 and (byte > 31 or byte in b"\r\n\1\3") for byte in header
    )


def is_netcdf(path: AnyPath) -> bool:
    """True if a file is a NetCDF of either kind, or HDF5."""
    head = _head(path)
    return head.startswith(CLASSIC) or any(head[at:].startswith(HDF5) for at in (0, 512, 1024, 2048))


def refuse_others(path: AnyPath) -> None:
    """Refuse what is neither NetCDF nor Zarr, and name what it is.

    Raises
    ------
    InputError
        For folders without a Zarr, archives, compressed files, and answers of a server in place of the file
    """
    if is_zarr(path):
        return
    if path.is_dir():
        raise InputError(f"cannot open {path} as Zarr: the folder has no metadata; is it complete?")
    head = _head(path)
    if not head:
        raise InputError(f"cannot open {path} as NetCDF, GRIB or Zarr (it is empty); is it complete?")
    for magic, what in OTHERS:
        if head.lstrip().startswith(magic) and not _is_grib(head):
            raise InputError(f"{path} is {what}")


def files_of(given: str | AnyPath) -> list[AnyPath]:
    """Files of a path or URL, a folder, a pattern, or several of these with commas between, in order.

    What a URL names is downloaded, apart from Zarr.

    Parameters
    ----------
    given : str, Path or ObjectPath
        A file; a Zarr store; a folder of GRIB or NetCDF files; a pattern like ``run/*.grib2``, in which
        ``**`` goes into folders; or several

    Raises
    ------
    InputError
        If there is none
    """
    text = str(given)
    if "://" in text and "," in text:
        return [file for part in text.split(",") if part.strip() for file in files_of(part.strip())]
    path = as_path(given)
    if isinstance(path, ObjectPath):
        return _objects(path)
    path = path.expanduser()
    if path.is_dir() and not is_zarr(path):
        return _folder(path)
    if path.exists():
        return [path]
    text = str(path)
    if "," in text:
        return [file for part in str(given).split(",") if part.strip() for file in files_of(part.strip())]
    if any(mark in text for mark in "*?["):
        if found := _fields([Path(name) for name in sorted(glob.glob(text, recursive=True))]):
            return found
        raise InputError(f"no NetCDF, GRIB or Zarr matches {text}")
    raise InputError(f"there is no file {path}; use a NetCDF, GRIB or Zarr")


def _objects(path: ObjectPath) -> list[AnyPath]:
    """Files of a URL, a folder or a pattern in an object store: Zarr as it is, others downloaded."""
    found: list[ObjectPath] = [path]
    parts = path.url.split("/")
    if set("*?[") & set(path.url) or not (is_zarr(path) or path.is_file()):
        fixed = next((i for i, part in enumerate(parts) if set("*?[") & set(part)), len(parts))
        folder, pattern = replace(path, url="/".join(parts[:fixed])), parts[fixed:] or ["*"]
        keys = sorted({_file_or_zarr(key) for key, *_ in folder.entries()})
        named = [key.split("/") for key in keys if pattern != ["*"] or not key.startswith(".")]
        found = [folder / "/".join(key) for key in named if _matches(key, pattern)]
        found = [each for each in found if is_zarr(each) or _is_field(each)]
    if not found:
        raise InputError(f"no NetCDF, GRIB or Zarr is at {path}; give a file, a folder or a pattern")
    return [each if is_zarr(each) else downloaded(each) for each in found]


def _file_or_zarr(key: str) -> str:
    """An object, or the Zarr whose metadata it holds."""
    folder, _, name = key.rpartition("/")
    return folder if name in ZARR_FILES else key


def _matches(parts: list[str], pattern: list[str]) -> bool:
    """True if a path matches a pattern, part by part; ``**`` stands for any number of parts."""
    if not pattern or not parts:
        return parts == pattern
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or _matches(parts[1:], pattern)
    return fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def downloaded(path: ObjectPath) -> Path:
    """A copy of an object in Earth2Studio's cache; one that has changed since is downloaded again."""
    about = path.stat()
    mark = hashlib.sha256(f"{path} {about['e_tag']} {about['last_modified']}".encode()).hexdigest()
    caches = (os.getenv(name) for name in ("EARTH2STUDIO_DATA_CACHE", "EARTH2STUDIO_CACHE"))
    cache = Path(next(filter(None, caches), "~/.cache/earth2studio")).expanduser()
    file = cache / "objects" / mark[:16] / path.name
    if not file.exists():
        logger.info("downloading {} ({:.1f} MB) to {}", path, about["size"] / 1e6, file)
        make_folder(file.parent, "; point EARTH2STUDIO_CACHE to another folder")
        with writing(file), whole(file) as part:
            path.download(part)
    return file


def _folder(folder: Path) -> list[AnyPath]:
    found = _fields([path for path in sorted(folder.iterdir()) if not path.name.startswith(".")])
    if not found:
        raise InputError(f"the folder {folder} holds no NetCDF, GRIB or Zarr; give the folder of the files")
    return found


def _fields(paths: list[Path]) -> list[AnyPath]:
    """Those of these paths that are NetCDF, GRIB or Zarr."""
    return [path for path in paths if is_zarr(path) or (path.is_file() and _is_field(path))]


def _is_field(path: AnyPath) -> bool:
    return not path.name.endswith(".idx") and (is_netcdf(path) or is_grib(path))
