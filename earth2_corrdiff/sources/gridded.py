# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Fields of one NetCDF or Zarr on a grid, by time, lead time and coarse member."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.object_path import AnyPath
from earth2_corrdiff.base.times import Leads, Times
from earth2_corrdiff.base.units import conversion
from earth2_corrdiff.sources.names import named, offered
from earth2_corrdiff.sources.time_axes import LEAD, TimeRows, time_names, time_rows

MEMBERS = ("ensemble", "number", "member", "realization", "ensemble_member")


class GriddedFile:
    """A Dataset on a grid, as rows of fields.

    Parameters
    ----------
    data : xr.Dataset
        As opened; a lone DataArray is a Dataset of one variable with a dimension ``variable``
    path : Path or ObjectPath
        Its file, for messages
    rename : Mapping[str, str], optional
        Earth2Studio's names of the file's own

    Attributes
    ----------
    lat, lon : np.ndarray
        [h] and [w], or both [h, w], degrees
    valid, lead, member : np.ndarray
        [N]: of each row the valid time, the lead time (NaT where the file has none), and the number of the
        coarse member (-1 where it has none)

    Raises
    ------
    InputError
        If a dimension is missing or one too many, or times, names or units are not valid
    """

    valid: Times
    lead: Leads
    member: NDArray[np.int64]

    def __init__(self, data: xr.Dataset, path: AnyPath, rename: Mapping[str, str] | None = None) -> None:
        self.path, self.renamed = path, frozenset(rename or {}) & set(map(str, data.variables))
        self._file = data
        data = named(data, rename)
        rows = time_rows(data, str(path))
        self._data = _fields(data, path, rows)
        self._rows, members = rows, _member_axis(self._data)
        numbers = _numbers(self._data, members, path)
        self._member_dim, self._members = members, max(len(numbers), 1)
        self.valid = np.repeat(rows.valid, self._members)
        self.lead = np.repeat(rows.lead, self._members)
        self.member = np.tile(numbers if len(numbers) else [-1], rows.valid.size).astype(np.int64)
        self.lat, self.lon = (self._data[axis].to_numpy().astype(np.float64) for axis in ("lat", "lon"))
        if not (np.isfinite(self.lat).all() and np.isfinite(self.lon).all()):
            raise InputError(f"{path} has missing values in lat or lon; each row and column needs one")
        self._own = offered(self._data, str(path))
        self._names = tuple(self._own)
        self._convert = {
            name: conversion(self._data[own].attrs.get("units"), name, str(path))
            for name, own in self._own.items()
        }

    def names(self, row: int) -> Iterable[str]:
        """Variables of a row: here, of every row."""
        return self._names

    def read(self, rows: Iterable[tuple[int, str]]) -> dict[tuple[int, str], NDArray[Any]]:
        """Fields [h, w] of rows and variables, as the file has them."""
        return {(row, name): self._field(row, name) for row, name in rows}

    def own_units(self, name: str, field: NDArray[Any]) -> NDArray[Any]:
        """A field in Earth2Studio's units."""
        return self._convert[name](field)

    def _field(self, row: int, name: str) -> NDArray[Any]:
        array = self._data[self._own[name]]
        where = self._rows.along(row // self._members)
        if self._member_dim is not None:
            where[self._member_dim] = row % self._members
        array = array.isel({dim: i for dim, i in where.items() if dim in array.dims})
        field: NDArray[Any] = array.transpose(*_plane(self._data)).to_numpy()
        return field

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _fields(data: xr.Dataset, path: AnyPath, rows: TimeRows) -> xr.Dataset:
    """The fields of a dataset, whose dimensions are those of time, of members, lat and lon."""
    times, plane = time_names(data), set(_plane(data))
    fields = [name for name in data.data_vars if plane <= set(data[name].dims) and name not in times]
    names = [name for name in fields if data[name].dtype.kind in "fiub"]
    if not names or not {"lat", "lon"} <= set(data.variables) or len(plane) != 2:
        raise InputError(
            f"{path} must hold fields on 1-D lat and lon, or on a grid with 2-D ones; got the variables "
            f"{_listed(data.data_vars)} with the dimensions {_listed(data.dims)}"
        )
    data = data[names]
    kept = {*plane, *rows.dims, *MEMBERS}
    for dim, size in data.sizes.items():
        if dim not in kept and size > 1:
            raise InputError(f"{path} has the dimension {dim} of length {size}; {_way_out(str(dim))}")
    return data.squeeze([dim for dim in data.dims if dim not in kept], drop=True)


def _plane(data: xr.Dataset) -> tuple[str, ...]:
    """The two dimensions of fields: lat and lon, or those of 2-D ones."""
    lat, lon = (data.variables[axis].dims if axis in data.variables else () for axis in ("lat", "lon"))
    return tuple(map(str, lat)) if len(lat) == 2 and lat == lon else ("lat", "lon")


def _member_axis(data: xr.Dataset) -> str | None:
    """The dimension of coarse members; None where there is none."""
    return next((dim for dim in MEMBERS if dim in data.dims), None)


def _numbers(data: xr.Dataset, dim: str | None, path: AnyPath) -> NDArray[np.int64]:
    """Numbers of the coarse members; empty where there are none."""
    if dim is None:
        return np.empty(0, dtype=np.int64)
    if dim not in data.coords:
        return np.arange(data.sizes[dim])
    try:
        numbers: NDArray[np.int64] = data[dim].to_numpy().astype(np.int64)
    except (ValueError, TypeError):
        raise InputError(
            f"{path} has the members {data[dim].to_numpy()}, which are not numbers; number them"
        ) from None
    if np.unique(numbers).size < numbers.size:
        raise InputError(f"{path} has a member twice: {', '.join(map(str, numbers))}; keep one of them")
    return numbers


def _way_out(dim: str) -> str:
    if dim == "expver":
        return (
            "it mixes ERA5 (expver 1) and ERA5T (expver 5), each NaN where the other has values; merge them: "
            "data.sel(expver=1).combine_first(data.sel(expver=5))"
        )
    if dim in (*LEAD, *MEMBERS):
        return "choose forecasts with --lead, and with --coarse-members where there are several"
    return "select one of them, or save one variable per Earth2Studio name (t850, not t with a level)"


def _listed(names: Iterable[Hashable]) -> str:
    return ", ".join(map(str, names)) or "none"
