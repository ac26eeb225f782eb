# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Names of sources, and what each of them is: the table behind ``--source``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.sources import calendars, forecast_registry
from earth2_corrdiff.sources.forecasts import Forecast, parse_members
from earth2_corrdiff.sources.names import renamed
from earth2_corrdiff.sources.source import FORECASTS, DataSource, Source
from earth2_corrdiff.sources.vocabulary import Vocabulary, demo_variables, lexicon

NAMES = (
    "gfs, arco, ncar, wb2, cds, demo, gfs:DIR, file:PATH, "
    "or for forecasts gfs_fx, gefs_fx, ifs_fx, ifs_ens_fx, demo_fx, gfs_fx:DIR or gefs_fx:DIR"
)


def make_source(name: str, verbose: bool = False, rename: Mapping[str, str] | None = None) -> Source:
    """The data source of a name, ready to be checked and called; nothing is fetched yet.

    Parameters
    ----------
    name : str
        ``gfs`` (NOAA's analyses), ``arco``, ``ncar``, ``wb2``, ``cds`` (ERA5 from Google, NCAR,
        WeatherBench 2, Copernicus), ``demo`` (synthetic), ``gfs:DIR`` (a local mirror of NOAA's bucket), or
        ``file:PATH`` (NetCDF, GRIB or Zarr; a folder of them, a pattern, or several with commas between)
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
    kind, colon, place = name.partition(":")
    if kind == "file" and place:
        return _file(name, place, rename)
    _refuse_rename(name, rename)
    if kind == "gfs" and place:
        return _mirror(name, Path(place).expanduser())
    if kind in forecast_registry.KINDS:
        raise InputError(f"the source {name} has forecasts; say which, as --lead 0/48/6h")
    if colon or kind not in KINDS:
        raise InputError(f"there is no source {name!r}; choose one of {NAMES}")
    return KINDS[kind].source(name, verbose)


def make_forecast(
    name: str,
    coarse_members: str | None = None,
    verbose: bool = False,
    rename: Mapping[str, str] | None = None,
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
    kind, _, place = name.partition(":")
    coarse = None if coarse_members is None else parse_members(coarse_members)
    if kind == "file" and place:
        return forecast_registry.file_forecast(name, place, coarse, rename)
    _refuse_rename(name, rename)
    if kind in forecast_registry.KINDS:
        return forecast_registry.KINDS[kind].forecast(name, verbose, coarse, place)
    make_source(name)  # refuses a name that is none
    raise InputError(f"the source {name} has no lead times; leave out --lead, or use {FORECASTS}")


@dataclass(frozen=True)
class Kind:
    """What is known of a source that has only one instance.

    Attributes
    ----------
    vocabulary : Callable[[], Container[str]]
        Its variables
    build : Callable[[bool], DataSource]
        Makes it; takes whether to show download bars
    calendar : calendars.Calendar or None
        Its times
    synthetic : bool
        Whether its weather never happened
    needs_key : bool
        Whether to build it at once, so that a missing key or package is refused first
    """

    vocabulary: Vocabulary
    build: Callable[[bool], DataSource]
    calendar: calendars.Calendar | None = None
    synthetic: bool = False
    needs_key: bool = False

    def source(self, name: str, verbose: bool) -> Source:
        """The source under a name."""
        build = partial(self.build, verbose)
        if self.needs_key:
            build = partial(_same, build())
        return Source(name, build, self.vocabulary, self.calendar, self.synthetic)


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
    if _is_forecast(source):
        return forecast_registry.own_forecast([source])
    if isinstance(source, list | tuple) and source and all(map(_is_forecast, source)):
        return forecast_registry.own_forecast(list(source))
    if not callable(source):
        raise InputError(f"a data source is called with (time, variable); got {type(source).__name__}")
    bases = [base.__name__ for base in type(source).__mro__]
    name = next((CLASSES[base] for base in bases if base in CLASSES), None)
    if name is None:
        synthetic = bool(getattr(source, "synthetic", False))
        return Source(type(source).__name__, partial(_same, source), synthetic=synthetic)
    kind = KINDS[name]
    return Source(name, partial(_same, source), kind.vocabulary, kind.calendar, kind.synthetic)


def _is_forecast(source: Any) -> bool:
    """Whether it follows Earth2Studio's protocol of forecast sources; Earth2Studio asks the same."""
    try:
        return callable(source) and "lead_time" in signature(source).parameters
    except ValueError:  # of a built-in function
        return False


def _same(source: DataSource) -> DataSource:
    return source


def _mirror(name: str, folder: Path) -> Source:
    if not folder.is_dir():
        raise InputError(
            f"the source {name} needs a folder laid out like NOAA's GFS bucket; {folder} is none"
        )

    def build() -> DataSource:
        from earth2_corrdiff.sources.remote import gfs_mirror

        return gfs_mirror(folder)

    return Source(name, build, lexicon("GFSLexicon"), calendars.Mirror(folder, calendars.GFS))


def _file(name: str, place: str, rename: Mapping[str, str] | None) -> Source:
    from earth2_corrdiff.sources.files import open_file

    data = open_file(place, rename)
    name += renamed(rename or {})
    return Source(name, partial(_same, data), lambda: data.variables, calendars.Listed(data.times))


def _refuse_rename(name: str, rename: Mapping[str, str] | None) -> None:
    if rename:
        raise InputError(f"the source {name} has Earth2Studio's names; rename those of file:PATH only")


def _remote(name: str) -> Callable[[bool], DataSource]:
    def build(verbose: bool) -> DataSource:
        from earth2_corrdiff.sources import remote

        source: DataSource = getattr(remote, name)(verbose)
        return source

    return build


def _demo(verbose: bool) -> DataSource:
    from earth2_corrdiff.demo import DemoWeather

    source: DataSource = DemoWeather()
    return source


KINDS: dict[str, Kind] = {
    "gfs": Kind(lexicon("GFSLexicon"), _remote("gfs"), calendars.GFS),
    "arco": Kind(lexicon("ARCO_ERA5Lexicon"), _remote("arco"), calendars.ARCO),
    "ncar": Kind(lexicon("NCAR_ERA5Lexicon"), _remote("ncar"), calendars.ERA5),
    "wb2": Kind(lexicon("WB2Lexicon"), _remote("wb2"), calendars.WB2),
    "cds": Kind(lexicon("CDS_ERA5Lexicon"), _remote("cds"), calendars.ERA5, needs_key=True),
    "demo": Kind(demo_variables, _demo, synthetic=True),
}
CLASSES = {
    "GFS": "gfs",
    "ARCO_ERA5": "arco",
    "NCAR_ERA5": "ncar",
    "WB2ERA5": "wb2",
    "CDS_ERA5": "cds",
    "DemoWeather": "demo",
}
"""Earth2Studio's class names, of the sources above."""
