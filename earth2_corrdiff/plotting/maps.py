# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The map of a figure: projection, coastlines, grid lines, wind directions, without the network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cartopy
import cartopy.crs as ccrs
import numpy as np
import xarray as xr
from cartopy.feature import ShapelyFeature
from cartopy.io import Downloader
from cartopy.io.shapereader import Reader
from cartopy.mpl.geoaxes import GeoAxes
from loguru import logger
from matplotlib.ticker import FixedLocator, MaxNLocator

from earth2_corrdiff.plotting.grid_projection import PLATE, grid_projection
from earth2_corrdiff.store.reader import Array, read_axis

COAST_WIDTH = 0.7
OUTSIDE = "#ebebeb"
LABEL_WIDTH, LABEL_HEIGHT = 0.85, 0.6  # inches between two labels of the grid, at least
EARTH_KM = 6371.0
POLAR, EDGE = 70.0, 15.0
"""A domain around a pole reaches beyond the first latitude on one side and not below the second."""
PARALLELS = (-60.0, -30.0, 0.0, 30.0, 60.0)
MERIDIANS = [float(lon) for lon in range(-180, 180, 30)]


@dataclass(frozen=True)
class Mesh:
    """Cell centres in degrees, both ``[H, W]``; longitudes are unwrapped, so they never jump."""

    lat: Array
    lon: Array


def mesh_of(ds: xr.Dataset, end: str = "") -> Mesh:
    """Cell centres of a store's fine grid or, with ``end="_lowres"``, of its coarse one."""
    lat, lon = (np.asarray(read_axis(ds, name + end), dtype=np.float64) for name in ("lat", "lon"))
    if lat.ndim == 1:
        lat, lon = np.broadcast_arrays(lat[:, None], lon[None, :])
    lon = np.unwrap(np.unwrap(lon, period=360.0, axis=1), period=360.0, axis=0)
    return Mesh(np.array(lat), lon)


def projection(mesh: Mesh) -> ccrs.Projection:
    """The map for a mesh: the projection that it was made in, or Lambert conformal about its middle.

    The standard parallels lie a sixth of the range inside its ends, which keeps the distortion small.
    Where a Lambert cone degenerates (about the equator, around the globe) it is Mercator or plate carrée,
    about a pole polar stereographic.
    """
    south, north = float(mesh.lat.min()), float(mesh.lat.max())
    lon, lat = 0.5 * float(mesh.lon.min() + mesh.lon.max()), 0.5 * (south + north)
    if surrounds_pole(mesh):
        return ccrs.Stereographic(np.sign(lat) * 90.0, _downwards(mesh))
    if is_global(mesh):
        return ccrs.Robinson()
    own = grid_projection(mesh.lat, mesh.lon) if np.ptp(mesh.lat, axis=1).max() > 0.01 else None
    if own is not None:
        return own
    if np.ptp(mesh.lon) > 180.0:
        return ccrs.PlateCarree(central_longitude=lon)
    if abs(lat) < 8.0:
        return ccrs.Mercator(central_longitude=lon)
    if max(abs(south), abs(north)) > 86.0:
        return ccrs.Stereographic(np.sign(lat) * 90.0, lon)
    sixth = (north - south) / 6.0
    cutoff = -30.0 if lat > 0 else 30.0
    return ccrs.LambertConformal(lon, lat, standard_parallels=(south + sixth, north - sixth), cutoff=cutoff)


def is_global(mesh: Mesh) -> bool:
    """True if a mesh along parallels goes round the globe, in both hemispheres."""
    step = np.ptp(mesh.lon[0]) / max(mesh.lon.shape[1] - 1, 1)
    whole = np.ptp(mesh.lon[0]) + 1.5 * step >= 360.0 and not np.ptp(mesh.lat, axis=1).any()
    return bool(whole and mesh.lat.min() < -EDGE and mesh.lat.max() > EDGE)


def surrounds_pole(mesh: Mesh) -> bool:
    """True if a mesh surrounds a pole, or nearly: on one side of the equator, with all longitudes."""
    away = np.abs(mesh.lat)
    one_side = float(mesh.lat.min()) * float(mesh.lat.max()) > 0
    if not one_side or away.min() < EDGE or away.max() < POLAR:
        return False
    turned = np.sort(mesh.lon.ravel() % 360.0)
    widest_gap = np.diff(turned, append=turned[0] + 360.0).max()
    return bool(widest_gap < 90.0)


def _downwards(mesh: Mesh) -> float:
    """The meridian that points down on a polar map: to the mesh's first row; Greenwich for full circles."""
    row = np.exp(1j * np.deg2rad(mesh.lon[0])) * (90.0 - np.abs(mesh.lat[0]))
    middle = complex(row.mean())
    return float(np.rad2deg(np.angle(middle))) if abs(middle) > 0.05 * float(np.abs(row).max()) else 0.0


def project(crs: ccrs.Projection, mesh: Mesh) -> tuple[Array, Array]:
    """Map coordinates ``x, y`` of a mesh's cell centres, both ``[H, W]``."""
    points = crs.transform_points(PLATE, mesh.lon, mesh.lat)
    return points[..., 0], points[..., 1]


def extent(x: Array, y: Array) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a map that shows all cells, the outermost to their edges.

    A border that is all but straight on the map is cut straight, within a cell or two, so that a mesh
    made for a Lambert map like this one fills it. A mesh in circles around a pole is shown whole.
    """
    if _in_circles(x, y):
        return float(x.min()), float(x.max()), float(y.min()), float(y.max())
    left, right = _span(x[:, 0], x[:, -1], x.shape[1])
    bottom, top = _span(y[0], y[-1], y.shape[0])
    return left, right, bottom, top


def _in_circles(x: Array, y: Array) -> bool:
    """True if the last column is next to the first one: nearer to it than to the middle one."""
    first, middle, last = (np.stack([x[:, i], y[:, i]]) for i in (0, x.shape[1] // 2, -1))
    near, far = (float(np.hypot(*(first - other)).mean()) for other in (last, middle))
    return x.shape[1] > 2 and near < 0.5 * far


def _span(one: Array, other: Array, cells: int) -> tuple[float, float]:
    """Ends of a map between two borders that are `cells` cell centres apart."""
    low, high = sorted((one, other), key=lambda border: float(border.mean()))
    straight = 0.02 * float(high.mean() - low.mean())
    start = low.max() if np.ptp(low) < straight else low.min()
    end = high.min() if np.ptp(high) < straight else high.max()
    half_cell = 0.5 * float(high.mean() - low.mean()) / max(cells - 1, 1)
    return float(start) - half_cell, float(end) + half_cell


def spacing(mesh: Mesh) -> float:
    """Median distance between neighbouring cell centres in km."""
    away = []
    for axis in (0, 1):
        north = np.diff(mesh.lat, axis=axis)
        east = np.diff(mesh.lon, axis=axis) * np.cos(np.deg2rad(np.delete(mesh.lat, 0, axis)))
        away.append(EARTH_KM * np.deg2rad(np.hypot(north, east)).ravel())
    return float(np.median(np.concatenate(away)))


def wind_on_map(crs: ccrs.Projection, mesh: Mesh, u: Array, v: Array) -> tuple[Array, Array]:
    """Eastward and northward wind turned to the map's x and y axes; speed is kept.

    The local directions come from small steps on the sphere, and not from steps in degrees, which
    would be wrong by the cosine of latitude.
    """
    step = 1e-3
    up = np.where(mesh.lat < 90.0 - 2 * step, step, -step)  # there is nothing north of the pole
    x, y = project(crs, mesh)
    east = np.subtract(project(crs, Mesh(mesh.lat, mesh.lon + step)), (x, y))
    north = np.subtract(project(crs, Mesh(mesh.lat + up, mesh.lon)), (x, y)) * np.sign(up)
    with np.errstate(divide="ignore", invalid="ignore"):  # at a pole itself there is no east: NaN
        on_x, on_y = (
            e / np.hypot(*east) * u + n / np.hypot(*north) * v for e, n in zip(east, north, strict=True)
        )
    return on_x, on_y


def coastline_file() -> Path | None:
    """Natural Earth's coastline on this disk, the finest there is, where cartopy itself looks for it."""
    found = Downloader.from_config(("shapefiles", "natural_earth"))
    for resolution in ("10m", "50m", "110m"):
        asked = {
            "config": cartopy.config,
            "category": "physical",
            "name": "coastline",
            "resolution": resolution,
        }
        for path in (found.pre_downloaded_path(asked), found.target_path(asked)):
            if path is not None and all(path.with_suffix(end).is_file() for end in (".shp", ".shx", ".dbf")):
                return Path(path)
    return None


@lru_cache(maxsize=16)
def _coastlines(path: Path, west: float, south: float, east: float, north: float) -> tuple[Any, ...]:
    """Coastlines of a box in degrees; its longitudes may be in any convention, the file's are -180..180.

    Details below the resolution of a picture are left out.
    """
    from shapely.geometry import box

    detail = max(east - west, north - south) / 2000.0
    found = []
    for turn in (-360.0, 0.0, 360.0):
        window = box(max(west + turn, -180.0), south, min(east + turn, 180.0), north)
        if east + turn > -180.0 and west + turn < 180.0:
            lines = (line.intersection(window) for line in Reader(path, bbox=window.bounds).geometries())
            found += [line.simplify(detail) for line in lines if line.length > 3.0 * detail]
    return tuple(found)


@lru_cache(maxsize=1)
def _warn_without_coastlines() -> None:
    logger.warning(
        "No coastlines on this machine: maps are drawn without them. Set CARTOPY_DATA_DIR to a folder "
        "with Natural Earth's shapefiles to have them."
    )


def draw_coastlines(ax: GeoAxes, mesh: Mesh, land_fraction: Array | None, color: str) -> None:
    """Draw coastlines of this disk, or the 0.5 contour of a land fraction ``[H, W]``, or warn once."""
    path = coastline_file()
    if path is not None:
        box = (mesh.lon.min(), mesh.lat.min(), mesh.lon.max(), mesh.lat.max())
        margin = 0.2 * max(np.ptp(mesh.lon), np.ptp(mesh.lat)) + 1.0
        window = [float(round(float(v) + s * margin, 2)) for v, s in zip(box, (-1, -1, 1, 1), strict=True)]
        if surrounds_pole(mesh):
            window[0], window[2] = -180.0, 180.0
        lines = _coastlines(path, *window)
        style = {"facecolor": "none", "edgecolor": color, "linewidth": COAST_WIDTH}
        ax.add_feature(ShapelyFeature(lines, PLATE, **style))
    elif land_fraction is not None:
        style = {"linewidths": COAST_WIDTH, "colors": color}
        ax.contour(*project(ax.projection, mesh), land_fraction, levels=[0.5], **style)
    else:
        _warn_without_coastlines()


def draw_grid_lines(ax: GeoAxes, mesh: Mesh, left: bool = True, bottom: bool = True) -> None:
    """Draw meridians and parallels, with labels on the left and the bottom edge if asked."""
    polar, whole = surrounds_pole(mesh), is_global(mesh)
    sides = ("left", "y", left), ("bottom", "x", bottom)
    lines = ax.gridlines(
        draw_labels={side: axis for side, axis, on in sides if on},
        x_inline=False,
        y_inline=polar or whole,  # circles do not reach the edges, which are round
        rotate_labels=False,
        dms=True,
        linewidth=0.5,
        color="black",
        alpha=0.35,
        linestyle=(0, (4, 3)),
    )
    width, height = ax.get_position().size * ax.figure.get_size_inches()
    lines.xlocator = _degree_lines(mesh.lon, max(int(width / LABEL_WIDTH), 1))
    lines.ylocator = _degree_lines(mesh.lat, max(int(height / LABEL_HEIGHT), 1))
    if polar or whole:
        lines.xlocator = FixedLocator(MERIDIANS[:: 1 if polar else 2])
    if whole:
        lines.ylocator = FixedLocator(PARALLELS)
    lines.xlabel_style = lines.ylabel_style = {"size": 8.5, "color": "0.2"}


def _degree_lines(degrees: Array, most: int) -> FixedLocator:
    """At most about `most` round values between the ends; longitudes as -180..180, as cartopy needs them."""
    low, high = float(degrees.min()), float(degrees.max())
    ticks = np.asarray(MaxNLocator(nbins=most, steps=[1, 2, 3, 5, 6, 10]).tick_values(low, high))
    near = ticks[(ticks >= low - 0.1 * (high - low)) & (ticks <= high + 0.1 * (high - low))]
    turned = near if -90.0 <= low <= high <= 90.0 else (near + 180.0) % 360.0 - 180.0
    return FixedLocator([float(tick) for tick in np.unique(turned)])
