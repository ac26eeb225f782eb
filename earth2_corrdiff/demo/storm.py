# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Synthetic typhoons: one per slot of some five days, each with its own track, size and strength.

A storm is a Holland (1980) vortex on a bent track. Every property comes from the slot's number, but
slot 0, which is set by hand: at 2024-07-24 12 UTC it is a strong typhoon just off Taiwan's east coast.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .domain import MARGIN, SIZE, SPACING, Array, project, unproject
from .terrain import terrain
from .turbulence import generator

SLOT_HOURS = 132.0
EPOCH = np.datetime64("2000-01-01T00", "us")
LANDFALL_HOURS = float((np.datetime64("2024-07-24T12", "us") - EPOCH) / np.timedelta64(1, "h"))
"""Middle of slot 0, hours since 2000-01-01."""
LIFE_HOURS, FULL_HOURS = 58.0, 34.0
"""Hours before and after its middle at which a storm has vanished, and until which it is at full strength."""
AIR_DENSITY = 1.15
CORIOLIS = 5.96e-5
STORM_STREAM = 2


@dataclass(frozen=True)
class Track:
    """What one slot's storm is born with.

    `x`, `y` (m), `u`, `v` (m/s) and `bend_u`, `bend_v` (m/s2) belong to `middle` (hours); `deficit` is
    the pressure deficit at full strength (Pa), `radius` the radius of maximum wind (m), `reach` the
    radius (m) beyond which the vortex fades.
    """

    slot: int
    middle: float
    x: float
    y: float
    u: float
    v: float
    bend_u: float
    bend_v: float
    deficit: float
    radius: float
    reach: float


@dataclass(frozen=True)
class Vortex:
    """A storm at one time: centre (m), its velocity (m/s), and strength.

    `deficit` (Pa) is weakened by age and land; `share` (0 to 1) is deficit over full deficit.
    """

    slot: int
    hours: float
    x: float
    y: float
    u: float
    v: float
    deficit: float
    radius: float
    reach: float
    share: float

    @property
    def central_pressure(self) -> float:
        """Sea-level pressure of the centre, hPa."""
        return 1008.0 - self.deficit / 100

    @property
    def shape(self) -> float:
        """Holland's B: the deeper the storm, the sharper its profile (1.0 to 1.45)."""
        return float(np.clip(0.95 + self.deficit / 15_500, 1.0, 1.45))

    @property
    def lat_lon(self) -> tuple[float, float]:
        """Latitude and longitude of the centre, degrees."""
        lat, lon = unproject(np.asarray(self.x), np.asarray(self.y))
        return float(lat), float(lon)

    @property
    def inside(self) -> bool:
        """True if the centre lies on the package's fine grid."""
        half = SIZE / 2 * SPACING
        return abs(self.x) < half and abs(self.y) < half

    def wind(self, r: Array, radius: float | None = None) -> Array:
        """Gradient wind (m/s) at distance `r` (m); Holland (1980), eq. 5, faded out at the reach."""
        b, rmw = self.shape, radius or self.radius
        ratio = (rmw / np.maximum(r, 1000.0)) ** b
        half = 0.5 * r * CORIOLIS
        speed = np.sqrt(b * self.deficit / AIR_DENSITY * ratio * np.exp(-ratio) + half**2) - half
        return np.asarray(speed / (1 + (r / self.reach) ** 4))

    def pressure(self, r: Array, radius: float | None = None) -> Array:
        """Pressure deficit (Pa) at distance `r` (m); Holland (1980), eq. 2, faded out at the reach."""
        ratio = ((radius or self.radius) / np.maximum(r, 1000.0)) ** self.shape
        return np.asarray(self.deficit * -np.expm1(-ratio) / (1 + (r / (1.4 * self.reach)) ** 4))


def slot_of(hours: float) -> int:
    """Number of the storm slot that a time (hours since 2000-01-01) lies in."""
    return int(np.floor((hours - LANDFALL_HOURS) / SLOT_HOURS + 0.5))


def slot_middle(slot: int) -> float:
    """Middle of a slot, hours since 2000-01-01."""
    return LANDFALL_HOURS + slot * SLOT_HOURS


def chance(hours: float) -> float:
    """Share of slots with a storm: nearly all in the warm season, few in winter."""
    season = 0.5 + 0.5 * np.cos(2 * np.pi * (hours / 24 - 230) / 365.2425)
    return float(0.06 + 0.9 * season**0.8)


def _first() -> Track:
    """Slot 0: a storm like Gaemi of July 2024 (not a reconstruction)."""
    x, y = (float(part) for part in project(24.05, 122.55))
    return Track(0, LANDFALL_HOURS, x, y, -4.1, 2.4, -2e-6, 5e-6, 7700.0, 36e3, 600e3)


@lru_cache(maxsize=256)
def track(slot: int) -> Track | None:
    """The storm of a slot, or None for a slot without."""
    if slot == 0:
        return _first()
    random = generator(STORM_STREAM, slot)
    if random.random() > chance(slot_middle(slot)):
        return None
    lat, lon = random.uniform(20.6, 26.8), random.uniform(117.6, 124.8)
    # Clockwise from north; most go north-west, some west, some turn north.
    heading, speed = np.radians(random.normal(-48, 26)), random.uniform(3.0, 6.5)
    deficit = 100 * (12 + 68 * random.beta(1.4, 1.6))
    radius = float(np.clip(random.normal(52e3 - 2.2 * deficit, 7e3), 24e3, 62e3))
    x, y = project(lat, lon)
    return Track(
        slot=slot,
        middle=slot_middle(slot) + random.uniform(-7, 7),
        x=float(x),
        y=float(y),
        u=float(speed * np.sin(heading)),
        v=float(speed * np.cos(heading)),
        bend_u=random.normal(6e-6, 7e-6),
        bend_v=random.normal(8e-6, 7e-6),
        deficit=deficit,
        radius=radius,
        reach=random.uniform(380e3, 620e3),
    )


def _place(path: Track, hours: float) -> tuple[float, float]:
    """Centre of the storm, m: a parabola with a small wobble."""
    t = (hours - path.middle) * 3600
    wobble = 9e3 * np.sin(2 * np.pi * t / (19 * 3600) + path.slot) * np.tanh(t / 4e4)
    x = path.x + path.u * t + 0.5 * path.bend_u * t**2 + wobble
    y = path.y + path.v * t + 0.5 * path.bend_v * t**2 + 0.6 * wobble
    return float(x), float(y)


def _land_at(x: float, y: float) -> float:
    """Smooth land fraction at a point; beyond the extended grid its edge goes on."""
    land = terrain().smooth_land
    row, col = (int(np.clip(round(p / SPACING + SIZE / 2 + MARGIN), 0, len(land) - 1)) for p in (y, x))
    return float(land[row, col])


def _fade(path: Track, hours: float) -> float:
    """Growth and decay with age (0 to 1)."""
    part = np.clip((LIFE_HOURS - abs(hours - path.middle)) / (LIFE_HOURS - FULL_HOURS), 0, 1)
    return float(part * part * (3 - 2 * part))


@lru_cache(maxsize=256)
def vortex(hours: float) -> Vortex | None:
    """The storm at a time (hours since 2000-01-01), or None where there is none."""
    path = track(slot_of(hours))
    if path is None or (fade := _fade(path, hours)) <= 0.01:
        return None
    x, y = _place(path, hours)
    (x1, y1), (x2, y2) = _place(path, hours - 0.5), _place(path, hours + 0.5)
    # Hours over land weaken it, each of the last twelve by some six percent.
    past = [_land_at(*_place(path, hours - lag)) for lag in np.arange(0.0, 12.0)]
    share = fade * float(np.exp(-0.06 * np.sum(past)))
    # Without its sea a storm also loses its tight core.
    radius = path.radius * (1 + 0.6 * (1 - share))
    return Vortex(
        slot=path.slot,
        hours=hours,
        x=x,
        y=y,
        u=(x2 - x1) / 3600,
        v=(y2 - y1) / 3600,
        deficit=path.deficit * share,
        radius=radius,
        reach=path.reach,
        share=share,
    )
