# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The truth in a Zarr or NetCDF, on the grid of what is verified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from earth2_corrdiff.base.errors import InputError, first_line
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.times import Times, positions, time_text
from earth2_corrdiff.base.units import Conversion, conversion
from earth2_corrdiff.sources.checks import cleaned
from earth2_corrdiff.sources.names import AXES, offered
from earth2_corrdiff.sources.time_axes import by_valid_time, time_names


@dataclass(frozen=True, eq=False)
class Part:
    """Where the points of what is verified lie on the grid of a truth.

    Attributes
    ----------
    rows, columns : np.ndarray
        ``[H]`` and ``[W]`` positions along its two axes, which may run the other way
    whole : bool
        Whether that is all of the truth's grid
    """

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    whole: bool

    def cut(self, field: NDArray[Any]) -> Tensor:
        """``[H, W]`` float64 of a field on the truth's grid."""
        return torch.from_numpy(np.asarray(field, dtype=np.float64)[np.ix_(self.rows, self.columns)])


def part_of(have: Grid, want: Grid, name: str) -> Part:
    """The part of a truth's grid that what is verified is on; rows and columns may run the other way.

    Raises
    ------
    InputError
        If the points of what is verified are not among those of the truth
    """
    rows, columns = _places(have, want) if have.curvilinear or want.curvilinear else _along_axes(have, want)
    if rows.size and _same_points(have, want, rows, columns):
        return Part(rows, columns, whole=have.shape == want.shape)
    (H, W), (h, w) = want.shape, have.shape
    raise InputError(
        f"the truth {name} is on {h} x {w} points ({have.extent()}), what is verified on {H} x {W} "
        f"({want.extent()}), which are not among them; regrid it first, or give file:PATH to have a regular "
        "grid interpolated"
    )


def _along_axes(have: Grid, want: Grid) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The nearest positions along 1-D latitudes and longitudes."""
    lat = np.abs(have.lat[None].astype(np.float64) - want.lat[:, None])
    lon = np.abs((have.lon[None].astype(np.float64) - want.lon[:, None] + 180) % 360 - 180)
    return lat.argmin(1), lon.argmin(1)


def _places(have: Grid, want: Grid) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rectangle between the points nearest to two opposite corners; empty if it has another shape."""
    lat, lon = have.mesh()
    fine_lat, fine_lon = want.mesh()
    ends = []
    for corner in ((0, 0), (-1, -1)):
        turn = (lon.astype(np.float64) - fine_lon[corner] + 180) % 360 - 180
        north = lat.astype(np.float64) - fine_lat[corner]
        away = np.hypot(north, turn * np.cos(np.deg2rad(fine_lat[corner])))
        ends.append(np.unravel_index(int(away.argmin()), lat.shape))
    axes = []
    for first, last, length in zip(*ends, want.shape, strict=True):
        if abs(int(last) - int(first)) != length - 1:
            return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp)
        axes.append(np.linspace(int(first), int(last), length).round().astype(np.intp))
    return axes[0], axes[1]


def _same_points(
    have: Grid, want: Grid, rows: NDArray[np.intp], columns: NDArray[np.intp], tolerance: float = 1e-4
) -> bool:
    """Whether the points of a part of a grid are those of another one, longitudes in either convention."""
    at = np.ix_(rows, columns)
    (lat, lon), (lat2, lon2) = have.mesh(), want.mesh()
    turn = (lon[at].astype(np.float64) - lon2 + 180) % 360 - 180
    return bool(np.abs(lat[at] - lat2).max() < tolerance and np.abs(turn).max() < tolerance)


def refuse_lacking(lacking: Sequence[str], truth: str, there: Sequence[str]) -> None:
    """InputError if a truth lacks variables."""
    if lacking:
        raise InputError(
            f"the truth {truth} has no {', '.join(lacking)}; it has {', '.join(there) or 'nothing'}; "
            f"name others with --variables, or say what it is called there: --truth-name {lacking[0]}=NAME"
        )


class Counted:
    """Base of truths that count the numbers that stood for missing values, each field once."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, np.datetime64], int] = {}

    def cleaned(
        self, values: NDArray[Any], variable: str, convert: Conversion, name: str, time: np.datetime64
    ) -> Tensor:
        """A field ``[H, W]`` in the variable's units, NaN where values are missing.

        Raises
        ------
        InputError
            If it has values that the variable cannot have
        """
        fields, count = cleaned(values, variable, convert, f"the truth {name} at {time_text(time)}")
        self._counts[variable, time] = count
        return torch.from_numpy(fields)

    @property
    def replaced(self) -> dict[str, int]:
        """By variable, how many numbers that stand for missing values were met so far: they are NaN."""
        found: dict[str, int] = {}
        for (variable, _), count in self._counts.items():
            found[variable] = found.get(variable, 0) + count
        return found


class GriddedTruth(Counted):
    """Fields ``(time, [variable], y, x)`` with 1-D or 2-D lat and lon, on the grid of what is verified.

    Parameters
    ----------
    data : xr.Dataset
        One variable per name, or one array with a dimension ``variable``
    name : str
        For messages
    grid : Grid
        Its points must be among the truth's, which may run the other way; what lies around them is cut off
    names : Mapping[str, str]
        Its names of variables where they differ

    Raises
    ------
    InputError
        If it has no times, lat or lon, or another grid
    """

    def __init__(self, data: xr.Dataset, name: str, grid: Grid, names: Mapping[str, str]) -> None:
        super().__init__()
        self.name, self.names = name, names
        old = {k: v for k, v in AXES.items() if k in data.variables and v not in data.variables}
        data = data.rename(old)
        stacked = [key for key in data.data_vars if "variable" in data[key].dims]
        if len(stacked) == 1:
            data = data[stacked[0]].to_dataset("variable")
        self.data = by_valid_time(data, f"the truth {name}") if time_names(data) else data
        self.times = self._read_times()
        have = self._read_grid()
        self.part = part_of(have, grid, name)
        (h, w), (H, W) = have.shape, grid.shape
        cut = f"The truth is cut out of a larger grid: {H} x {W} of {h} x {w} points."
        self.note = "" if self.part.whole else cut
        self._own = offered(self.data, f"the truth {name}")
        self._convert: dict[str, Conversion] = {}

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
        wanted = {name: self._name(name) for name in variables}
        there = [str(name) for name in self.data.data_vars]
        refuse_lacking([name for name, own in wanted.items() if own not in there], self.name, there)
        for own in wanted.values():
            long = {str(d) for d in self.data[own].dims if self.data.sizes[d] > 1 or d in self.dims}
            if not set(self.dims) <= long <= {"time", *self.dims}:
                have, want = ", ".join(map(str, self.data[own].dims)), " and ".join(self.dims)
                raise InputError(
                    f"{own} of the truth {self.name} has the dimensions {have}; it may have time, {want}"
                )

        for name in variables:
            self._conversion(name)

    def _name(self, variable: str) -> str:
        """What a variable is called in the truth."""
        return self.names.get(variable) or self._own.get(variable, variable)

    def _conversion(self, variable: str) -> Conversion:
        """To the variable's units; InputError where those of the truth are no such units."""
        if variable not in self._convert:
            units = self.data[self._name(variable)].attrs.get("units")
            self._convert[variable] = conversion(units, variable, f"the truth {self.name}")
        return self._convert[variable]

    def field(self, time: np.datetime64, variable: str) -> Tensor:
        """One field ``[H, W]`` in the variable's units; NaN where a number stands for a missing value.

        Raises
        ------
        InputError
            If it cannot be read, or has values that the variable cannot have
        """
        array = self.data[self._name(variable)]
        if "time" in array.dims:
            array = array.isel(time=int(positions(self.times, np.array([time]))[0]))
        array = array.squeeze([d for d in array.dims if d not in self.dims]).transpose(*self.dims)
        try:
            values = array.to_numpy()
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"{variable} cannot be read from {self.name} ({first_line(error)})") from error
        part = self.part.cut(values).numpy()
        return self.cleaned(part, variable, self._conversion(variable), self.name, time)
