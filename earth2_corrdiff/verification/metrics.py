# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What ``earth2studio.statistics`` lacks, as its metrics: ``(x, x_coords, y, y_coords) → (tensor, coords)``.

Its ``mae``, ``rmse``, ``mean``, ``variance`` do the rest. Its ``crps`` and ``rank_histogram`` need
PhysicsNeMo, and draw ties; its ``spread_skill_ratio`` does not correct for the number of members; its ``fss``
has round windows. ``RadialSpectrum``, a ``Statistic``, is in :mod:`earth2_corrdiff.verification.spectrum`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from earth2_corrdiff.errors import InputError
from earth2_corrdiff.verification.fractions import Fractions
from earth2_corrdiff.verification.pointwise import crps, rank_weights

if TYPE_CHECKING:
    from earth2studio.utils.type import CoordSystem


class EnsembleMetric:
    """Base of metrics that compare an ensemble with a truth and average over dimensions.

    Parameters
    ----------
    ensemble_dimension : str
        Of the members; the truth does not have it
    reduction_dimensions : list[str]
        To average over
    weights : Tensor | None, optional
        With these dimensions, in this order; by default all the same

    Raises
    ------
    InputError
        When called with coordinates that do not fit together
    """

    def __init__(
        self, ensemble_dimension: str, reduction_dimensions: list[str], weights: Tensor | None = None
    ) -> None:
        from earth2studio import statistics

        self.ensemble_dimension, self.weights = ensemble_dimension, weights
        self._reduced = list(reduction_dimensions)
        self._mean = statistics.mean(self._reduced)

    def __str__(self) -> str:
        return "_".join([*self._reduced, type(self).__name__])

    @property
    def reduction_dimensions(self) -> list[str]:
        """The dimension of the members, and those that are averaged over."""
        return [self.ensemble_dimension, *self._reduced]

    def output_coords(self, input_coords: CoordSystem) -> CoordSystem:
        """The dimensions that are left."""
        from earth2studio.utils import handshake_dim

        for dimension in self.reduction_dimensions:
            handshake_dim(input_coords, dimension)
        return OrderedDict((k, v) for k, v in input_coords.items() if k not in self.reduction_dimensions)

    def _average(self, field: Tensor, x_coords: CoordSystem) -> tuple[Tensor, CoordSystem]:
        """Mean of a field that has the dimensions of the forecast but its members."""
        names = [name for name in x_coords if name != self.ensemble_dimension]
        # numbers in place of the coordinates: 2-D latitudes have no length that upstream could use
        numbers = OrderedDict((name, np.arange(n)) for name, n in zip(names, field.shape, strict=True))
        weights = self._weights(names, field)
        total, _ = self._mean(field * weights, numbers)
        return total / weights.mean(), EnsembleMetric.output_coords(self, x_coords)

    def _weights(self, names: list[str], field: Tensor) -> Tensor:
        """The weights along their dimensions of a field. Upstream's own need an indexing PyTorch gives up."""
        if self.weights is None:
            return torch.ones_like(field)
        order = sorted(range(len(self._reduced)), key=lambda i: names.index(self._reduced[i]))
        shape = [n if name in self._reduced else 1 for name, n in zip(names, field.shape, strict=True)]
        return self.weights.permute(order).reshape(shape).expand_as(field)

    def _members_first(self, x: Tensor, x_coords: CoordSystem, y: Tensor, y_coords: CoordSystem) -> Tensor:
        """Members along the first dimension, the others those of the truth."""
        from earth2studio.utils import handshake_coords

        if self.ensemble_dimension in y_coords or self.ensemble_dimension not in x_coords:
            raise InputError(f"the forecast must have the dimension {self.ensemble_dimension}, the truth not")
        others = [name for name in x_coords if name != self.ensemble_dimension]
        if others != list(y_coords) or x.ndim != y.ndim + 1:
            raise InputError(f"the truth has the dimensions {list(y_coords)}, the forecast {list(x_coords)}")
        for name in others:
            handshake_coords(y_coords, x_coords, name)
        return x.movedim(list(x_coords).index(self.ensemble_dimension), 0)


class FairCRPS(EnsembleMetric):
    """Fair continuous ranked probability score (Ferro 2014); of one member its absolute error."""

    def __call__(
        self, x: Tensor, x_coords: CoordSystem, y: Tensor, y_coords: CoordSystem
    ) -> tuple[Tensor, CoordSystem]:
        """Score of the forecast ``x`` against the truth ``y``."""
        fair, _ = crps(self._members_first(x, x_coords, y, y_coords), y)
        return self._average(fair, x_coords)


class SpreadSkillRatio(EnsembleMetric):
    """Spread over error of the ensemble mean with the factor (M + 1) / M on the variance: 1 if reliable.

    Source: Fortin et al. 2014, doi 10.1175/JHM-D-14-0008.1.
    """

    def __call__(
        self, x: Tensor, x_coords: CoordSystem, y: Tensor, y_coords: CoordSystem
    ) -> tuple[Tensor, CoordSystem]:
        """Ratio for the forecast ``x`` and the truth ``y``; NaN for one member."""
        members = self._members_first(x, x_coords, y, y_coords)
        variance, coords = self._average(members.var(0), x_coords)
        error, _ = self._average((members.mean(0) - y).square(), x_coords)
        M = len(members)
        return torch.sqrt((M + 1) / M * variance / error), coords


class RankHistogram(EnsembleMetric):
    """How often the truth has each rank among the members, ties shared out; last dimension ``rank``.

    1 / (M + 1) in each of the M + 1 ranks if the ensemble is reliable (Hamill 2001).
    """

    def output_coords(self, input_coords: CoordSystem) -> CoordSystem:
        """The dimensions that are left, and ``rank``."""
        ranks = np.arange(len(input_coords[self.ensemble_dimension]) + 1)
        return OrderedDict(super().output_coords(input_coords), rank=ranks)

    def __call__(
        self, x: Tensor, x_coords: CoordSystem, y: Tensor, y_coords: CoordSystem
    ) -> tuple[Tensor, CoordSystem]:
        """Histogram of the truth ``y`` among the members ``x``."""
        members = self._members_first(x, x_coords, y, y_coords)
        coords = self.output_coords(x_coords)
        order = [list(y_coords).index(name) for name in self._reduced]
        last = list(range(-len(order), 0))
        truth, members = y.movedim(order, last), members.movedim([i + 1 for i in order], last)
        kept = truth.shape[: truth.ndim - len(order)]
        weights = torch.ones(truth.shape[len(kept) :]) if self.weights is None else self.weights
        weights = (weights / weights.sum()).to(torch.float64)
        flat = members.reshape(len(members), -1, weights.numel()).unbind(1)
        truths = truth.reshape(-1, weights.numel())
        rows = [rank_weights(m, t, weights.flatten()) for m, t in zip(flat, truths, strict=True)]
        return torch.stack(rows).reshape(*kept, -1), coords


class FractionsSkillScore(EnsembleMetric):
    """Fractions skill score of the ensemble's probabilities; last dimensions ``threshold`` and ``window``.

    Parameters
    ----------
    ensemble_dimension : str
        Of the members
    spatial_dimensions : list[str]
        The two that windows extend over, all that is averaged over
    thresholds, windows : Sequence
        Events are values at or above a threshold; windows are odd numbers of cells
    weights : Tensor | None, optional
        ``[H, W]`` area of the cells

    Source: Roberts and Lean 2008; Necker et al. 2024.
    """

    def __init__(
        self,
        ensemble_dimension: str,
        spatial_dimensions: list[str],
        thresholds: Sequence[float],
        windows: Sequence[int],
        weights: Tensor | None = None,
    ) -> None:
        super().__init__(ensemble_dimension, spatial_dimensions, weights)
        self.thresholds, self.windows = list(thresholds), list(windows)

    def output_coords(self, input_coords: CoordSystem) -> CoordSystem:
        """The dimensions that are left, ``threshold`` and ``window``."""
        own = {"threshold": np.array(self.thresholds), "window": np.array(self.windows)}
        return OrderedDict(super().output_coords(input_coords), **own)

    def __call__(
        self, x: Tensor, x_coords: CoordSystem, y: Tensor, y_coords: CoordSystem
    ) -> tuple[Tensor, CoordSystem]:
        """Score of the members ``x`` against the truth ``y``; NaN where an event is in neither."""
        members = self._members_first(x, x_coords, y, y_coords)
        order = [list(y_coords).index(name) for name in self._reduced]
        truths = y.movedim(order, (-2, -1)).to(torch.float64)
        members = members.movedim([i + 1 for i in order], (-2, -1)).to(torch.float64)
        kept, shape = truths.shape[:-2], truths.shape[-2:]
        weights = torch.ones(shape, dtype=torch.float64) if self.weights is None else self.weights
        states = zip(
            members.reshape(len(members), -1, *shape).unbind(1), truths.reshape(-1, *shape), strict=True
        )
        scores = [self._score(few, truth, weights) for few, truth in states]
        return torch.stack(scores).reshape(*kept, *scores[0].shape), self.output_coords(x_coords)

    def _score(self, members: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
        fractions = Fractions(truth, weights, self.thresholds, self.windows)
        for member in members:
            fractions.add(member)
        found = fractions.statistics()
        return 1 - found["fbs"] / found["fbs_worst"]
