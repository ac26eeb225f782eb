# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The truth in a Zarr or NetCDF, on the grid of what is verified."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from earth2_corrdiff.errors import InputError, first_line
from earth2_corrdiff.grid import Grid
from earth2_corrdiff.sources.names import AXES
from earth2_corrdiff.sources.time_axes import by_valid_time, time_names
from earth2_corrdiff.times import Times, positions
from earth2_corrdiff.verification.forecasts import same_grid


def open_dataset(path: Path) -> xr.Dataset:
    """A Zarr or NetCDF, opened lazily.

    Raises
    ------
    InputError
        If there is none, or it cannot be opened
    """
    if not path.exists():
        raise InputError(f"there is no truth {path}; give demo, a Zarr or NetCDF, or the name of a source")
    is_zarr = path.is_dir() or ".zarr" in path.suffixes
    try:
        with warnings.catch_warnings():  # a Zarr without consolidated metadata is read all the same
            warnings.simplefilter("ignore", RuntimeWarning)
            warnings.filterwarnings("ignore", "Numcodecs codecs are not in the Zarr version 3")
            return xr.open_zarr(path, chunks=None) if is_zarr else xr.open_dataset(path)
    except Exception as error:  # every engine has its own
        reason = first_line(error)[:160]
        raise InputError(f"cannot open the truth {path} as NetCDF or Zarr ({reason})") from error


def is_flipped(have: Grid, want: Grid, name: str) -> bool:
    """Whether the first axis of a truth runs the other way than that of what is verified.

    Raises
    ------
    InputError
        If the grids are not the same either way
    """
    if same_grid(have, want):
        return False
    lon = have.lon[::-1] if have.curvilinear else have.lon
    if same_grid(Grid(have.lat[::-1], lon), want):
        return True
    (H, W), (h, w) = want.shape, have.shape
    raise InputError(
        f"the truth {name} is on {h} x {w} points ({have.extent()}), what is verified on {H} x {W} "
        f"({want.extent()}); regrid it first, or give file:PATH to have a regular grid interpolated"
    )


def as_tensor(values: np.ndarray, flip: bool) -> Tensor:
    """A field ``[H, W]`` as float64, turned round where asked."""
    field = np.asarray(values, dtype=np.float64)
    return torch.from_numpy(field[::-1].copy() if flip else field)


def refuse_lacking(lacking: Sequence[str], truth: str, there: Sequence[str]) -> None:
    """InputError if a truth lacks variables."""
    if lacking:
        raise InputError(
            f"the truth {truth} has no {', '.join(lacking)}; it has {', '.join(there) or 'nothing'}; "
            f"name others with --variables, or say what it is called there: --truth-name {lacking[0]}=NAME"
        )


class GriddedTruth:
    """Fields ``(time, [variable], y, x)`` with 1-D or 2-D lat and lon, on the grid of what is verified.

    Parameters
    ----------
    data : xr.Dataset
        One variable per name, or one array with a dimension ``variable``
    name : str
        For messages
    grid : Grid
        That it must be on; latitudes may run the other way
    names : Mapping[str, str]
        Its names of variables where they differ

    Raises
    ------
    InputError
        If it has no times, lat or lon, or another grid
    """

    note = ""

    def __init__(self, data: xr.Dataset, name: str, grid: Grid, names: Mapping[str, str]) -> None:
        self.name, self.names = name, names
        old = {k: v for k, v in AXES.items() if k in data.variables and v not in data.variables}
        data = data.rename(old)
        stacked = [key for key in data.data_vars if "variable" in data[key].dims]
        if len(stacked) == 1:
            data = data[stacked[0]].to_dataset("variable")
        self.data = by_valid_time(data, f"the truth {name}") if time_names(data) else data
        self.times = self._read_times()
        self.flip = is_flipped(self._read_grid(), grid, name)

    def _read_times(self) -> Times:
        times = self.data.variables.get("time")
        if times is None or times.dtype.kind != "M":
            raise InputError(f"the truth {self.name} has no dates as its coordinate time")
        if "time" not in self.data.dims:
            self.data = self.data.expand_dims("time")
        return self.data["time"].to_numpy().astype("datetime64[ns]")

    def _read_grid(self) -> Grid:
        if not {"lat", "lon"} <= set(self.data.variables):
            raise InputError(f"the truth {self.name} has no lat and lon")
        lat, lon = self.data["lat"], self.data["lon"]
        self.dims = tuple(str(dim) for dim in (lat.dims if lat.ndim == 2 else (*lat.dims, *lon.dims)))
        return Grid(lat.to_numpy(), lon.to_numpy())

    def available(self, times: Times) -> Times:
        """Those of these times that it has."""
        return times[positions(self.times, times) >= 0]

    def check_variables(self, variables: Sequence[str]) -> None:
        """Raise InputError if it lacks one of these, or has it on other dimensions."""
        wanted = {name: self.names.get(name, name) for name in variables}
        there = [str(name) for name in self.data.data_vars]
        refuse_lacking([name for name, own in wanted.items() if own not in there], self.name, there)
        for own in wanted.values():
            long = {str(d) for d in self.data[own].dims if self.data.sizes[d] > 1 or d in self.dims}
            if not set(self.dims) <= long <= {"time", *self.dims}:
                have, want = ", ".join(map(str, self.data[own].dims)), " and ".join(self.dims)
                raise InputError(
                    f"{own} of the truth {self.name} has the dimensions {have}; it may have time, {want}"
                )

    def field(self, time: np.datetime64, variable: str) -> Tensor:
        """One field ``[H, W]``."""
        array = self.data[self.names.get(variable, variable)]
        if "time" in array.dims:
            array = array.isel(time=int(positions(self.times, np.array([time]))[0]))
        array = array.squeeze([d for d in array.dims if d not in self.dims]).transpose(*self.dims)
        try:
            return as_tensor(array.to_numpy(), self.flip)
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"{variable} cannot be read from {self.name} ({first_line(error)})") from error
