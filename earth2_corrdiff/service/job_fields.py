# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Fields of a finished job for the page: one at a time, in displayed units, on the fine mesh.

Quantities and units are those of ``plotting``: the page and ``plot-corrdiff`` show the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr

from earth2_corrdiff.base.cases import Case
from earth2_corrdiff.base.grid import turned
from earth2_corrdiff.base.object_path import AnyPath
from earth2_corrdiff.plotting import maps, panels
from earth2_corrdiff.plotting.style import Quantity
from earth2_corrdiff.service import mesh_geometry
from earth2_corrdiff.service.errors import ServiceError
from earth2_corrdiff.store import reader
from earth2_corrdiff.store.reader import COARSE, Array

SHOW = r"mean|spread|probability|coarse|member-\d{1,6}"
PARTS = ("value", "along", "up")
STAND_INS = ("refc", "tcwv")  # beside reflectivity, as in the figures

Wind = tuple[Array, Array]


@lru_cache(maxsize=8)
def opened(store: AnyPath) -> xr.Dataset:
    """The store of a finished job, read lazily."""
    return reader.open_store(store)


def in_order(cases: Iterable[Case]) -> list[Case]:
    """All cases by time and lead time: a case's number counts in this order."""
    return sorted(cases, key=lambda case: (case.time, case.valid))


def positions(ds: xr.Dataset) -> list[int]:
    """Position in the store of each of its cases, which are `in_order`."""
    return [reader.time_index(ds, case) for case in in_order(reader.cases(ds))]


def twin_of(ds: xr.Dataset, quantity: Quantity) -> Quantity | None:
    """The quantity of the coarse input that belongs beside one of the output."""
    there = {twin.name: twin for twin in panels.coarse_quantities(ds)[0]}
    names = (quantity.name, *STAND_INS) if quantity.kind == "radar" else (quantity.name,)
    return next((there[name] for name in names if name in there), None)


def values(store: AnyPath, name: str, time: int, show: str, part: str = "value") -> Array:
    """One field ``[H, W]`` on the fine mesh, in displayed units, NaN where there is no number.

    Parameters
    ----------
    store : Path or ObjectPath
        Store of a finished job
    name : str
        Name of a quantity, ``lat`` or ``lon``
    time : int
        Number of the case, as `in_order`
    show : str
        ``member-0``, ``mean``, ``spread`` (standard deviation, ddof 1), ``probability`` (of more than the
        quantity's threshold, per cent) or ``coarse`` (the nearest cell of the coarse input)
    part : {"value", "along", "up"}
        ``along`` and ``up``: components of a wind along the mesh's columns and rows

    Raises
    ------
    ServiceError
        404 for what the store does not have, 422 for what does not fit
    """
    ds = opened(store)
    mesh = maps.mesh_of(ds)
    if name in ("lat", "lon"):
        return mesh.lat if name == "lat" else mesh.lon
    quantity = _quantity(ds, name)
    there = positions(ds)
    if not 0 <= time < len(there):
        raise ServiceError(404, f"the job has {len(there)} times; got number {time}", "time")
    value, wind = _field(ds, quantity, there[time], show)
    if part == "value":
        return value
    if wind is None:
        raise ServiceError(422, f"{show} of {name} has no components", "part", "value")
    return mesh_geometry.along_mesh(mesh, *wind)[PARTS.index(part) - 1]


def _field(ds: xr.Dataset, quantity: Quantity, time: int, show: str) -> tuple[Array, Wind | None]:
    members = reader.sample_numbers(ds)
    if show == "coarse":
        return _coarse(ds, quantity, time)
    if show.startswith("member-"):
        number = int(show.removeprefix("member-"))
        if number not in members:
            raise ServiceError(404, f"the job has the members {members[0]} to {members[-1]}", "show")
        return panels.quantity_values(ds, quantity, time, number)
    if show == "mean":
        mean, _, wind = moments(ds, quantity, time, members)
        return mean, wind
    if len(members) < 2:
        raise ServiceError(422, f"{show} needs two members, and the job has one", "show", "member-0, mean")
    if show == "spread":
        return moments(ds, quantity, time, members)[1], None
    return _probability(ds, quantity, time, members), None


def _quantity(ds: xr.Dataset, name: str) -> Quantity:
    known = {quantity.name: quantity for quantity in panels.member_quantities(ds)}
    if name not in known:
        raise ServiceError(404, f"there is no quantity {name!r}; the job has {', '.join(known)}", "quantity")
    return known[name]


def _each(
    ds: xr.Dataset, quantity: Quantity, time: int, members: Sequence[int]
) -> Iterator[tuple[Array, Wind | None]]:
    """The members one by one: a large ensemble is never held as a whole."""
    return (panels.quantity_values(ds, quantity, time, member) for member in members)


def moments(
    ds: xr.Dataset, quantity: Quantity, time: int, members: Sequence[int]
) -> tuple[Array, Array, Wind | None]:
    """Mean, standard deviation (ddof 1; Welford 1962) and mean wind over the members."""
    H, W = maps.mesh_of(ds).lat.shape
    mean, squares, u, v = np.zeros((4, H, W))
    for n, (value, wind) in enumerate(_each(ds, quantity, time, members), 1):
        step = value - mean
        mean = mean + step / n
        squares = squares + step * (value - mean)
        if wind is not None:
            u, v = u + (wind[0] - u) / n, v + (wind[1] - v) / n
    spread = np.sqrt(squares / max(len(members) - 1, 1))
    return mean, spread, (u, v) if quantity.is_vector else None


def _probability(ds: xr.Dataset, quantity: Quantity, time: int, members: Sequence[int]) -> Array:
    """Members above the threshold, per cent; NaN where one has no number."""
    if quantity.threshold is None:
        raise ServiceError(422, f"{quantity.name} has no threshold", "show", "member-0, mean, spread")
    share = np.zeros(maps.mesh_of(ds).lat.shape)
    for value, _ in _each(ds, quantity, time, members):
        share += np.where(np.isnan(value), np.nan, value > quantity.threshold)
    return 100.0 * share / len(members)


def _coarse(ds: xr.Dataset, quantity: Quantity, time: int) -> tuple[Array, Wind | None]:
    """The coarse input, each fine cell with the value of the coarse cell that its centre lies in."""
    twin = twin_of(ds, quantity)
    if twin is None:
        raise ServiceError(404, f"the coarse input has nothing like {quantity.name}", "show")
    value, wind = panels.quantity_values(ds, twin, time, None)
    cells = _nearest(ds)
    return value[cells], None if wind is None else (wind[0][cells], wind[1][cells])


def _nearest(ds: xr.Dataset) -> tuple[Any, Any]:
    """Row and column ``[H, W]`` of the coarse cell nearest each fine one, or around it."""
    fine, coarse = maps.mesh_of(ds), maps.mesh_of(ds, COARSE)
    if ds["lat" + COARSE].ndim == 2:
        (H, W), (h, w) = fine.lat.shape, coarse.lat.shape
        return (np.arange(H) * h // H)[:, None], np.arange(W) * w // W
    lat, lon = coarse.lat[:, 0], coarse.lon[0]
    return _closest(lat, fine.lat), _closest(lon, turned(fine.lon, lon.mean()))


def _closest(axis: Array, points: Array) -> Any:
    order = np.argsort(axis)
    middles = 0.5 * (axis[order][1:] + axis[order][:-1])
    return order[np.searchsorted(middles, points)]


def point(store: AnyPath, name: str, row: int, column: int) -> dict[str, Any]:
    """All members at one cell in all cases, ``[T][M]``, and the coarse input there; None for no number.

    Raises
    ------
    ServiceError
        404 for a quantity or a cell that the store does not have
    """
    ds = opened(store)
    quantity = _quantity(ds, name)
    mesh = maps.mesh_of(ds)
    H, W = mesh.lat.shape
    if not (0 <= row < H and 0 <= column < W):
        raise ServiceError(404, f"the mesh has {H} rows and {W} columns; got {row}, {column}", "row")
    times, members = positions(ds), reader.sample_numbers(ds)
    twin = twin_of(ds, quantity)
    coarse = None
    if twin is not None:
        coarse = [_number(_coarse(ds, quantity, time)[0][row, column]) for time in times]
    return {
        "lat": round(float(mesh.lat[row, column]), 4),
        "lon": round((float(mesh.lon[row, column]) + 180.0) % 360.0 - 180.0, 4),
        "values": [
            [_number(value[row, column]) for value, _ in _each(ds, quantity, time, members)] for time in times
        ],
        "coarse": coarse,
    }


def _number(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
