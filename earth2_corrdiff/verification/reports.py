# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Reports of weather stations: from a CSV, or from Earth2Studio's station sources."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earth2_corrdiff.base import studio
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import Grid, turned
from earth2_corrdiff.base.times import Times, parse_time
from earth2_corrdiff.base.units import conversion
from earth2_corrdiff.sources.checks import plausible, sentinels_to_nan
from earth2_corrdiff.sources.failures import explained

Array = NDArray[np.float64]
SOURCES = {"isd": ("ISD", "ISDLexicon"), "ghcn": ("GHCNHourly", "GHCNHourlyLexicon")}
TOLERANCE = np.timedelta64(10, "m")
"""Farthest that a report may lie from a valid time: the default of Earth2Studio's sources."""
COLUMN = re.compile(r"\s*([A-Za-z]\w*)\s*(?:\[(.*)\])?\s*")
PLACE = ("time", "lat", "lon", "station", "elev", "elevation")


@dataclass(frozen=True, eq=False)
class Reports:
    """What stations have measured: N reports.

    Attributes
    ----------
    name : str
        Where they are from
    time : np.ndarray
        ``[N]`` UTC
    lat, lon : np.ndarray
        ``[N]`` degrees
    station : np.ndarray
        ``[N]`` names
    values : Mapping[str, np.ndarray]
        ``[N]`` by variable, in Earth2Studio's units; NaN where a report lacks it
    refused : Mapping[str, int]
        How many values were no plausible ones, by variable: they are NaN
    """

    name: str
    time: Times
    lat: Array
    lon: Array
    station: NDArray[np.str_]
    values: Mapping[str, Array]
    refused: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.time)


def open_reports(name: str, times: Times, grid: Grid, variables: Sequence[str]) -> Reports:
    """The reports of a file or a source.

    Parameters
    ----------
    name : str
        ``isd`` or ``ghcn`` (hourly), or the path of a CSV, see :func:`read_csv`
    times : Times
        Valid times that are wanted from a source
    grid : Grid
        Its domain
    variables : Sequence[str]
        That are wanted from a source

    Raises
    ------
    InputError
        If there are none, or they cannot be read
    """
    return _fetched(name, times, grid, variables) if name in SOURCES else read_csv(Path(name))


def read_csv(path: Path) -> Reports:
    """Reports of a CSV, a line each.

    Columns are ``time`` (UTC), ``lat``, ``lon`` (degrees), ``station`` (may be missing: then the place is its
    name), and variables by Earth2Studio's names, with a unit in brackets where it is another one than
    Earth2Studio's: ``t2m [degC]``, ``tp [mm]``, ``ws10m [knots]``. Other columns with a unit are refused;
    empty cells are missing values. The table that Earth2Studio's station sources give, with columns
    ``variable`` and ``observation``, is read too.

    Raises
    ------
    InputError
        If it cannot be read, lacks a column, or has something that is not a number
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"the stations {path} cannot be read ({error}); give a CSV, isd or ghcn") from error
    return _reports(str(path), lines)


def _reports(name: str, lines: Sequence[Mapping[str, Any]]) -> Reports:
    columns = {} if not lines else {str(key): COLUMN.fullmatch(str(key)) for key in lines[0]}
    lacking = [key for key in ("time", "lat", "lon") if key not in columns]
    if lacking:
        raise InputError(f"the stations {name} have no column {', '.join(lacking)}, or no line")
    if {"variable", "observation"} <= set(columns):
        lines = _wide(lines)
        columns = {key: COLUMN.fullmatch(key) for line in lines for key in line}
    lat, lon = (_numbers(name, key, lines) for key in ("lat", "lon"))
    found = {key: match for key, match in columns.items() if key not in PLACE and match is not None}
    values, refused = {}, {}
    for key, match in found.items():
        if match[2] is None and plausible(match[1]) is None:
            continue  # remarks, quality codes
        raw, _ = sentinels_to_nan(_numbers(name, key, lines), match[1])
        values[match[1]], refused[match[1]] = _plausible(conversion(match[2], match[1], name)(raw), match[1])
    if not values:
        raise InputError(f"the stations {name} have no column of a variable, like t2m or tp [mm]")
    named = [str(line.get("station") or f"{line['lat']} {line['lon']}") for line in lines]
    times = np.array([parse_time(str(line["time"])) for line in lines]).astype("datetime64[ns]")
    return Reports(name, times, lat, lon, np.array(named), values, refused)


def _wide(lines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line for each station and time from one for each of its observations."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for line in lines:
        place = {key: line[key] for key in ("time", "lat", "lon", "station") if key in line}
        key = tuple(map(str, place.values()))
        found.setdefault(key, place)[str(line["variable"])] = line["observation"]
    return list(found.values())


def _numbers(name: str, key: str, lines: Sequence[Mapping[str, Any]]) -> Array:
    texts = [str(line.get(key) or "").strip() if line.get(key) != 0 else "0" for line in lines]
    try:
        return np.array([float(text) if text else np.nan for text in texts])
    except ValueError as error:
        raise InputError(f"the column {key} of the stations {name} must have numbers ({error})") from error


def _plausible(values: Array, variable: str) -> tuple[Array, int]:
    """Values, NaN where they are out of any plausible range, and how many of these there are."""
    known = plausible(variable)
    if known is None:
        return values, 0
    wrong = np.array([bool(v == v and known.verdict(v, v)) for v in values.tolist()])
    return np.where(wrong, np.nan, values), int(wrong.sum())


def _fetched(name: str, times: Times, grid: Grid, variables: Sequence[str]) -> Reports:
    """Reports of the stations of a source within the bounds of a grid."""
    source, lexicon = (getattr(studio, part) for part in SOURCES[name])
    known = [variable for variable in variables if variable in lexicon.VOCAB]
    if not known:
        raise InputError(f"the stations of {name} have no {', '.join(variables)}")
    lon = turned(grid.lon, 0.0 if abs(np.mean(turned(grid.lon, 0.0))) < 90 else 180.0)
    box = (float(grid.lat.min()), float(lon.min()), float(grid.lat.max()), float(lon.max()))
    with explained(name, times):
        stations = source.get_stations_bbox(box)
        if not stations:
            raise InputError(f"{name} has no station in the domain ({grid.extent()})")
        table = source(stations, time_tolerance=TOLERANCE, verbose=False)(list(times), known)
    lines = [{str(key): value for key, value in line.items()} for line in table.to_dict("records")]
    if not lines:
        raise InputError(f"{name} has no report of {', '.join(known)} at the times that are verified")
    return _reports(name, lines)
