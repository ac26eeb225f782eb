# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""From measured runs to a cost per megapixel, member and step, and from that to runs too large to try."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MEGA = 1e6
CONUS = (1056, 1792)
"""NVIDIA's published domain, HRRR's grid of 3 km without its edge."""
EARTH = 510.066e6
"""Surface of the Earth, km²."""


@dataclass(frozen=True)
class Run:
    """A measured run, as far as its cost goes.

    Attributes
    ----------
    megapixels : float
        Points of the fine grid, in millions
    members, calls : int
        Members, and network calls of each member
    seconds : float
        That the networks took
    """

    megapixels: float
    members: int
    calls: int
    seconds: float


@dataclass(frozen=True)
class Cost:
    """``seconds = fixed + step · P · (1 + members · calls)`` with P megapixels.

    The 1 is the regression, once per state: its network is the denoiser's, but for a few channels.

    Attributes
    ----------
    fixed, step : float
        Seconds a run; seconds a megapixel, member and network call
    error : float
        Largest relative difference between a measured run and this
    """

    fixed: float
    step: float
    error: float


@dataclass(frozen=True)
class Target:
    """A run that is too large to measure.

    Attributes
    ----------
    name : str
        What it is
    megapixels : float
        Points of the fine grid, in millions
    cases, members : int
        Times, and members of each
    overlap : float
        Points that the networks see, per point of the domain: more than one where patches overlap
    """

    name: str
    megapixels: float
    cases: int
    members: int
    overlap: float

    def terabytes(self, variables: int) -> float:
        """Output as float32, before compression."""
        return self.megapixels * MEGA * self.cases * self.members * variables * 4 / 1e12

    def hours(self, step: float, steps: int) -> float:
        """Hours on one device.

        Parameters
        ----------
        step : float
            Seconds a megapixel, member and network call
        steps : int
            Network calls of each member
        """
        calls = 1 + self.members * steps
        return self.cases * self.megapixels * self.overlap * step * calls / 3600


@dataclass(frozen=True)
class Published:
    """What NVIDIA has published about a device.

    Attributes
    ----------
    device, source : str
        On what, and where it says so
    seconds : float
        Of one step of one member
    megapixels : float
        Of the domain that this is for, patches not counted twice
    """

    device: str
    source: str
    seconds: float
    megapixels: float

    @property
    def step(self) -> float:
        """Seconds a megapixel, member and step."""
        return self.seconds / self.megapixels


def _nim(device: str, eight: float, eighteen: float) -> Published:
    """Requests of one member with 8 and with 18 steps: their difference leaves out what is fixed."""
    source = f"NIM 1.1.0: {eight} s with 8 steps, {eighteen} s with 18, one member"
    return Published(device, source, (eighteen - eight) / 10, CONUS[0] * CONUS[1] / MEGA)


PUBLISHED = (
    _nim("A100", 9.12, 20.12),
    _nim("H100", 4.88, 10.31),
    _nim("B200", 4.13, 8.81),
    Published(
        "H100, baseline", "blog: one FP32 denoiser forward of a 448² patch in 155 ms", 0.155, 448**2 / MEGA
    ),
)


def targets(members: int, patch: int = 448, margin: int = 6) -> tuple[Target, ...]:
    """A year of hours over CONUS, and the globe at 3 km for one hour and for a year.

    Parameters
    ----------
    members : int
        Of each hour
    patch, margin : int, optional
        Side of the patches, and overlap plus boundary, as in NVIDIA's published case
    """
    conus, globe = CONUS[0] * CONUS[1] / MEGA, EARTH / 9 / MEGA
    side = int((EARTH / 9 / 2) ** 0.5)  # twice as wide as high
    return (
        Target("CONUS at 3 km, a year of hours", conus, 8760, members, overlap(CONUS, patch, margin)),
        Target("the globe at 3 km, one hour", globe, 1, members, overlap((side, 2 * side), patch, margin)),
        Target(
            "the globe at 3 km, a year of hours",
            globe,
            8760,
            members,
            overlap((side, 2 * side), patch, margin),
        ),
    )


def overlap(domain: tuple[int, int], patch: int, margin: int) -> float:
    """Points of all patches per point of the domain; source: PhysicsNeMo's ``GridPatching2D``."""
    count = [-(-side // (patch - margin)) for side in domain]
    return count[0] * count[1] * patch**2 / (domain[0] * domain[1])


def fit(runs: Sequence[Run]) -> Cost:
    """Least squares of the relative errors, over runs of different sizes and members.

    Raises
    ------
    ValueError
        If the runs cannot tell the two terms apart
    """
    rows = np.array([[1.0, run.megapixels * (1 + run.members * run.calls)] for run in runs])
    seconds = np.array([run.seconds for run in runs])
    weighted = rows / seconds[:, None]
    if np.linalg.matrix_rank(weighted / np.linalg.norm(weighted, axis=0), tol=1e-6) < rows.shape[1]:
        raise ValueError("runs of at least two sizes are needed for a fit")
    terms, *_ = np.linalg.lstsq(weighted, np.ones(len(runs)), rcond=None)
    error = np.abs(rows @ terms / seconds - 1).max()
    return Cost(float(terms[0]), float(terms[1]), float(error))


def exponent(runs: Sequence[Run]) -> float:
    """Of the area in the time: 1 where the cost per pixel does not depend on the domain's size."""
    area, seconds = (np.log([getattr(run, name) for run in runs]) for name in ("megapixels", "seconds"))
    return float(np.polyfit(area, seconds, 1)[0])
