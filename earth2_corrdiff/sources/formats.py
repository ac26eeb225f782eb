# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Files as users name them, and what they are: the first bytes of a file decide, not its name."""

from __future__ import annotations

import glob
from pathlib import Path

from earth2_corrdiff.base.errors import InputError

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
"""First bytes of files that are no fields, and what to do with them."""
ZARR_FILES = ("zarr.json", ".zgroup", ".zmetadata", ".zattrs")


def is_zarr(path: Path) -> bool:
    """True if a path is a Zarr store by its contents, or is named like one."""
    return ".zarr" in path.suffixes or any((path / name).is_file() for name in ZARR_FILES)


def is_grib(path: Path) -> bool:
    """True if a file is GRIB, of whichever edition, maybe behind the header of a bulletin."""
    with path.open("rb") as file:
        return _is_grib(file.read(HEAD))


def _is_grib(head: bytes) -> bool:
    start = head[:BULLETIN].find(b"GRIB")
    if start <= 0 or head.startswith((HDF5, *CLASSIC)):
        return start == 0
    header, edition = head[:start], head[start + 7 : start + 8]
    return edition in (b"\1", b"\2") and all(
        byte < 127 and (byte > 31 or byte in b"\r\n\1\3") for byte in header
    )


def is_netcdf(path: Path) -> bool:
    """True if a file is a NetCDF of either kind, or HDF5."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    return head.startswith(CLASSIC) or any(head[at:].startswith(HDF5) for at in (0, 512, 1024, 2048))


def refuse_others(path: Path) -> None:
    """Raise InputError for a file that is no field, and say what it is.

    Raises
    ------
    InputError
        For archives, compressed files, and answers of a server in place of the file
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        raise InputError(f"cannot open {path} as NetCDF, GRIB or Zarr (it is empty); is it complete?")
    for magic, what in OTHERS:
        if head.lstrip().startswith(magic) and not _is_grib(head):
            raise InputError(f"{path} is {what}")


def files_of(place: str | Path) -> list[Path]:
    """The files of a path, a folder, a pattern, or several of these with commas between, in order.

    Parameters
    ----------
    place : str or Path
        A file; a Zarr store; a folder of GRIB or NetCDF files; a pattern like ``run/*.grib2``, in which
        ``**`` goes into folders; or several

    Raises
    ------
    InputError
        If there is none
    """
    path = Path(place).expanduser()
    if path.is_dir() and not is_zarr(path):
        return _folder(path)
    if path.exists():
        return [path]
    text = str(path)
    if "," in text:
        return [file for part in str(place).split(",") if part.strip() for file in files_of(part.strip())]
    if any(mark in text for mark in "*?["):
        matches = [Path(name) for name in sorted(glob.glob(text, recursive=True))]
        if found := [path for path in matches if is_zarr(path) or (path.is_file() and _is_field(path))]:
            return found
        raise InputError(f"no NetCDF, GRIB or Zarr matches {text}")
    raise InputError(f"there is no file {path}; give --source file:PATH a NetCDF, GRIB or Zarr")


def _folder(folder: Path) -> list[Path]:
    found = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    found = [path for path in found if is_zarr(path) or (path.is_file() and _is_field(path))]
    if not found:
        raise InputError(f"the folder {folder} holds no NetCDF, GRIB or Zarr; give the folder of the files")
    return found


def _is_field(path: Path) -> bool:
    return path.suffix != ".idx" and (is_netcdf(path) or is_grib(path))
