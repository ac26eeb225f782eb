# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Coordinates of a call, checked against those of the model."""

from __future__ import annotations

from typing import Any

import numpy as np
from earth2studio.models.batch import batch_func
from earth2studio.utils import handshake_dim
from earth2studio.utils.type import CoordSystem

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import same_points

LEADS = "lead_hours"
VALID = "valid_times"
"""Of every case, among the coordinates that a decorated call gets."""


def match_coords(coords: CoordSystem, want: CoordSystem) -> bool:
    """Check ``variable, lat, lon`` against the model's; True if the latitude runs the other way.

    Raises
    ------
    InputError
        If they do not match
    """
    for name, index in (("lon", 3), ("lat", 2), ("variable", 1)):
        handshake_dim(coords, name, index)
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


class fold_cases(batch_func):  # type: ignore[misc] # noqa: N801 (a decorator, as Earth2Studio's)
    """Earth2Studio's ``batch_func``, which also keeps lead and valid times of the cases that it folds."""

    def _compress_batch(self, model: Any, x: Any, coords: CoordSystem) -> Any:
        x, flat, leading, shape = super()._compress_batch(model, x, coords)
        leads = _of_cases(leading, "lead_time", shape)
        times = _of_cases(leading, "time", shape)
        if leads is not None:
            flat[LEADS] = (leads / np.timedelta64(1, "h")).tolist()
        if times is not None:
            flat[VALID] = times if leads is None else times + leads
        return x, flat, leading, shape


def _of_cases(leading: CoordSystem, name: str, shape: Any) -> Any:
    """Values ``[B]`` of a leading coordinate for every case; None where there is none."""
    if name not in leading:
        return None
    axis = list(leading).index(name)
    along = np.asarray(leading[name]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return np.broadcast_to(along, shape).ravel()
