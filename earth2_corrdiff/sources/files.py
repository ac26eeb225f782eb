# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Weather from a file: whatever xarray opens, and GRIB.

Accepted: a DataArray with a dimension ``variable``, or a Dataset with one variable per Earth2Studio name;
``time`` or ``valid_time``, ``lat`` or ``latitude``, ``lon`` or ``longitude``; other dimensions of length 1.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xarray as xr

from earth2_corrdiff.errors import InputError
from earth2_corrdiff.times import TimeLike, Times, to_times

LEADS = ("lead_time", "step")
FORECAST = (*LEADS, "ensemble", "number", "member", "realization")
ALIASES = {"valid_time": "time", "latitude": "lat", "longitude": "lon"}


class FileSource(Protocol):
    """A file as an Earth2Studio data source that knows its times and variables."""

    times: Times
    variables: tuple[str, ...]

    def __call__(self, time: Any, variable: Any) -> xr.DataArray:
        """``DataArray(time, variable, lat, lon)``."""

    async def fetch(self, time: Any, variable: Any) -> xr.DataArray:
        """The same, awaited."""


def open_file(path: Path) -> FileSource:
    """Open a NetCDF, GRIB or Zarr.

    Raises
    ------
    InputError
        If there is none, it cannot be opened, or it is not laid out as said above
    """
    if path.is_file() and is_grib(path):
        from earth2_corrdiff.sources.grib import GribFile

        return GribFile(path)
    data = open_data(path)
    try:
        return GriddedFile(data, path)
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
    try:
        return xr.open_dataset(path, engine="zarr") if _is_zarr(path) else xr.open_dataset(path)
    except Exception as error:  # every engine has its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise InputError(f"cannot open {path} as NetCDF, GRIB or Zarr ({reason}); is it complete?") from error


def is_grib(path: Path) -> bool:
    """Whether a file is GRIB, of whichever edition."""
    with path.open("rb") as file:
        return b"GRIB" in file.read(512)  # a bulletin header may come first


def _is_zarr(path: Path) -> bool:
    return path.is_dir() or ".zarr" in path.suffixes


class GriddedFile:
    """A Dataset or DataArray on a regular grid.

    Parameters
    ----------
    data : xr.Dataset
        As opened; a lone DataArray is a Dataset of one variable with a dimension ``variable``
    path : Path
        Its file, for messages

    Raises
    ------
    InputError
        If a dimension is missing or one too many, or times or names cannot be read
    """

    times: Times
    variables: tuple[str, ...]

    def __init__(self, data: xr.Dataset, path: Path) -> None:
        self._path = path
        self._data = standard(_valid_time(_renamed(data)), path)
        self.times = _times_of(self._data, path)
        self.variables = tuple(str(name) for name in self._data.data_vars)

    def __call__(self, time: TimeLike | Iterable[TimeLike], variable: str | Iterable[str]) -> xr.DataArray:
        """Read, in Earth2Studio's protocol.

        Raises
        ------
        InputError
            If the file lacks a time or a variable
        """
        times, names = to_times(time), [variable] if isinstance(variable, str) else [str(v) for v in variable]
        for missing in [name for name in names if name not in self.variables]:
            raise InputError(f"{self._path} has no {missing}; it has {', '.join(self.variables)}")
        rows = [self._row(time) for time in times]
        fields = [
            self._data[name].isel(time=rows).transpose("time", "lat", "lon").to_numpy() for name in names
        ]
        grid = {axis: self._data[axis].to_numpy() for axis in ("lat", "lon")}
        coords = {"time": times, "variable": names, **grid}
        return xr.DataArray(np.stack(fields, axis=1), coords, ("time", "variable", "lat", "lon"))

    async def fetch(self, time: Any, variable: Any) -> xr.DataArray:
        """The same, awaited."""
        return self(time, variable)

    def _row(self, time: np.datetime64) -> int:
        rows = np.flatnonzero(self.times == time)
        if rows.size == 0:
            raise InputError(f"{self._path} does not have the time {time}")
        return int(rows[0])


def standard(data: xr.Dataset, path: Path, also: tuple[str, ...] = ()) -> xr.Dataset:
    """One variable per name, each over time, lat and lon in some order, with these coordinates.

    Parameters
    ----------
    data : xr.Dataset
        As opened
    path : Path
        Its file, for messages
    also : tuple[str, ...], optional
        Other dimensions that may be longer than one

    Raises
    ------
    InputError
        If a dimension is missing or one too many
    """
    data = _renamed(data)
    names = [name for name in data.data_vars if {"lat", "lon"} <= set(data[name].dims)]
    if not names or data["lat"].ndim != 1 or data["lon"].ndim != 1:
        raise InputError(
            f"{path} must hold fields on 1-D lat and lon; got the variables {_listed(data.data_vars)} "
            f"with the dimensions {_listed(data.dims)}"
        )
    data, kept = data[names], ("time", "lat", "lon", *also)
    for dim, size in data.sizes.items():
        if dim not in kept and size > 1:
            raise InputError(f"{path} has the dimension {dim} of length {size}; {_way_out(str(dim))}")
    return data.squeeze([dim for dim in data.dims if dim not in kept], drop=True)


def _renamed(data: xr.Dataset) -> xr.Dataset:
    """With Earth2Studio's names of the coordinates, and one variable per name."""
    new = {old: name for old, name in ALIASES.items() if old in data.variables and name not in data}
    data = data.rename(new)
    stacked = [name for name in data.data_vars if "variable" in data[name].dims]
    return data[stacked[0]].to_dataset("variable") if len(stacked) == 1 else data


def _way_out(dim: str) -> str:
    if dim in FORECAST:
        return "choose forecasts with --lead, and with --coarse-members where there are several"
    return "select one of them, or save one variable per Earth2Studio name (t850, not t with a level)"


def _listed(names: Iterable[Hashable]) -> str:
    return ", ".join(map(str, names)) or "none"


def _valid_time(data: xr.Dataset) -> xr.Dataset:
    """Valid time as the dimension ``time``: one lead time is added, a lone time becomes a dimension."""
    for lead in LEADS:
        if (
            lead in data.variables
            and data[lead].size == 1
            and "time" in data.variables
            and "valid_time" not in data
        ):
            delta = np.asarray(data[lead].to_numpy(), dtype="timedelta64[ns]").reshape(-1)[0]
            data = data.assign_coords(time=data["time"] + delta)
    if "time" in data.variables and "time" not in data.dims:
        data = data.expand_dims("time")
    return data


def _times_of(data: xr.Dataset, path: Path) -> Times:
    if "time" not in data.coords or not np.issubdtype(data["time"].dtype, np.datetime64):
        raise InputError(f"{path} needs a coordinate time (or valid_time) with dates that xarray can decode")
    return data["time"].to_numpy().astype("datetime64[ns]")
