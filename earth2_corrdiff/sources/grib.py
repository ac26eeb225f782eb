# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Weather from a GRIB file, editions 1 and 2, through pygrib (which Earth2Studio brings along).

Messages get Earth2Studio's names by ecCodes' short name, so that GFS, ERA5 and IFS files all work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from loguru import logger
from numpy.typing import NDArray

from earth2_corrdiff.errors import InputError
from earth2_corrdiff.times import TimeLike, Times, time_text, to_times

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
HEIGHT_TO_GEOPOTENTIAL = 9.81
"""As Earth2Studio's GFS lexicon has it, m s-2."""

Key = tuple[np.datetime64, str]


class GribFile:
    """A GRIB file on one regular latitude-longitude grid.

    Parameters
    ----------
    path : Path
        The file

    Raises
    ------
    InputError
        If it is cut off, or has no field that is known on such a grid
    """

    times: Times
    variables: tuple[str, ...]

    def __init__(self, path: Path) -> None:
        self._path = path
        if not _is_whole(path):
            raise InputError(f"the GRIB file {path} is cut off in its last message; copy it again")
        self._messages, self._lat, self._lon = _index(path)
        self.times = np.unique(np.array([time for time, _ in self._messages], dtype="datetime64[ns]"))
        self.variables = tuple(sorted({name for _, name in self._messages}))

    def __call__(self, time: TimeLike | Iterable[TimeLike], variable: str | Iterable[str]) -> xr.DataArray:
        """Read, in Earth2Studio's protocol.

        Raises
        ------
        InputError
            If the file lacks one of the variables at one of the times
        """
        times, names = to_times(time), [variable] if isinstance(variable, str) else [str(v) for v in variable]
        places: dict[int, list[tuple[int, int]]] = {}
        for i, valid in enumerate(times):
            for j, name in enumerate(names):
                places.setdefault(self._number(valid, name), []).append((i, j))
        values = np.empty((times.size, len(names), self._lat.size, self._lon.size))
        for number, field in _read(self._path, set(places)):
            for place in places[number]:
                values[place] = field
        coords = {"time": times, "variable": names, "lat": self._lat, "lon": self._lon}
        return xr.DataArray(values, coords, ("time", "variable", "lat", "lon"))

    async def fetch(self, time: Any, variable: Any) -> xr.DataArray:
        """The same, awaited."""
        return self(time, variable)

    def _number(self, time: np.datetime64, name: str) -> int:
        number = self._messages.get((time, name))
        if number is None:
            raise InputError(
                f"{self._path} has no {name} at {time_text(time)}; it has {', '.join(self.variables)}"
            )
        return number


def _index(path: Path) -> tuple[dict[Key, int], NDArray[np.float64], NDArray[np.float64]]:
    """Message number of each (time, name), and the grid of the first; messages count from 1."""
    import pygrib

    messages: dict[Key, int] = {}
    shape, lat, lon, others = None, np.empty(0), np.empty(0), 0
    with pygrib.open(str(path)) as file:
        for number, message in enumerate(file, start=1):
            name = _name(message)
            if name is None or not message["gridType"].startswith("regular"):
                continue
            if shape is None:
                shape, (lat, lon) = _grid_key(message), _axes(message)
            if _grid_key(message) == shape:
                messages.setdefault((_valid(message), name), number)
            else:
                others += 1
    if not messages:
        raise InputError(
            f"{path} has no known field on a regular latitude-longitude grid; use a GRIB of GFS or ERA5"
        )
    if others:
        logger.warning("{}: {} fields on other grids than the first one are left out", path, others)
    return messages, lat, lon


def _name(message: Any) -> str | None:
    """Earth2Studio's name of a message; None where it is not known here, or is a mean or a sum over time."""
    if message["stepType"] != "instant":
        return None
    short: str = message["shortName"]
    if message["typeOfLevel"] == "isobaricInhPa":
        return f"{LEVELS[short]}{message['level']}" if short in LEVELS else None
    return SINGLE.get(short)


def _grid_key(message: Any) -> tuple[Any, ...]:
    edge = "InDegrees"
    ends = [f"{axis}OfFirstGridPoint{edge}" for axis in ("latitude", "longitude")]
    ends += [f"{axis}OfLastGridPoint{edge}" for axis in ("latitude", "longitude")]
    return (message["Ni"], message["Nj"], *(message[end] for end in ends))


def _axes(message: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    lats, lons = message.latlons()
    return np.round(lats[:, 0], 6), np.round(lons[0], 6)


def _valid(message: Any) -> np.datetime64:
    date, hhmm = message["validityDate"], message["validityTime"]
    day = f"{date // 10000:04d}-{date // 100 % 100:02d}-{date % 100:02d}"
    return np.datetime64(f"{day}T{hhmm // 100:02d}:{hhmm % 100:02d}", "ns")


def _read(path: Path, numbers: set[int]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """These messages in one pass (asking for them by number scans the file each time), in SI units."""
    import pygrib

    with pygrib.open(str(path)) as file:
        for number in sorted(numbers):
            file.seek(number - 1 - file.tell(), 1)  # forward only
            (message,) = file.read(1)
            factor = HEIGHT_TO_GEOPOTENTIAL if message["shortName"] == "gh" else 1.0
            yield number, factor * np.ma.filled(np.ma.asarray(message.values, dtype=np.float64), np.nan)


def _is_whole(path: Path) -> bool:
    """Whether the last message ends: pygrib passes over one that does not."""
    size, position = path.stat().st_size, 0
    with path.open("rb") as file:
        while position < size:
            file.seek(position)
            head = file.read(4096)
            start = head.find(b"GRIB")
            if start < 0 or start + 16 > len(head):
                return start < 0  # padding after the last message, or a head that is cut off
            edition = head[start + 7]
            length = int.from_bytes(
                head[start + 8 : start + 16] if edition == 2 else head[start + 4 : start + 7]
            )
            if edition == 1 and length >= 0x800000:
                return True  # ECMWF's code for large messages
            position += start + max(length, 16)
    return position == size
