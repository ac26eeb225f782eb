# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Fields of a GRIB file, editions 1 and 2, read by pygrib (a dependency of Earth2Studio).

Messages get Earth2Studio's names by ecCodes' short name: GFS, ERA5 and IFS files all work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import Leads, Times, lead_text, time_text
from earth2_corrdiff.base.units import STANDARD_GRAVITY

SINGLE = {
    "2t": "t2m",
    "2d": "d2m",
    "2r": "r2m",
    "2sh": "q2m",
    "10u": "u10m",
    "10v": "v10m",
    "100u": "u100m",
    "100v": "v100m",
    "pwat": "tcwv",
    "tcwv": "tcwv",
    "prmsl": "msl",
    "msl": "msl",
    "sp": "sp",
    "refc": "refc",
}
"""ecCodes short name to Earth2Studio name, for variables on one level."""
LEVELS = {"gh": "z", "z": "z", "t": "t", "u": "u", "v": "v", "w": "w", "q": "q", "r": "r"}
"""The same for variables on pressure levels, which take their level in hPa after the name."""
NCEP_GRAVITY = 9.81
"""As Earth2Studio's lexicons of NOAA's models have it, m s-2; those of ECMWF's have the standard gravity."""
NO_MEMBER = -1
MEANS = (0, 1)
"""Derived forecasts that are fields of the variable itself: means of all members. Others are spreads."""

HEAD, END = 4096, b"7777"
"""Bytes in which the next message begins, and what a message ends with."""
FILLER = bytes([0, *b"\1\3\t\r\n", *range(32, 127)])
"""Bytes of padding, and of the headers and ends of bulletins."""


class Key(NamedTuple):
    """Valid time, lead time and coarse member of a row."""

    valid: np.datetime64
    lead: np.timedelta64
    member: int


class Message(NamedTuple):
    """A message of a file, which counts from 1."""

    number: int
    short: str
    level: str


class GribFile:
    """A GRIB file on one regular latitude-longitude grid, as rows of fields.

    Parameters
    ----------
    path : Path
        The file
    rename : Mapping[str, str], optional
        Earth2Studio's names of ecCodes' short names, or of names that are read from them

    Attributes
    ----------
    lat, lon : np.ndarray
        [h] and [w], degrees
    valid, lead, member : np.ndarray
        [N]: of each row the valid time, the lead time, and the number of the coarse member (-1 where the
        messages are of none)

    Raises
    ------
    InputError
        If it is cut off or damaged, has no field that is known on such a grid, or has two for one variable
    """

    valid: Times
    lead: Leads
    member: NDArray[np.int64]

    def __init__(self, path: Path, rename: Mapping[str, str] | None = None) -> None:
        self.path, self.renamed = path, frozenset[str]()
        check_whole(path)
        table, self.lat, self.lon = _index(path, rename or {})
        keys = list(table)
        new = {old for old, name in (rename or {}).items() if any(name in row for row in table.values())}
        self.renamed = frozenset(new)
        self._rows = [table[key] for key in keys]
        self.valid = np.array([key.valid for key in keys], dtype="datetime64[ns]")
        self.lead = np.array([key.lead for key in keys], dtype="timedelta64[ns]")
        self.member = np.array([key.member for key in keys], dtype=np.int64)

    def names(self, row: int) -> Iterable[str]:
        """Variables of a row."""
        return self._rows[row].keys()

    def read(self, rows: Iterable[tuple[int, str]]) -> dict[tuple[int, str], NDArray[Any]]:
        """Fields [h, w] of rows and variables in SI units; the file is read once."""
        numbers: dict[int, list[tuple[int, str]]] = {}
        for row, name in rows:
            numbers.setdefault(self._rows[row][name].number, []).append((row, name))
        return {key: field for number, field in _read(self.path, set(numbers)) for key in numbers[number]}

    def own_units(self, name: str, field: NDArray[Any]) -> NDArray[Any]:
        """A field in Earth2Studio's units: as it is."""
        return field

    def close(self) -> None:
        """Do nothing: the file is closed between two reads."""


def _index(
    path: Path, rename: Mapping[str, str]
) -> tuple[dict[Key, dict[str, Message]], NDArray[np.float64], NDArray[np.float64]]:
    """The messages of each row by name, and the grid of the first."""
    import pygrib

    table: dict[Key, dict[str, Message]] = {}
    shape, lat, lon, others = None, np.empty(0), np.empty(0), 0
    with pygrib.open(str(path)) as file:
        for number, message in enumerate(file, start=1):
            name = _name(message, rename)
            if name is None or not message["gridType"].startswith("regular"):
                continue
            if shape is None:
                shape, (lat, lon) = _grid_key(message), _axes(message)
            if _grid_key(message) == shape:
                level = f"{message['typeOfLevel']} {message['level']}"
                new = Message(number, message["shortName"], level)
                row = table.setdefault(_key(message), {})
                row[name] = _one_of(row.get(name), new, name, _key(message), path)
            else:
                others += 1
    if not table:
        raise InputError(
            f"{path} has no known field on a regular latitude-longitude grid; use a GRIB of GFS or ERA5"
        )
    if others:
        logger.warning("{}: {} fields on other grids than the first one are left out", path, others)
    return table, lat, lon


def _one_of(old: Message | None, new: Message, name: str, key: Key, path: Path) -> Message:
    """The message of a variable: geopotential before height; InputError if two are alike."""
    if old is None:
        return new
    order = [*LEVELS, *SINGLE]
    if old.short == new.short:
        member = "" if key.member == NO_MEMBER else f", member {key.member}"
        raise InputError(
            f"{path} has {name} at {time_text(key.valid)}, lead time {lead_text(key.lead)}{member}, twice: "
            f"messages {old.number} ({old.short}, {old.level}) and {new.number} ({new.short}, {new.level}); "
            "keep one of them"
        )
    return min(old, new, key=lambda message: order.index(message.short))


def _name(message: Any, rename: Mapping[str, str]) -> str | None:
    """Earth2Studio's name of a message; None where it is unknown, or not a field of one moment.

    Means and sums over time, spreads, probabilities and percentiles have the short name of their variable.
    """
    if message["stepType"] != "instant" or _is_statistic(message):
        return None
    short: str = message["shortName"]
    if message["typeOfLevel"] == "isobaricInhPa":
        name = f"{LEVELS[short]}{message['level']}" if short in LEVELS else None
    else:
        name = SINGLE.get(short)
    return rename.get(short, name if name is None else rename.get(name, name))


def _is_statistic(message: Any) -> bool:
    """True if a message is a statistic of an ensemble other than its mean."""
    if message.has_key("derivedForecast") and message["derivedForecast"] not in MEANS:
        return True
    return bool(message.has_key("probabilityType") or message.has_key("percentileValue"))


def _key(message: Any) -> Key:
    valid = _date(message["validityDate"], message["validityTime"])
    start = _date(message["dataDate"], message["dataTime"])
    return Key(valid, valid - start, _member(message))


def _member(message: Any) -> int:
    """Number of the coarse member: that of an ensemble's messages, the control included."""
    if not message.has_key("number") or message.has_key("derivedForecast"):
        return NO_MEMBER
    if message["edition"] == 1 and not (message["number"] or (_total(message) or 0) > 1):
        return NO_MEMBER  # ECMWF's section has a number in deterministic forecasts, too
    return int(message["number"])


def _total(message: Any) -> int | None:
    return int(message["totalNumber"]) if message.has_key("totalNumber") else None


def _date(date: int, hhmm: int) -> np.datetime64:
    day = f"{date // 10000:04d}-{date // 100 % 100:02d}-{date % 100:02d}"
    return np.datetime64(f"{day}T{hhmm // 100:02d}:{hhmm % 100:02d}", "ns")


def _grid_key(message: Any) -> tuple[Any, ...]:
    edge = "InDegrees"
    ends = [f"{axis}OfFirstGridPoint{edge}" for axis in ("latitude", "longitude")]
    ends += [f"{axis}OfLastGridPoint{edge}" for axis in ("latitude", "longitude")]
    return (message["Ni"], message["Nj"], *(message[end] for end in ends))


def _axes(message: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    lats, lons = message.latlons()
    return np.round(lats[:, 0], 6), np.round(lons[0], 6)


def _read(path: Path, numbers: set[int]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """These messages in one pass (each access by number would scan the file), in SI units."""
    import pygrib

    with pygrib.open(str(path)) as file:
        for number in sorted(numbers):
            file.seek(number - 1 - file.tell(), 1)  # forward only
            (message,) = file.read(1)
            field = np.ma.filled(np.ma.asarray(message.values, dtype=np.float64), np.nan)
            yield number, _factor(message) * field


def _factor(message: Any) -> float:
    """From ecCodes' units to Earth2Studio's: heights become geopotential."""
    if message["shortName"] != "gh":
        return 1.0
    return NCEP_GRAVITY if message["centre"] == "kwbc" else STANDARD_GRAVITY


def check_whole(path: Path) -> None:
    """Refuse a file that is not message after message to its end: pygrib skips other bytes.

    Between messages there may be the header of a bulletin, or padding. Of edition 2 the sections are checked,
    too. Numbers that have changed cannot be detected: GRIB has no checksum.

    Raises
    ------
    InputError
        If it is damaged (the message names the byte), or cut off
    """
    size, position = path.stat().st_size, 0
    with path.open("rb") as file:
        while position < size:
            head = _bytes(file, position, HEAD)
            gap = head.find(b"GRIB")
            if not _is_filler(head[: gap if gap >= 0 else None]):
                raise _damaged(path, position)
            if gap < 0:
                if not all(map(_is_filler, iter(lambda: file.read(2**20), b""))):
                    raise _damaged(path, position)
                return
            position += gap
            end = _end(file, position, size)
            if end is None:
                return
            if end > size:
                raise InputError(f"the GRIB file {path} is cut off in its last message; copy it again")
            if _bytes(file, end - 4, 4) != END or not _has_sections(file, position, end):
                raise _damaged(path, position)
            position = end


def _end(file: BinaryIO, position: int, size: int) -> int | None:
    """Where the message at a position ends: beyond the file if it is cut off, None if it may be large."""
    head = _bytes(file, position, 16)
    if len(head) < 16:
        return size + 1
    if head[7] == 2:
        return position + max(int.from_bytes(head[8:16]), 20)
    length = int.from_bytes(head[4:7])
    if head[7] == 1 and length >= 0x800000:
        return None  # ECMWF's code for large messages
    return position + max(length, 20)


def _has_sections(file: BinaryIO, position: int, end: int) -> bool:
    """True if the sections of a message of edition 2 follow each other up to its end, and for edition 1."""
    edition = _bytes(file, position + 7, 1)[0]
    position += 16
    while edition == 2 and position < end - 4:
        head = _bytes(file, position, 5)
        length = int.from_bytes(head[:4])
        if length < 5 or not 1 <= head[4] <= 7:
            return False
        position += length
    return edition == 1 or (edition == 2 and position == end - 4)


def _bytes(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)


def _is_filler(data: bytes) -> bool:
    """True if bytes may lie between messages."""
    return not data.translate(None, FILLER)


def _damaged(path: Path, position: int) -> InputError:
    return InputError(f"the GRIB file {path} is damaged at byte {position}; copy it again")
