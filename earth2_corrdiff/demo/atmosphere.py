# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""One time of the synthetic atmosphere: storm, surroundings, rain and ground put together.

The fine fields come first; every coarse one is the mean of a field on the same extended fine grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .background import Background, background, summer
from .domain import Array, domain, window
from .rain import (
    Polar,
    cells,
    mountain_rain,
    polar,
    reflectivity,
    scattered_rain,
    storm_rain,
)
from .storm import Vortex, vortex
from .terrain import detour, shelter, smooth, terrain
from .turbulence import field, noise, power_law, spread, swirl

COARSE_VARIABLES = (
    "tcwv", "z500", "t500", "u500", "v500", "z850", "t850", "u850", "v850", "t2m", "u10m", "v10m", "refc",
)  # fmt: skip
FINE_VARIABLES = ("mrr", "t2m", "u10m", "v10m")
GUST_STREAM, BURST_STREAM, WARMTH_STREAM, HIGH_GUST_STREAM, HIGH_WARMTH_STREAM = range(30, 35)
INFLOW = np.radians(23.0)
SURFACE = 0.78
"""Wind at 10 m over the sea as a share of the gradient wind."""


@dataclass(frozen=True, eq=False)
class Fields:
    """One time: `coarse` [13, 36, 40] and `fine` [4, 112, 112], float32, in the order of the names above.

    Kelvin, m/s, kg/m2, m2/s2 and dBZ; winds are eastward and northward.
    """

    coarse: NDArray[np.float32]
    fine: NDArray[np.float32]


def _vortex_wind(storm: Vortex, centred: Polar, share: float, inflow: float) -> tuple[Array, Array]:
    """Swirl of the storm with inflow, stronger on the right of its path, m/s."""
    speed = share * storm.wind(centred.r)
    bend = inflow * np.minimum(centred.r / storm.radius, 1.0)
    u = speed * np.cos(centred.angle + np.pi / 2 + bend)
    v = speed * np.sin(centred.angle + np.pi / 2 + bend)
    carry = 0.55 * share * 2 * storm.radius * centred.r / (storm.radius**2 + centred.r**2)
    return u + carry * storm.u, v + carry * storm.v


def _calm(storm: Vortex, centred: Polar) -> Array:
    """Share of the surrounding wind left at each point: little in the eye."""
    return 1 - 0.9 * storm.share * np.exp(-((centred.r / (1.1 * storm.radius)) ** 2))


def _open_wind(storm: Vortex | None, centred: Polar | None, state: Background) -> tuple[Array, Array]:
    """10 m wind over a sea without coasts, mountains and gusts."""
    if storm is None or centred is None:
        return state.u10, state.v10
    u, v = _vortex_wind(storm, centred, SURFACE, INFLOW)
    calm = _calm(storm, centred)
    return u + calm * state.u10, v + calm * state.v10


def _breeze(hours: float) -> tuple[Array, Array]:
    """Sea breeze by day, weaker land breeze at night, m/s."""
    ground = terrain()
    phase = np.cos(2 * np.pi * (hours + domain().lon / 15 - 15) / 24)
    strength = (0.7 + 0.5 * summer(hours)) * np.where(phase > 0, phase, 0.4 * phase)
    # A gradient of 1 per 100 km is a sharp coast.
    return 2.4 * strength * ground.coast_x, 2.4 * strength * ground.coast_y


def _grounded(u: Array, v: Array, hours: float, shade: Array) -> tuple[Array, Array]:
    """Wind after mountains and coasts: detours, wakes, drag on land, crests and valleys."""
    ground = terrain()
    du, dv = detour(u, v)
    land = 0.75 * ground.land + 0.25 * ground.smooth_land
    keep = (1 - 0.45 * land) * (1 + 0.36 * ground.exposure * ground.smooth_land) * (0.55 + 0.45 * shade)
    breeze_u, breeze_v = _breeze(hours)
    return keep * (u + du) + breeze_u, keep * (v + dv) + breeze_v


def _gusts(hours: float, speed: Array, wet: Array, state: Background) -> tuple[Array, Array]:
    """Unresolved motion: rotational and divergent, k^-5/3, stronger in strong wind and rain, m/s."""
    shape = power_law(5 / 3, 220e3, 18e3)
    _, u, v = swirl(noise(GUST_STREAM, hours, 1.5, state.drift), shape)
    out_u, out_v = spread(noise(BURST_STREAM, hours, 1.0, state.drift), shape)
    size = 0.4 + 0.05 * speed + 0.045 * wet
    return size * (0.85 * u + 0.55 * out_u), size * (0.85 * v + 0.55 * out_v)


def _water(storm: Vortex | None, centred: Polar | None, state: Background) -> Array:
    """Precipitable water over flat ground, kg/m2."""
    if storm is None or centred is None:
        return state.water
    near = storm.share * np.exp(-((centred.r / (150e3 + 0.45 * storm.reach)) ** 2))
    core = (storm.deficit / 6000) ** 0.5 * np.exp(-((centred.r / 130e3) ** 2))
    return np.asarray(state.water + near * (0.75 * np.maximum(66 - state.water, 0) + 5 * core))


def _rain(hours: float, state: Background, u: Array, v: Array, water: Array) -> Array:
    """Rain of all kinds at the ground, mm/h."""
    storm, n = vortex(hours), cells(hours, state.drift)
    rain = scattered_rain(hours, state, n, water) + mountain_rain(u, v, water, n)
    if storm is None:
        return rain
    centred = polar(storm)
    # The storm's sinking surroundings suppress showers that are not its own.
    own = storm.share * np.exp(-((centred.r / 260e3) ** 4))
    return (1 - 0.8 * own) * rain + storm_rain(storm, centred, n) + 0.8 * own * mountain_rain(u, v, water, n)


def _surface_warmth(hours: float, state: Background, rain: Array, shade: Array, speed: Array) -> Array:
    """Air temperature at 2 m, K: sea and land, time of day, height, rain, foehn."""
    ground, warm = terrain(), summer(hours)
    clear = np.exp(-smooth(np.minimum(rain, 12.0), 24e3) / 2.5)
    day = np.cos(2 * np.pi * (hours + domain().lon / 15 - 14) / 24)
    swing = 0.3 + (2.6 + 1.5 * clear) * ground.smooth_land * ground.land / (1 + speed / 18)
    land_offset = (0.9 * warm - 1.6 * (1 - warm)) * ground.smooth_land
    pool = -1.5 * (1 - np.exp(-smooth(rain, 12e3) / 6)) - 0.5 * np.tanh(rain / 8)
    foehn = 2.8 * (1 - shade) * np.tanh(speed / 14) * np.tanh(ground.smooth_land * 2)
    height = (5.6 + 0.4 * warm) * ground.height / 1000
    spots = field(noise(WARMTH_STREAM, hours, 3.0, state.drift), power_law(3.0, 300e3))
    uneven = (0.35 + 0.35 * ground.land) * spots
    return np.asarray(state.sea_air + land_offset + swing * day + pool + foehn - height + uneven)


def _aloft(storm: Vortex | None, centred: Polar | None, state: Background, hours: float) -> list[Array]:
    """z500 t500 u500 v500 z850 t850 u850 v850 on the extended grid, wind along the grid's axes."""
    shape = power_law(2.4, 400e3, 20e3)
    _, gust_u, gust_v = swirl(noise(HIGH_GUST_STREAM, hours, 4.0, state.drift), shape)
    warmer = field(noise(HIGH_WARMTH_STREAM, hours, 5.0, state.drift), power_law(2.4, 500e3, 20e3))
    high = [state.high_z, state.high_t + 0.25 * warmer, state.u500 + 0.6 * gust_u, state.v500 + 0.6 * gust_v]
    low = [state.low_z, state.low_t - 0.35 * warmer, state.u850 - 0.8 * gust_v, state.v850 + 0.8 * gust_u]
    if storm is None or centred is None:
        return high + low
    wide = storm.radius * 1.5
    calm, drop = _calm(storm, centred), storm.pressure(centred.r) / 1.15
    core = storm.deficit / 6000 * np.exp(-((centred.r / (2.2 * storm.radius + 30e3)) ** 2))
    u, v = _vortex_wind(storm, centred, 0.97, np.radians(6.0))
    top_u, top_v = _vortex_wind(storm, centred, 0.62, -np.radians(3.0))
    drop_high = storm.pressure(centred.r, wide) / 1.15
    high = [high[0] - 0.42 * drop_high, high[1] + 5.5 * core, calm * high[2] + top_u, calm * high[3] + top_v]
    low = [low[0] - 0.86 * drop, low[1] + 3.6 * core, calm * low[2] + u, calm * low[3] + v]
    return high + low


def _echo_mean(mrr: NDArray[np.floating]) -> Array:
    """Coarse reflectivity: the mean over each cell of Z itself, not of its logarithm; no echo is Z = 0."""
    power = np.where(mrr > 0, 10 ** (mrr / 10), 0.0)
    return 10 * np.log10(np.maximum(domain().coarsen(power), 1.0))


def _extended_fine(hours: float) -> tuple[list[NDArray[np.float32]], Array]:
    """mrr, t2m, u10m, v10m on the extended grid, and the water over flat ground."""
    storm, state = vortex(hours), background(hours)
    centred = None if storm is None else polar(storm)
    water = _water(storm, centred, state)
    open_u, open_v = _open_wind(storm, centred, state)
    shade = shelter(open_u, open_v)
    rain = _rain(hours, state, open_u, open_v, water) * (0.25 + 0.75 * shade)
    u, v = _grounded(open_u, open_v, hours, shade)
    speed = np.hypot(u, v)
    gust_u, gust_v = _gusts(hours, speed, np.minimum(smooth(rain, 12e3), 12.0), state)
    warmth = _surface_warmth(hours, state, rain, shade, speed)
    east, north = domain().earth_wind(u + gust_u, v + gust_v)
    fine = [part.astype(np.float32) for part in (reflectivity(rain), warmth, east, north)]
    return fine, water


def fields(hours: float) -> Fields:
    """Everything at one time.

    Parameters
    ----------
    hours : float
        Valid time, hours since 2000-01-01 00 UTC.
    """
    storm, state, grid = vortex(hours), background(hours), domain()
    fine, water = _extended_fine(hours)
    aloft = _aloft(storm, None if storm is None else polar(storm), state, hours)
    aloft[2:4], aloft[6:8] = grid.earth_wind(*aloft[2:4]), grid.earth_wind(*aloft[6:8])
    column = water * np.exp(-terrain().height / 2400)
    parts: list[NDArray[np.floating]] = [column, *aloft, *fine[1:]]
    coarse = [grid.coarsen(part) for part in parts]
    coarse.append(_echo_mean(fine[0]))
    return Fields(np.stack(coarse).astype(np.float32), np.stack([window(part) for part in fine]))
