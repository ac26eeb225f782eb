# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Random fields with the spectra of the atmosphere, correlated in time and made from seeds alone.

White noise belongs to anchor times. A field at any time blends its two neighbouring anchors with
weights whose squares add to one, so that its variance is constant, and drifts each of them with a
wind (Taylor's frozen turbulence). Shape is given afterwards: a power law between two scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from .domain import EXTENDED, SPACING, Array

WORLD_VERSION = 1
"""Raise it to get another world: every random number is a function of it and the valid time."""
PERIOD = 192
"""Pixels after which the random fields repeat: more than the domain needs."""
Spectrum = NDArray[np.complex128]


def generator(*key: int) -> np.random.Generator:
    """A random generator of its own for each key of whole numbers (negative ones allowed)."""
    words = [WORLD_VERSION, *(number + 2**31 for number in key)]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


@cache
def wavenumbers() -> tuple[Array, Array, Array]:
    """kx, ky and |k| of the half-plane that `numpy.fft.rfft2` keeps, rad/m."""
    ky = 2 * np.pi * np.fft.fftfreq(PERIOD, SPACING)[:, None]
    kx = 2 * np.pi * np.fft.rfftfreq(PERIOD, SPACING)[None, :]
    return np.asarray(kx), np.asarray(ky), np.asarray(np.hypot(kx, ky))


@lru_cache(maxsize=64)
def _white(stream: int, index: int) -> Spectrum:
    """Fourier transform of the white noise of one anchor."""
    return np.fft.rfft2(generator(stream, index).standard_normal((PERIOD, PERIOD)))


@dataclass(frozen=True)
class Anchors:
    """The two anchor times around one time: indices, hours since each, and weights."""

    index: tuple[int, int]
    lag: tuple[float, float]
    weight: tuple[float, float]


def anchors(hours: float, interval: float) -> Anchors:
    """Anchors every `interval` hours; the blend is smooth and keeps the variance."""
    number = int(np.floor(hours / interval))
    part = hours / interval - number
    angle = 0.5 * np.pi * part * part * (3 - 2 * part)
    lag = (part * interval, (part - 1) * interval)
    return Anchors((number, number + 1), lag, (float(np.cos(angle)), float(np.sin(angle))))


def scalars(stream: int, hours: float, interval: float, count: int) -> Array:
    """`count` smooth standard normal series at one time."""
    near = anchors(hours, interval)
    draws = [generator(stream, index).standard_normal(count) for index in near.index]
    return near.weight[0] * draws[0] + near.weight[1] * draws[1]


def noise(stream: int, hours: float, interval: float, drift: tuple[float, float] = (0.0, 0.0)) -> Spectrum:
    """Spectrum of white noise at one time, carried along by `drift` (m/s)."""
    kx, ky, _ = wavenumbers()
    near = anchors(hours, interval)
    total: Spectrum = np.zeros((PERIOD, PERIOD // 2 + 1), complex)
    for index, lag, weight in zip(near.index, near.lag, near.weight, strict=True):
        east, north = drift[0] * lag * 3600, drift[1] * lag * 3600
        total += weight * _white(stream, index) * (np.exp(-1j * ky * north) * np.exp(-1j * kx * east))
    return total


def anchor_noise(stream: int, index: int) -> Spectrum:
    """Spectrum of the white noise of one anchor, for callers that carry it along by themselves."""
    return _white(stream, index)


@cache
def power_law(slope: float, outer: float, inner: float = 0.0) -> Array:
    """Amplitudes that give white noise a one-dimensional spectrum k^-slope and variance one.

    Parameters
    ----------
    slope : float
        Exponent of the spectrum, as 5/3 or 3.
    outer : float
        Wavelength in m beyond which the spectrum is flat.
    inner : float
        Wavelength in m below which it drops; 0 keeps everything down to the grid.
    """
    k = wavenumbers()[2]
    shape = (k**2 + (2 * np.pi / outer) ** 2) ** (-(slope + 1) / 4)
    if inner:
        shape = shape * np.exp(-((k * inner / (2 * np.pi)) ** 2))
    shape[0, 0] = 0.0
    return np.asarray(shape / np.sqrt(_full_sum(shape**2) / PERIOD**2))


def _full_sum(half: Array) -> float:
    """Sum over the whole plane of what `rfft2` keeps half of."""
    return float(2 * half.sum() - half[:, 0].sum() - half[:, -1].sum())


def field(spectrum: Spectrum, shape: Array) -> Array:
    """The random field [144, 144] of a noise spectrum with the given amplitudes."""
    return np.fft.irfft2(spectrum * shape, (PERIOD, PERIOD))[:EXTENDED, :EXTENDED]


def periodic(spectrum: Spectrum, shape: Array) -> Array:
    """As `field`, the whole periodic field [192, 192]."""
    return np.fft.irfft2(spectrum * shape, (PERIOD, PERIOD))


def swirl(spectrum: Spectrum, shape: Array) -> tuple[Array, Array, Array]:
    """Streamfunction (m2/s) and non-divergent wind (m/s), each component of variance one."""
    kx, ky, k = wavenumbers()
    psi = spectrum * shape * np.sqrt(2) / np.where(k > 0, k, np.inf)
    crop = (slice(EXTENDED), slice(EXTENDED))
    parts = [np.fft.irfft2(part, (PERIOD, PERIOD))[crop] for part in (psi, -1j * ky * psi, 1j * kx * psi)]
    return parts[0], parts[1], parts[2]


def spread(spectrum: Spectrum, shape: Array) -> tuple[Array, Array]:
    """Divergent wind (m/s) with variance one that flows together where the field is high."""
    kx, ky, k = wavenumbers()
    chi = spectrum * shape * np.sqrt(2) / np.where(k > 0, k, np.inf)
    crop = (slice(EXTENDED), slice(EXTENDED))
    u, v = (np.fft.irfft2(1j * part * chi, (PERIOD, PERIOD))[crop] for part in (kx, ky))
    return u, v


def sample(values: Array, x: Array, y: Array) -> Array:
    """Periodic `values` [192, 192] at fractional pixel positions, bilinear."""
    col, row = np.floor(x), np.floor(y)
    fx, fy = x - col, y - row
    left, low = col.astype(np.intp) % PERIOD, row.astype(np.intp) % PERIOD
    right, high = (left + 1) % PERIOD, (low + 1) % PERIOD
    bottom = values[low, left] * (1 - fx) + values[low, right] * fx
    top = values[high, left] * (1 - fx) + values[high, right] * fx
    return np.asarray(bottom * (1 - fy) + top * fy)
