# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Conditioning channels: inputs, invariants, and features that are computed from valid time and place."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.solar import cos_zenith
from earth2_corrdiff.base.times import Times
from earth2_corrdiff.model.transforms import Transform

HOUR = np.timedelta64(1, "h")
_YEAR = 8766.0  # hours
PLACES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sin_lat": lambda lat, lon: torch.deg2rad(lat).sin(),
    "cos_lat": lambda lat, lon: torch.deg2rad(lat).cos(),
    "sin_lon": lambda lat, lon: torch.deg2rad(lon).sin(),
    "cos_lon": lambda lat, lon: torch.deg2rad(lon).cos(),
}
"""Features of a place, from its latitude and longitude in degrees."""
SUN: dict[str, tuple[int, ...]] = {"cos_zenith": (0,), "cos_zenith_hour": (-1, 0)}
"""Cosine of the sun's zenith angle: the largest at these hours, relative to the valid time."""


def _hours(since: str) -> Callable[[np.datetime64], float]:
    """Hours since the day or the year of a time began."""
    return lambda time: float((time - time.astype(f"datetime64[{since}]")) / HOUR)


_of_day, _of_year = _hours("D"), _hours("Y")
TIMES: dict[str, Callable[[np.datetime64], float]] = {
    "hour": lambda time: math.floor(_of_day(time)),
    "sin_hour": lambda time: math.sin(2 * math.pi * _of_day(time) / 24),
    "cos_hour": lambda time: math.cos(2 * math.pi * _of_day(time) / 24),
    "sin_year": lambda time: math.sin(2 * math.pi * _of_year(time) / _YEAR),
    "cos_year": lambda time: math.cos(2 * math.pi * _of_year(time) / _YEAR),
    "one": lambda time: 1.0,
}
"""Features of a valid time, UTC: whole hour of the day, phases of the day and of the year, a constant."""
TIMELESS = ("one", *PLACES)
"""Features that need no valid time."""


@dataclass(frozen=True)
class Channel:
    """One conditioning channel of the networks.

    Attributes
    ----------
    kind : {"input", "invariant", "feature"}
        A coarse variable, a field of the package, or a feature of ``PLACES``, ``SUN`` or ``TIMES``
    name : str
        Of the variable, field or feature
    center, scale : float
        Normalisation of a feature; variables and fields have those of the package
    hours : float
        Of an input: which of the package's ``input_hours``
    transform : Transform
        Of an input, once it is regridded; its normalisation is that of transformed values

    Raises
    ------
    InputError
        If there is no such kind or feature, or a number is not valid
    """

    kind: str
    name: str
    center: float = 0.0
    scale: float = 1.0
    hours: float = 0.0
    transform: Transform = Transform()

    def __post_init__(self) -> None:
        if self.kind not in ("input", "invariant", "feature"):
            raise InputError(f"{self.kind!r:.80} is not a kind of channel; use input, invariant or feature")
        known = (*PLACES, *SUN, *TIMES)
        if self.kind == "feature" and self.name not in known:
            raise InputError(f"{self.name!r:.80} is not a valid feature; use one of {', '.join(known)}")
        finite = math.isfinite(self.center) and np.finfo(np.float32).tiny <= self.scale < math.inf
        if not finite or (self.kind != "feature" and (self.center, self.scale) != (0.0, 1.0)):
            raise InputError(
                f"the channel {self.name} needs a finite center and a positive scale, and only a feature "
                f"has its own; got {self.center} and {self.scale}"
            )
        if self.kind != "input" and (self.hours != 0 or self.transform != Transform()):
            raise InputError(f"the channel {self.name} is no input and has neither hours nor a transform")

    @property
    def needs_time(self) -> bool:
        """True if it is computed from the valid time."""
        return self.kind == "feature" and self.name not in TIMELESS


def check_vector(names: tuple[str, ...]) -> None:
    """Refuse scalar conditions that are not known."""
    wrong = [name for name in names if name not in TIMES]
    if wrong:
        raise InputError(f"{wrong[0]!r:.80} is not a valid scalar condition; use one of {', '.join(TIMES)}")


def vector(names: tuple[str, ...], valid: Times, device: torch.device) -> Tensor:
    """Scalar conditions ``[B, K]`` float32 of valid times ``[B]``."""
    rows = [[TIMES[name](time) for name in names] for time in valid]
    return torch.tensor(rows, dtype=torch.float32, device=device)


def feature(name: str, valid: Times, lat: Tensor, lon: Tensor) -> Tensor:
    """A feature ``[B, 1, H, W]`` float32 of valid times ``[B]`` on a grid ``[H, W]`` in degrees, float64."""
    if name in PLACES:
        field = PLACES[name](lat, lon).to(torch.float32)
        return field.expand(len(valid), 1, *lat.shape)
    if name in TIMES:
        return vector((name,), valid, lat.device)[:, :, None, None].expand(-1, -1, *lat.shape)
    return torch.stack([sun(name, time, lat, lon) for time in valid])[:, None]


def sun(name: str, time: np.datetime64, lat: Tensor, lon: Tensor) -> Tensor:
    """One of ``SUN`` at a time ``[H, W]`` float32."""
    fields = [cos_zenith(time + hours * HOUR, lat, lon) for hours in SUN[name]]
    return fields[0] if len(fields) == 1 else torch.maximum(*fields)
