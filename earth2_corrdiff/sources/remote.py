# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Earth2Studio's archives on the network, with limits to waiting.

On a machine without network the stock classes try ten times, or five hundred times (cdsapi). The classes are
those of ``settled.py``, which is imported with Earth2Studio when an archive is first opened. Every function
takes whether to show download bars, the coarse member, and the folder of a mirror, as far as it has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import xarray as xr

from earth2_corrdiff.base import studio
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.sources.calendars import gefs_member
from earth2_corrdiff.sources.forecasts import ForecastSource
from earth2_corrdiff.sources.source import DataSource

TABLES = ("day", "Eday", "SIday")
"""CMIP6's daily means: the atmosphere, more of it and of the land, and sea ice."""
UNCOVERED, SILENT = -990.0, -90.0
"""MRMS marks points outside its coverage with -999, and those without echo with -99."""
NO_ECHO = -10.0
"""dBZ of points without echo, as in HRRR."""
CONTACT = 30
"""Seconds until an archive must have answered for the first time."""


class ZarrArchive:
    """ARCO or WeatherBench 2: the first contact has ``CONTACT`` seconds, the download as long as it takes.

    Parameters
    ----------
    archive : ARCO_ERA5 or WB2ERA5
        The source that does the work
    """

    def __init__(self, archive: Any) -> None:
        self.archive = archive

    def open(self) -> None:
        """Open the archive, unless it is."""
        if self.archive.zarr_group is None:
            with self._limited():
                self.archive(np.array([np.datetime64("2000-01-01", "ns")]), [])  # no variable: opens, no more

    def end(self) -> np.datetime64:
        """Last time of ARCO, from the archive itself."""
        self.open()
        return np.datetime64(self.archive.ARCO_TIME_STOP, "ns")

    @contextmanager
    def _limited(self) -> Iterator[None]:
        patient = self.archive.async_timeout
        self.archive.async_timeout = CONTACT
        try:
            yield
        finally:
            self.archive.async_timeout = patient

    def __call__(self, time: Any, variable: Any) -> xr.DataArray:
        """Fetch, in Earth2Studio's protocol."""
        self.open()
        array: xr.DataArray = self.archive(time, variable)
        return array


def gfs(verbose: bool, member: int | None, folder: Path | None) -> DataSource:
    """NOAA's GFS analyses from its bucket at Amazon, cached, or from a folder laid out like it."""
    from earth2_corrdiff.sources.settled import SettledGFS

    return cast(DataSource, _noaa(SettledGFS, "GFS_BUCKET_NAME", verbose, folder))


def gfs_fx(verbose: bool, member: int | None, folder: Path | None) -> ForecastSource:
    """NOAA's GFS forecasts, likewise."""
    from earth2_corrdiff.sources.settled import SettledGFSForecasts

    return cast(ForecastSource, _noaa(SettledGFSForecasts, "GFS_BUCKET_NAME", verbose, folder))


def gefs_fx(verbose: bool, member: int | None, folder: Path | None) -> ForecastSource:
    """Forecasts of one GEFS member, likewise."""
    from earth2_corrdiff.sources.settled import SettledGEFS

    options = {"member": gefs_member(member)}
    return cast(ForecastSource, _noaa(SettledGEFS, "GEFS_BUCKET_NAME", verbose, folder, **options))


def hrrr(verbose: bool, member: int | None, folder: Path | None) -> DataSource:
    """NOAA's HRRR analyses, likewise; on a grid with 2-D lat and lon."""
    from earth2_corrdiff.sources.settled import SettledHRRR

    return cast(DataSource, _noaa(SettledHRRR, "HRRR_BUCKET_NAME", verbose, folder))


class RadarMosaic:
    """MRMS with its marks as values: points outside its coverage are NaN, and those without echo ``NO_ECHO``.

    Parameters
    ----------
    archive : MRMS
        The source that does the work
    """

    def __init__(self, archive: Any) -> None:
        self.archive = archive

    def __call__(self, time: Any, variable: Any) -> xr.DataArray:
        """Fetch, in Earth2Studio's protocol: of each time the scan nearest to it, 10 minutes away at most."""
        array: xr.DataArray = self.archive(time, variable)
        covered = array.where(array > UNCOVERED)
        return covered.where(covered.isnull() | (covered > SILENT), NO_ECHO)


def mrms(verbose: bool, member: int | None, folder: Path | None) -> DataSource:
    """NOAA's radar mosaic, cached."""
    source = studio.MRMS(verbose=verbose)
    source.store = _bucket(source.MRMS_BUCKET_NAME)
    return RadarMosaic(source)


def _noaa(kind: type[Any], bucket: str, verbose: bool, folder: Path | None, **options: Any) -> Any:
    """A class of Earth2Studio over its bucket, or over a folder."""
    if folder is not None:
        return _local(kind, folder, **options)
    source = kind(verbose=verbose, **options)
    source.store = _bucket(getattr(source, bucket))
    return source


def _bucket(name: str, region: str = "us-east-1") -> Any:
    """A public store at Amazon that gives up in time."""
    from obstore.store import S3Store

    return S3Store(
        name,
        region=region,
        skip_signature=True,
        client_options={"pool_max_idle_per_host": "24"},
        retry_config={"max_retries": 10, "retry_timeout": timedelta(seconds=CONTACT)},
    )


def _local(kind: type[Any], folder: Path, **options: Any) -> Any:
    """Not cached: what is local may change."""
    from obstore.store import LocalStore

    source = kind(cache=False, verbose=False, retries=0, **options)
    source._history_range = lambda time: None  # a mirror may hold what the bucket has no longer
    source.store = LocalStore(folder)
    return source


def ifs_fx(verbose: bool, member: int | None, folder: Path | None) -> ForecastSource:
    """ECMWF's open forecasts of HRES, cached.

    Raises
    ------
    InputError
        If ECMWF's client is not installed
    """
    _check_client()
    return cast(ForecastSource, studio.IFS_FX(verbose=verbose))


def ifs_ens_fx(verbose: bool, member: int | None, folder: Path | None) -> ForecastSource:
    """ECMWF's open forecasts of one member of its ensemble, cached.

    Raises
    ------
    InputError
        If ECMWF's client is not installed
    """
    _check_client()
    return cast(ForecastSource, studio.IFS_ENS_FX(member=1 if member is None else member, verbose=verbose))


def _check_client() -> None:
    if find_spec("ecmwf") is None:
        raise InputError("the forecasts of ECMWF need its client; run: pip install ecmwf-opendata")


def ncar(verbose: bool, member: int | None, folder: Path | None) -> DataSource:
    """ERA5 from NCAR's bucket at Amazon, cached."""
    from earth2_corrdiff.sources.settled import SettledNCAR

    source = SettledNCAR(verbose=verbose, retries=1)
    source.store = _bucket(source.NCAR_ERA5_BUCKET_NAME, region="us-west-2")
    return cast(DataSource, source)


def arco(verbose: bool, member: int | None, folder: Path | None) -> DataSource:
    """ERA5 from Google's analysis-ready archive, cached."""
    from earth2_corrdiff.sources.settled import SettledARCO

    return ZarrArchive(SettledARCO(verbose=verbose))


def wb2(verbose: bool, member: int | None, folder: Path | None) -> DataSource:
    """ERA5 from WeatherBench 2, cached."""
    from earth2_corrdiff.sources.settled import SettledWB2

    return ZarrArchive(SettledWB2(verbose=verbose))


def check_esgf() -> None:
    """Refuse archives of CMIP6 where their client is missing."""
    if find_spec("intake_esgf") is None:
        raise InputError(
            "climate models need the client of ESGF; run: pip install intake-esgf, or give daily means as "
            "file:PATH"
        )


def cmip6(model: str, scenario: str, member: str, verbose: bool) -> DataSource:
    """Daily means of a climate model from ESGF: atmosphere, land and sea ice."""
    about = {"experiment_id": scenario, "source_id": model, "variant_label": member}
    tables = [
        studio.CMIP6(table_id=table, exact_time_match=True, verbose=verbose, **about) for table in TABLES
    ]
    return cast(DataSource, studio.CMIP6MultiRealm(tables))


def cds(verbose: bool, member: int | None, folder: Path | None) -> DataSource:
    """ERA5 from the Copernicus Climate Data Store, cached; needs a key.

    Raises
    ------
    InputError
        If a package or the key is missing
    """
    missing = [package for package in ("cdsapi", "cfgrib") if find_spec(package) is None]
    if missing:
        raise InputError(f"the source cds needs {' and '.join(missing)}; run: pip install cdsapi cfgrib")
    import cdsapi

    source = studio.CDS_ERA5(verbose=verbose)
    try:
        source.cds_client = cdsapi.Client(
            quiet=True, progress=verbose, wait_until_complete=False, retry_max=3, sleep_max=10
        )
    except Exception as error:
        raise InputError(
            "the source cds needs a key in ~/.cdsapirc, see https://cds.climate.copernicus.eu/how-to-api "
            f"({str(error).splitlines()[0]})"
        ) from error
    return cast(DataSource, source)
