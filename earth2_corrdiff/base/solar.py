# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Position of the sun: the cosine of its zenith angle by time and place."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_NOON_2000 = np.datetime64("2000-01-01T12:00", "ns")
_CENTURY = 36525.0  # days


def cos_zenith(time: np.datetime64, lat: Tensor, lon: Tensor) -> Tensor:
    """Cosine of the sun's zenith angle, negative at night.

    Parameters
    ----------
    time : np.datetime64
        UTC
    lat, lon : Tensor
        Degrees, float64, of one shape

    Returns
    -------
    Tensor
        Of that shape, float32

    Source: Meeus, Astronomical Algorithms, 2nd edition, chapters 12, 13, 22 and 25.
    """
    centuries = float((time - _NOON_2000) / np.timedelta64(1, "D")) / _CENTURY
    ascension, declination = _sun(centuries)
    hour_angle = torch.deg2rad(lon) + (_sidereal(centuries) - ascension)
    north = torch.deg2rad(lat)
    high = math.sin(declination) * north.sin()
    return (high + math.cos(declination) * north.cos() * hour_angle.cos()).to(torch.float32)


def _sidereal(T: float) -> float:  # noqa: N803 (Julian centuries since 2000, as in the literature)
    """Mean sidereal time of Greenwich, radians."""
    seconds = 67310.54841 + T * (876600 * 3600 + 8640184.812866 + T * (0.093104 - T * 6.2e-6))
    return math.radians(seconds / 240) % (2 * math.pi)


def _sun(T: float) -> tuple[float, float]:  # noqa: N803
    """Right ascension and declination of the sun, radians."""
    anomaly = math.radians(357.52910 + T * (35999.05030 - T * (0.0001559 + T * 4.8e-7)))
    center = (1.914600 - T * (0.004817 + T * 1.4e-5)) * math.sin(anomaly)
    center += (0.019993 - 0.000101 * T) * math.sin(2 * anomaly) + 0.000290 * math.sin(3 * anomaly)
    longitude = math.radians(280.46645 + T * (36000.76983 + T * 0.0003032) + center)
    tilt = math.radians(23.4392794 - 0.0130102 * T)  # of the ecliptic
    east = math.cos(tilt) * math.sin(longitude)
    return math.atan2(east, math.cos(longitude)), math.asin(math.sin(tilt) * math.sin(longitude))
