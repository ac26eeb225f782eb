# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Fetching of a model's input: the named variables on the model's grid, as Earth2Studio's (x, coords)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import TimeLike, time_text, to_times
from earth2_corrdiff.sources.cutout import Axis, Field, cut_out
from earth2_corrdiff.sources.forecasts import Forecast
from earth2_corrdiff.sources.registry import as_source
from earth2_corrdiff.sources.source import DataSource, Source

if TYPE_CHECKING:
    import torch
    import xarray as xr


def fetch(
    source: Source | DataSource,
    times: TimeLike | Iterable[TimeLike],
    variables: Sequence[str],
    lat: Axis,
    lon: Axis,
    device: torch.device | str = "cpu",
) -> tuple[torch.Tensor, OrderedDict[str, NDArray[Any]]]:
    """The weather at these times on the model's input grid; one time after the other.

    Parameters
    ----------
    source : Source or DataSource
        From ``make_source``, or any Earth2Studio data source with 1-D lat and lon
    times : datetime64, datetime, text, or several
        Valid times, UTC
    variables : Sequence[str]
        Earth2Studio's names, in the model's order
    lat, lon : np.ndarray
        [h] and [w], the model's input grid in degrees; either order, either longitude convention
    device : torch.device or str, optional
        Of the tensor, by default the CPU

    Returns
    -------
    torch.Tensor
        [time, variable, lat, lon], float32, in Earth2Studio's units. NaN where the source has no value, a
        whole slab where it lacks the variable: see ``check_input``
    OrderedDict[str, np.ndarray]
        time, variable, lat, lon; the last two are those given

    Raises
    ------
    InputError
        If the source cannot be reached, lacks the time or a variable, is damaged, or does not cover the grid
    """
    import torch  # here, so that a time can be refused before PyTorch is loaded

    has = as_source(source)
    if isinstance(has, Forecast):
        raise InputError(f"the source {has.name} has forecasts; fetch those of one case: source.at(case)")
    valid = to_times(times)
    names = [str(name) for name in variables]
    fields = [_fetch_one(has, time, names, lat, lon) for time in valid]
    coords = OrderedDict(time=valid, variable=np.array(names), lat=np.asarray(lat), lon=np.asarray(lon))
    return torch.from_numpy(np.stack(fields)).to(device), coords


def _fetch_one(source: Source, time: np.datetime64, names: list[str], lat: Axis, lon: Axis) -> Field:
    """Fields [C, h, w] of one time, float32."""
    array = source(np.array([time]), names)
    if "lat" in array.coords and array["lat"].ndim == 2:
        raise InputError(
            f"the source {source.name} is on a grid with 2-D lat and lon, which the package does not take; "
            "interpolate it to 1-D lat and lon first"
        )
    array = in_order(array, names, ("lat", "lon"), source.name)
    values, exact = cut_out(array, lat, lon, source.name)
    if not exact:
        logger.info(
            "{} at {}: its grid of {} degrees does not hold the model's points; interpolated bilinearly",
            *(source.name, time_text(time), _spacing(array)),
        )
    return np.ascontiguousarray(values, dtype=np.float32)


def in_order(array: xr.DataArray, names: Sequence[str], dims: tuple[str, ...], source: str) -> xr.DataArray:
    """The one time of an array as [variable, *dims], variables in the given order.

    Raises
    ------
    InputError
        If it has other dimensions, or lacks a variable
    """
    array = array.isel(time=0) if "time" in array.dims else array
    if set(array.dims) != {"variable", *dims}:
        wanted = ", ".join(("time", "variable", *dims))
        raise InputError(f"the source {source} must return {wanted}; one time has {array.dims}")
    have = [str(name) for name in array["variable"].to_numpy()]
    missing = [name for name in names if name not in have]
    if missing:
        raise InputError(
            f"the source {source} returned no {', '.join(missing)}; it returned {', '.join(have)}"
        )
    return array.isel(variable=[have.index(name) for name in names]).transpose("variable", *dims)


def _spacing(array: xr.DataArray) -> str:
    steps = [np.median(np.abs(np.diff(array[axis].to_numpy()))) for axis in ("lat", "lon")]
    return f"{steps[0]:.3g} x {steps[1]:.3g}"
