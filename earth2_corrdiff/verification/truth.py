# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The truth: fine fields of a file, of the demo's weather, or of a data source that is interpolated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xarray as xr
from torch import Tensor

from earth2_corrdiff.base.errors import InputError, UnavailableError
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.regrid import Regridder
from earth2_corrdiff.base.times import Times
from earth2_corrdiff.base.units import Conversion
from earth2_corrdiff.sources import Source, as_source, make_source
from earth2_corrdiff.sources.formats import is_grib, is_zarr, open_dataset
from earth2_corrdiff.sources.registry import KINDS
from earth2_corrdiff.verification.truth_file import (
    Counted,
    GriddedTruth,
    part_of,
    refuse_lacking,
)


class Truth(Protocol):
    """Fields by time and variable, on the grid of what is verified."""

    @property
    def name(self) -> str:
        """As the user gave it."""

    @property
    def note(self) -> str:
        """What a reader of the scores must know of it; may be empty."""

    @property
    def replaced(self) -> Mapping[str, int]:
        """By variable, how many numbers that stand for missing values were met so far: they are NaN."""

    def available(self, times: Times) -> Times:
        """Those of these times that it has."""

    def check_variables(self, variables: Sequence[str]) -> None:
        """Raise InputError if it lacks one of these."""

    def field(self, time: np.datetime64, variable: str) -> Tensor:
        """One field ``[H, W]`` float64, NaN where the truth is not known."""


def open_truth(truth: Any, grid: Grid, names: Mapping[str, str] | None = None) -> Truth:
    """The truth of a name, path, or object, on a grid.

    Parameters
    ----------
    truth : str | Path | xr.Dataset | Source | DataSource
        ``demo`` (the demo's fine fields); the path of a Zarr or NetCDF, or an open Dataset, whose points
        hold those of this grid; or a data source or its name (``arco``, ``file:PATH``, …), which is
        interpolated to it, as GRIB files and folders are
    grid : Grid
        Of what is verified
    names : Mapping[str, str], optional
        Names of variables in the truth where they differ, as ``{"mrr": "refc"}``

    Raises
    ------
    InputError
        If there is no such truth, it cannot be read, or is on another grid
    """
    names = dict(names or {})
    if isinstance(truth, xr.Dataset):
        return GriddedTruth(truth, "the dataset", grid, names)
    if isinstance(truth, Path) or (isinstance(truth, str) and not _names_a_source(truth)):
        if _are_fields(Path(truth).expanduser()):
            return open_truth(f"file:{truth}", grid, names)
        data = open_dataset(
            Path(truth).expanduser(), "truth", "demo, a NetCDF or Zarr, or the name of a source"
        )
        return GriddedTruth(data, str(truth), grid, names)
    if truth == "demo":
        from earth2_corrdiff.demo import DemoWeather

        return DemoTruth(DemoWeather(), grid, names)
    if isinstance(truth, str) and truth.startswith("file:") and not set("*?[,") & set(truth):
        _check_exists(truth.removeprefix("file:"))
    source = make_source(truth) if isinstance(truth, str) else as_source(truth)
    if not isinstance(source, Source):
        raise InputError(f"{source.name} has forecasts, which are no truth; give analyses or observations")
    return SourceTruth(source, grid, names)


def _check_exists(path: str) -> None:
    if not Path(path).expanduser().exists():
        raise InputError(f"there is no file {path}; --truth file:PATH takes a NetCDF, GRIB or Zarr")


def _names_a_source(text: str) -> bool:
    kind = text.partition(":")[0]
    return kind in KINDS or kind == "file"


def _are_fields(path: Path) -> bool:
    """Whether a path is GRIB or a folder of files, which sources read."""
    if path.is_dir():
        return not is_zarr(path)
    return path.is_file() and is_grib(path)


class SourceTruth(Counted):
    """An Earth2Studio data source, interpolated bilinearly to the grid of what is verified."""

    def __init__(self, source: Source, grid: Grid, names: Mapping[str, str]) -> None:
        super().__init__()
        self.source, self.grid, self.names = source, grid, names
        self.name = source.name
        self.note = f"The truth, {source.name}, is interpolated: it has no more detail than its own grid."
        if source.synthetic:
            self.note += " It is synthetic."
        self._regrid: tuple[bytes, Regridder] | None = None

    def available(self, times: Times) -> Times:
        """Those of these times that the source can have."""
        try:
            self.source.check_times(times)
        except UnavailableError:
            raise
        except InputError:
            there = [time for time in times if self._has(time)]
            if not there:
                raise
            return np.array(there)
        return times

    def _has(self, time: np.datetime64) -> bool:
        try:
            self.source.check_times(np.array([time]))
        except InputError:
            return False
        return True

    def check_variables(self, variables: Sequence[str]) -> None:
        """Raise InputError if it lacks one of these."""
        self.source.check_variables([self.names.get(name, name) for name in variables])

    def field(self, time: np.datetime64, variable: str) -> Tensor:
        """One field ``[H, W]``, interpolated."""
        array = self.source(np.array([time]), [self.names.get(variable, variable)])
        if not {"lat", "lon"} <= set(array.dims):
            raise InputError(f"the truth {self.name} has no 1-D lat and lon; regrid it, and give the file")
        array = array.squeeze([d for d in array.dims if d not in ("lat", "lon")]).transpose("lat", "lon")
        lat, lon = (array[axis].to_numpy().astype(np.float64) for axis in ("lat", "lon"))
        rows, columns, turned = _around(self.grid, lat, lon)
        part = array.to_numpy()[np.ix_(rows, columns)].astype(np.float64)
        known = self.cleaned(part, variable, Conversion(), self.name, time)
        key = lat.tobytes() + lon.tobytes()
        if self._regrid is None or self._regrid[0] != key:
            self._regrid = key, Regridder(Grid(lat[rows], turned[columns]), self.grid)
        field: Tensor = self._regrid[1](known)
        return field


def _around(grid: Grid, lat: Any, lon: Any) -> tuple[Any, Any, Any]:
    """Rows and columns of a regular grid around a domain, and longitudes in the domain's convention."""
    fine_lat, fine_lon = grid.mesh()
    middle = (float(fine_lon.min()) + float(fine_lon.max())) / 2
    turned = middle + (lon - middle + 180) % 360 - 180
    step = 1.5 * np.abs(np.diff(lat)).max()
    rows = np.flatnonzero((lat >= fine_lat.min() - step) & (lat <= fine_lat.max() + step))
    order = np.argsort(turned)
    step = 1.5 * np.median(np.abs(np.diff(turned[order])))
    inside = (turned[order] >= fine_lon.min() - step) & (turned[order] <= fine_lon.max() + step)
    return rows, order[inside], turned


class DemoTruth(Counted):
    """The fine fields that the demo's coarse weather averages, made for one time after the other."""

    name = "demo"
    note = "The truth is synthetic: made by the demo's weather, neither observed nor forecast."

    def __init__(self, weather: Any, grid: Grid, names: Mapping[str, str]) -> None:
        super().__init__()
        self.weather, self.names = weather, names
        self.part = part_of(Grid(*weather.fine_grid()), grid, self.name)

    def available(self, times: Times) -> Times:
        """All of them: there is weather at any time."""
        return times

    def check_variables(self, variables: Sequence[str]) -> None:
        """Raise InputError if it lacks one of these."""
        there = self.weather.TRUTH_VARIABLES
        refuse_lacking([n for n in variables if self.names.get(n, n) not in there], self.name, there)

    def field(self, time: np.datetime64, variable: str) -> Tensor:
        """One field ``[H, W]``."""
        array = self.weather.truth(time, self.names.get(variable, variable))
        return self.part.cut(array.to_numpy()[0, 0])
