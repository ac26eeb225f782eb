# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Names of forecast sources, and what each of them is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.sources import forecast_calendars as calendars
from earth2_corrdiff.sources.calendars import gfs_path
from earth2_corrdiff.sources.forecasts import Forecast, ForecastSource
from earth2_corrdiff.sources.names import renamed
from earth2_corrdiff.sources.vocabulary import Vocabulary, demo_variables, lexicon

Build = Callable[[bool, int | None, Path | None], ForecastSource]


@dataclass(frozen=True)
class Kind:
    """What is known of a forecast source.

    Attributes
    ----------
    vocabulary : Callable[[], Container[str]]
        Its variables
    build : Callable[[bool, int | None, Path | None], ForecastSource]
        Makes it; takes whether to show download bars, the coarse member, and the folder of a mirror
    calendar : ForecastArchive | None
        Which forecasts it has
    members : range | None
        Numbers of its coarse members; None where it has but one forecast
    mirror : Callable | None
        GRIB file in a mirror: takes its folder, the coarse member, the time, and the lead time in hours
    synthetic : bool
        Whether its weather never happened
    """

    vocabulary: Vocabulary
    build: Build
    calendar: calendars.ForecastArchive | None = None
    members: range | None = None
    mirror: Callable[[Path, int | None, np.datetime64, int], Path] | None = None
    synthetic: bool = False

    def forecast(self, name: str, verbose: bool, coarse: tuple[int, ...] | None, place: str) -> Forecast:
        """The forecasts under a name; ``place`` is the folder of a mirror, or empty."""
        self._check_members(name, coarse)
        calendar: Any = self.calendar
        folder = Path(place).expanduser() if place else None
        if folder is not None:
            if self.mirror is None or calendar is None or not folder.is_dir():
                raise InputError(f"the source {name} needs a folder laid out like NOAA's bucket")
            paths = [partial(self.mirror, folder, member) for member in coarse or (None,)]
            calendar = calendars.ForecastMirror(calendar, lambda time, lead: [p(time, lead) for p in paths])

        def build(member: int | None) -> ForecastSource:
            return self.build(verbose, member, folder)

        return Forecast(name, build, coarse, self.vocabulary, calendar, self.synthetic)

    def _check_members(self, name: str, coarse: tuple[int, ...] | None) -> None:
        if coarse is None:
            return
        if self.members is None:
            ensembles = ", ".join(each for each, kind in KINDS.items() if kind.members is not None)
            raise InputError(
                f"the source {name} has one forecast, no members; leave out --coarse-members, "
                f"or use one of {ensembles}"
            )
        for number in coarse:
            if number not in self.members:
                last = self.members.stop - 1
                raise InputError(
                    f"the source {name} has the members {self.members.start} to {last}; got {number}"
                )


def file_forecast(
    name: str, place: str, coarse: tuple[int, ...] | None, rename: Mapping[str, str] | None = None
) -> Forecast:
    """The forecasts of files.

    Raises
    ------
    InputError
        If they hold none, or lack one of the coarse members
    """
    from earth2_corrdiff.sources.forecast_files import ForecastFile

    file = ForecastFile(place, rename)
    for number in coarse or ():
        if number not in (file.coarse or ()):
            has = "no coarse members" if file.coarse is None else f"the coarse members {file.coarse}"
            raise InputError(f"the source {name} has {has}; got {number}")
    if coarse is None:
        file.member(None)  # says whether one must be chosen
    calendar = calendars.ListedForecasts(file.times, file.leads, file.has)
    name += renamed(rename or {})
    return Forecast(name, file.member, coarse, lambda: file.variables, calendar)


def own_forecast(sources: list[Any]) -> Forecast:
    """Forecast sources of Earth2Studio or of the user as one; several are its coarse members."""
    bases = [base.__name__ for base in type(sources[0]).__mro__]
    name = next((CLASSES[base] for base in bases if base in CLASSES), None)
    coarse = None if len(sources) == 1 else tuple(range(len(sources)))

    def build(member: int | None) -> ForecastSource:
        source: ForecastSource = sources[member or 0]
        return source

    if name is None:
        synthetic = bool(getattr(sources[0], "synthetic", False))
        return Forecast(type(sources[0]).__name__, build, coarse, synthetic=synthetic)
    return replace(KINDS[name].forecast(name, False, None, ""), build=build, coarse=coarse)


def _gfs(verbose: bool, member: int | None, folder: Path | None) -> ForecastSource:
    from earth2_corrdiff.sources.remote import gfs_fx

    return gfs_fx(verbose, folder)


def _gefs(verbose: bool, member: int | None, folder: Path | None) -> ForecastSource:
    from earth2_corrdiff.sources.remote import gefs_fx

    return gefs_fx(verbose, gefs_member(member), folder)


def gefs_member(number: int | None) -> str:
    """NOAA's name of a GEFS member: the control is number 0."""
    return f"gep{number:02d}" if number else "gec00"


def _ifs(verbose: bool, member: int | None, folder: Path | None) -> ForecastSource:
    from earth2_corrdiff.sources.remote import ifs

    return ifs(verbose)


def _ifs_ens(verbose: bool, member: int | None, folder: Path | None) -> ForecastSource:
    from earth2_corrdiff.sources.remote import ifs

    return ifs(verbose, 1 if member is None else member)


def _demo(verbose: bool, member: int | None, folder: Path | None) -> ForecastSource:
    from earth2_corrdiff.sources.demo_forecast import DemoForecast

    return DemoForecast(member or 0)


def _gfs_file(folder: Path, member: int | None, time: np.datetime64, lead: int) -> Path:
    return gfs_path(folder, time, lead)


def _gefs_file(folder: Path, member: int | None, time: np.datetime64, lead: int) -> Path:
    return calendars.gefs_path(folder, gefs_member(member), time, lead)


KINDS: dict[str, Kind] = {
    "gfs_fx": Kind(lexicon("GFSLexicon"), _gfs, calendars.GFS_FX, mirror=_gfs_file),
    "gefs_fx": Kind(lexicon("GEFSLexicon"), _gefs, calendars.GEFS_FX, range(31), _gefs_file),
    "ifs_fx": Kind(lexicon("IFSLexicon"), _ifs, calendars.IFS_FX),
    "ifs_ens_fx": Kind(lexicon("IFSLexicon"), _ifs_ens, calendars.IFS_FX, range(1, 51)),
    "demo_fx": Kind(demo_variables, _demo, members=range(31), synthetic=True),
}
CLASSES = {
    **{"GFS_FX": "gfs_fx", "GEFS_FX": "gefs_fx", "IFS_FX": "ifs_fx", "IFS_ENS_FX": "ifs_ens_fx"},
    "DemoForecast": "demo_fx",
}
"""Earth2Studio's class names, of the sources above."""
