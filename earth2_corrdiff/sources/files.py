# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Coarse weather from files, as analyses by valid time or forecasts by reference and lead time.

Accepted: GRIB and whatever xarray opens; one file, a folder, a pattern, or several. A DataArray with a
dimension ``variable``, or a Dataset with one variable per name, on lat and lon; times as ``time_axes`` reads
them, names as ``names`` reads them, units as ``units`` reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from loguru import logger
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.object_path import AnyPath
from earth2_corrdiff.base.times import Leads, Times, lead_text, positions, time_text, to_leads, to_times
from earth2_corrdiff.sources.forecasts import ForecastSource
from earth2_corrdiff.sources.formats import files_of, is_grib, open_dataset
from earth2_corrdiff.sources.gridded import GriddedFile
from earth2_corrdiff.sources.parts import Part, Parts, labelled

Key = tuple[int, str]
"""A row of the table of all files, and a variable of it."""


class FileAnalyses:
    """Files as an Earth2Studio data source: of several runs, the fields of the shortest lead time.

    Parameters
    ----------
    path : str or Path
        NetCDF, GRIB or Zarr; a folder of them, a pattern, or several with commas between
    rename : Mapping[str, str], optional
        Earth2Studio's names of the files' own

    Attributes
    ----------
    times : np.ndarray
        [T] valid times, rising
    variables : tuple[str, ...]
        Names of what at least one row has

    Raises
    ------
    InputError
        If there is none, one cannot be opened or is not laid out as said above, they are on several grids or
        hold several coarse members, or two fields are there for one variable and time and no lead times
    """

    times: Times
    variables: tuple[str, ...]

    def __init__(self, path: str | Path, rename: Mapping[str, str] | None = None) -> None:
        self._parts = parts = open_parts(path, rename)
        self.variables = parts.variables
        if np.unique(parts.member).size > 1:
            raise InputError(
                f"{parts.name} has the coarse members {_some(parts.members)}; choose forecasts with --lead, "
                "and with --coarse-members where there are several"
            )
        order = np.lexsort((parts.lead, parts.valid))  # an unknown lead time comes last
        self.times, starts = np.unique(parts.valid[order], return_index=True)
        self._rows = np.split(order, starts[1:])
        self._log_choice()

    def __call__(self, time: Any, variable: Any) -> xr.DataArray:
        """Read, in Earth2Studio's protocol.

        Raises
        ------
        InputError
            If the files lack one of the variables at one of the times
        """
        times, names = to_times(time), [variable] if isinstance(variable, str) else [*map(str, variable)]
        for missing in [name for name in names if name not in self.variables]:
            raise InputError(f"{self._parts.name} has no {missing}; it has {', '.join(self.variables)}")
        values = _stacked(self._parts, [self._find(time, names) for time in times])
        leading = {"time": times, "variable": names}
        return labelled(values, leading, self._parts.lat, self._parts.lon)

    def _find(self, time: np.datetime64, names: list[str]) -> list[Key]:
        """Rows of the variables of a time: all of one run, that of the shortest lead time that has them."""
        (at,) = positions(self.times, np.array([time]))
        if at < 0:
            raise InputError(f"{self._parts.name} does not have the time {time_text(time)}")
        found: dict[str, int] = {}
        for run in self._runs(self._rows[at]):
            has = self._parts.rows_by_name(run)
            found = found or has
            if set(names) <= has.keys():
                return [(has[name], name) for name in names]
        lacking = next(name for name in names if name not in found)
        raise InputError(
            f"{self._parts.name} has no {lacking} at {time_text(time)}; it has {', '.join(sorted(found))}"
        )

    def _runs(self, rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
        """Rows of one time by lead time."""
        leads = self._parts.lead[rows].view(np.int64)
        return np.split(rows, np.flatnonzero(np.diff(leads)) + 1)

    def _log_choice(self) -> None:
        """Log that there are several runs; InputError where the lead times do not decide between them."""
        parts = self._parts
        several = [rows[0] for rows in self._rows if rows.size > 1 and self._overlap(rows)]
        if several:
            logger.info(
                "{}: {} of {} valid times are there from several runs; the shortest lead time is taken, "
                "{} for {}",
                *(parts.name, len(several), self.times.size),
                *(lead_text(parts.lead[several[0]]), time_text(parts.valid[several[0]])),
            )

    def _overlap(self, rows: NDArray[np.intp]) -> bool:
        """True if several runs have a variable of one time; InputError if not all with lead times."""
        parts, runs = self._parts, self._runs(rows)
        names = [parts.rows_by_name(run).keys() for run in runs]
        common = [name for i, these in enumerate(names) for other in names[:i] for name in these & other]
        if common and np.isnat(parts.lead[rows]).any():
            raise InputError(
                f"{parts.name} has {common[0]} for {time_text(parts.valid[rows[0]])} {len(runs)} times, "
                "and not all with lead times; keep one of them"
            )
        return bool(common)


class FileForecasts:
    """Files with lead times as forecasts.

    Parameters
    ----------
    path : str or Path
        GRIB, NetCDF or Zarr; a folder of them, a pattern, or several with commas between
    rename : Mapping[str, str], optional
        Earth2Studio's names of the files' own

    Attributes
    ----------
    times, leads : np.ndarray
        [T] reference times and [L] lead times, rising; not each time has each lead time
    members : tuple[int, ...]
        Numbers of the coarse members; empty where there are none
    variables : tuple[str, ...]
        Names of what at least one forecast has

    Raises
    ------
    InputError
        If they cannot be opened, are not laid out so, or hold no forecasts
    """

    times: Times
    leads: Leads
    members: tuple[int, ...]
    variables: tuple[str, ...]

    def __init__(self, path: str | Path, rename: Mapping[str, str] | None = None) -> None:
        self._parts = parts = open_parts(path, rename)
        self._start = parts.valid - parts.lead
        known = ~np.isnat(parts.lead)
        if not known.any():
            raise InputError(f"{path} holds no forecasts: it needs the coordinates time and lead_time")
        self.times, self.leads = np.unique(self._start[known]), np.unique(parts.lead[known])
        self.members, self.variables = parts.members, parts.variables

    def has(self, time: np.datetime64, lead: np.timedelta64) -> bool:
        """True if the lead time of a reference time is there."""
        return self._rows(time, lead).size > 0

    def member(self, coarse: int | None) -> ForecastSource:
        """The forecasts of one coarse member, or of all there is (None), in Earth2Studio's protocol."""
        if coarse is None and len(self.members) > 1:
            has = f"{self._parts.name} has the coarse members {self.members[0]} to {self.members[-1]}"
            raise InputError(f"{has}; say which, as --coarse-members 0-4")
        return partial(self._read, coarse)

    def _read(self, coarse: int | None, time: Any, lead_time: Any, variable: Any) -> xr.DataArray:
        names = [str(name) for name in np.atleast_1d(variable)]
        times, leads = to_times(np.atleast_1d(time)), to_leads(np.atleast_1d(lead_time))
        values = _stacked(self._parts, [self._find(t, lead, coarse, names) for t in times for lead in leads])
        values = values.reshape(times.size, leads.size, *values.shape[1:])
        leading = {"time": times, "lead_time": leads, "variable": names}
        return labelled(values, leading, self._parts.lat, self._parts.lon)

    def _find(
        self, time: np.datetime64, lead: np.timedelta64, coarse: int | None, names: list[str]
    ) -> list[Key]:
        """Rows of the variables of one forecast; InputError if the files lack one."""
        rows = self._rows(time, lead)
        has = self._parts.rows_by_name(rows if coarse is None else rows[self._parts.member[rows] == coarse])
        for name in names:
            if name not in has:
                forecast = f"{time_text(time)} + {lead_text(lead)}"
                there = ", ".join(has) or "nothing of it"
                raise InputError(f"{self._parts.name} has no {name} of {forecast}; it has {there}")
        return [(has[name], name) for name in names]

    def _rows(self, time: np.datetime64, lead: np.timedelta64) -> NDArray[np.intp]:
        """Rows of a forecast, of all its members; of times that are a minute off, too."""
        (start,) = positions(self.times, np.array([time]))
        (length,) = positions(self.leads, np.array([lead]))
        if start < 0 or length < 0:
            return np.empty(0, dtype=np.intp)
        return np.flatnonzero((self._start == self.times[start]) & (self._parts.lead == self.leads[length]))


def open_parts(path: str | Path, rename: Mapping[str, str] | None = None) -> Parts:
    """Open files as one table of fields.

    Raises
    ------
    InputError
        If there is none, one cannot be opened or is not laid out as said above, they are on several grids,
        or two fields are there for one variable, time, lead time and member
    """
    parts: list[Part] = []
    paths = files_of(path)
    if len(paths) > 1:
        logger.info("{}: looking into {} files", path, len(paths))
    try:
        parts.extend(_open(file, rename or {}) for file in paths)
        return Parts(parts, str(path), rename)
    except InputError:
        for part in parts:
            part.close()
        raise


def _open(path: AnyPath, rename: Mapping[str, str]) -> Part:
    if isinstance(path, Path) and path.is_file() and is_grib(path):
        from earth2_corrdiff.sources.grib import GribFile

        return GribFile(path, rename)
    data = open_dataset(path)
    try:
        return GriddedFile(data, path, rename)
    except InputError:
        data.close()
        raise


def _stacked(parts: Parts, keys: Iterable[list[Key]]) -> NDArray[Any]:
    """Fields ``[N, C, h, w]`` of N lists of C rows and variables; each file is read once."""
    keys = list(keys)
    fields = parts.read({key for row in keys for key in row})
    return np.stack([np.stack([fields[key] for key in row]) for row in keys])


def _some(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers)) if len(numbers) <= 8 else f"{numbers[0]} to {numbers[-1]}"
