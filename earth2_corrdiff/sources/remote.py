# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Earth2Studio's archives on the network, with an end to waiting and a cache that heals.

On a machine without network the stock classes try ten times, or five hundred times (cdsapi); an interrupted
run can leave a cut-off file in the cache that fails on every later run. Both end here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import xarray as xr
from earth2studio.data import ARCO_ERA5, CDS_ERA5, GEFS_FX, GFS, GFS_FX, NCAR_ERA5, WB2ERA5
from earth2studio.data.utils import obstore_store_from_url

from earth2_corrdiff.errors import InputError
from earth2_corrdiff.sources.forecasts import ForecastSource
from earth2_corrdiff.sources.source import DataSource

CONTACT = 30
"""Seconds until an archive must have answered for the first time."""
RETRY = {"max_retries": 10, "retry_timeout": timedelta(seconds=CONTACT)}


class Settled:
    """All downloads of a request end before the first failure is raised.

    The stock classes raise at once and leave the others running: they end with a traceback each on stderr,
    or crash the interpreter when it exits before them.
    """

    _failures: list[Exception]

    async def fetch(self, *asked: Any) -> xr.DataArray:
        """Fetch, in Earth2Studio's protocol: time and variable, with a lead time between for forecasts."""
        self._failures = []
        try:
            array: xr.DataArray = await super().fetch(*asked)  # type: ignore[misc]
        except Exception:
            if not self._failures:
                raise
        if self._failures:
            raise self._failures[0]
        return array

    async def fetch_wrapper(self, *args: Any, **options: Any) -> Any:
        """One download, as GFS, GEFS, NCAR_ERA5 and WB2ERA5 call it; None where one has failed already."""
        return await self._noted(super().fetch_wrapper, *args, **options)  # type: ignore[misc]

    async def fetch_chunk_group(self, *args: Any, **options: Any) -> Any:
        """One download, as ARCO_ERA5 calls it."""
        return await self._noted(super().fetch_chunk_group, *args, **options)  # type: ignore[misc]

    async def _noted(self, download: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> Any:
        if self._failures:
            return None
        try:
            return await download(*args, **options)
        except Exception as error:
            self._failures.append(error)
            return None


class Whole:
    """A cached file that was cut off (a killed run, a full disk) is thrown away and read again."""

    async def _fetch_remote_file(
        self, path: str, byte_offset: int = 0, byte_length: int | None = None
    ) -> str:
        for _ in range(2):
            fetched = super()._fetch_remote_file(path, byte_offset, byte_length)  # type: ignore[misc]
            cached = Path(await fetched)
            if _whole(cached.read_bytes(), byte_length, index=path.endswith(".idx")):
                return str(cached)
            cached.unlink(missing_ok=True)
        raise EOFError(f"{path} is cut off or damaged at byte {byte_offset}")


class SettledGFS(Settled, Whole, GFS):  # type: ignore[misc]
    """GFS, analyses."""


class SettledGFSForecasts(Settled, Whole, GFS_FX):  # type: ignore[misc]
    """GFS, forecasts."""


class SettledGEFS(Settled, Whole, GEFS_FX):  # type: ignore[misc]
    """GEFS, forecasts of one member."""


class SettledNCAR(Settled, NCAR_ERA5):  # type: ignore[misc]
    """ERA5 from NCAR."""


class SettledARCO(Settled, ARCO_ERA5):  # type: ignore[misc]
    """ERA5 from Google."""


class SettledWB2(Settled, WB2ERA5):  # type: ignore[misc]
    """ERA5 from WeatherBench 2."""


def _whole(data: bytes, length: int | None, index: bool) -> bool:
    """Whether a file is a whole index, or a GRIB message of its length (where that is known)."""
    if index:
        last = data.rstrip().rsplit(b"\n", 1)[-1]  # 12:24919729:d=2024072412:UGRD:850 mb:anl:
        return last.count(b":") >= 6
    return length in (None, len(data)) and data.startswith(b"GRIB") and data.endswith(b"7777")


class ZarrArchive:
    """ARCO or WeatherBench 2: the first contact has ``CONTACT`` seconds, the download as long as it takes.

    Parameters
    ----------
    archive : ARCO_ERA5 or WB2ERA5
        The source that does the work
    """

    def __init__(self, archive: ARCO_ERA5 | WB2ERA5) -> None:
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

    async def fetch(self, time: Any, variable: Any) -> xr.DataArray:
        """The same, awaited."""
        array: xr.DataArray = await self.archive.fetch(time, variable)
        return array


def gfs(verbose: bool) -> DataSource:
    """NOAA's GFS analyses from its bucket at Amazon, cached."""
    source = SettledGFS(verbose=verbose)
    source.store = obstore_store_from_url(f"s3://{GFS.GFS_BUCKET_NAME}", retry_config=RETRY)
    return source


def gfs_mirror(folder: Path) -> DataSource:
    """The same class over a folder laid out like the bucket."""
    return cast(DataSource, _local(SettledGFS, folder))


def gfs_fx(verbose: bool, folder: Path | None = None) -> ForecastSource:
    """NOAA's GFS forecasts, from its bucket or from a folder laid out like it."""
    if folder is not None:
        return cast(ForecastSource, _local(SettledGFSForecasts, folder))
    source = SettledGFSForecasts(verbose=verbose)
    source.store = obstore_store_from_url(f"s3://{GFS.GFS_BUCKET_NAME}", retry_config=RETRY)
    return cast(ForecastSource, source)


def gefs_fx(verbose: bool, member: str, folder: Path | None = None) -> ForecastSource:
    """Forecasts of one GEFS member (``gec00``, ``gep01``, …), from the bucket or from a folder."""
    if folder is not None:
        return cast(ForecastSource, _local(SettledGEFS, folder, member=member))
    source = SettledGEFS(member=member, verbose=verbose)
    source.store = obstore_store_from_url(f"s3://{GEFS_FX.GEFS_BUCKET_NAME}", retry_config=RETRY)
    return cast(ForecastSource, source)


def _local(kind: type[Any], folder: Path, **options: Any) -> Any:
    """Not cached: what is local may change."""
    from obstore.store import LocalStore

    source = kind(cache=False, verbose=False, retries=0, **options)
    source._history_range = lambda time: None  # a mirror may hold what the bucket has no longer
    source.store = LocalStore(folder)
    return source


def ifs(verbose: bool, member: int | None = None) -> ForecastSource:
    """ECMWF's open forecasts: of HRES, or of one member of its ensemble; cached.

    Raises
    ------
    InputError
        If ECMWF's client is not installed
    """
    if find_spec("ecmwf") is None:
        raise InputError("the forecasts of ECMWF need its client; run: pip install ecmwf-opendata")
    from earth2studio.data import IFS_ENS_FX, IFS_FX

    source = IFS_FX(verbose=verbose) if member is None else IFS_ENS_FX(member=member, verbose=verbose)
    return cast(ForecastSource, source)


def ncar(verbose: bool) -> DataSource:
    """ERA5 from NCAR's bucket at Amazon, cached."""
    source = SettledNCAR(verbose=verbose, retries=1)
    url = f"s3://{NCAR_ERA5.NCAR_ERA5_BUCKET_NAME}"
    source.store = obstore_store_from_url(url, region="us-west-2", retry_config=RETRY)
    return cast(DataSource, source)


def arco(verbose: bool) -> DataSource:
    """ERA5 from Google's analysis-ready archive, cached."""
    return ZarrArchive(SettledARCO(verbose=verbose))


def wb2(verbose: bool) -> DataSource:
    """ERA5 from WeatherBench 2, cached."""
    return ZarrArchive(SettledWB2(verbose=verbose))


def cds(verbose: bool) -> DataSource:
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

    source = CDS_ERA5(verbose=verbose)
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
