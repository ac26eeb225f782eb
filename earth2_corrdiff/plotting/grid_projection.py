# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The map projection that a curvilinear grid is made in, found from its latitudes and longitudes.

Kilometre-scale models compute on grids that are rectangles in a Lambert conformal, a polar stereographic
(HRRR, WRF) or a rotated-pole projection (COSMO). On its own map such a grid has straight edges.
"""

from __future__ import annotations

import cartopy.crs as ccrs
import numpy as np

from earth2_corrdiff.store.reader import Array

SPHERE = ccrs.Globe(semimajor_axis=6371229.0, semiminor_axis=6371229.0, ellipse=None)
"""The Earth of WRF, HRRR and COSMO; Lambert maps of an ellipsoid bend their grids by a cell."""
STRAIGHT = 0.1
"""Distance of a grid's points from straight rows and columns that is accepted, in cells."""
POINTS = 48
"""Points along each axis that are looked at."""
PLATE = ccrs.PlateCarree()


def grid_projection(lat: Array, lon: Array) -> ccrs.Projection | None:
    """The projection in which the rows and columns of a mesh are straight; None where none is found.

    Parameters
    ----------
    lat, lon : np.ndarray
        ``[H, W]`` degrees; longitudes without jumps

    Returns
    -------
    ccrs.Projection | None
        Lambert conformal, polar stereographic or rotated pole. None also for grids along meridians and
        parallels, for which any map is as good
    """
    if min(lat.shape) < 4:
        return None
    rows, columns = (np.unique(np.linspace(0, n - 1, POINTS).astype(int)) for n in lat.shape)
    some = np.ix_(rows, columns)
    found = [crs for crs in (_rotated_pole(lat[some], lon[some]), _conic(lat, lon, rows, columns)) if crs]
    misfits = [_misfit(crs, lat[some], lon[some], rows, columns) for crs in found]
    best = int(np.argmin(misfits)) if found else 0
    return found[best] if found and misfits[best] < STRAIGHT else None


def _rotated_pole(lat: Array, lon: Array) -> ccrs.Projection | None:
    """The axis about which rows are circles: nearest to perpendicular to all steps along rows."""
    phi, lam = np.deg2rad(lat), np.deg2rad(lon)
    points = np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=-1)
    steps = (points[:, 1:] - points[:, :1]).reshape(-1, 3)
    axis = np.linalg.eigh(steps.T @ steps)[1][:, 0]
    axis *= np.sign(axis[2]) or 1.0
    if axis[2] > np.cos(np.deg2rad(0.1)):
        return None  # the Earth's own
    longitude = float(np.rad2deg(np.arctan2(axis[1], axis[0])))
    return ccrs.RotatedPole(longitude, float(np.rad2deg(np.arcsin(axis[2]))))


def _conic(lat: Array, lon: Array, rows: Array, columns: Array) -> ccrs.Projection | None:
    """The cone by the angle between columns and meridians, n (longitude - central): Snyder 1987, 15-4."""
    beyond = np.minimum(rows + 1, lat.shape[0] - 1)
    before = beyond - 1
    north = (lat[beyond] - lat[before])[:, columns]
    middle = np.deg2rad(0.5 * (lat[beyond] + lat[before])[:, columns])
    east = (lon[beyond] - lon[before])[:, columns] * np.cos(middle)
    angle = np.rad2deg(np.arctan(east / np.where(north == 0, 1e-12, north)))
    at = 0.5 * (lon[beyond] + lon[before])[:, columns]
    if np.ptp(at) > 180.0 or np.ptp(angle) > 120.0:
        return None
    n, zero = np.polyfit(at.ravel(), angle.ravel(), 1)
    if not 0.05 < abs(n) < 1.05:
        return None
    central, side = float(-zero / n), float(np.sign(n))
    if abs(n) > 0.995:
        return ccrs.Stereographic(90.0 * side, central, globe=SPHERE)
    parallel = float(np.rad2deg(np.arcsin(n)))
    return ccrs.LambertConformal(
        central, parallel, standard_parallels=(parallel, parallel), globe=SPHERE, cutoff=-30.0 * side
    )


def _misfit(crs: ccrs.Projection, lat: Array, lon: Array, rows: Array, columns: Array) -> float:
    """Largest distance from straight rows and columns, in cells of the grid; infinite off the map."""
    points = crs.transform_points(PLATE, lon, lat)
    x, y = points[..., 0], points[..., 1]
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return np.inf
    wide = abs(x[:, -1] - x[:, 0]).mean() / (columns[-1] - columns[0])
    tall = abs(y[-1] - y[0]).mean() / (rows[-1] - rows[0])
    return float(max(np.ptp(x, axis=0).max() / (wide or 1e-9), np.ptp(y, axis=1).max() / (tall or 1e-9)))
