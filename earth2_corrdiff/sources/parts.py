# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Several files as one table, with a row per valid time, lead time and coarse member."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import same_points
from earth2_corrdiff.base.object_path import AnyPath
from earth2_corrdiff.base.times import Leads, Times, lead_text, time_text
from earth2_corrdiff.sources.checks import sentinels_to_nan, warn_of_missing

Field = NDArray[Any]


class Part(Protocol):
    """A file as rows of fields."""

    renamed: frozenset[str]
    lat: NDArray[np.float64]
    lon: NDArray[np.float64]
    valid: Times
    lead: Leads
    member: NDArray[np.int64]

    @property
    def path(self) -> AnyPath:
        """Its path or URL."""

    def names(self, row: int) -> Iterable[str]:
        """Variables of a row."""

    def read(self, rows: Iterable[tuple[int, str]]) -> dict[tuple[int, str], Field]:
        """Fields [h, w] of rows and variables, as the file has them."""

    def own_units(self, name: str, field: Field) -> Field:
        """A field in Earth2Studio's units."""

    def close(self) -> None:
        """Close the file."""


class Parts:
    """Files on one grid as one table.

    Parameters
    ----------
    parts : Sequence[Part]
        At least one
    name : str
        Of all of them, for messages
    rename : Mapping[str, str], optional
        New names that the files were opened with

    Attributes
    ----------
    valid, lead, member : np.ndarray
        [N] of each row: valid time, lead time (NaT where it is not known), coarse member (-1 where there is
        none)

    Raises
    ------
    InputError
        If they are on several grids, none of them has a name that was to be renamed, or two rows have a
        variable for one time, lead time and member
    """

    def __init__(self, parts: Sequence[Part], name: str, rename: Mapping[str, str] | None = None) -> None:
        self.name, self._parts = name, list(parts)
        first = self._parts[0]
        self.lat, self.lon = first.lat, first.lon
        for part in self._parts[1:]:
            if not same_points(part.lat, part.lon, self.lat, self.lon):
                raise InputError(f"{part.path} is on another grid than {first.path}; give files on one grid")
        self.valid = np.concatenate([part.valid for part in self._parts])
        self.lead = np.concatenate([part.lead for part in self._parts])
        self.member = np.concatenate([part.member for part in self._parts])
        self._part = np.repeat(np.arange(len(self._parts)), [part.valid.size for part in self._parts])
        self._row = np.concatenate([np.arange(part.valid.size) for part in self._parts])
        self.variables = tuple(dict.fromkeys(name for row in self._first_rows() for name in self.names(row)))
        self._refuse_twice()
        for old, new in (rename or {}).items():
            if not any(old in part.renamed for part in self._parts):
                has = ", ".join(self.variables)
                raise InputError(f"{name} has no {old} to rename to {new}; it has {has}")

    @property
    def members(self) -> tuple[int, ...]:
        """Numbers of the coarse members; empty where there are none."""
        return tuple(int(number) for number in np.unique(self.member[self.member >= 0]))

    def names(self, row: int) -> Iterable[str]:
        """Variables of a row."""
        part: Part = self._parts[self._part[row]]
        return part.names(int(self._row[row]))

    def rows_by_name(self, rows: Iterable[int]) -> dict[str, int]:
        """The row of each variable that some rows have."""
        return {name: int(row) for row in rows for name in self.names(row)}

    def path(self, row: int) -> AnyPath:
        """The file of a row."""
        part: Part = self._parts[self._part[row]]
        return part.path

    def read(self, rows: Iterable[tuple[int, str]]) -> dict[tuple[int, str], Field]:
        """Fields [h, w] of rows and variables in Earth2Studio's units, NaN where a value is missing."""
        found: dict[tuple[int, str], Field] = {}
        wanted: dict[int, list[tuple[int, str]]] = {}
        for row, name in rows:
            wanted.setdefault(int(self._part[row]), []).append((row, name))
        for number, these in wanted.items():
            part = self._parts[number]
            fields = part.read([(int(self._row[row]), name) for row, name in these])
            for row, name in these:
                raw, count = sentinels_to_nan(fields[int(self._row[row]), name], name)
                warn_of_missing(part.path, name, self.valid[row], count, raw.size)
                found[row, name] = part.own_units(name, raw)
        return found

    def _first_rows(self) -> Iterable[int]:
        """Rows that between them have every variable: of a file whose rows are alike, one."""
        starts = np.flatnonzero(self._row == 0)
        for start, part in zip(starts, self._parts, strict=True):
            alike = part.valid.size > 1 and part.names(0) is part.names(1)
            yield from [int(start)] if alike else range(int(start), int(start) + part.valid.size)

    def _refuse_twice(self) -> None:
        order = np.lexsort((self.member, self.lead, self.valid))
        keys = [axis[order].view(np.int64) for axis in (self.valid, self.lead, self.member)]
        same = np.all([key[1:] == key[:-1] for key in keys], axis=0)
        start = 0
        for end in [*np.flatnonzero(~same) + 1, order.size]:
            if end - start > 1:
                self._refuse_common(order[start:end])
            start = int(end)

    def _refuse_common(self, rows: NDArray[np.intp]) -> None:
        seen: dict[str, int] = {}
        for row in rows:
            for name in self.names(row):
                if name in seen:
                    raise InputError(self._twice(name, seen[name], int(row), len(rows)))
                seen[name] = int(row)

    def _twice(self, name: str, first: int, second: int, count: int) -> str:
        when = time_text(self.valid[first])
        if not np.isnat(self.lead[first]):
            when += f" with the lead time {lead_text(self.lead[first])}"
        paths = list(dict.fromkeys(str(self.path(row)) for row in (first, second)))
        where = f"{paths[0]} has" if len(paths) == 1 else f"{paths[0]} and {paths[1]} have"
        return f"{where} {name} for {when} {count} times; keep one of them"


def labelled(values: Field, leading: Mapping[str, Any], lat: NDArray[Any], lon: NDArray[Any]) -> xr.DataArray:
    """Fields ``[…, h, w]`` with the coordinates of their leading dimensions, and 1-D or 2-D lat and lon."""
    plane = ("lat", "lon") if lat.ndim == 1 else ("y", "x")
    own = (plane[:1], plane[1:]) if lat.ndim == 1 else (plane, plane)
    coords = {**leading, "lat": (own[0], lat), "lon": (own[1], lon)}
    return xr.DataArray(values, coords, (*leading, *plane))
