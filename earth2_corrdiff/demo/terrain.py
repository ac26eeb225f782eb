# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Land and mountains of the demo, drawn by hand: a likeness of Taiwan and the coast of Fujian.

It is not a terrain data set: outlines have some thirty points, ridges are smooth lines with random
roughness added.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .domain import EXTENDED, SPACING, Array, domain, project
from .turbulence import PERIOD, anchor_noise, field, power_law

TAIWAN = (
    (121.54, 25.30), (121.76, 25.16), (122.00, 25.01), (121.84, 24.84), (121.86, 24.60), (121.75, 24.30),
    (121.62, 24.00), (121.52, 23.55), (121.38, 23.10), (121.17, 22.76), (120.97, 22.50), (120.90, 22.20),
    (120.85, 21.90), (120.71, 21.95), (120.69, 22.12), (120.58, 22.36), (120.44, 22.47), (120.27, 22.60),
    (120.17, 22.80), (120.05, 23.05), (120.10, 23.35), (120.13, 23.60), (120.20, 23.80), (120.42, 24.10),
    (120.54, 24.32), (120.70, 24.60), (120.87, 24.80), (121.02, 25.02), (121.22, 25.12), (121.42, 25.17),
)  # fmt: skip
"""Outline of the island, longitude and latitude."""

MAINLAND = (
    (112.00, 21.70), (113.60, 22.10), (114.30, 22.40), (115.40, 22.75), (116.10, 22.85), (116.60, 23.10),
    (116.80, 23.35), (117.15, 23.60), (117.55, 23.80), (117.90, 24.05), (118.10, 24.40), (118.60, 24.50),
    (118.75, 24.85), (119.05, 25.05), (119.40, 25.15), (119.65, 25.45), (119.55, 25.75), (119.70, 26.05),
    (119.72, 26.35), (120.00, 26.58), (120.15, 26.85), (120.45, 27.10), (120.62, 27.50), (120.80, 27.90),
    (121.15, 28.15), (121.60, 28.35), (121.60, 28.90), (122.00, 29.50), (122.00, 32.00), (112.00, 32.00),
)  # fmt: skip
"""Outline of the coast from Guangdong to Zhejiang."""

ISLANDS = (
    (119.58, 23.57, 9.0), (123.00, 24.45, 5.0), (123.82, 24.34, 12.0), (124.20, 24.43, 11.0),
    (125.30, 24.78, 9.0), (121.97, 20.45, 6.0), (121.47, 19.32, 9.0), (121.93, 19.53, 7.0),
    (121.54, 22.05, 5.0), (121.49, 22.66, 3.5), (118.37, 24.45, 7.0), (122.10, 29.90, 15.0),
)  # fmt: skip
"""Penghu, the southern Ryukyus, Batanes and Babuyan and others: longitude, latitude, radius in km."""

CENTRAL_RANGE = (
    (120.82, 22.00, 350.0), (120.76, 22.40, 1700.0), (120.82, 22.75, 2900.0), (120.95, 23.15, 3200.0),
    (121.05, 23.50, 3650.0), (121.20, 23.85, 3300.0), (121.36, 24.20, 3400.0), (121.42, 24.45, 3300.0),
    (121.58, 24.75, 1700.0), (121.78, 24.95, 700.0), (121.60, 25.18, 650.0),
)  # fmt: skip
"""Crest line: longitude, latitude, height in m."""

COASTAL_RANGE = ((121.22, 22.95, 500.0), (121.36, 23.30, 1000.0), (121.50, 23.75, 700.0))
ROUGHNESS_STREAM = 1


@dataclass(frozen=True, eq=False)
class Terrain:
    """Static fields on the extended grid, [144, 144] each.

    Attributes
    ----------
    height : Array
        Height of the ground, m, zero over the sea.
    land : Array
        Land fraction, 0 to 1.
    smooth_land : Array
        Land fraction smoothed over some 25 km: what the lowest air has felt.
    slope_x, slope_y : Array
        Gradient of the height, smoothed, m/m.
    coast_x, coast_y : Array
        Gradient of the smooth land fraction, per 100 km, towards the land.
    exposure : Array
        -1 in valleys to 1 on crests.
    barrier : Array
        0 to 1: how strongly the mountains block a flow.
    """

    height: Array
    land: Array
    smooth_land: Array
    slope_x: Array
    slope_y: Array
    coast_x: Array
    coast_y: Array
    exposure: Array
    barrier: Array


def smooth(values: Array, length: float) -> Array:
    """Gaussian smoothing with standard deviation `length` (m), edges reflected, along both axes."""
    matrix = _smoother(length)
    return np.asarray(matrix @ values @ matrix.T)


@cache
def _smoother(length: float) -> Array:
    """Matrix [144, 144] that smooths one axis; rows add to one."""
    index = np.arange(EXTENDED)
    images = [index, -1 - index, 2 * EXTENDED - 1 - index]
    width = length / SPACING
    matrix = sum(np.exp(-0.5 * ((index[:, None] - image[None, :]) / width) ** 2) for image in images)
    return np.asarray(matrix / np.sum(matrix, axis=1, keepdims=True))


def _inside(polygon: tuple[tuple[float, float], ...], x: Array, y: Array) -> NDArray[np.bool_]:
    """Which points lie in a polygon of longitudes and latitudes (even-odd rule)."""
    px, py = project(np.array([p[1] for p in polygon]), np.array([p[0] for p in polygon]))
    inside = np.zeros(x.shape, bool)
    for x1, y1, x2, y2 in zip(px, py, np.roll(px, -1), np.roll(py, -1), strict=True):
        if y1 != y2:
            crosses = ((y1 > y) != (y2 > y)) & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
            inside ^= crosses
    return inside


def _is_land(x: Array, y: Array) -> NDArray[np.bool_]:
    """True for each point on land."""
    land = _inside(TAIWAN, x, y) | _inside(MAINLAND, x, y)
    for lon, lat, radius in ISLANDS:
        cx, cy = project(lat, lon)
        land |= np.hypot(x - cx, y - cy) < radius * 1000
    return land


def _rough(index: int, slope: float, outer: float) -> Array:
    """A fixed random field of variance one."""
    return field(anchor_noise(ROUGHNESS_STREAM, index), power_law(slope, outer))


def _land_fraction() -> Array:
    """Share of land in each pixel from 4 x 4 points; bays and capes are random displacements."""
    grid = domain()
    wiggle_x, wiggle_y = 3500 * _rough(0, 1.5, 150e3), 3500 * _rough(1, 1.5, 150e3)
    steps = (np.arange(4) - 1.5) / 4 * SPACING
    hits = [_is_land(grid.x + wiggle_x + dx, grid.y + wiggle_y + dy) for dx in steps for dy in steps]
    return np.asarray(np.mean(hits, axis=0))


def _ridge(line: tuple[tuple[float, float, float], ...], east: float, west: float) -> Array:
    """Height of a ridge with the given half-widths (m) of its two flanks."""
    grid = domain()
    best = np.zeros(grid.x.shape)
    points = [(*map(float, project(lat, lon)), height) for lon, lat, height in line]
    for (x1, y1, h1), (x2, y2, h2) in zip(points[:-1], points[1:], strict=True):
        dx, dy = x2 - x1, y2 - y1
        along = np.clip(((grid.x - x1) * dx + (grid.y - y1) * dy) / (dx**2 + dy**2), 0, 1)
        off_x, off_y = grid.x - x1 - along * dx, grid.y - y1 - along * dy
        width = np.where(off_x > 0, east, west)
        height = (h1 + along * (h2 - h1)) * np.exp(-((np.hypot(off_x, off_y) / width) ** 2))
        best = np.maximum(best, height)
    return best


def _height(land: Array) -> Array:
    """Ridges of the island and hills of the mainland, made rough, low at the coast."""
    grid = domain()
    valleys = 1 - np.abs(_rough(2, 2.6, 70e3)) * 0.45
    island = np.maximum(_ridge(CENTRAL_RANGE, 26e3, 34e3), _ridge(COASTAL_RANGE, 9e3, 9e3))
    inland = smooth(land, 30e3)
    mainland = grid.lon < 119.2 + 0.8 * (grid.lat - 24)  # the middle of the strait
    hills = np.where(mainland, 900 * np.clip(2 * inland - 1, 0, 1) ** 0.8, 0.0)
    hills = hills * np.clip(1 + 0.55 * _rough(3, 2.8, 120e3), 0.15, 2.2)
    flat = np.where(land > 0, np.clip(smooth(land, 6e3) * 1.6 - 0.6, 0.0, 1.0), 0.0)
    return np.asarray(np.maximum((island * np.clip(valleys + 0.2, 0.3, 0.98) + hills) * flat, 5.0 * land))


def _gradient(values: Array) -> tuple[Array, Array]:
    """Derivatives along y and x, per m."""
    along_y, along_x = np.gradient(values, SPACING)
    return np.asarray(along_y), np.asarray(along_x)


@cache
def terrain() -> Terrain:
    """The terrain, made on first use (some tenths of a second)."""
    land = _land_fraction()
    height = _height(land)
    softened = smooth(height, 10e3)
    slope_y, slope_x = _gradient(softened)
    smooth_land = smooth(land, 14e3)
    coast_y, coast_x = (1e5 * part for part in _gradient(smooth(land, 25e3)))
    exposure = np.asarray(np.tanh((height - smooth(height, 24e3)) / 450))
    barrier = np.asarray(np.tanh(softened / 1400) ** 1.5)
    return Terrain(height, land, smooth_land, slope_x, slope_y, coast_x, coast_y, exposure, barrier)


def shelter(u: Array, v: Array) -> Array:
    """0 to 1, 1 in the open: how free the air's path was of higher mountains upstream.

    Parameters
    ----------
    u, v : Array
        Wind along the grid's axes, m/s, [144, 144].
    """
    height = terrain().height
    speed = np.maximum(np.hypot(u, v), 0.5)
    rows, cols = np.indices(height.shape)
    above = np.zeros(height.shape)
    for distance in (1.5, 3.0, 5.0, 7.5, 10.0):
        row = np.clip(np.rint(rows - distance * v / speed), 0, EXTENDED - 1).astype(np.intp)
        col = np.clip(np.rint(cols - distance * u / speed), 0, EXTENDED - 1).astype(np.intp)
        above = np.maximum(above, (height[row, col] - height) * (1.1 - 0.06 * distance))
    # Light winds leave no wake.
    return np.asarray(1 - (1 - np.exp(-above / 1300)) * np.tanh(speed / 4))


def detour(u: Array, v: Array) -> tuple[Array, Array]:
    """Change of the wind (m/s) by the mountains: held up before and over them, faster around them.

    The drag of the barrier is made non-divergent, so that what it stops flows past its ends.
    """
    barrier = terrain().barrier
    size = (PERIOD, PERIOD)
    drag_u, drag_v = (np.fft.rfft2(-0.75 * barrier * part, size) for part in (u, v))
    kx, ky, square = _detour_waves()
    stray = (kx * drag_u + ky * drag_v) / square
    crop = (slice(EXTENDED), slice(EXTENDED))
    return np.fft.irfft2(drag_u - kx * stray, size)[crop], np.fft.irfft2(drag_v - ky * stray, size)[crop]


@cache
def _detour_waves() -> tuple[Array, Array, Array]:
    """kx, ky, k^2 (1 at the mean) in rad per pixel."""
    ky = 2 * np.pi * np.fft.fftfreq(PERIOD)[:, None]
    kx = 2 * np.pi * np.fft.rfftfreq(PERIOD)[None, :]
    square = np.asarray(kx**2 + ky**2)
    square[0, 0] = 1.0
    return np.asarray(kx), np.asarray(ky), square
