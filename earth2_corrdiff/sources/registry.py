# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Names of sources of analyses and forecasts: the tables behind ``--source``."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

from earth2_corrdiff.base import studio
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.sources import calendars
from earth2_corrdiff.sources.forecasts import Forecast, parse_members
from earth2_corrdiff.sources.names import renamed
from earth2_corrdiff.sources.source import WITH_LEADS, Source

NAMES = (
    "gfs, arco, ncar, wb2, cds, demo, cmip6:MODEL,SCENARIO,MEMBER, gfs:DIR, file:PATH, on fine grids hrrr, "
    "mrms, or for forecasts gfs_fx, gefs_fx, ifs_fx, ifs_ens_fx, demo_fx, gfs_fx:DIR or gefs_fx:DIR"
)
Vocabulary = Callable[[], Container[str]]
Build = Callable[[bool, int | None, Path | None], Any]
Rename = Mapping[str, str]


def make_source(name: str, verbose: bool = False, rename: Rename | None = None) -> Source:
    """The data source of a name, ready to be checked and called; nothing is fetched yet.

    Parameters
    ----------
    name : str
        ``gfs`` (NOAA's analyses), ``arco``, ``ncar``, ``wb2``, ``cds`` (ERA5 from Google, NCAR,
        WeatherBench 2, Copernicus), ``hrrr`` (NOAA, on its Lambert grid), ``mrms`` (NOAA's radar mosaic, of
        full hours), ``demo`` (synthetic), ``cmip6:CanESM5,ssp585,r1i1p2f1`` (daily means of
        a climate model from ESGF), ``gfs:DIR`` (a local mirror of NOAA's bucket), or ``file:PATH`` (NetCDF,
        GRIB or Zarr; a folder of them, a pattern, or several with commas between)
    verbose : bool, optional
        Show Earth2Studio's download bars, by default False
    rename : Mapping[str, str], optional
        Earth2Studio's names of the files' own, as ``{"own": "u10m"}``

    Returns
    -------
    Source
        An Earth2Studio data source with checks

    Raises
    ------
    InputError
        If there is no such source, folder or file, or a package or key that it needs is missing
    """
    kind, colon, path = name.partition(":")
    if kind == "file" and path:
        return _file_source(name, path, rename or {})
    _refuse_rename(name, rename)
    if kind == "cmip6":
        return _climate_source(name, path, verbose)
    if kind in FORECASTS:
        raise InputError(f"the source {name} has forecasts; say which, as --lead 0/48/6h")
    if kind not in KINDS or (colon and not (path and KINDS[kind].file)):
        raise InputError(f"there is no source {name!r}; choose one of {NAMES}")
    return KINDS[kind].source(name, verbose, path)


def make_forecast(
    name: str,
    coarse_members: str | None = None,
    verbose: bool = False,
    rename: Rename | None = None,
) -> Forecast:
    """The forecast source of a name, ready to be checked; nothing is fetched yet.

    Parameters
    ----------
    name : str
        ``gfs_fx``, ``gefs_fx`` (NOAA's forecast, and its ensemble), ``ifs_fx``, ``ifs_ens_fx`` (ECMWF's),
        ``demo_fx`` (synthetic), ``gfs_fx:DIR``, ``gefs_fx:DIR`` (local mirrors of NOAA's buckets), or
        ``file:PATH`` (NetCDF, Zarr or GRIB with lead times, and maybe members; a folder, a pattern, …)
    coarse_members : str | None, optional
        Which members of a coarse ensemble, like ``0-4,7``; by default its control (of ``ifs_ens_fx``
        member 1), without a number
    verbose : bool, optional
        Show Earth2Studio's download bars, by default False
    rename : Mapping[str, str], optional
        Earth2Studio's names of the files' own, as ``{"own": "u10m"}``

    Raises
    ------
    InputError
        If there is no such source, folder, file or member, or what it needs is not installed
    """
    kind, _, path = name.partition(":")
    coarse = None if coarse_members is None else parse_members(coarse_members)
    if kind == "file" and path:
        return _file_forecast(name, path, coarse, rename or {})
    _refuse_rename(name, rename)
    if kind in FORECASTS:
        return FORECASTS[kind].forecast(name, verbose, path, coarse)
    make_source(name)  # refuses a name that is not valid
    raise InputError(f"the source {name} has no lead times; leave out --lead, or use {WITH_LEADS}")


def as_source(source: Any) -> Source | Forecast:
    """Any Earth2Studio data source as a ``Source``; those of the names above get their checks.

    A forecast source, which is called with (time, lead_time, variable), becomes a ``Forecast``; a list of
    them one with as many coarse members.

    Raises
    ------
    InputError
        If it cannot be called so
    """
    if isinstance(source, Source | Forecast):
        return source
    several = list(source) if isinstance(source, list | tuple) else [source]
    if several and all(map(_is_forecast, several)):
        coarse = None if len(several) == 1 else tuple(range(len(several)))
        return Forecast(**_known(several[0], FORECASTS, lambda member: several[member or 0]), coarse=coarse)
    if not callable(source):
        raise InputError(f"a data source is called with (time, variable); got {type(source).__name__}")
    return Source(**_known(source, KINDS, lambda: source))


def _is_forecast(source: Any) -> bool:
    """True if it follows Earth2Studio's protocol of forecast sources, by Earth2Studio's own criterion."""
    try:
        return callable(source) and "lead_time" in signature(source).parameters
    except ValueError:  # of a built-in function
        return False


def _known(source: Any, kinds: Mapping[str, Kind], build: Callable[..., Any]) -> dict[str, Any]:
    """Attributes of a ``NamedSource`` by the class of an Earth2Studio source."""
    bases = {base.__name__ for base in type(source).__mro__}
    for name, kind in kinds.items():
        if kind.stock in bases:
            about = {"vocabulary": kind.vocabulary, "calendar": kind.calendar, "synthetic": kind.synthetic}
            return {"name": name, "build": build, **about}
    synthetic = bool(getattr(source, "synthetic", False))
    return {"name": type(source).__name__, "build": build, "synthetic": synthetic}


@dataclass(frozen=True)
class Kind:
    """A source of the tables below.

    Attributes
    ----------
    stock : str
        Earth2Studio's name of its class
    build : Callable[[bool, int | None, Path | None], DataSource | ForecastSource]
        Makes it; takes whether to show download bars, the coarse member, and the folder of a mirror
    vocabulary : Callable[[], Container[str]]
        Its variables
    calendar : calendars.Calendar or None
        Its times, and lead times
    members : range | None
        Numbers of its coarse members; None where it has but one forecast
    file : Callable | None
        GRIB file in a mirror: takes its folder, the coarse member, the time, and the lead time in hours
    synthetic : bool
        True if its weather never happened
    needs_key : bool
        True to build it at once, so that a missing key or package is refused first
    """

    stock: str
    build: Build
    vocabulary: Vocabulary
    calendar: calendars.Archive | calendars.GrowingArchive | None = None
    members: range | None = None
    file: Callable[[Path, int | None, np.datetime64, int], Path] | None = None
    synthetic: bool = False
    needs_key: bool = False

    def source(self, name: str, verbose: bool, path: str) -> Source:
        """The analyses under a name; ``path`` is the folder of a mirror, or empty."""
        folder, calendar = self._mirror(name, path, None)
        build = partial(self.build, verbose, None, folder)
        if self.needs_key:
            built = build()
            build = partial(lambda archive: archive, built)
        return Source(name, build, self.vocabulary, calendar, self.synthetic, daily=False)

    def forecast(self, name: str, verbose: bool, path: str, coarse: tuple[int, ...] | None) -> Forecast:
        """The forecasts under a name; ``path`` is the folder of a mirror, or empty."""
        self._check_members(name, coarse)
        folder, calendar = self._mirror(name, path, coarse)

        def build(member: int | None) -> Any:
            return self.build(verbose, member, folder)

        return Forecast(name, build, self.vocabulary, calendar, self.synthetic, coarse)

    def _mirror(
        self, name: str, path: str, coarse: tuple[int, ...] | None
    ) -> tuple[Path | None, calendars.Calendar | None]:
        """The folder of a mirror, None for the archive itself, and the calendar of either."""
        folder, file = Path(path).expanduser(), self.file
        if not path:
            return None, self.calendar
        if file is None or not isinstance(self.calendar, calendars.Archive) or not folder.is_dir():
            raise InputError(
                f"the source {name} needs a folder laid out like NOAA's bucket; {folder} is not one"
            )

        def files(time: np.datetime64, lead: int) -> list[Path]:
            return [file(folder, member, time, lead) for member in coarse or (None,)]

        return folder, calendars.Mirror(folder, self.calendar, files)

    def _check_members(self, name: str, coarse: tuple[int, ...] | None) -> None:
        if coarse is None:
            return
        if self.members is None:
            ensembles = ", ".join(each for each, kind in FORECASTS.items() if kind.members is not None)
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


def _refuse_rename(name: str, rename: Rename | None) -> None:
    if rename:
        raise InputError(f"the source {name} has Earth2Studio's names; rename those of file:PATH only")


def _climate_source(name: str, path: str, verbose: bool) -> Source:
    from earth2_corrdiff.sources import remote

    parts = [part.strip() for part in path.split(",")]
    if len(parts) != 3 or not all(parts):
        raise InputError(
            f"the source {name} names no climate model; use cmip6:MODEL,SCENARIO,MEMBER, like "
            "cmip6:CanESM5,ssp585,r1i1p2f1"
        )
    remote.check_esgf()
    model, scenario, member = parts
    build = partial(remote.cmip6, model, scenario, member, verbose)
    return Source(name, build, _lexicon("CMIP6Lexicon"), calendars.DAYS, daily=True)


def _file_source(name: str, path: str, rename: Rename) -> Source:
    from earth2_corrdiff.sources.files import FileAnalyses

    data = FileAnalyses(path, rename)
    name += renamed(rename)
    daily = False if calendars.within_days(data.times) else None
    return Source(name, lambda: data, lambda: data.variables, calendars.of_files(data.times), daily=daily)


def _file_forecast(name: str, path: str, coarse: tuple[int, ...] | None, rename: Rename) -> Forecast:
    from earth2_corrdiff.sources.files import FileForecasts

    data = FileForecasts(path, rename)
    for number in coarse or ():
        if number not in data.members:
            has = f"the coarse members {data.members}" if data.members else "no coarse members"
            raise InputError(f"the source {name} has {has}; got {number}")
    if coarse is None:
        data.member(None)  # refuses where one must be chosen
    calendar = calendars.Listed(data.times, data.leads, data.has)
    name += renamed(rename)
    return Forecast(name, data.member, lambda: data.variables, calendar, coarse=coarse)


def _lexicon(name: str) -> Vocabulary:
    """The variables of one of Earth2Studio's lexicons."""

    def load() -> Container[str]:
        vocabulary: Container[str] = getattr(studio, name)
        return vocabulary

    return load


def _remote(name: str) -> Build:
    def build(verbose: bool, member: int | None, folder: Path | None) -> Any:
        from earth2_corrdiff.sources import remote

        return getattr(remote, name)(verbose, member, folder)

    return build


def _demo(verbose: bool, member: int | None, folder: Path | None) -> Any:
    from earth2_corrdiff.demo import DemoWeather

    return DemoWeather()


def _demo_forecast(verbose: bool, member: int | None, folder: Path | None) -> Any:
    from earth2_corrdiff.demo.forecast import DemoForecast

    return DemoForecast(member or 0)


def _demo_variables() -> Container[str]:
    from earth2_corrdiff.demo import DemoWeather

    variables: Container[str] = DemoWeather.VARIABLES
    return variables


GFS, IFS = _lexicon("GFSLexicon"), _lexicon("IFSLexicon")
KINDS: dict[str, Kind] = {
    "gfs": Kind("GFS", _remote("gfs"), GFS, calendars.GFS, file=calendars.gfs_path),
    "arco": Kind("ARCO_ERA5", _remote("arco"), _lexicon("ARCO_ERA5Lexicon"), calendars.ARCO),
    "ncar": Kind("NCAR_ERA5", _remote("ncar"), _lexicon("NCAR_ERA5Lexicon"), calendars.ERA5),
    "wb2": Kind("WB2ERA5", _remote("wb2"), _lexicon("WB2Lexicon"), calendars.WB2),
    "cds": Kind("CDS_ERA5", _remote("cds"), _lexicon("CDS_ERA5Lexicon"), calendars.ERA5, needs_key=True),
    "hrrr": Kind("HRRR", _remote("hrrr"), _lexicon("HRRRLexicon"), calendars.HRRR),
    "mrms": Kind("MRMS", _remote("mrms"), _lexicon("MRMSLexicon"), calendars.MRMS),
    "demo": Kind("DemoWeather", _demo, _demo_variables, synthetic=True),
}
"""Sources of analyses by name."""
FORECASTS: dict[str, Kind] = {
    "gfs_fx": Kind("GFS_FX", _remote("gfs_fx"), GFS, calendars.GFS_FX, file=calendars.gfs_path),
    "gefs_fx": Kind(
        *("GEFS_FX", _remote("gefs_fx"), _lexicon("GEFSLexicon"), calendars.GEFS_FX),
        *(range(31), calendars.gefs_path),
    ),
    "ifs_fx": Kind("IFS_FX", _remote("ifs_fx"), IFS, calendars.IFS_FX),
    "ifs_ens_fx": Kind("IFS_ENS_FX", _remote("ifs_ens_fx"), IFS, calendars.IFS_FX, range(1, 51)),
    "demo_fx": Kind("DemoForecast", _demo_forecast, _demo_variables, members=range(31), synthetic=True),
}
"""Sources of forecasts by name."""
