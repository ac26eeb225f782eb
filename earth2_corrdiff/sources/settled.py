# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Earth2Studio's data sources with downloads that end together, and a cache that replaces damaged files.

In the stock cache a file that an interrupted run has cut off fails on every later run. Importing this module
imports Earth2Studio's data sources: ``remote.py`` does when an archive is first opened.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import xarray as xr

from earth2_corrdiff.base.studio import ARCO_ERA5, GEFS_FX, GFS, GFS_FX, HRRR, NCAR_ERA5, WB2ERA5


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
    """A cached file that was cut off (a killed run, a full disk) is removed and read again."""

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


class SettledHRRR(Settled, Whole, HRRR):  # type: ignore[misc]
    """HRRR, analyses."""


class SettledNCAR(Settled, NCAR_ERA5):  # type: ignore[misc]
    """ERA5 from NCAR."""


class SettledARCO(Settled, ARCO_ERA5):  # type: ignore[misc]
    """ERA5 from Google."""


class SettledWB2(Settled, WB2ERA5):  # type: ignore[misc]
    """ERA5 from WeatherBench 2."""


def _whole(data: bytes, length: int | None, index: bool) -> bool:
    """True if a file is a whole index, or a GRIB message of its length (where that is known)."""
    if index:
        last = data.rstrip().rsplit(b"\n", 1)[-1]  # 12:24919729:d=2024072412:UGRD:850 mb:anl:
        return last.count(b":") >= 6
    return length in (None, len(data)) and data.startswith(b"GRIB") and data.endswith(b"7777")
