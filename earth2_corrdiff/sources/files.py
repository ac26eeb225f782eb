# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Weather from files: whatever xarray opens, and GRIB; one file, a folder, a pattern, or several.

Accepted: a DataArray with a dimension ``variable``, or a Dataset with one variable per name, on lat and lon;
times as ``time_axes`` reads them, names as ``names`` reads them, units as ``units`` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import xarray as xr
from loguru import logger

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.zarr_members import check_codecs
from earth2_corrdiff.sources.analyses import FileAnalyses, FileSource
from earth2_corrdiff.sources.formats import files_of, is_grib, is_zarr, refuse_others
from earth2_corrdiff.sources.gridded import GriddedFile
from earth2_corrdiff.sources.parts import Part, Parts


def open_file(place: str | Path, rename: Mapping[str, str] | None = None) -> FileSource:
    """Open files for their fields by valid time.

    Parameters
    ----------
    place : str or Path
        NetCDF, GRIB or Zarr; a folder of them, a pattern, or several with commas between
    rename : Mapping[str, str], optional
        Earth2Studio's names of the files' own

    Raises
    ------
    InputError
        If there is none, one cannot be opened or is not laid out as said above, they are on several grids,
        or two fields are there for one variable and time
    """
    return FileAnalyses(open_parts(place, rename))


def open_parts(place: str | Path, rename: Mapping[str, str] | None = None) -> Parts:
    """Open files as rows of fields.

    Raises
    ------
    InputError
        As ``open_file``
    """
    parts: list[Part] = []
    paths = files_of(place)
    if len(paths) > 1:
        logger.info("{}: looking into {} files", place, len(paths))
    try:
        parts.extend(_open(path, rename or {}) for path in paths)
        return Parts(parts, str(place), rename)
    except InputError:
        for part in parts:
            part.close()
        raise


def _open(path: Path, rename: Mapping[str, str]) -> Part:
    if path.is_file() and is_grib(path):
        from earth2_corrdiff.sources.grib import GribFile

        return GribFile(path, rename)
    data = open_data(path)
    try:
        return GriddedFile(data, path, rename)
    except InputError:
        data.close()
        raise


def open_data(path: Path) -> xr.Dataset:
    """Open a NetCDF or Zarr, whatever is in it.

    Raises
    ------
    InputError
        If there is none, or it cannot be opened
    """
    if not path.exists():
        raise InputError(f"there is no file {path}; give --source file:PATH a NetCDF, GRIB or Zarr")
    zarr = path.is_dir() or is_zarr(path)
    if not zarr:
        refuse_others(path)
    check_codecs(path)
    try:
        return xr.open_dataset(path, engine="zarr") if zarr else xr.open_dataset(path)
    except Exception as error:  # every engine has its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        if "decode" in reason and "time" in reason:
            raise InputError(
                f"{path} has times that cannot be decoded ({reason}); use units like 'hours since 1970-01-01'"
            ) from error
        raise InputError(f"cannot open {path} as NetCDF, GRIB or Zarr ({reason}); is it complete?") from error
