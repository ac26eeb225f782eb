# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The weather around the storms: seasons, the mean flow, long waves and cold fronts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .domain import Array, domain
from .storm import CORIOLIS, Vortex, vortex
from .turbulence import field, generator, noise, power_law, scalars, spread, swirl

MEAN_STREAM, WAVE_STREAM, LOW_WAVE_STREAM, MOIST_STREAM, FRONT_STREAM, WARM_STREAM = range(10, 16)
FRONT_HOURS = 108.0
FRONT_SPEED = 9.0


def summer(hours: float) -> float:
    """0 in late January to 1 in late July."""
    return float(0.5 + 0.5 * np.cos(2 * np.pi * (hours / 24 - 206) / 365.2425))


@dataclass(frozen=True, eq=False)
class Front:
    """A cold front: `behind` is the distance (m) behind its line, `strength` 0 to 1."""

    behind: Array
    strength: float

    @property
    def cold(self) -> Array:
        """Share of the cold air, 0 to 1."""
        return self.strength * 0.5 * (1 + np.tanh(self.behind / 70e3))


@dataclass(frozen=True, eq=False)
class Background:
    """Large-scale fields on the extended grid at one time, wind along the grid's axes.

    Winds in m/s at 10 m over open sea, 850 and 500 hPa; `low_z` and `high_z` geopotential (m2/s2);
    `low_t` and `high_t` temperature (K) at 850 and 500 hPa, `sea_air` that of the air over sea (K);
    `water` is tcwv (kg/m2) and `uplift` the tendency to convection (about standard normal).
    """

    u10: Array
    v10: Array
    u850: Array
    v850: Array
    u500: Array
    v500: Array
    low_z: Array
    high_z: Array
    low_t: Array
    high_t: Array
    sea_air: Array
    water: Array
    uplift: Array
    front: Front
    drift: tuple[float, float]


def _front(hours: float, bend: Array) -> Front:
    """The front of this time; fronts come from the north-west every few days, weak in summer."""
    slot = int(np.floor(hours / FRONT_HOURS))
    random = generator(FRONT_STREAM, slot)
    age = hours - slot * FRONT_HOURS - 36 + random.uniform(-4, 4)
    angle = np.radians(random.uniform(105, 150))  # where the cold air lies, from grid east
    strength = (1.02 - summer(hours)) ** 0.7 * random.uniform(0.35, 1.0)
    leave = np.clip((FRONT_HOURS - 42 - age) / 40, 0, 1)
    grid = domain()
    along = np.cos(angle) * grid.x + np.sin(angle) * grid.y
    behind = along + FRONT_SPEED * age * 3600 + 70e3 * bend
    return Front(behind, float(strength * leave * leave * (3 - 2 * leave)))


def _mean_winds(hours: float, storm: Vortex | None) -> Array:
    """Mean wind [3 levels, 2]: monsoons, westerlies aloft, slow random changes, steering of a storm."""
    warm = summer(hours)
    cold = 1 - warm
    winter = np.array([[-3.6, -5.0], [1.5, -1.5], [21.0, 1.0]])
    summer_flow = np.array([[0.8, 2.2], [1.5, 3.0], [-3.0, 1.0]])
    random = scalars(MEAN_STREAM, hours, 60.0, 6).reshape(3, 2)
    mean = cold * winter + warm * summer_flow + random * np.array([[1.6], [2.6], [4.0]])
    mean[1] += 0.4 * random[0] * 2.0
    if storm is not None:
        steer = np.array([storm.u, storm.v])
        mean += storm.share * np.array([[0.25], [0.7], [0.9]]) * (steer - mean)
    return np.asarray(mean)


@lru_cache(maxsize=4)
def background(hours: float) -> Background:
    """Everything of the large scale at a time (hours since 2000-01-01)."""
    mean = _mean_winds(hours, vortex(hours))
    warm, grid = summer(hours), domain()
    drift = (float(mean[1, 0]), float(mean[1, 1]))
    psi_high, wave_u, wave_v = swirl(noise(WAVE_STREAM, hours, 14.0, drift), power_law(3.0, 1.2e6))
    psi_low, low_u, low_v = swirl(noise(LOW_WAVE_STREAM, hours, 9.0, drift), power_law(2.6, 900e3))
    lift = noise(MOIST_STREAM, hours, 6.0, drift)
    uplift = field(lift, power_law(2.4, 700e3, 60e3))
    join_u, join_v = spread(lift, power_law(2.4, 700e3, 60e3))
    front = _front(hours, field(noise(WARM_STREAM, hours, 14.0), power_law(3.0, 600e3)))
    high, low = 2.5 + 2.0 * (1 - warm), 2.0
    cold, behind = 1 - warm, front.cold
    # Winter's westerlies grow northwards.
    jet = cold * 9.0 * grid.y / 450e3
    return Background(
        u10=mean[0, 0] + 0.7 * low * low_u + 0.9 * join_u - 3.0 * behind,
        v10=mean[0, 1] + 0.7 * low * low_v + 0.9 * join_v - 5.0 * behind,
        u850=mean[1, 0] + low * low_u + 0.5 * high * wave_u + 0.5 * join_u - 1.0 * behind,
        v850=mean[1, 1] + low * low_v + 0.5 * high * wave_v + 0.5 * join_v - 3.0 * behind,
        u500=mean[2, 0] + jet + high * wave_u,
        v500=mean[2, 1] + high * wave_v,
        low_z=14_640 - 60 * cold + _balance(mean[1]) + CORIOLIS * (low * psi_low + 0.5 * high * psi_high)
        + 120 * behind,
        high_z=57_560 - 620 * cold + _balance(mean[2]) + CORIOLIS * high * psi_high
        - CORIOLIS * cold * 9.0 * grid.y**2 / 900e3,
        low_t=291.4 - 7.5 * cold - (0.1 + 0.75 * cold) * (grid.lat - 24) - 5.5 * behind + _warm(psi_low),
        high_t=268.9 - 5.5 * cold - (0.05 + 0.45 * cold) * (grid.lat - 24) - 2.0 * behind + _warm(psi_high),
        sea_air=301.2 - 7.0 * cold - (0.12 + 0.62 * cold) * (grid.lat - 24) - 4.0 * behind,
        water=_water(hours, grid.lat, uplift, front),
        uplift=uplift,
        front=front,
        drift=drift,
    )  # fmt: skip


def _balance(mean: Array) -> Array:
    """Geopotential in geostrophic balance with a uniform wind."""
    grid = domain()
    return np.asarray(CORIOLIS * (mean[1] * grid.x - mean[0] * grid.y))


def _warm(psi: Array) -> Array:
    """Ridges are warm, troughs are cold: K."""
    return np.asarray(0.5 * psi / max(float(np.std(psi)), 1e3))


def _water(hours: float, lat: Array, uplift: Array, front: Front) -> Array:
    """Precipitable water of the surroundings, kg/m2."""
    warm = summer(hours)
    north = lat - 24
    base = 26 + 29 * warm - (1.9 - 1.5 * warm) * north
    line = np.exp(-((front.behind / 90e3) ** 2)) * front.strength
    dry = 0.42 * front.cold
    return np.asarray(np.maximum((base + 4.0 * uplift + 9 * line) * (1 - dry), 3.0))
