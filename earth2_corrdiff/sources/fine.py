# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Fine fields on their own grid by valid time, for truth and training pairs: of files, sources, the demo."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from earth2_corrdiff.base.cases import Case
from earth2_corrdiff.base.errors import InputError, UnavailableError, first_line
from earth2_corrdiff.base.grid import Grid
from earth2_corrdiff.base.object_path import AnyPath, as_path
from earth2_corrdiff.base.times import Times, positions, time_text
from earth2_corrdiff.base.units import Conversion, conversion
from earth2_corrdiff.demo import DemoWeather
from earth2_corrdiff.sources.checks import cleaned
from earth2_corrdiff.sources.fetch import in_order
from earth2_corrdiff.sources.formats import is_grib, is_zarr, open_dataset
from earth2_corrdiff.sources.names import offered, with_axes
from earth2_corrdiff.sources.registry import KINDS, as_source, make_source
from earth2_corrdiff.sources.source import Source
from earth2_corrdiff.sources.time_axes import by_run, by_valid_time


class FineFields(ABC):
    """Fine fields by valid time and variable, on a grid of their own.

    Attributes
    ----------
    name : str
        As the user gave it
    title : str
        The same with what it is used as, for messages: ``the truth radar.zarr``
    grid : Grid | None
        Of all fields; None where it becomes known with the first of them
    synthetic : bool
        True if this weather never happened
    static : Mapping[str, np.ndarray]
        ``[h, w]`` of each invariant that comes with them
    """

    grid: Grid | None = None
    synthetic = False
    static: Mapping[str, NDArray[np.float32]] = {}

    def __init__(self, name: str, title: str) -> None:
        self.name, self.title = name, title
        self._missing: dict[tuple[str, np.datetime64], int] = {}

    @abstractmethod
    def check_times(self, times: Times) -> None:
        """Raise InputError for times that are not there."""

    @abstractmethod
    def available(self, times: Times) -> Times:
        """Those of these times that are there."""

    @abstractmethod
    def check_variables(self, variables: Sequence[str]) -> None:
        """Raise InputError for variables that are not there, or have other units or dimensions."""

    def cases(self, times: Times | None) -> list[Case]:
        """The cases of these times, of all times where the fields are in a file.

        Raises
        ------
        InputError
            If a time is not there, or all are wanted of what has no list of times
        """
        if times is None:
            raise InputError(f"{self.title} has no list of its times; name them")
        self.check_times(times)
        return [Case(time) for time in times]

    @abstractmethod
    def read(self, time: np.datetime64, variables: Sequence[str]) -> tuple[NDArray[Any], Grid]:
        """Fields ``[C, h, w]`` of a time as they are stored, and their grid.

        Raises
        ------
        InputError
            If they cannot be read, or have other variables or dimensions
        """

    def read_case(self, case: Case, variables: Sequence[str]) -> tuple[NDArray[Any], Grid]:
        """The same of a case of :meth:`cases`."""
        return self.read(case.valid, variables)

    def conversion(self, variable: str) -> Conversion:
        """To Earth2Studio's unit of a variable."""
        return Conversion()

    def cleaned(
        self, fields: NDArray[Any], variables: Sequence[str], time: np.datetime64
    ) -> NDArray[np.float64]:
        """Fields ``[C, h, w]``, or a part of them, in Earth2Studio's units; NaN where values are missing.

        Raises
        ------
        InputError
            If a value is out of any plausible range
        """
        result = np.empty(fields.shape)
        for c, variable in enumerate(variables):
            raw, what = np.asarray(fields[c], dtype=np.float64), f"{self.title} at {time_text(time)}"
            result[c], count = cleaned(raw, variable, self.conversion(variable), what)
            if count:
                self._missing[variable, time] = count
        return result

    def missing(self, time: np.datetime64 | None = None) -> dict[str, int]:
        """By variable, how many numbers stood for missing values, of one time or of all so far."""
        found: dict[str, int] = {}
        for (variable, when), count in self._missing.items():
            if time in (None, when):
                found[variable] = found.get(variable, 0) + count
        return found


class FileFields(FineFields):
    """Fields ``(time, [variable], y, x)`` with 1-D or 2-D lat and lon.

    Parameters
    ----------
    data : xr.Dataset
        One variable per name, or one array with a dimension ``variable``
    name, title : str
        See ``FineFields``
    names : Mapping[str, str], optional
        The file's names of variables where they differ
    hint : str, optional
        What to do about a variable that it lacks; ``{}`` stands for the variable

    Raises
    ------
    InputError
        If it has no times, lat or lon, or a time twice
    """

    grid: Grid

    def __init__(
        self, data: xr.Dataset, name: str, title: str, names: Mapping[str, str] | None = None, hint: str = ""
    ) -> None:
        super().__init__(name, title)
        self._data, self._hint = by_valid_time(with_axes(data), title), hint
        self._times = self._data["time"].to_numpy().astype("datetime64[ns]")
        self.grid, self._dims = grid_of(self._data, title)
        self._own = {**offered(self._data, title), **(names or {})}

    def check_times(self, times: Times) -> None:
        lacking = times[positions(self._times, times) < 0]
        if lacking.size:
            raise InputError(
                f"{self.title} lacks {lacking.size} of the times, the first is {time_text(lacking[0])}; "
                f"it has {time_text(self._times.min())} to {time_text(self._times.max())}"
            )

    def available(self, times: Times) -> Times:
        return times[positions(self._times, times) >= 0]

    def cases(self, times: Times | None) -> list[Case]:
        return super().cases(np.sort(self._times) if times is None else times)

    def check_variables(self, variables: Sequence[str]) -> None:
        there = [str(name) for name in self._data.data_vars]
        lacking = [name for name in variables if self._own.get(name) not in there]
        if lacking:
            has = f"it has {', '.join(there) or 'nothing'}"
            raise InputError(
                f"{self.title} has no {', '.join(lacking)}; {has}{self._hint.format(lacking[0])}"
            )
        for name in variables:
            self._check_dims(self._own[name])
            self.conversion(name)

    def _check_dims(self, own: str) -> None:
        array = self._data[own]
        long = {str(d) for d in array.dims if array.sizes[d] > 1 or d in self._dims}
        if not set(self._dims) <= long <= {"time", *self._dims}:
            have, want = ", ".join(map(str, array.dims)), " and ".join(self._dims)
            raise InputError(f"{own} of {self.title} has the dimensions {have}; it may have time, {want}")

    def conversion(self, variable: str) -> Conversion:
        return conversion(self._data[self._own[variable]].attrs.get("units"), variable, self.title)

    def read(self, time: np.datetime64, variables: Sequence[str]) -> tuple[NDArray[Any], Grid]:
        return np.stack([self._field(time, variable) for variable in variables]), self.grid

    def _field(self, time: np.datetime64, variable: str) -> NDArray[Any]:
        return self._row(int(positions(self._times, np.array([time]))[0]), variable)

    def _row(self, number: int, variable: str) -> NDArray[Any]:
        array = self._data[self._own[variable]]
        if "time" in array.dims:
            array = array.isel(time=number)
        array = array.squeeze([d for d in array.dims if d not in self._dims]).transpose(*self._dims)
        try:
            return np.asarray(array.to_numpy())
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"{variable} cannot be read from {self.name} ({first_line(error)})") from error


class RunFields(FileFields):
    """Fields of several forecast runs, addressed by valid time and lead time.

    Parameters
    ----------
    data, name, title, names
        See ``FileFields``
    least : np.timedelta64
        Runs with a shorter lead time are left out

    Raises
    ------
    InputError
        If it has no lead times, or none as long
    """

    def __init__(
        self, data: xr.Dataset, name: str, title: str, names: Mapping[str, str], least: np.timedelta64
    ) -> None:
        flat, leads = by_run(with_axes(data), title, least)
        super().__init__(flat.assign_coords(time=_numbered(leads.size)), name, title, names)
        self._data, self._times, self._leads = flat, flat["time"].to_numpy(), leads

    def cases(self, times: Times | None) -> list[Case]:
        valid = self._times if times is None else times
        self.check_times(np.unique(valid))
        found = np.flatnonzero(np.isin(self._times, valid))
        return [Case(self._times[i] - self._leads[i], self._leads[i]) for i in found]

    def read_case(self, case: Case, variables: Sequence[str]) -> tuple[NDArray[Any], Grid]:
        row = int(np.flatnonzero((self._times == case.valid) & (self._leads == case.lead))[0])
        return np.stack([self._row(row, variable) for variable in variables]), self.grid


def _numbered(count: int) -> Times:
    """Times that differ, for what is addressed otherwise."""
    return np.datetime64("2000-01-01", "ns") + np.arange(count).astype("timedelta64[h]")


class SourceFields(FineFields):
    """Fields of an Earth2Studio data source, whose lat and lon may be 2-D.

    Parameters
    ----------
    source : Source
        The data source
    title : str
        See ``FineFields``
    names : Mapping[str, str], optional
        The source's names of variables where they differ
    """

    def __init__(self, source: Source, title: str, names: Mapping[str, str] | None = None) -> None:
        super().__init__(source.name, title)
        self.source, self._names, self.synthetic = source, names or {}, source.synthetic

    def check_times(self, times: Times) -> None:
        self.source.check_times(times)

    def available(self, times: Times) -> Times:
        try:
            self.check_times(times)
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
            self.check_times(np.array([time]))
        except InputError:
            return False
        return True

    def check_variables(self, variables: Sequence[str]) -> None:
        self.source.check_variables([self._names.get(name, name) for name in variables])

    def read(self, time: np.datetime64, variables: Sequence[str]) -> tuple[NDArray[Any], Grid]:
        names = [self._names.get(name, name) for name in variables]
        array = self.source(np.array([time]), names)
        grid, dims = grid_of(array, self.title)
        return in_order(array, names, dims, self.name).to_numpy(), grid


class DemoFields(SourceFields):
    """The fine fields that the demo's coarse weather averages, computed when they are read."""

    def __init__(self, title: str, names: Mapping[str, str] | None = None) -> None:
        weather = DemoWeather()
        source = Source(
            "demo", lambda: weather.truth, lambda: weather.TRUTH_VARIABLES, synthetic=weather.SYNTHETIC
        )
        super().__init__(source, title, names)
        self.grid, self.static = Grid(*weather.fine_grid()), weather.static()


def open_fine(
    given: Any, names: Mapping[str, str] | None = None, least_lead: np.timedelta64 | None = None
) -> FineFields:
    """Fine fields, for training pairs, from what a user gives.

    Parameters
    ----------
    given : str | Path | DataSource
        ``demo``; the path of a NetCDF or Zarr, rectilinear or curvilinear (``file:PATH`` or the path alone);
        the name of a source (``arco``, …), or an Earth2Studio data source
    names : Mapping[str, str], optional
        Its names of variables where they differ
    least_lead : np.timedelta64 | None, optional
        All runs of a file with this lead time or a longer one, by default one for each valid time

    Raises
    ------
    InputError
        If there is no such source, or it has forecasts
    """
    if least_lead is not None:
        path = _file(given)
        return RunFields(open_dataset(path), str(path), str(path), names or {}, least_lead)
    if given == "demo" or isinstance(given, DemoWeather):
        return DemoFields("demo", names)
    if isinstance(given, Path) or (isinstance(given, str) and given.partition(":")[0] not in KINDS):
        path = _file(given)
        if not are_regular(path):
            return FileFields(open_dataset(path), str(path), str(path), names)
        given = f"file:{path}"
    source = analyses_of(given, "from which no pairs can be made; give analyses")
    return SourceFields(source, source.name, names)


def analyses_of(given: Any, reason: str) -> Source:
    """A data source from its name or itself; InputError with a reason where it has forecasts."""
    source = make_source(given) if isinstance(given, str) else as_source(given)
    if not isinstance(source, Source):
        raise InputError(f"{source.name} has forecasts, {reason}")
    return source


def _file(given: Any) -> AnyPath:
    """The path or URL of ``PATH`` or ``file:PATH``."""
    text = str(given)
    return as_path(text if text.startswith("file://") else text.removeprefix("file:")).expanduser()


def are_regular(path: AnyPath) -> bool:
    """True for GRIB, a folder of files, a pattern, or several files: sources read them, on regular grids."""
    if path.is_file():
        return is_grib(path)
    return not is_zarr(path) if path.is_dir() else bool(set("*?[,") & set(str(path)))


def _without_seam(lon: NDArray[Any]) -> NDArray[Any]:
    """Longitudes in the order of the data; 1-D ones that jump by a turn, as 0 to 180, -179 to -1, go on."""
    steps = np.diff(lon)
    if lon.ndim > 1 or not lon.size or (steps > 0).all() or (steps < 0).all():
        return lon
    return np.unwrap(lon, period=360)


def grid_of(data: xr.DataArray | xr.Dataset, name: str) -> tuple[Grid, tuple[str, ...]]:
    """The grid of fields from their lat and lon, and its two dimensions.

    Raises
    ------
    InputError
        If there are none, or they are not valid
    """
    if not {"lat", "lon"} <= set(data.coords) | set(getattr(data, "data_vars", ())):
        raise InputError(f"{name} has no lat and lon")
    lat, lon = data["lat"], data["lon"]
    grid = Grid(lat.to_numpy(), _without_seam(lon.to_numpy()))
    dims = lat.dims if grid.curvilinear else (*lat.dims, *lon.dims)
    return grid, tuple(map(str, dims))
