# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Which forecasts a source has, as far as that is known without asking it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import Leads, Times, lead_text, positions, time_text
from earth2_corrdiff.sources.calendars import EPOCH, HOUR, OLDEST

Hours = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ForecastArchive:
    """Forecasts from 00, 06, 12 and 18 UTC since ``first`` until now.

    Attributes
    ----------
    first : np.datetime64
        First reference time
    leads : tuple[tuple[int, int], ...]
        Up to how many hours there are lead times, and every how many: ``((120, 1), (384, 3))``
    short : int | None
        Last lead time of the runs from 06 and 18 UTC, hours, where they end earlier
    """

    first: np.datetime64
    leads: Hours
    short: int | None = None

    def check(self, times: Times, leads: Leads, name: str) -> None:
        now = np.datetime64("now")
        for time in times:
            if time > now:
                raise InputError(f"{self._has(name)}; got {time_text(time)}, which lies in the future")
            if time < self.first or (time - EPOCH) % (6 * HOUR):
                raise InputError(f"{self._has(name)}; got {time_text(time)}")
            for lead in leads:
                self._check_lead(time, lead, name)

    def _check_lead(self, time: np.datetime64, lead: np.timedelta64, name: str) -> None:
        hours = lead / HOUR
        step = next((step for until, step in self.leads if hours <= until), None)
        if step is None or hours % step:
            spans = ", then ".join(f"every {_hours(step)} to {until} h" for until, step in self.leads)
            raise InputError(f"the source {name} has lead times {spans}; got {lead_text(lead)}")
        if self.short is not None and hours > self.short and (time - EPOCH) % (12 * HOUR):
            raise InputError(
                f"the forecasts of the source {name} from 06 and 18 UTC end at {self.short} h; "
                f"got {time_text(time)} + {lead_text(lead)}"
            )

    def _has(self, name: str) -> str:
        first = str(self.first.astype("datetime64[D]"))
        return f"the source {name} has forecasts from 00, 06, 12 and 18 UTC since {first}"


@dataclass(frozen=True)
class ForecastMirror:
    """A folder laid out like NOAA's bucket: the archive's forecasts, of those that were copied.

    Attributes
    ----------
    archive : ForecastArchive
        Which forecasts the bucket has
    paths : Callable[[np.datetime64, int], list[Path]]
        GRIB files of a reference time and lead time (hours): one per coarse member
    """

    archive: ForecastArchive
    paths: Callable[[np.datetime64, int], list[Path]]

    def check(self, times: Times, leads: Leads, name: str) -> None:
        older = replace(self.archive, first=min(OLDEST, self.archive.first))
        older.check(times, leads, name)
        wanted = [(time, lead, path) for time in times for lead in leads for path in self._paths(time, lead)]
        for time, lead, path in wanted:
            for needed in (path, path.with_name(path.name + ".idx")):
                if not needed.is_file():
                    raise InputError(
                        f"the source {name} has no forecast of {time_text(time)} + {lead_text(lead)}: "
                        f"the file {needed} is missing"
                    )

    def _paths(self, time: np.datetime64, lead: np.timedelta64) -> list[Path]:
        return self.paths(time, int(lead / HOUR))


@dataclass(frozen=True, eq=False)
class ListedForecasts:
    """Exactly these times and lead times: those of files.

    Attributes
    ----------
    times, leads : np.ndarray
        Reference times and lead times
    has : Callable[[np.datetime64, np.timedelta64], bool]
        Whether a time has a lead time
    """

    times: Times
    leads: Leads
    has: Callable[[np.datetime64, np.timedelta64], bool] = lambda time, lead: True

    def check(self, times: Times, leads: Leads, name: str) -> None:
        for time in times[positions(self.times, times) < 0]:
            raise InputError(
                f"the source {name} has forecasts from {_span([*map(time_text, self.times)])}; "
                f"got {time_text(time)}"
            )
        for lead in leads[positions(self.leads, leads) < 0]:
            raise InputError(
                f"the source {name} has the lead times {_span([*map(lead_text, self.leads)])}; "
                f"got {lead_text(lead)}"
            )
        for time, lead in itertools.product(times, leads):
            if not self.has(time, lead):
                forecast = f"{time_text(time)} + {lead_text(lead)}"
                raise InputError(f"the source {name} has no forecast of {forecast}; leave out that lead time")


def gefs_path(folder: Path, member: str, time: np.datetime64, lead: int) -> Path:
    """A GRIB file of NOAA's GEFS bucket, of the product that holds the variables of weather maps."""
    day, hour = str(time.astype("datetime64[h]")).split("T")
    where = folder / f"gefs.{day.replace('-', '')}" / hour / "atmos/pgrb2ap5"
    return where / f"{member}.t{hour}z.pgrb2a.0p50.f{lead:03d}"


def _hours(step: int) -> str:
    return "hour" if step == 1 else f"{step} hours"


def _span(texts: list[str]) -> str:
    return ", ".join(texts) if len(texts) <= 4 else f"{texts[0]} to {texts[-1]} ({len(texts)} of them)"


GFS_FX = ForecastArchive(np.datetime64("2021-02-26T00", "ns"), ((120, 1), (384, 3)))
GEFS_FX = ForecastArchive(np.datetime64("2020-09-23T00", "ns"), ((240, 3), (384, 6)))
IFS_FX = ForecastArchive(np.datetime64("2024-03-01T00", "ns"), ((144, 3), (360, 6)), short=144)
