# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Fractions skill score: it compares the share of an event in windows of forecast and truth.

Roberts and Lean 2008; for ensembles Necker et al. 2024 (doi 10.1002/qj.4824), as Earth2Studio's ``fss``.
That one holds all members at once, has round windows and cannot treat gaps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Statistics = dict[str, Tensor]


def integral(field: Tensor) -> Tensor:
    """Sums over all rectangles from the first corner: ``[..., H, W] → [..., H + 1, W + 1]``."""
    return torch.nn.functional.pad(field, (1, 0, 1, 0)).cumsum(-1).cumsum(-2)


def window_sums(total: Tensor, n: int) -> Tensor:
    """Sums over all windows of n x n cells, from the integral: ``[..., H - n + 1, W - n + 1]``."""
    return total[..., n:, n:] - total[..., :-n, n:] - total[..., n:, :-n] + total[..., :-n, :-n]


def odd_windows(scales: Sequence[float], spacing: float, shape: tuple[int, int]) -> list[int]:
    """Odd numbers of cells nearest to scales in km, each once, up to half the shorter side."""
    cells = sorted({1 + 2 * max(round((scale / spacing - 1) / 2), 0) for scale in scales})
    return [n for n in cells if n <= max(min(shape) // 2, 1)]


class Fractions:
    """Fractions of one case, to which members are added one by one.

    Events are values at or above a threshold. Windows lie inside the domain, are weighted by the area at
    their middle, and count if the truth is known in half of their cells or more.

    Parameters
    ----------
    truth : Tensor
        ``[H, W]`` float64, finite
    weights : Tensor
        ``[H, W]`` area of the cells, 0 where the truth is unknown
    thresholds : Sequence[float]
        K of them, in the field's units
    windows : Sequence[int]
        S odd numbers of cells, up to the shorter side
    """

    def __init__(
        self, truth: Tensor, weights: Tensor, thresholds: Sequence[float], windows: Sequence[int]
    ) -> None:
        self.windows = tuple(windows)
        self.thresholds = torch.tensor(thresholds, dtype=truth.dtype)[:, None, None]
        self.known, self.weights = (weights > 0).to(truth.dtype), weights
        total = integral(self.known)
        self.counts = [window_sums(total, n) for n in self.windows]
        self.middles = [self._middles(n, count) for n, count in zip(self.windows, self.counts, strict=True)]
        events = self._events(truth)
        self.observed = self._fractions(events)
        self.frequency = self._mean(events, weights)
        self.probability = torch.zeros_like(events)
        self.members = 0
        self.sums = torch.zeros(2, len(thresholds), len(self.windows), dtype=truth.dtype)

    def _events(self, field: Tensor) -> Tensor:
        return (field >= self.thresholds).to(self.known.dtype) * self.known

    def _middles(self, n: int, count: Tensor) -> Tensor:
        """Weight of each window: the area at its middle, 0 if less than half of the truth is known in it."""
        r, (H, W) = n // 2, self.weights.shape
        return self.weights[r : H - r, r : W - r] * (count >= 0.5 * n * n)

    def _fractions(self, events: Tensor) -> list[Tensor]:
        """Fractions ``[K, h, w]`` in the windows of each size."""
        total = integral(events)
        sums = (window_sums(total, n) for n in self.windows)
        return [few / count.clamp(min=1) for few, count in zip(sums, self.counts, strict=True)]

    @staticmethod
    def _mean(fields: Tensor, weights: Tensor) -> Tensor:
        """Weighted mean ``[K, h, w] → [K]``; NaN without any weight."""
        return (fields * weights).sum((-2, -1)) / weights.sum()

    def _scores(self, events: Tensor) -> Tensor:
        """Fractions Brier score and its reference ``[2, K, S]`` of probabilities ``[K, H, W]``."""
        columns = []
        for fractions, observed, weights in zip(
            self._fractions(events), self.observed, self.middles, strict=True
        ):
            worst = fractions.square() + observed.square()
            brier = (fractions - observed).square()
            columns.append(torch.stack([self._mean(brier, weights), self._mean(worst, weights)]))
        return torch.stack(columns, dim=-1)

    def add(self, member: Tensor) -> None:
        """Add a member ``[H, W]``."""
        events = self._events(member)
        self.probability += events
        self.sums += self._scores(events)
        self.members += 1

    def statistics(self) -> Statistics:
        """Statistics of the score, ``[K, S]`` each, and frequencies of events, ``[K]``.

        Averaged over times they give ``1 - fbs / fbs_worst`` of the ensemble's probabilities, and with
        ``member_`` in front that of its members alone.
        """
        mean = self.probability / self.members
        fbs, worst = self._scores(mean)
        member_fbs, member_worst = self.sums / self.members
        return {
            "fbs": fbs,
            "fbs_worst": worst,
            "member_fbs": member_fbs,
            "member_fbs_worst": member_worst,
            "frequency": self._mean(mean, self.weights),
            "frequency_truth": self.frequency,
        }
