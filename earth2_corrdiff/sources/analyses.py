# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The fields of files by valid time: of several runs, those of the shortest lead time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import xarray as xr
from loguru import logger

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import TimeLike, Times, lead_text, positions, time_text, to_times
from earth2_corrdiff.sources.parts import Parts


class FileSource(Protocol):
    """Files as an Earth2Studio data source that knows its times and variables."""

    times: Times
    variables: tuple[str, ...]

    def __call__(self, time: Any, variable: Any) -> xr.DataArray:
        """``DataArray(time, variable, lat, lon)``."""

    async def fetch(self, time: Any, variable: Any) -> xr.DataArray:
        """The same, awaited."""


class FileAnalyses:
    """Files as an Earth2Studio data source.

    Parameters
    ----------
    parts : Parts
        The files

    Attributes
    ----------
    times : np.ndarray
        [T] valid times, rising
    variables : tuple[str, ...]
        Names of what at least one row has

    Raises
    ------
    InputError
        If they hold several coarse members, or several fields of one time and no lead times
    """

    times: Times
    variables: tuple[str, ...]

    def __init__(self, parts: Parts) -> None:
        self._parts, self.variables = parts, parts.variables
        if np.unique(parts.member).size > 1:
            raise InputError(
                f"{parts.name} has the coarse members {_some(parts.members)}; choose forecasts with --lead, "
                "and with --coarse-members where there are several"
            )
        order = np.lexsort((parts.lead, parts.valid))  # an unknown lead time comes last
        self.times, starts = np.unique(parts.valid[order], return_index=True)
        self._rows = np.split(order, starts[1:])
        self._say_what_is_chosen()

    def __call__(self, time: TimeLike | Iterable[TimeLike], variable: str | Iterable[str]) -> xr.DataArray:
        """Read, in Earth2Studio's protocol.

        Raises
        ------
        InputError
            If the files lack one of the variables at one of the times
        """
        times, names = to_times(time), [variable] if isinstance(variable, str) else [str(v) for v in variable]
        for missing in [name for name in names if name not in self.variables]:
            raise InputError(f"{self._parts.name} has no {missing}; it has {', '.join(self.variables)}")
        rows = [self._find(time, names) for time in times]
        fields = self._parts.read({key for row in rows for key in row})
        values = np.stack([np.stack([fields[key] for key in row]) for row in rows])
        coords = {"time": times, "variable": names, "lat": self._parts.lat, "lon": self._parts.lon}
        return xr.DataArray(values, coords, ("time", "variable", "lat", "lon"))

    async def fetch(self, time: Any, variable: Any) -> xr.DataArray:
        """The same, awaited."""
        return self(time, variable)

    def _find(self, time: np.datetime64, names: list[str]) -> list[tuple[int, str]]:
        """Rows of the variables of a time: all of one run, that of the shortest lead time that has them."""
        (at,) = positions(self.times, np.array([time]))
        if at < 0:
            raise InputError(f"{self._parts.name} does not have the time {time_text(time)}")
        found: dict[str, int] = {}
        runs = self._runs(self._rows[at])
        for run in runs:
            has = {name: int(row) for row in run for name in self._parts.names(row)}
            found = found or has
            if set(names) <= has.keys():
                return [(has[name], name) for name in names]
        lacking = next(name for name in names if name not in found)
        raise InputError(
            f"{self._parts.name} has no {lacking} at {time_text(time)}; it has {', '.join(sorted(found))}"
        )

    def _runs(self, rows: np.ndarray) -> list[np.ndarray]:
        """Rows of one time by lead time."""
        leads = self._parts.lead[rows].view(np.int64)
        return np.split(rows, np.flatnonzero(np.diff(leads)) + 1)

    def _say_what_is_chosen(self) -> None:
        """Log that there are several runs; InputError where the lead times do not tell which to take."""
        parts, several = self._parts, []
        for rows in self._rows:
            if rows.size == 1:
                continue
            runs = self._runs(rows)
            names = [{name for row in run for name in parts.names(row)} for run in runs]
            common = [name for i, these in enumerate(names) for other in names[:i] for name in these & other]
            if common and np.isnat(parts.lead[rows]).any():
                raise InputError(
                    f"{parts.name} has {common[0]} for {time_text(parts.valid[rows[0]])} {len(runs)} times, "
                    "and not all with lead times; keep one of them"
                )
            if common:
                several.append(rows[0])
        if several:
            logger.info(
                "{}: {} of {} valid times are there from several runs; the shortest lead time is taken, "
                "{} for {}",
                *(parts.name, len(several), self.times.size),
                *(lead_text(parts.lead[several[0]]), time_text(parts.valid[several[0]])),
            )


def _some(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers)) if len(numbers) <= 8 else f"{numbers[0]} to {numbers[-1]}"
