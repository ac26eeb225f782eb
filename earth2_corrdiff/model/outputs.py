# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Rules of outputs: inverse transforms, bounds, solar gates; and winds at hub heights.

Source: ``earth2studio.models.dx.CorrDiffCosmoEra5``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from loguru import logger
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.transforms import Transform

INTERPOLATIONS = ("linear", "log")


@dataclass(frozen=True)
class SolarGate:
    """Factor of short-wave radiation: 0 by night, 1 by day, a ramp in the cosine of the zenith angle between.

    Attributes
    ----------
    threshold, half_width : float
        Middle of the ramp, and half its width
    """

    threshold: float = 0.01
    half_width: float = 0.05

    def __post_init__(self) -> None:
        if not (abs(self.threshold) <= 1 and 1e-6 <= self.half_width <= 2):
            raise InputError(
                "a solar gate needs a threshold of -1 to 1 and a positive half_width, "
                f"got {self.threshold} and {self.half_width}"
            )

    def __call__(self, cos_zenith: Tensor) -> Tensor:
        """The factor, of the same shape."""
        ramp = (cos_zenith - self.threshold + self.half_width) / (2 * self.half_width)
        return ramp.clamp(0.0, 1.0)


@dataclass(frozen=True)
class OutputRule:
    """How an output variable becomes physical after its normalisation is undone, in this order.

    Attributes
    ----------
    transform : Transform
        Whose inverse is applied
    bounds : tuple[float, float]
        Smallest and largest value, beside the transform's own range
    gate : SolarGate | None
        For short-wave radiation
    factor : float
        From the network's unit to the variable's
    name : str
        Of the variable in its package, where it has another one there
    """

    transform: Transform = Transform()
    bounds: tuple[float, float] = (-math.inf, math.inf)
    gate: SolarGate | None = None
    factor: float = 1.0
    name: str = ""

    def __post_init__(self) -> None:
        if not self.bounds[0] <= self.bounds[1]:
            raise InputError(f"the bounds {self.bounds[0]} and {self.bounds[1]} hold no value")

    def __call__(self, x: Tensor, cos_zenith: Tensor | None, clamped: bool = True) -> Tensor:
        """Physical values of ``x [m, H, W]``; ``cos_zenith [H, W]`` for a gate."""
        x = self.transform.inverse(x)
        if clamped:
            for low, high in (self.transform.bounds, self.bounds):
                x = x if math.isinf(low) and math.isinf(high) else x.clamp(low, high)
            if self.gate is not None:
                if cos_zenith is None:
                    raise InputError("short-wave radiation needs the zenith angle: give the valid time")
                x = (x * self.gate(cos_zenith)).clamp(min=0.0)
        return x if self.factor == 1 else x * self.factor


@dataclass(frozen=True)
class WindLevel:
    """A model level with wind.

    Attributes
    ----------
    u, v : int
        Its output channels
    a, b : float
        Of its height above ground, ``a + b * elevation`` in metres, by the normalised elevation
    """

    u: int
    v: int
    a: float
    b: float


@dataclass(frozen=True)
class HubWinds:
    """Winds at heights above ground, interpolated between model levels.

    Attributes
    ----------
    heights : tuple[float, ...]
        Metres above ground
    levels : tuple[WindLevel, ...]
        At least two
    elevation : int
        Which invariant is the elevation
    interpolation : {"linear", "log"}
        In height, or in its logarithm

    Raises
    ------
    InputError
        If a height is not positive, the interpolation is unknown, or there are too few levels
    """

    heights: tuple[float, ...]
    levels: tuple[WindLevel, ...]
    elevation: int
    interpolation: str = "linear"

    def __post_init__(self) -> None:
        if not self.heights or not all(0 < height < 1e5 for height in self.heights):
            raise InputError(f"hub_heights must be positive metres above ground, got {list(self.heights)}")
        if self.interpolation not in INTERPOLATIONS:
            raise InputError(f"hub_interp {self.interpolation!r:.40} is not valid; use linear or log")
        if len(self.levels) < 2:
            raise InputError(
                f"wind_levels needs at least 2 levels to interpolate between, got {len(self.levels)}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the added variables, as ``u100m`` and ``v100m``."""
        labels = (int(h) if float(h).is_integer() else h for h in self.heights)
        return tuple(f"{component}{label}m" for label in labels for component in "uv")

    def level_heights(self, elevation: Tensor) -> Tensor:
        """Heights ``[K, H, W]`` in metres of the levels by the normalised elevation ``[H, W]``, rising.

        Raises
        ------
        InputError
            If levels cross each other
        """
        heights = torch.stack([level.a + level.b * elevation for level in self._rising()])
        if not bool((heights.diff(dim=0) >= -1e-4).all()):
            raise InputError(
                "the heights of wind_levels (a + b * elevation) are not monotonic over the domain's elevation"
            )
        low, high = float(heights[0].max()), float(heights[-1].min())
        outside = [height for height in self.heights if not low <= height <= high]
        if outside:
            logger.warning(
                "hub_heights {} m lie partly outside the model's levels, which all of the domain has from "
                "{:.0f} to {:.0f} m: there the nearest level's wind is taken",
                outside, low, high,
            )  # fmt: skip
        return heights

    def __call__(self, fields: Tensor, level_heights: Tensor) -> Tensor:
        """Winds ``[m, 2 x heights, H, W]`` of physical fields ``[m, Co, H, W]``, as ``names``."""
        levels = self._rising()
        profiles = [fields[:, [getattr(level, c) for level in levels]] for c in "uv"]
        winds = [
            at_height(profile, level_heights, height, self.interpolation)
            for height in self.heights
            for profile in profiles
        ]
        return torch.stack(winds, dim=1)

    def _rising(self) -> list[WindLevel]:
        return sorted(self.levels, key=lambda level: level.a)


def at_height(profile: Tensor, level_heights: Tensor, height: float, interpolation: str = "linear") -> Tensor:
    """Interpolate a profile to a height; below and above the levels the nearest one's value.

    Parameters
    ----------
    profile : Tensor
        ``[..., K, H, W]``
    level_heights : Tensor
        ``[K, H, W]`` in metres, rising with K
    height : float
        Metres
    interpolation : {"linear", "log"}, optional
        In height, by default, or in its logarithm, where heights below 1 m count as 1 m

    Returns
    -------
    Tensor
        ``[..., H, W]``
    """
    if interpolation == "log":
        level_heights, height = level_heights.clamp_min(1.0).log(), math.log(max(height, 1.0))
    values = profile.unbind(-3)
    wind = values[0]
    for (below, above), (low, high) in zip(pairwise(values), pairwise(level_heights), strict=True):
        share = ((height - low) / (high - low).clamp_min(1e-6)).clamp(0.0, 1.0)
        wind = wind + (above - below) * share
    return wind
