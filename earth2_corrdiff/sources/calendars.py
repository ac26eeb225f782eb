# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Calendars of sources: the times and lead times that each has, as far as known without a request."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from earth2_corrdiff.base.errors import InputError, UnavailableError
from earth2_corrdiff.base.times import Leads, Times, lead_text, positions, time_text

HOUR = np.timedelta64(1, "h")
OLDEST = np.datetime64("2015-01-14T00", "ns")
"""Since then GFS is on 0.25 degrees; NOAA's bucket begins later, a mirror of one's own need not."""
NOON = np.timedelta64(12, "h")
EPOCH = np.datetime64("1900-01-01")


class Named(Protocol):
    """A source with the name that messages give."""

    @property
    def name(self) -> str:
        """As the user gave it."""


class Calendar(Protocol):
    """The times, and for forecasts the lead times, that a source has."""

    def check(self, times: Times, source: Named, leads: Leads | None = None) -> None:
        """Raise InputError for the first of ``times`` and ``leads`` that the source cannot have."""


@dataclass(frozen=True)
class Archive:
    """Analyses or forecasts every ``step`` hours since ``first``, until ``last`` or now.

    Attributes
    ----------
    first, last : np.datetime64
        First and last time, both included; None for a last one means that the archive grows
    step : int
        Hours between two times, counted from midnight UTC
    leads : tuple[tuple[int, int], ...]
        Of forecasts: up to how many hours there are lead times, and every how many: ``((120, 1), (384, 3))``
    short : int | None
        Last lead time of the runs from 06 and 18 UTC, hours, where they end earlier
    """

    first: np.datetime64
    last: np.datetime64 | None = None
    step: int = 1
    leads: tuple[tuple[int, int], ...] = ()
    short: int | None = None

    def check(self, times: Times, source: Named, leads: Leads | None = None) -> None:
        now = np.datetime64("now")
        for time in times:
            if time > now:
                raise InputError(f"{self._has(source.name)}; got {time_text(time)}, which lies in the future")
            after = self.last is not None and time > self.last
            if time < self.first or after or (time - EPOCH) % (self.step * HOUR):
                raise InputError(f"{self._has(source.name)}; got {time_text(time)}")
            for lead in () if leads is None else leads:
                self._check_lead(time, lead, source.name)

    def _check_lead(self, time: np.datetime64, lead: np.timedelta64, name: str) -> None:
        hours = lead / HOUR
        step = next((step for until, step in self.leads if hours <= until), None)
        if step is None or hours % step:
            spans = ", then ".join(
                f"every {'hour' if step == 1 else f'{step} hours'} to {until} h" for until, step in self.leads
            )
            raise InputError(f"the source {name} has lead times {spans}; got {lead_text(lead)}")
        if self.short is not None and hours > self.short and (time - EPOCH) % (12 * HOUR):
            raise InputError(
                f"the forecasts of the source {name} from 06 and 18 UTC end at {self.short} h; "
                f"got {time_text(time)} + {lead_text(lead)}"
            )

    def _has(self, name: str) -> str:
        hours = [f"{hour:02d}" for hour in range(0, 24, self.step)]
        cycle = "every full hour" if self.step == 1 else f"{', '.join(hours[:-1])} and {hours[-1]} UTC"
        first = str(self.first.astype("datetime64[D]"))
        span = f"since {first}" if self.last is None else f"from {first} to {time_text(self.last)}"
        return f"the source {name} has {'forecasts from' if self.leads else 'analyses at'} {cycle} {span}"


@dataclass(frozen=True)
class GrowingArchive:
    """An archive whose end is looked up, only for times after the end that is known here.

    Attributes
    ----------
    known : Archive
        With the end that is fixed in the installed Earth2Studio
    """

    known: Archive

    def check(self, times: Times, source: Named, leads: Leads | None = None) -> None:
        archive, last = self.known, self.known.last
        if last is not None and (times > last).any() and (times <= np.datetime64("now")).all():
            archive = replace(archive, last=_end(source, last))
        try:
            archive.check(times, source)
        except InputError as error:
            if not _will_have(archive, times, source):
                raise
            raise UnavailableError(f"{error}, which is not published yet; try again later") from None


def _will_have(archive: Archive, times: Times, source: Named) -> bool:
    """True if an archive that grows will have these times."""
    try:
        replace(archive, last=None).check(times, source)
    except InputError:
        return False
    return True


def _end(source: Any, known: np.datetime64) -> np.datetime64:
    try:
        return np.datetime64(source.data.end(), "ns")
    except Exception:  # no network: the fetch would fail, too
        return known


@dataclass(frozen=True, eq=False)
class Listed:
    """Exactly these times and lead times, in any order, to the minute: those of files.

    Attributes
    ----------
    times : np.ndarray
        Valid times of analyses, or reference times of forecasts
    leads : np.ndarray | None
        Lead times of forecasts
    has : Callable[[np.datetime64, np.timedelta64], bool]
        True if a time has a lead time
    """

    times: Times
    leads: Leads | None = None
    has: Callable[[np.datetime64, np.timedelta64], bool] = lambda time, lead: True

    def check(self, times: Times, source: Named, leads: Leads | None = None) -> None:
        for time in times[positions(self.times, times) < 0]:
            raise InputError(f"the source {source.name} has {self._span()}; got {time_text(time)}")
        if self.leads is None or leads is None:
            return
        for lead in leads[positions(self.leads, leads) < 0]:
            there = _listed([*map(lead_text, self.leads)])
            raise InputError(f"the source {source.name} has the lead times {there}; got {lead_text(lead)}")
        for time, lead in itertools.product(times, leads):
            if not self.has(time, lead):
                forecast = f"{time_text(time)} + {lead_text(lead)}"
                raise InputError(
                    f"the source {source.name} has no forecast of {forecast}; leave out that lead time"
                )

    def _span(self) -> str:
        times = [time_text(time) for time in np.unique(self.times)]
        if self.leads is not None:
            return f"forecasts from {_listed(times)}"
        return f"only {times[0]}" if len(times) == 1 else f"{len(times)} times from {times[0]} to {times[-1]}"


@dataclass(frozen=True, eq=False)
class Days:
    """Daily means at 12 UTC of these days, or of any: what is asked for is a time of a day.

    Attributes
    ----------
    days : np.ndarray | None
        Their times, at 12 UTC; None where they are not known
    """

    days: Times | None = None

    def check(self, times: Times, source: Named, leads: Leads | None = None) -> None:
        if self.days is not None:
            midnight: Times = times.astype("datetime64[D]").astype("datetime64[ns]")
            Listed(self.days).check(midnight + NOON, source)


def of_files(times: Times) -> Days | Listed:
    """The calendar of analyses in files: of days, where all times are 12 UTC of several days in a row."""
    noon = (times - times.astype("datetime64[D]") == NOON).all()
    daily = times.size > 2 and noon and np.diff(np.unique(times)).min() == 24 * HOUR
    return Days(times) if daily else Listed(times)


def within_days(times: Times) -> bool:
    """True if there are several times in a day: not those of daily means."""
    return bool((np.diff(np.unique(times)) < 24 * HOUR).any())


def _listed(texts: list[str]) -> str:
    return ", ".join(texts) if len(texts) <= 4 else f"{texts[0]} to {texts[-1]} ({len(texts)} of them)"


@dataclass(frozen=True)
class Mirror:
    """A folder laid out like one of NOAA's buckets: what was copied of the archive, and older times.

    Attributes
    ----------
    folder : Path
        Holds folders by day, like ``gfs.YYYYMMDD``
    archive : Archive
        The times and lead times that the bucket has
    files : Callable[[np.datetime64, int], list[Path]]
        GRIB files of a time and lead time (hours): one per coarse member
    """

    folder: Path
    archive: Archive
    files: Callable[[np.datetime64, int], list[Path]]

    def check(self, times: Times, source: Named, leads: Leads | None = None) -> None:
        older = replace(self.archive, first=OLDEST)
        for time in times:
            archive = older if OLDEST <= time < self.archive.first else self.archive
            archive.check(time[None], source, leads)
        for time, lead in itertools.product(times, [None] if leads is None else leads):
            for path in self.files(time, 0 if lead is None else int(lead / HOUR)):
                self._check_file(path, time, lead, source.name)

    def _check_file(self, path: Path, time: np.datetime64, lead: np.timedelta64 | None, name: str) -> None:
        for needed in (path, path.with_name(path.name + ".idx")):
            if not needed.is_file():
                what = "analysis" if lead is None else "forecast"
                when = time_text(time) + ("" if lead is None else f" + {lead_text(lead)}")
                missing = f"the file {needed} is missing; {self._holds()}"
                raise InputError(f"the source {name} has no {what} of {when}: {missing}")

    def _holds(self) -> str:
        days = sorted(path.suffix[1:] for path in self.folder.glob("g*fs.????????"))
        if not days:
            return "the folder has no gfs.YYYYMMDD at all, so it is not a mirror of the bucket"
        return f"the folder has the days {', '.join(days[:8])}{', …' if len(days) > 8 else ''}"


def gfs_path(folder: Path, member: int | None, time: np.datetime64, lead: int) -> Path:
    """A GRIB file of NOAA's GFS bucket; its layout changed on 2021-03-22 at 12 UTC."""
    day, hour = str(time.astype("datetime64[h]")).split("T")
    where = folder / f"gfs.{day.replace('-', '')}" / hour
    if time >= np.datetime64("2021-03-22T12"):
        where = where / "atmos"
    return where / f"gfs.t{hour}z.pgrb2.0p25.f{lead:03d}"


def gefs_path(folder: Path, member: int | None, time: np.datetime64, lead: int) -> Path:
    """A GRIB file of NOAA's GEFS bucket, of the product that holds the variables of weather maps."""
    day, hour = str(time.astype("datetime64[h]")).split("T")
    where = folder / f"gefs.{day.replace('-', '')}" / hour / "atmos/pgrb2ap5"
    return where / f"{gefs_member(member)}.t{hour}z.pgrb2a.0p50.f{lead:03d}"


def gefs_member(number: int | None) -> str:
    """NOAA's name of a GEFS member: the control is number 0."""
    return f"gep{number:02d}" if number else "gec00"


DAYS = Days()
GFS = Archive(np.datetime64("2021-01-01T00", "ns"), step=6)
WB2 = Archive(np.datetime64("1959-01-01T00", "ns"), np.datetime64("2023-01-10T18", "ns"), step=6)
ERA5 = Archive(np.datetime64("1940-01-01T00", "ns"))
ARCO = GrowingArchive(replace(ERA5, last=np.datetime64("2025-12-31T00", "ns")))
HRRR = Archive(np.datetime64("2018-07-12T13", "ns"))
MRMS = Archive(np.datetime64("2020-10-14T00", "ns"))
GFS_FX = Archive(np.datetime64("2021-02-26T00", "ns"), step=6, leads=((120, 1), (384, 3)))
GEFS_FX = Archive(np.datetime64("2020-09-23T00", "ns"), step=6, leads=((240, 3), (384, 6)))
IFS_FX = Archive(np.datetime64("2024-03-01T00", "ns"), step=6, leads=((144, 3), (360, 6)), short=144)
