# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Coordinates of a call, checked against those of the model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from math import prod
from typing import Any

import numpy as np
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import same_points

CoordSystem = OrderedDict[str, np.ndarray[Any, Any]]
"""Coordinates of a tensor as in Earth2Studio 0.19: names of its dimensions, in order, and their values."""
OWN = ["variable", "lat", "lon"]
"""The dimensions of the model; those before them are cases."""
LEADS = "lead_hours"
"""Of every case, among the coordinates that a decorated call gets."""


def split_leading(coords: CoordSystem) -> tuple[CoordSystem, CoordSystem]:
    """Coordinates of the leading dimensions, whatever their names, and of ``variable, lat, lon``.

    Raises
    ------
    InputError
        If the last three are others
    """
    items = list(coords.items())
    if [name for name, _ in items[-3:]] != OWN:
        raise InputError(f"the model takes the dimensions …, {', '.join(OWN)}; got {', '.join(coords)}")
    return OrderedDict(items[:-3]), OrderedDict(items[-3:])


def match_coords(coords: CoordSystem, want: CoordSystem) -> bool:
    """Check ``variable, lat, lon`` against the model's; True if the latitude runs the other way.

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
    for north, flipped in ((got_lat, False), (got_lat[::-1], True)):
        if same_points(north, got_lon, lat, lon):
            return flipped
    raise InputError(
        f"the model takes {lat.size} latitudes from {lat[0]:g} to {lat[-1]:g} and {lon.size} longitudes from "
        f"{lon[0]:g} to {lon[-1]:g}; got {_range(got_lat)} and {_range(got_lon)}; cut them out first"
    )


def _range(axis: Any) -> str:
    flat = axis.ravel()
    return f"{axis.size} from {flat[0]:g} to {flat[-1]:g}" if axis.size else "none"


def folded(call: Callable[..., tuple[Tensor, CoordSystem]]) -> Callable[..., tuple[Tensor, CoordSystem]]:
    """Fold the leading dimensions of a model's call into ``batch``, and unfold those of its result.

    The call gets ``x [batch, variable, lat, lon]`` with coordinates that hold the lead time of every case,
    too, if there are lead times.

    Raises
    ------
    InputError
        If the tensor and the coordinates are not of one shape
    """

    @wraps(call)
    def wrapped(model: Any, x: Tensor, coords: CoordSystem) -> tuple[Tensor, CoordSystem]:
        leading, own = split_leading(coords)
        shape, sizes = x.shape[:-3], [len(values) for values in leading.values()]
        if x.dim() != len(coords) or (list(shape) != sizes and sizes != [0]):  # [0]: as in input_coords()
            raise InputError(f"the input has the shape {list(x.shape)}, its coordinates {sizes} in front")
        flat = OrderedDict(batch=np.arange(prod(shape)), **own)
        if "lead_time" in leading:
            flat[LEADS] = _hours_of_cases(leading)
        y, out = call(model, x.reshape(prod(shape), *x.shape[-3:]), flat)
        return y.reshape(*shape, *y.shape[1:]), OrderedDict([*leading.items(), *list(out.items())[1:]])

    return wrapped


def _hours_of_cases(leading: CoordSystem) -> Any:
    """Lead time of every case in hours."""
    hours = np.asarray(leading["lead_time"]) / np.timedelta64(1, "h")
    along = [len(hours) if name == "lead_time" else 1 for name in leading]
    shape = [len(values) for values in leading.values()]
    return np.broadcast_to(hours.reshape(along), shape).ravel().tolist()
