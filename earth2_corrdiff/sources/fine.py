# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Fine fields on their own grid: of a file, of the demo, or of any Earth2Studio data source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from loguru import logger
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import Times, positions, time_text
from earth2_corrdiff.base.units import conversion
from earth2_corrdiff.demo import DemoWeather
from earth2_corrdiff.sources import Source, as_source, make_source
from earth2_corrdiff.sources.checks import cleaned
from earth2_corrdiff.sources.formats import is_grib, is_zarr, open_dataset
from earth2_corrdiff.sources.names import AXES, offered
from earth2_corrdiff.sources.registry import KINDS
from earth2_corrdiff.sources.time_axes import by_valid_time, time_names

Field = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class FineSource:
    """A source of fine fields.

    Attributes
    ----------
    name : str
        For messages
    read : Callable
        ``read(times, names)`` → ``DataArray(time, variable, …, …)`` with lat and lon
    check : Callable
        ``check(times, names)`` raises InputError for times or variables that it does not have
    synthetic : bool
        Whether its weather never happened
    static : dict[str, np.ndarray]
        Invariants that it brings along, on its grid
    """

    name: str
    read: Callable[[Times, list[str]], xr.DataArray]
    check: Callable[[Times, list[str]], None]
    synthetic: bool = False
    static: dict[str, NDArray[np.float32]] | None = None

    def fields(self, time: np.datetime64, names: Sequence[str]) -> tuple[Field, Field, Field]:
        """Fields ``[C, h, w]`` of a time, and lat and lon, 1-D or 2-D.

        Raises
        ------
        InputError
            If it cannot be read, lacks a variable, or has other dimensions
        """
        array = self.read(np.array([time]), list(names))
        lat, lon = coordinates(array, self.name)
        dims = lat.dims if lat.ndim == 2 else (*lat.dims, *lon.dims)
        array = array.isel(time=0) if "time" in array.dims else array
        have = [str(name) for name in array["variable"].to_numpy()]
        if set(array.dims) != {"variable", *dims} or not set(names) <= set(have):
            raise InputError(
                f"{self.name} returned {', '.join(have)} over {', '.join(map(str, array.dims))} for "
                f"{time_text(time)}; {', '.join(names)} over {', '.join(map(str, dims))} are needed"
            )
        array = array.isel(variable=[have.index(name) for name in names]).transpose("variable", *dims)
        return array.to_numpy(), lat.to_numpy(), lon.to_numpy()


def fine_source(told: Any) -> FineSource:
    """A source of fine fields from what a user gives.

    Parameters
    ----------
    told : str | Path | DataSource
        ``demo``; the path of a NetCDF or Zarr, rectilinear or curvilinear (``file:PATH`` or the path alone);
        the name of a source (``arco``, …), or an Earth2Studio data source

    Raises
    ------
    InputError
        If there is no such source, or it has forecasts
    """
    text = told if isinstance(told, str) else ""
    if text == "demo" or isinstance(told, DemoWeather):
        return _demo()
    named = text.partition(":")[0] in KINDS
    if isinstance(told, Path) or (text and not named):
        path = Path(text.removeprefix("file:") or told).expanduser()
        if not _are_several(path) and not (path.is_file() and is_grib(path)):
            return _of_file(path)
        told = f"file:{path}"
    source = make_source(told) if isinstance(told, str) else as_source(told)
    if not isinstance(source, Source):
        raise InputError(f"{source.name} has forecasts, from which no pairs can be made; give analyses")

    def check(times: Times, names: list[str]) -> None:
        source.check_times(times)
        source.check_variables(names)

    return FineSource(source.name, source, check, source.synthetic)


def _are_several(path: Path) -> bool:
    """True for a folder of files, a pattern, or several files: these are on regular grids."""
    return (path.is_dir() and not is_zarr(path)) or (not path.exists() and bool(set("*?[,") & set(str(path))))


def _demo() -> FineSource:
    weather = DemoWeather()

    def check(times: Times, names: list[str]) -> None:
        _refuse_lacking("demo", names, weather.TRUTH_VARIABLES)

    return FineSource("demo", weather.truth, check, synthetic=True, static=weather.static())


def _of_file(path: Path) -> FineSource:
    data = open_dataset(path)
    new = {old: axis for old, axis in AXES.items() if old in data.variables and axis not in data.variables}
    data = data.rename(new)
    data = data.set_coords([axis for axis in ("lat", "lon") if axis in data.variables])
    stacked = [name for name in data.data_vars if "variable" in data[name].dims]
    data = data[stacked[0]].to_dataset("variable") if len(stacked) == 1 else data
    if not time_names(data):
        raise InputError(f"{path} has no dates as its coordinate time")
    data = by_valid_time(data, str(path))
    own = offered(data, str(path))
    stamps = data["time"].to_numpy().astype("datetime64[ns]")

    def check(times: Times, names: list[str]) -> None:
        _refuse_lacking(str(path), names, list(own))
        for name in names:
            conversion(data[own[name]].attrs.get("units"), name, str(path))
        if (lacking := times[positions(stamps, times) < 0]).size:
            raise InputError(
                f"{path} lacks {lacking.size} of the times, the first is {time_text(lacking[0])}; "
                f"it has {time_text(stamps.min())} to {time_text(stamps.max())}"
            )

    def read(times: Times, names: list[str]) -> xr.DataArray:
        row = int(positions(stamps, times[:1])[0])
        fields = [_cleaned(_at(data[own[name]], row), name, path, times[0]) for name in names]
        return xr.concat(fields, xr.Variable("variable", names), coords="minimal", compat="override")

    return FineSource(str(path), read, check)


def _at(array: xr.DataArray, row: int) -> xr.DataArray:
    """The field of a time, or the one of all times."""
    array = array.isel(time=row, drop=True) if "time" in array.dims else array
    return array.squeeze(drop=True)


def _cleaned(array: xr.DataArray, name: str, path: Path, time: np.datetime64) -> xr.DataArray:
    """A field in Earth2Studio's units; numbers that stand for missing values are NaN, and the log says so."""
    convert, when = conversion(array.attrs.get("units"), name, str(path)), time_text(time)
    fields, count = cleaned(array.to_numpy(), name, convert, f"the input from {path} at {when}")
    if count:
        logger.warning(
            "{}: {} at {} has {} of {} values that stand for missing ones (-999, 9999, 1e20, …)",
            *(path, name, when, count, fields.size),
        )
    return array.copy(data=fields)


def _refuse_lacking(source: str, names: Sequence[str], there: Sequence[str]) -> None:
    lacking = [name for name in names if name not in there]
    if lacking:
        raise InputError(f"{source} has no {', '.join(lacking)}; it has {', '.join(there) or 'nothing'}")


def coordinates(data: xr.DataArray | xr.Dataset, name: str) -> tuple[xr.DataArray, xr.DataArray]:
    """Its lat and lon.

    Raises
    ------
    InputError
        If it has none
    """
    if not {"lat", "lon"} <= set(data.coords) | set(getattr(data, "data_vars", ())):
        raise InputError(f"{name} has no lat and lon")
    return data["lat"], data["lon"]
