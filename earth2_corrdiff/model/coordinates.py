# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Coordinates of a call, checked against those of the model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import wraps
from math import prod
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from earth2_corrdiff.base.errors import InputError, MissingEntryError, listed
from earth2_corrdiff.base.grid import Grid, same_points
from earth2_corrdiff.base.variables import LAT, LON, cf_attributes

CoordSystem = OrderedDict[str, np.ndarray[Any, Any]]
"""Coordinates of a tensor as in Earth2Studio 0.19: names of its dimensions, in order, and their values."""
LEADS, VALID = "lead_hours", "valid_times"
"""Of every case, among the coordinates that a decorated call gets."""


def split_leading(coords: CoordSystem, want: CoordSystem) -> tuple[CoordSystem, CoordSystem]:
    """Coordinates of the leading dimensions, whatever their names, and of the model's own.

    Parameters
    ----------
    coords : CoordSystem
        Of the input
    want : CoordSystem
        Those that the model takes, with ``batch`` in front

    Raises
    ------
    InputError
        If the last dimensions are not the model's
    """
    items, own = list(coords.items()), list(want)[1:]
    if [name for name, _ in items[-len(own) :]] != own:
        kind = InputError if set(own) <= set(coords) else MissingEntryError
        raise kind(f"the model takes the dimensions …, {', '.join(own)}; got {', '.join(coords)}")
    if "sample" in coords:
        raise InputError("sample is a dimension of the result; rename that of the input, like ensemble")
    return OrderedDict(items[: -len(own)]), OrderedDict(items[-len(own) :])


def match_coords(coords: CoordSystem, want: CoordSystem) -> bool:
    """Check ``variable, lat, lon`` against the model's; True if rows run the other way.

    Raises
    ------
    InputError
        If they do not match
    """
    if list(map(str, coords["variable"])) != list(map(str, want["variable"])):
        raise InputError(
            f"the model takes the variables {', '.join(want['variable'])} in this order, "
            f"got {', '.join(map(str, coords['variable']))}"
        )
    got_lat, got_lon = (np.asarray(coords[k], dtype=np.float64) for k in ("lat", "lon"))
    lat, lon = (np.asarray(want[k], dtype=np.float64) for k in ("lat", "lon"))
    turned = got_lon[::-1] if got_lon.ndim == 2 else got_lon
    for north, east, flipped in ((got_lat, got_lon, False), (got_lat[::-1], turned, True)):
        if same_points(north, east, lat, lon):
            return flipped
    raise InputError(
        f"the model takes {_range(lat, ' latitudes')} and {_range(lon, ' longitudes')}; "
        f"got {_range(got_lat)} and {_range(got_lon)}; cut them out first"
    )


def _range(axis: Any, what: str = "") -> str:
    flat, shape = axis.ravel(), " x ".join(map(str, axis.shape))
    return f"{shape}{what} from {flat[0]:g} to {flat[-1]:g}" if axis.size else "none"


def folded(call: Callable[..., tuple[Tensor, CoordSystem]]) -> Callable[..., Any]:
    """Fold the leading dimensions of a model's call into ``batch``, and unfold those of its result.

    The call gets ``x [batch, variable, lat, lon]`` with coordinates that hold the lead time and the valid
    time of every case, too, where there are such. A ``DataArray`` without coordinates beside it gives a
    ``DataArray``.

    Raises
    ------
    InputError
        If the tensor and the coordinates are not of one shape, or an array has not what the model takes
    """

    @wraps(call)
    def wrapped(model: Any, x: Any, coords: CoordSystem | None = None) -> Any:
        if isinstance(x, xr.DataArray) and coords is None:
            y, labels = wrapped(model, *from_array(x, model.input_coords()))
            return to_array(y, labels, x, model.spec.output_grid)
        if not isinstance(x, Tensor) or not isinstance(coords, Mapping):
            raise InputError("a model is called with a tensor and its coordinates, or with a DataArray alone")
        leading, own = split_leading(coords, model.input_coords())
        shape, sizes = x.shape[: -len(own)], [len(values) for values in leading.values()]
        if x.dim() != len(coords) or (list(shape) != sizes and sizes != [0]):  # [0]: as in input_coords()
            raise InputError(f"the input has the shape {list(x.shape)}, its coordinates {sizes} in front")
        flat = OrderedDict(batch=np.arange(prod(shape)), **own)
        leads, times = (_of_cases(leading, name, shape) for name in ("lead_time", "time"))
        if leads is not None:
            flat[LEADS] = (leads / np.timedelta64(1, "h")).tolist()
        if times is not None:
            flat[VALID] = times if leads is None else times + leads
        y, out = call(model, x.reshape(prod(shape), *x.shape[-len(own) :]), flat)
        return y.reshape(*shape, *y.shape[1:]), OrderedDict([*leading.items(), *list(out.items())[1:]])

    return wrapped


def _of_cases(leading: CoordSystem, name: str, shape: Any) -> Any:
    """Values ``[B]`` of a leading coordinate for every case; None where there is none."""
    if name not in leading:
        return None
    axis = list(leading).index(name)
    along = np.asarray(leading[name]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return np.broadcast_to(along, shape).ravel()


def from_array(x: xr.DataArray, want: CoordSystem) -> tuple[Tensor, CoordSystem]:
    """A labelled array as a tensor with its coordinates, variables and dimensions in the model's order.

    Parameters
    ----------
    x : DataArray
        With dimensions ``variable, lat, lon`` (or two others, with curvilinear ``lat`` and ``lon``), and any
        number of others, in any order; on the CPU or a GPU
    want : CoordSystem
        Coordinates that the model takes

    Raises
    ------
    InputError
        If it has not the dimensions, their coordinates, or the variables
    """
    own = list(want)[1:]
    lacking = [name for name in own if name not in x.coords]
    if lacking:
        raise InputError(f"the model takes an array with {', '.join(own)}; it has no {', '.join(lacking)}")
    given = [str(name) for name in np.atleast_1d(x["variable"].values)]
    lacking = [name for name in map(str, want["variable"]) if given.count(name) != 1]
    if lacking or "variable" not in x.dims:
        raise InputError(
            f"the array must have the variables {listed(lacking or given)} once, has {listed(given)}"
        )
    bent = x["lat"].ndim == 2 and x["lat"].dims == x["lon"].dims
    dims = [*own[:-2], *(x["lat"].dims if bent else own[-2:])]
    if not set(dims) <= set(x.dims):
        raise InputError(
            f"the array must have the dimensions {', '.join(dims)}, has {', '.join(map(str, x.dims))}"
        )
    x = x.isel(variable=[given.index(str(name)) for name in want["variable"]]).transpose(..., *dims)
    leading = [(str(name), x[name].values) for name in x.dims[: -len(dims)]]
    values = torch.from_numpy(np.array(x.to_numpy(), dtype=np.float32))
    return values, OrderedDict([*leading, *((name, x[name].values) for name in own)])


def to_array(y: Tensor, coords: CoordSystem, like: xr.DataArray, grid: Grid) -> xr.DataArray:
    """A result as an array on the CPU; its cases keep the coordinates that they have in the input.

    Curvilinear latitudes and longitudes are on the axes ``ilat`` and ``ilon``, as in a store.
    """
    dims = [f"i{name}" if grid.curvilinear and name in ("lat", "lon") else name for name in coords]
    cases = dims[: dims.index("sample")]
    labels: dict[str, Any] = {
        str(name): values for name, values in like.coords.items() if set(values.dims) <= set(cases)
    }
    labels |= {name: (name, values) for name, values in coords.items() if values.ndim == 1}
    for name, values, attributes in (("lat", grid.lat, LAT), ("lon", grid.lon, LON)):
        labels[name] = (dims[-2:] if grid.curvilinear else name, values, attributes)
    units = [cf_attributes(str(name)).get("units", "") for name in coords["variable"]]
    return xr.DataArray(y.cpu().numpy(), labels | {"units": ("variable", units)}, dims)
