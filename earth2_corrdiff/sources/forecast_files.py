# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Forecasts from files: fields by reference time, lead time, and maybe coarse member."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import Leads, Times, lead_text, positions, time_text, to_leads, to_times
from earth2_corrdiff.sources.files import open_parts


class ForecastFile:
    """GRIB, NetCDF or Zarr with lead times: one file, a folder, a pattern, or several.

    Parameters
    ----------
    place : str or Path
        The files
    rename : Mapping[str, str], optional
        Earth2Studio's names of the files' own

    Attributes
    ----------
    times, leads : np.ndarray
        [T] reference times and [L] lead times, rising; not each time has each lead time
    coarse : tuple[int, ...] | None
        Numbers of the coarse members; None where there are none
    variables : tuple[str, ...]
        Names of what at least one forecast has

    Raises
    ------
    InputError
        If they cannot be opened, are not laid out so, or hold no forecasts
    """

    times: Times
    leads: Leads
    coarse: tuple[int, ...] | None
    variables: tuple[str, ...]

    def __init__(self, place: str | Path, rename: Mapping[str, str] | None = None) -> None:
        self._parts = parts = open_parts(place, rename)
        known = ~np.isnat(parts.lead)
        if not known.any():
            raise InputError(f"{place} holds no forecasts: it needs the coordinates time and lead_time")
        self._rows = np.flatnonzero(known)
        self._start = parts.valid[known] - parts.lead[known]
        self._lead, self._member = parts.lead[known], parts.member[known]
        self.times, self.leads = np.unique(self._start), np.unique(self._lead)
        self.coarse = parts.members or None
        self.variables = parts.variables

    def has(self, time: np.datetime64, lead: np.timedelta64) -> bool:
        """True if the lead time of a reference time is there."""
        return self._of(time, lead).size > 0

    def member(self, coarse: int | None) -> _Member:
        """The forecasts of one coarse member, or of all there is (None)."""
        if coarse is None and self.coarse is not None and len(self.coarse) > 1:
            has = f"{self._parts.name} has the coarse members {self.coarse[0]} to {self.coarse[-1]}"
            raise InputError(f"{has}; say which, as --coarse-members 0-4")
        return _Member(self, coarse)

    def fields(
        self, time: np.datetime64, lead: np.timedelta64, coarse: int | None, names: list[str]
    ) -> np.ndarray:
        """Fields [variable, h, w] of one forecast.

        Raises
        ------
        InputError
            If the files lack it, or one of the variables
        """
        rows = self._of(time, lead)
        member = rows if coarse is None else rows[self._member[rows] == coarse]
        has = {
            name: int(self._rows[row]) for row in member for name in self._parts.names(int(self._rows[row]))
        }
        for name in names:
            if name not in has:
                forecast = f"{time_text(time)} + {lead_text(lead)}"
                there = ", ".join(has) or "nothing of it"
                raise InputError(f"{self._parts.name} has no {name} of {forecast}; it has {there}")
        found = self._parts.read([(has[name], name) for name in names])
        return np.stack([found[has[name], name] for name in names])

    @property
    def grid(self) -> dict[str, np.ndarray]:
        """Its lat and lon."""
        return {"lat": self._parts.lat, "lon": self._parts.lon}

    def _of(self, time: np.datetime64, lead: np.timedelta64) -> np.ndarray:
        """Rows of a forecast, of all its members; of times that are a minute off, too."""
        (start,) = positions(self.times, np.array([time]))
        (length,) = positions(self.leads, np.array([lead]))
        if start < 0 or length < 0:
            return np.empty(0, dtype=np.intp)
        return np.flatnonzero((self._start == self.times[start]) & (self._lead == self.leads[length]))


class _Member:
    """Forecasts in Earth2Studio's protocol."""

    def __init__(self, file: ForecastFile, coarse: int | None) -> None:
        self._file, self._coarse = file, coarse

    def __call__(self, time: Any, lead_time: Any, variable: Any) -> xr.DataArray:
        names = [str(name) for name in np.atleast_1d(variable)]
        times, leads = to_times(np.atleast_1d(time)), to_leads(np.atleast_1d(lead_time))
        fields = [[self._file.fields(t, lead, self._coarse, names) for lead in leads] for t in times]
        coords = {"time": times, "lead_time": leads, "variable": names, **self._file.grid}
        return xr.DataArray(np.array(fields), coords, ("time", "lead_time", "variable", "lat", "lon"))
