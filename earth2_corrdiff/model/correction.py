# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Corrections of the mean and the spread of members, learnt from past runs and their truth.

A member x is corrected about the regression r of its case, ``x' = a + b r + c (x - r)``. This needs no other
member, so batches, tasks and resumed runs give the same fields, and a, b and c do not depend on the number of
members, as those about the mean of a finite ensemble do. With c > 0 members keep their order at each point.

Source: Van Schaeybroeck and Vannitsem 2015, doi 10.1002/qj.2397, there about the ensemble's mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from earth2_corrdiff.base.errors import InputError

STEEPEST = 2.0
"""Most that a distance to a bound grows, over the larger one of b and c."""


@dataclass(frozen=True)
class Correction:
    """The correction of a variable, by default none.

    Attributes
    ----------
    offset, slope, spread : float
        a in the variable's units, b, and c, which is positive
    low, high : float
        Bounds of the variable. Near one a distance to it grows at most by ``STEEPEST`` times the larger one
        of b and c, so that what is dry stays dry and nothing jumps
    """

    offset: float = 0.0
    slope: float = 1.0
    spread: float = 1.0
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        numbers = (self.offset, self.slope, self.spread)
        if not (all(map(math.isfinite, numbers)) and self.spread > 0 and self.low < self.high):
            raise InputError(f"offset, slope and spread {numbers} are not a valid correction; fit it again")

    def __call__(self, members: Tensor, mean: Tensor, place: Tensor | None = None) -> Tensor:
        """Corrected members ``[m, ...]`` about the regression, ``[1, ...]`` or ``[m, ...]``."""
        if (self.offset, self.slope, self.spread) == (0.0, 1.0, 1.0):
            return members
        return corrected(members, mean, self.offset, self.slope, self.spread, (self.low, self.high))


def corrected(
    x: Tensor, r: Tensor, a: Any, b: Any, c: Any, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> Tensor:
    """``a + b r + c (x - r)`` inside bounds; a, b and c are numbers, or tensors for a gradient."""
    new: Tensor = a + b * r + c * (x - r)
    steepest = STEEPEST * torch.maximum(torch.as_tensor(b), torch.as_tensor(c)).detach()
    low, high = bounds
    if math.isfinite(low):
        new = torch.minimum(new, low + steepest * (x - low)).clamp(min=low)
    if math.isfinite(high):
        new = torch.maximum(new, high - steepest * (high - x)).clamp(max=high)
    return new
