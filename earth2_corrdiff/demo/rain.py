# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Rain of eyewall, spiral bands, fronts, mountains and scattered cells, and its radar reflectivity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .background import Background, summer
from .domain import EXTENDED, SPACING, Array, domain
from .storm import Vortex, vortex
from .terrain import terrain
from .turbulence import (
    PERIOD,
    anchor_noise,
    anchors,
    field,
    generator,
    noise,
    periodic,
    power_law,
    sample,
    scalars,
)

# Numbers of independent random series; these give a typical picture at the time of the first example.
CELL_STREAM, BAND_STREAM, WALL_STREAM, MEANDER_STREAM, SHOWER_STREAM = 211, 111, 311, 23, 24
CELL_HOURS = 1.5
BAND_LIFE = 14.0
BANDS = 5
SPIN_LIMIT = 3e-4
"""Cells turn about the centre at most this fast, rad/s: faster shear would draw them into rings."""


@dataclass(frozen=True, eq=False)
class Polar:
    """Storm-centred geometry: distance (m), direction from grid east (radians), offsets (m)."""

    r: Array
    angle: Array
    dx: Array
    dy: Array


DRAWN_SPREAD = 3.7
"""Standard deviation of the sum of the five neighbours that `drawn_out` adds up."""


def polar(storm: Vortex) -> Polar:
    """Distance and direction of every pixel from the storm's centre."""
    grid = domain()
    dx, dy = grid.x - storm.x, grid.y - storm.y
    return Polar(np.hypot(dx, dy), np.arctan2(dy, dx), dx, dy)


def reflectivity(rain: Array) -> Array:
    """dBZ of a rain rate in mm/h by Z = 200 R^1.6 (Marshall and Palmer 1948), 0 where Z < 1."""
    held = rain / (1 + rain / 300)  # no more than some 60 dBZ
    return np.asarray(np.maximum(10 * np.log10(200 * np.maximum(held, 1e-4) ** 1.6), 0.0))


def cells(hours: float, drift: tuple[float, float]) -> Array:
    """Standard normal field of convective cells, carried by the storm's rotation or the mean wind."""
    near = anchors(hours, CELL_HOURS)
    shape = power_law(5 / 3, 90e3, 14e3)
    total = np.zeros((EXTENDED, EXTENDED))
    for index, lag, weight in zip(near.index, near.lag, near.weight, strict=True):
        values = periodic(anchor_noise(CELL_STREAM, index), shape)
        total += weight * sample(values, *_origin(hours, lag, drift))
    return total


def _origin(hours: float, lag: float, drift: tuple[float, float]) -> tuple[Array, Array]:
    """Where (in pixels) the air of each pixel was `lag` hours earlier."""
    grid, seconds = domain(), lag * 3600
    x, y = grid.x - drift[0] * seconds, grid.y - drift[1] * seconds
    storm = vortex(hours)
    if storm is not None:
        centred = polar(storm)
        spin = np.minimum(0.7 * storm.wind(centred.r) / np.maximum(centred.r, 1e4), SPIN_LIMIT)
        turn = -spin * seconds
        near = np.exp(-((centred.r / 350e3) ** 2)) * storm.share
        back_x = storm.x - storm.u * seconds + np.cos(turn) * centred.dx - np.sin(turn) * centred.dy
        back_y = storm.y - storm.v * seconds + np.sin(turn) * centred.dx + np.cos(turn) * centred.dy
        x, y = x + near * (back_x - x), y + near * (back_y - y)
    middle = (PERIOD - 1) / 2
    return x / SPACING + middle, y / SPACING + middle


def drawn_out(n: Array, centred: Polar) -> Array:
    """The cells `n` stretched along the spiral winds around a storm, still of variance one."""
    middle = (EXTENDED - 1) / 2
    grid, angle = domain(), centred.angle + np.pi / 2 + 0.3
    col, row = grid.x / SPACING + middle, grid.y / SPACING + middle
    total = np.zeros(n.shape)
    for step in (-3.0, -1.5, 0.0, 1.5, 3.0):
        # A circle's arc leaves its tangent by step^2 / 2r.
        sag = step**2 * SPACING / np.maximum(2 * centred.r, 4e4)
        x = np.clip(np.rint(col + step * np.cos(angle) - sag * np.cos(centred.angle)), 0, EXTENDED - 1)
        y = np.clip(np.rint(row + step * np.sin(angle) - sag * np.sin(centred.angle)), 0, EXTENDED - 1)
        total += n[y.astype(np.intp), x.astype(np.intp)]
    return total / DRAWN_SPREAD


def storm_rain(storm: Vortex, centred: Polar, n: Array) -> Array:
    """Rain of a typhoon, mm/h, from the cells `n`."""
    force = (storm.deficit / 6000) ** 0.8
    raw, n = n, 0.35 * n + 0.75 * drawn_out(n, centred)
    wobble = field(noise(MEANDER_STREAM, storm.hours, 5.0), power_law(3.0, 350e3, 60e3))
    # A weak storm has no closed wall and its centre fills with rain.
    closed = float(np.tanh((storm.deficit / 3800) ** 2))
    wall = force * closed * _eyewall(storm, centred) * np.exp(0.45 * raw + 0.45 * n - 0.28)
    bands = force**0.7 * _bands(storm, centred, wobble) * np.exp(1.15 * n - 0.5)
    veil = force * np.exp(-((centred.r / (95e3 + 2.2 * storm.radius)) ** 2)) * np.exp(0.8 * n - 0.3)
    eye = 1 - closed * np.exp(-((centred.r / (0.72 * storm.radius)) ** 6))
    return _dry_out(wall + bands + 0.95 * veil, 2.0) * eye


def _dry_out(rain: Array, lost: float) -> Array:
    """Rain left after evaporation, which takes nearly all where there is less than `lost` mm/h."""
    return np.asarray(rain * -np.expm1(-((rain / lost) ** 2)))


def _eyewall(storm: Vortex, centred: Polar) -> Array:
    """Ring of rain at the radius of maximum wind, heavier on one side, mm/h."""
    lean, side_x, side_y = scalars(WALL_STREAM, storm.hours, 5.0, 3)
    side = np.arctan2(storm.v + 2.5 * side_y, storm.u + 2.5 * side_x) + 0.6
    uneven = np.exp((0.9 + 0.35 * np.tanh(lean)) * np.cos(centred.angle - side) - 0.25)
    radius = 1.12 * storm.radius * (1 + 0.12 * np.cos(2 * centred.angle - side - lean))
    width = 0.3 * storm.radius + 5e3
    return np.asarray(20 * uneven * np.exp(-(((centred.r - radius) / width) ** 2)))


@dataclass(frozen=True)
class _Band:
    """One spiral band: direction at 100 km, tangent of the pitch angle, ends (m), width (m), mm/h."""

    angle: float
    pitch: float
    inner: float
    outer: float
    width: float
    rate: float


def _band_list(storm: Vortex) -> Iterator[_Band]:
    """The bands alive now; each lives some hours, and they start in turn."""
    for number in range(BANDS):
        position = storm.hours / BAND_LIFE + number / BANDS
        birth = int(np.floor(position))
        age = position - birth
        random = generator(BAND_STREAM, storm.slot, number, birth)
        start = random.uniform(0, 2 * np.pi)
        inner = storm.radius * random.uniform(1.7, 3.0)
        yield _Band(
            angle=start + 1.5 * age,
            pitch=float(np.tan(np.radians(random.uniform(13, 24)))),
            inner=inner * (1.15 - 0.3 * age),
            outer=inner + random.uniform(130e3, 380e3),
            width=random.uniform(8e3, 16e3),
            rate=float(np.sin(np.pi * age)) * random.uniform(4.0, 13.0),
        )


def _bands(storm: Vortex, centred: Polar, wobble: Array) -> Array:
    """Sum of the spiral bands, mm/h before the cells."""
    total = np.zeros(centred.r.shape)
    log_r = np.log(np.maximum(centred.r, 5e3) / 100e3)
    for band in _band_list(storm):
        # Inwards along a band one goes with the (anticlockwise) wind.
        phase = centred.angle - band.angle + log_r / band.pitch + 0.35 * wobble
        phase = (phase + np.pi) % (2 * np.pi) - np.pi
        across = centred.r * phase * band.pitch / np.hypot(1, band.pitch)
        width = band.width * (0.7 + 0.5 * centred.r / 150e3) / 1.3
        ends = (
            1 / (1 + np.exp((band.inner - centred.r) / 9e3)) / (1 + np.exp((centred.r - band.outer) / 30e3))
        )
        total += band.rate * ends * np.exp(-((across / width) ** 2))
    return total


def scattered_rain(hours: float, state: Background, n: Array, water: Array) -> Array:
    """Showers where the air is moist and rises, over mountains on warm afternoons, mm/h."""
    land, drift = terrain(), state.drift
    mesoscale = field(noise(SHOWER_STREAM, hours, 3.0, drift), power_law(2.2, 320e3, 25e3))
    local_noon = np.cos(2 * np.pi * ((hours + domain().lon / 15) - 15.5) / 24)
    heat = summer(hours) * np.maximum(local_noon, 0) * np.tanh(land.height / 700)
    moist = np.clip((water - 44) / 16, -1.6, 0.9)
    # The front's line is gappy: the cells decide.
    line = 2.4 * state.front.strength * np.exp(-((state.front.behind / 38e3) ** 2))
    ready = 0.65 * state.uplift + 0.8 * moist + 1.1 * heat + line
    depth = np.maximum(0.5 * n + 0.85 * mesoscale + ready - 1.95, 0.0)
    layer = np.exp(-(((state.front.behind - 90e3) / 90e3) ** 2)) * state.front.strength
    drizzle = 1.5 * layer * np.exp(0.5 * n + 0.6 * mesoscale)
    shower = 2.2 * depth**2.6 * np.exp(0.8 * n - 0.3)
    return np.asarray(shower / (1 + shower / 70) + _dry_out(drizzle, 1.6))


def mountain_rain(u: Array, v: Array, water: Array, n: Array) -> Array:
    """Rain of air forced up the slopes (wind times gradient of the ground), mm/h."""
    land = terrain()
    lift = np.maximum(u * land.slope_x + v * land.slope_y - 0.12, 0.0)
    return np.asarray(9.0 * lift * np.clip(water / 62, 0, 1.25) ** 5 * np.exp(0.7 * n - 0.25))
