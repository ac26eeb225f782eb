# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""`DemoWeather`: an Earth2Studio data source of synthetic weather over Taiwan at any time.

It is neither an observation nor a forecast. Every number is a function of the valid time and of
`WORLD_VERSION`: the same time always gives the same weather.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError

from .atmosphere import COARSE_VARIABLES, FINE_VARIABLES, Fields
from .atmosphere import fields as _fields
from .domain import COARSE_LAT, COARSE_LON, domain, window
from .storm import EPOCH, Vortex, slot_middle, slot_of, vortex
from .terrain import terrain
from .turbulence import WORLD_VERSION

Times = datetime | np.datetime64 | list[datetime] | NDArray[np.datetime64]
Names = str | list[str] | NDArray[np.str_]
Float32 = NDArray[np.float32]

FIRST_TIME, LAST_TIME = np.datetime64("1700-01-01", "us"), np.datetime64("2200-01-01", "us")
TRAINING_YEARS = range(2012, 2022)
NOTE = "synthetic: made by earth2_corrdiff's DemoWeather, neither observed nor forecast"


class DemoWeather:
    """Synthetic weather over Taiwan: coarse inputs at 0.25 degrees and the fine truth they average.

    Typhoons cross the domain every few days; between them there are monsoons, fronts and showers.
    What the coarse fields show is where a storm is and how strong, not where each cell of rain is.

    Examples
    --------
    >>> from datetime import datetime
    >>> source = DemoWeather()
    >>> source(datetime(2024, 7, 24, 12), ["t2m", "u10m"]).shape
    (1, 2, 36, 40)
    >>> source.truth(datetime(2024, 7, 24, 12), "mrr").shape
    (1, 1, 112, 112)
    """

    SYNTHETIC = True
    VARIABLES = COARSE_VARIABLES
    TRUTH_VARIABLES = FINE_VARIABLES
    VERSION = WORLD_VERSION

    def __call__(self, time: Times, variable: Names) -> xr.DataArray:
        """Coarse fields, [time, variable, lat, lon] float32.

        Parameters
        ----------
        time : datetime | np.datetime64 | list[datetime] | NDArray[np.datetime64]
            Valid times, UTC.
        variable : str | list[str] | NDArray[np.str_]
            Any of `VARIABLES`: the twelve inputs of CorrDiff-Taiwan, and `refc`, the coarse composite
            reflectivity (dBZ of the mean Z of each cell).

        Returns
        -------
        xr.DataArray
            `lat` 19.25 to 28 and `lon` 116 to 125.75 degrees, both ascending; K, m/s, kg/m2, m2/s2, dBZ.

        Raises
        ------
        InputError
            For an unknown variable, or a time that is not valid or outside 1700-2199.
        """
        coords = {"lat": COARSE_LAT, "lon": COARSE_LON}
        return self._array(time, variable, "coarse", COARSE_VARIABLES, coords, ("lat", "lon"))

    async def fetch(self, time: Times, variable: Names) -> xr.DataArray:
        """As calling the source, for Earth2Studio's asynchronous workflows."""
        return self(time, variable)

    def truth(self, time: Times, variable: Names) -> xr.DataArray:
        """Fine fields on the package's grid, [time, variable, y, x] float32.

        Parameters
        ----------
        time, variable
            As for the coarse fields; any of `TRUTH_VARIABLES` (dBZ, K, m/s).

        Returns
        -------
        xr.DataArray
            With the curvilinear coordinates `lat` and `lon` on (y, x), degrees.

        Raises
        ------
        InputError
            As for the coarse fields.
        """
        lat, lon = self.fine_grid()
        coords = {"lat": (("y", "x"), lat), "lon": (("y", "x"), lon)}
        return self._array(time, variable, "fine", FINE_VARIABLES, coords, ("y", "x"))

    def _array(
        self,
        time: Times,
        variable: Names,
        part: str,
        known: tuple[str, ...],
        grid: Any,
        dims: tuple[str, str],
    ) -> xr.DataArray:
        """The coarse or fine part of the fields of some times, [time, variable, *dims]."""
        times, names = _times(time), _names(variable, known)
        pick = [known.index(name) for name in names]
        values = np.stack([getattr(self.fields(when), part)[pick] for when in times])
        coords = {"time": times.astype("datetime64[ns]"), "variable": names, **grid}
        return xr.DataArray(values, coords, ("time", "variable", *dims), attrs={"comment": NOTE})

    def fields(self, time: datetime | np.datetime64) -> Fields:
        """Coarse [13, 36, 40] and fine [4, 112, 112] of one time as plain float32 arrays."""
        return _fields(_hours(_times(time)[0]))

    @staticmethod
    def coarse_grid() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Latitudes [36] and longitudes [40] of the coarse fields, degrees."""
        return COARSE_LAT.copy(), COARSE_LON.copy()

    @staticmethod
    def fine_grid() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Latitude and longitude of the package's fine grid, degrees, [112, 112] each."""
        grid = domain()
        return window(grid.lat).astype(np.float64), window(grid.lon).astype(np.float64)

    @staticmethod
    def static() -> dict[str, Float32]:
        """Invariants on the fine grid: `orography` (m) and `land_fraction` (0 to 1), [112, 112]."""
        ground = terrain()
        return {
            "orography": window(ground.height).astype(np.float32),
            "land_fraction": window(ground.land).astype(np.float32),
        }

    @staticmethod
    def storm(time: datetime | np.datetime64) -> Vortex | None:
        """The typhoon of a time (it may be outside the domain), or None."""
        return vortex(_hours(_times(time)[0]))

    @staticmethod
    def storm_slot(time: datetime | np.datetime64) -> int:
        """Number of the slot of some five days that a time belongs to; each has at most one storm."""
        return slot_of(_hours(_times(time)[0]))

    @classmethod
    def storm_year(cls, time: datetime | np.datetime64) -> int:
        """Year of the middle of a time's storm slot: splitting by it never splits a storm."""
        middle = slot_middle(cls.storm_slot(time))
        when = EPOCH + np.timedelta64(round(middle * 3600), "s")
        return int(when.astype("datetime64[Y]").astype(int)) + 1970

    @classmethod
    def is_training_time(cls, time: datetime | np.datetime64) -> bool:
        """True if a time belongs to the storm years 2012-2021, which the demo package may be trained on."""
        return cls.storm_year(time) in TRAINING_YEARS


def _one_time(value: Any) -> np.datetime64:
    """A single time as datetime64 in UTC."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.astimezone(UTC).replace(tzinfo=None)
    try:
        return np.datetime64(value, "us")
    except (TypeError, ValueError):
        raise InputError(
            f"DemoWeather needs times, got {value!r}: give datetime or numpy.datetime64."
        ) from None


def _times(time: Any) -> NDArray[np.datetime64]:
    """Any way to give times as an array of datetime64[us], checked."""
    many: Iterable[Any] = time if isinstance(time, (list, tuple)) else np.atleast_1d(time)
    times = np.array([_one_time(value) for value in many], "datetime64[us]")
    if times.size == 0:
        raise InputError("DemoWeather was asked for no time: give at least one.")
    # Not "outside", so that NaT is caught as well.
    bad = times[~((times >= FIRST_TIME) & (times < LAST_TIME))]
    if bad.size:
        raise InputError(f"DemoWeather has no weather for {bad[0]}: give times from 1700 to 2199.")
    return times


def _hours(time: np.datetime64) -> float:
    """Hours since 2000-01-01 00 UTC."""
    return float((time - EPOCH) / np.timedelta64(1, "h"))


def _names(variable: Names, known: tuple[str, ...]) -> list[str]:
    """Variable names as a list, all of them known."""
    names = [variable] if isinstance(variable, str) else [str(name) for name in np.atleast_1d(variable)]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise InputError(
            f"DemoWeather has no variable {', '.join(unknown) or '(none)'}: it has {', '.join(known)}."
        )
    return names
