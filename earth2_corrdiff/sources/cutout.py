# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Fields on the model's input grid: cut out of a source's grid where the points coincide, else bilinear.

Latitude in either order, longitude in either convention, a domain across the seam of either: each
axis becomes a ``Stencil``, and the seam exists only there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.grid import SAME

if TYPE_CHECKING:
    import xarray as xr

ROUND = 2.01
"""A grid goes all the way round if its widest gap is at most so many of its spacings: one column may lack."""

Axis = NDArray[np.floating[Any]]
Field = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Stencil:
    """Each wanted point of one axis as ``(1 - weight) * field[left] + weight * field[right]``.

    Attributes
    ----------
    left, right : NDArray[np.intp]
        [N], indices into the source's axis
    weight : NDArray[np.float64]
        [N], of the right point; 0 where a source point is the wanted one
    """

    left: NDArray[np.intp]
    right: NDArray[np.intp]
    weight: NDArray[np.float64]

    @property
    def exact(self) -> bool:
        """True if every wanted point is a source point."""
        return not self.weight.any()

    def apply(self, field: Field, axis: int) -> Field:
        """Take and blend along one axis. A weight of 0 copies the bits, whatever lies to the right."""
        left = np.take(field, self.left, axis)
        if self.exact:
            return left
        shape = [1] * field.ndim
        shape[axis] = -1
        weight = self.weight.reshape(shape)
        right = np.take(field, self.right, axis)
        return np.where(weight == 0, left, left * (1 - weight) + right * weight)


def latitudes(have: Axis, want: Axis) -> Stencil | None:
    """Stencil along latitude, in either order; None where ``have`` does not cover ``want``."""
    order = np.argsort(have)
    return _stencil(np.asarray(have, dtype=np.float64)[order], order, np.asarray(want, dtype=np.float64))


def longitudes(have: Axis, want: Axis) -> Stencil | None:
    """Stencil along longitude, in any convention; None where ``have`` does not cover ``want``.

    The circle is cut where ``have`` has its widest gap, and not at all where it goes all the way round.
    """
    turned = np.asarray(have, dtype=np.float64) % 360
    turned[turned > 360 - SAME] = 0  # float noise just west of the meridian
    east, order = np.unique(np.round(turned, 6), return_index=True)
    gaps = np.diff(east, append=east[0] + 360)
    start = (int(np.argmax(gaps)) + 1) % east.size
    knots = np.roll(east, -start)
    origin = knots[0]
    knots, order = (knots - origin) % 360, np.roll(order, -start)
    if knots.size > 1 and gaps.max() < ROUND * np.median(gaps):
        knots, order = np.append(knots, 360.0), np.append(order, order[0])
    points = (np.asarray(want, dtype=np.float64) - origin + SAME) % 360 - SAME
    return _stencil(knots, order, points)


def _stencil(
    knots: NDArray[np.float64], order: NDArray[np.intp], points: NDArray[np.float64]
) -> Stencil | None:
    """Stencil on rising ``knots``, the k-th of which is point ``order[k]`` of the source."""
    if points.min() < knots[0] - SAME or points.max() > knots[-1] + SAME:
        return None
    last = knots.size - 1
    left = np.clip(np.searchsorted(knots, points, side="right") - 1, 0, last)
    right = np.minimum(left + 1, last)
    left = np.where(np.abs(points - knots[right]) < SAME, right, left)
    right = np.minimum(left + 1, last)
    same = np.abs(points - knots[left]) < SAME
    width = np.where(same, 1.0, knots[right] - knots[left])
    weight = np.where(same, 0.0, (points - knots[left]) / width)
    return Stencil(order[left], order[right], weight)


def cut_out(field: xr.DataArray, lat: Axis, lon: Axis, name: str) -> tuple[Field, bool]:
    """One field on the model's input grid.

    Parameters
    ----------
    field : xr.DataArray
        [..., lat, lon] with 1-D coordinates ``lat`` and ``lon``
    lat, lon : np.ndarray
        [h] and [w], the points to return, degrees
    name : str
        The source, for messages

    Returns
    -------
    np.ndarray
        [..., h, w]
    bool
        True if all points were source points, so that nothing was interpolated

    Raises
    ------
    InputError
        If the source's grid is not regular, or does not cover the points
    """
    if field.dims[-2:] != ("lat", "lon") or "lat" not in field.coords or "lon" not in field.coords:
        raise InputError(f"the source {name} must have 1-D lat and lon; got the dimensions {field.dims}")
    have_lat, have_lon = field["lat"].to_numpy(), field["lon"].to_numpy()
    rows, columns = latitudes(have_lat, lat), longitudes(have_lon, lon)
    if rows is None or columns is None:
        raise InputError(
            f"the source {name} covers {box(have_lat, have_lon)}, but the model needs {box(lat, lon)}; "
            "use a source that covers it, or another package"
        )
    values = rows.apply(field.to_numpy(), -2)
    return columns.apply(values, -1), rows.exact and columns.exact


def box(lat: Axis, lon: Axis) -> str:
    """The extent of a grid as text, for messages."""
    return f"{lat.min():g} to {lat.max():g} N and {lon.min():g} to {lon.max():g} E"
