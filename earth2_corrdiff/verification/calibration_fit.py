# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The fit of a calibration: the correction of each variable with the least fair CRPS against a truth.

``moments`` is the closed form: members get the truth's line on the regression, and its variance about that
line. From there the fair CRPS is minimised. It is the score to improve, its minimum does not hang on the few
largest values as moments of rain do, and without bounds it is convex in a, b and c, as the mean distance of
two members is c times what it was: there is one minimum. Whether a correction helps is measured on blocks of
time that it was not fitted on; where it does not the variable is left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from earth2_corrdiff.base.variables import cf_attributes
from earth2_corrdiff.model.calibration_network import NetworkCorrection
from earth2_corrdiff.model.correction import Correction, corrected
from earth2_corrdiff.model.spec import CorrDiffSpec
from earth2_corrdiff.verification.bootstrap import Bootstrap, fitting_block, memory
from earth2_corrdiff.verification.pointwise import crps
from earth2_corrdiff.verification.result import Estimate

ITERATIONS = 30
FREE = (-math.inf, math.inf)
WIDTHS = (5, 16, 16, 2)
"""Inputs, hidden values and outputs of the network."""
STEPS, BATCH, RATE = 300, 2048, 0.02
"""Of its training: points of a step, and the rate of Adam, which falls to 0."""
NEVER_NEGATIVE = ("precipitation", "reflectivity", "speed", "fraction", "snow", "shortwave", "humidity")
"""In standard names of variables whose truth, where it agrees, bounds the corrected members, too."""


class Pairs(NamedTuple):
    """Members with their truth at N points of several times, float64.

    Attributes
    ----------
    truth, weight, time : Tensor
        ``[N]``: the truth, the area of the cell, the number of the time
    place : Tensor
        ``[4, 1, N]`` of ``place_of``
    mean : Tensor
        ``[1, N]`` regression, ``[M, N]`` where members have several coarse inputs
    members : Tensor
        ``[M, N]``
    """

    truth: Tensor
    weight: Tensor
    time: Tensor
    place: Tensor
    mean: Tensor
    members: Tensor

    def at(self, chosen: Tensor) -> Pairs:
        """Those of some points."""
        return Pairs(*(part[..., chosen] for part in self))

    def average(self, values: Tensor) -> Tensor:
        """Mean of values ``[..., N]`` over area and times."""
        return (values * self.weight).mean() / self.weight.mean()


def moments(pairs: Pairs) -> tuple[float, float, float]:
    """The closed form of a, b and c: the truth's line on the regression, and its deviation from it.

    With ``y = p + q r`` of the truth and ``x = p' + q' r`` of the members by least squares, the members
    become ``p + q r + c (x - p' - q' r)``.
    """
    (p, q, s), (p_x, q_x, s_x) = _line(pairs, pairs.truth), _line(pairs, pairs.members)
    c = max(s / s_x, 1e-3) if s_x > 0 else 1.0
    return p - c * p_x, q + c * (1 - q_x), c


def _line(pairs: Pairs, values: Tensor) -> tuple[float, float, float]:
    """Intercept, slope and remaining standard deviation of values on the regression."""
    y, r = values.expand_as(pairs.members), pairs.mean.expand_as(pairs.members)
    middle, center = pairs.average(y), pairs.average(r)
    variance = float(pairs.average((r - center) ** 2))
    slope = float(pairs.average((r - center) * (y - middle))) / variance if variance > 0 else 1.0
    left = y - middle - slope * (r - center)
    return float(middle - slope * center), slope, float(pairs.average(left**2).sqrt())


def fitted(pairs: Pairs, bounds: tuple[float, float] = FREE) -> Correction:
    """The correction of least fair CRPS, by L-BFGS from the closed form."""
    (a, b, c), (_, _, scale) = moments(pairs), _line(pairs, pairs.truth)
    center, scale = float(pairs.average(pairs.mean)), scale or 1.0
    width = float(pairs.average((pairs.mean - center) ** 2).sqrt()) or 1.0
    steps = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def moved() -> tuple[Tensor, Tensor, Tensor]:
        tilt = steps[1] * scale / width
        return a + steps[0] * scale - tilt * center, b + tilt, c * steps[2].exp()

    search = torch.optim.LBFGS([steps], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        error: Tensor = pairs.average(
            crps(corrected(pairs.members, pairs.mean, *moved(), bounds), pairs.truth)[0]
        )
        (error / scale).backward()  # type: ignore[no-untyped-call]
        return error.detach() / scale

    search.step(loss)  # type: ignore[no-untyped-call]
    offset, slope, spread = (float(part.detach()) for part in moved())
    return Correction(offset, slope, spread, *bounds)


def _layer(inputs: int, outputs: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random weights and zero biases."""
    weight = torch.randn(outputs, inputs, generator=draw, dtype=torch.float64)
    return weight / inputs**0.5, torch.zeros(outputs, dtype=torch.float64)


def fitted_network(pairs: Pairs, bounds: tuple[float, float] = FREE) -> NetworkCorrection:
    """The same with a network, trained on the fair CRPS of random points from the correction without one."""
    base, (_, _, scale) = fitted(pairs, bounds), _line(pairs, pairs.truth)
    known = [part.broadcast_to(pairs.mean.shape) for part in (*pairs.place[:2], pairs.mean)]
    center = tuple(float(part.mean()) for part in known)
    width = tuple(float(part.std()) or 1.0 for part in known)
    draw = torch.Generator().manual_seed(0)
    layers = [_layer(*sizes, draw) for sizes in pairwise(WIDTHS)]
    layers[-1][0].zero_()  # it begins as the correction without a network
    values = [part.requires_grad_() for layer in layers for part in layer]
    made = NetworkCorrection(
        base.offset, base.slope, base.spread, *bounds, scale or 1.0, center, width, layers
    )
    search = torch.optim.Adam(values, lr=RATE)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(search, STEPS)
    for _ in range(STEPS):
        some = pairs.at(torch.randint(len(pairs.truth), (BATCH,), generator=draw))
        search.zero_grad()
        error = some.average(crps(made(some.members, some.mean, some.place), some.truth)[0])
        (error / made.scale).backward()  # type: ignore[no-untyped-call]
        search.step()
        slower.step()
    return replace(made, layers=[(weight.tolist(), bias.tolist()) for weight, bias in layers])


def bounds_of(spec: CorrDiffSpec, name: str, truth: Tensor) -> tuple[float, float]:
    """Bounds of a variable: those of the package, and 0 of what cannot be negative by its name and truth."""
    low, high = -math.inf, math.inf
    rule = dict(zip(spec.outputs.names, spec.rules, strict=False)).get(name)
    if rule is not None:
        own, given = rule.transform.bounds, rule.bounds
        low, high = rule.factor * max(own[0], given[0]), rule.factor * min(own[1], given[1])
        low = max(low, 0.0) if rule.gate is not None else low
    standard = cf_attributes(name).get("standard_name", "")
    if any(word in standard for word in NEVER_NEGATIVE) and float(truth.min()) >= 0:
        low = max(low, 0.0)
    return low, high


@dataclass(frozen=True)
class HeldOut:
    """CRPS on times that a correction was not fitted on, in the variable's units.

    Attributes
    ----------
    before, after : float
        Without it, and with it
    change : Estimate
        Of ``after / before - 1``, with its 95 % interval; NaN of too few times
    """

    before: float
    after: float
    change: Estimate

    @property
    def better(self) -> bool:
        """True if the score improves, by its interval where there is one."""
        return bool(self.change.value < 0) and not bool(self.change.high >= 0)

    @classmethod
    def of(cls, pairs: Pairs, folds: int, fit: Callable[[Pairs], Correction]) -> HeldOut:
        """Cross-validation of a fit by ``folds`` blocks of neighbouring times."""
        times, numbers = torch.unique(pairs.time, return_inverse=True)
        block = torch.tensor(np.arange(len(times)) * folds // len(times))[numbers]
        before, after = crps(pairs.members, pairs.truth)[0], torch.empty_like(pairs.truth)
        for fold in range(folds):
            train, test = pairs.at(block != fold), pairs.at(block == fold)
            members = fit(train)(test.members, test.mean, test.place)
            after[block == fold] = crps(members, test.truth)[0]
        sums = torch.zeros(2, len(times), dtype=torch.float64)
        sums.index_add_(1, numbers, torch.stack([before, after]) * pairs.weight)
        old, new = sums.numpy()
        draws = Bootstrap(block=fitting_block(len(times), memory(new - old)))

        def change(weights: Any) -> Any:
            with np.errstate(invalid="ignore", divide="ignore"):
                return (weights @ new) / (weights @ old) - 1

        value, (low, high) = change(np.ones((1, len(times))))[0], draws.interval(change, len(times))
        first, then = (float(pairs.average(values)) for values in (before, after))
        return cls(first, then, Estimate(value, low, high))
