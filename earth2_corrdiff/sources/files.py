# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Weather from files: whatever xarray opens, and GRIB; one file, a folder, a pattern, or several.

Accepted: a DataArray with a dimension ``variable``, or a Dataset with one variable per name, on lat and lon;
times as ``time_axes`` reads them, names as ``names`` reads them, units as ``units`` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from loguru import logger

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.sources.analyses import FileAnalyses, FileSource
from earth2_corrdiff.sources.formats import files_of, is_grib, open_dataset
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
    data = open_dataset(path)
    try:
        return GriddedFile(data, path, rename)
    except InputError:
        data.close()
        raise
