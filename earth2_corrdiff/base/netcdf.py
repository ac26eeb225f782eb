# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""NetCDF files, opened and read by one thread at a time: their library is not made for several."""

from __future__ import annotations

from pathlib import Path
from threading import RLock

import xarray as xr


class _Turns:
    """A lock that its thread may take again; in another process it is that of the process."""

    def __init__(self) -> None:
        lock = RLock()
        self.acquire, self.release = lock.acquire, lock.release

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def __reduce__(self) -> str:
        return "TURNS"


TURNS = _Turns()
"""Held while any file is opened, read or closed."""


def open_netcdf(path: Path, engine: str | None = None) -> xr.Dataset:
    """Open a NetCDF file lazily; errors of the libraries are not explained.

    xarray takes turns where it reads and closes, and not where it looks into a file that it opens.
    """
    with TURNS:
        return xr.open_dataset(path, engine=engine, lock=TURNS)
