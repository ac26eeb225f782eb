# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Untrusted archives: members are read by name, with their sizes bounded before they are read."""

from __future__ import annotations

import struct
import tarfile
import zipfile
from collections import Counter
from typing import BinaryIO

MIB = 2**20
MOST_DIRECTORY = 8 * MIB
"""Bytes of a zip's directory; one of a thousand members has about 0.1 MiB."""
MOST_MEMBERS = 1000
"""Members of a tar, which has no directory."""
SMALL = 64 * MIB
"""Bytes that a member may hold however well it is compressed."""
MOST_RATIO = 20
"""Ratio by which larger members may have been compressed: weights and fields have 1 to 3, a bomb has 1000."""
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")


class Archive:
    """A zip archive, or a plain tar: its members by name.

    Parameters
    ----------
    stream : BinaryIO
        The file, which can seek

    Raises
    ------
    ValueError
        If it names a member twice, or its directory is too large
    OSError, zipfile.BadZipFile, tarfile.TarError, EOFError
        If it is not an archive, or is not complete
    """

    def __init__(self, stream: BinaryIO) -> None:
        # tar first: a tar that ends in model.pt, itself a zip, would pass for a zip
        self._tar = _open_tar(stream)
        if self._tar is not None:
            found = _tar_members(self._tar)
            self._sizes = {name: (info.size, info.size) for name, info in found.items()}
            self._found: dict[str, tarfile.TarInfo] | dict[str, zipfile.ZipInfo] = found
            return
        _check_directory(stream)
        self._zip = zipfile.ZipFile(stream)
        infos = self._zip.infolist()
        _check_once([info.filename for info in infos])
        self._found = {info.filename: info for info in infos}
        self._sizes = {info.filename: (info.file_size, info.compress_size) for info in infos}

    @property
    def names(self) -> list[str]:
        """Names of all members."""
        return list(self._found)

    def size(self, name: str) -> int:
        """Bytes of a member, as the archive's directory claims."""
        return self._sizes[name][0]

    def stored(self, name: str) -> bool:
        """True if a member is not compressed."""
        return self._sizes[name][0] == self._sizes[name][1]

    def read(self, name: str, most: int | None = None) -> bytes:
        """The content of a member.

        Parameters
        ----------
        name : str
            Of the member
        most : int | None, optional
            Bytes that it may hold, by default ``SMALL``, or ``MOST_RATIO`` times what is stored

        Raises
        ------
        ValueError
            If it holds more, or is compressed in a way that cannot be bounded
        KeyError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError
            If it is not there, damaged or encrypted
        """
        info = self._found[name]
        size, stored = self._sizes[name]
        most = max(SMALL, MOST_RATIO * stored) if most is None else most
        if size > most:
            raise ValueError(f"{name} claims {size} bytes, more than the {most} that it may have")
        if isinstance(info, tarfile.TarInfo):
            file = self._tar.extractfile(info) if self._tar is not None else None
            data = b"" if file is None else file.read(size)
        elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{name} is compressed in a way that is not supported; use deflate or none")
        else:
            with self._zip.open(info) as member:
                data = member.read(size)  # no more, whatever the compressed stream holds
        if len(data) != size:
            raise EOFError(f"{name} holds {len(data)} bytes instead of {size}")
        return data


def _check_once(names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"the member {twice[0]!r} is there twice")


def _open_tar(stream: BinaryIO) -> tarfile.TarFile | None:
    """The tar in a file; None where there is none, or a compressed one."""
    stream.seek(0)
    try:
        return tarfile.open(fileobj=stream, mode="r:")
    except tarfile.TarError:
        stream.seek(0)
        return None


def _tar_members(tar: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    """Its plain files by name; links and sparse files, which can be larger than the tar, are left out."""
    found: list[tarfile.TarInfo] = []
    for count, info in enumerate(tar):
        if count >= MOST_MEMBERS:
            raise ValueError(f"it has more than {MOST_MEMBERS} members")
        if info.isreg() and not info.issparse():
            info.name = info.name.removeprefix("./")
            found.append(info)
    _check_once([info.name for info in found])
    return {info.name: info for info in found}


def _check_directory(stream: BinaryIO) -> None:
    """Raise ValueError where the directory of a zip would need much memory to be read."""
    length = stream.seek(0, 2)
    start = max(length - _END.size - 2**16, 0)
    stream.seek(start)
    tail = stream.read()
    stream.seek(0)
    last = len(tail) - _END.size  # as Python looks for it: without a comment, else the last one
    plain = last >= 0 and tail[last:].startswith(b"PK\5\6") and tail.endswith(b"\0\0")
    at = last if plain else tail.rfind(b"PK\5\6")
    if at < 0 or at + _END.size > len(tail):
        return  # not a zip: reading it raises
    sizes = [_END.unpack_from(tail, at)[5]]
    if at >= _LOCATOR.size:
        mark, _, where, _ = _LOCATOR.unpack_from(tail, at - _LOCATOR.size)
        if mark == b"PK\6\7":
            for place in (where, start + at - _LOCATOR.size - _END_64.size):
                stream.seek(min(place, length))
                record = stream.read(_END_64.size)
                if record.startswith(b"PK\6\6") and len(record) == _END_64.size:
                    sizes.append(_END_64.unpack(record)[8])
            stream.seek(0)
            sizes = sizes[1:] or sizes
    if max(sizes) > MOST_DIRECTORY:
        raise ValueError(f"its directory has {max(sizes)} bytes, more than the {MOST_DIRECTORY} that it may")
