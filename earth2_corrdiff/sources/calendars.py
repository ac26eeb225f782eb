# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Which times a source has, as far as that is known without asking it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from earth2_corrdiff.base.errors import InputError, UnavailableError
from earth2_corrdiff.base.times import Times, positions, time_text

HOUR = np.timedelta64(1, "h")
OLDEST = np.datetime64("2015-01-14T00", "ns")
"""Since then GFS is on 0.25 degrees; NOAA's bucket begins later, a mirror of one's own need not."""
EPOCH = np.datetime64("1900-01-01")


class Asked(Protocol):
    """What a calendar needs of a source."""

    @property
    def name(self) -> str:
        """As the user gave it."""

    @property
    def data(self) -> Any:
        """The data source that does the work, built when it is first used."""


class Calendar(Protocol):
    """Knows which times a source has."""

    def check(self, times: Times, source: Asked) -> None:
        """Raise InputError for the first of ``times`` that the source cannot have."""


@dataclass(frozen=True)
class Archive:
    """Analyses every ``step`` hours since ``first``, until ``last`` or now.

    Attributes
    ----------
    first, last : np.datetime64
        First and last analysis, both included; None for a last one means that the archive grows
    step : int
        Hours between two analyses, counted from midnight UTC
    """

    first: np.datetime64
    last: np.datetime64 | None = None
    step: int = 1

    def check(self, times: Times, source: Asked) -> None:
        now = np.datetime64("now")
        for time in times:
            if time > now:
                raise InputError(f"{self._has(source.name)}; got {time_text(time)}, which lies in the future")
            after = self.last is not None and time > self.last
            if time < self.first or after or (time - EPOCH) % (self.step * HOUR):
                raise InputError(f"{self._has(source.name)}; got {time_text(time)}")

    def _has(self, name: str) -> str:
        hours = [f"{hour:02d}" for hour in range(0, 24, self.step)]
        cycle = "every full hour" if self.step == 1 else f"{', '.join(hours[:-1])} and {hours[-1]} UTC"
        first = str(self.first.astype("datetime64[D]"))
        span = f"since {first}" if self.last is None else f"from {first} to {time_text(self.last)}"
        return f"the source {name} has analyses at {cycle} {span}"


@dataclass(frozen=True)
class GrowingArchive:
    """An archive that says itself where it ends: asked only for times after the end that is known here.

    Attributes
    ----------
    known : Archive
        With the end that the installed Earth2Studio knows
    """

    known: Archive

    def check(self, times: Times, source: Asked) -> None:
        archive, last = self.known, self.known.last
        if last is not None and (times > last).any() and (times <= np.datetime64("now")).all():
            archive = replace(archive, last=_end(source, last))
        try:
            archive.check(times, source)
        except InputError as error:
            if not _will_have(archive, times, source):
                raise
            raise UnavailableError(f"{error}, which is not published yet; try again later") from None


def _will_have(archive: Archive, times: Times, source: Asked) -> bool:
    """True if an archive that grows will have these times."""
    try:
        replace(archive, last=None).check(times, source)
    except InputError:
        return False
    return True


def _end(source: Asked, known: np.datetime64) -> np.datetime64:
    try:
        return np.datetime64(source.data.end(), "ns")
    except Exception:  # no network: the fetch would fail too, so say what is known
        return known


@dataclass(frozen=True, eq=False)
class Listed:
    """Exactly these times, in any order, to the minute: those of a file."""

    times: Times

    def check(self, times: Times, source: Asked) -> None:
        missing = times[positions(self.times, times) < 0]
        if missing.size:
            first, last = time_text(self.times.min()), time_text(self.times.max())
            count = np.unique(self.times).size
            has = f"only {first}" if count == 1 else f"{count} times from {first} to {last}"
            raise InputError(f"the source {source.name} has {has}; got {time_text(missing[0])}")


@dataclass(frozen=True)
class Mirror:
    """A folder laid out like NOAA's GFS bucket: what was copied of the archive, and older times.

    Attributes
    ----------
    folder : Path
        Holds ``gfs.YYYYMMDD``
    archive : Archive
        Which times the bucket has
    """

    folder: Path
    archive: Archive

    def check(self, times: Times, source: Asked) -> None:
        older = replace(self.archive, first=OLDEST)
        for time in times:
            (older if OLDEST <= time < self.archive.first else self.archive).check(time[None], source)
        for time in times:
            path = gfs_path(self.folder, time)
            for needed in (path, path.with_name(path.name + ".idx")):
                if not needed.is_file():
                    raise InputError(
                        f"the source {source.name} has no analysis of {time_text(time)}: "
                        f"the file {needed} is missing; {self._holds()}"
                    )

    def _holds(self) -> str:
        days = sorted(path.name.removeprefix("gfs.") for path in self.folder.glob("gfs.????????"))
        if not days:
            return "the folder has no gfs.YYYYMMDD at all, so it is no mirror of the bucket"
        return f"the folder has the days {', '.join(days[:8])}{', …' if len(days) > 8 else ''}"


def gfs_path(folder: Path, time: np.datetime64, lead: int = 0) -> Path:
    """A GRIB file of NOAA's GFS bucket; its layout changed on 2021-03-22 at 12 UTC."""
    day, hour = str(time.astype("datetime64[h]")).split("T")
    where = folder / f"gfs.{day.replace('-', '')}" / hour
    if time >= np.datetime64("2021-03-22T12"):
        where = where / "atmos"
    return where / f"gfs.t{hour}z.pgrb2.0p25.f{lead:03d}"


GFS = Archive(np.datetime64("2021-01-01T00", "ns"), step=6)
WB2 = Archive(np.datetime64("1959-01-01T00", "ns"), np.datetime64("2023-01-10T18", "ns"), step=6)
ERA5 = Archive(np.datetime64("1940-01-01T00", "ns"))
ARCO = GrowingArchive(replace(ERA5, last=np.datetime64("2025-12-31T00", "ns")))
