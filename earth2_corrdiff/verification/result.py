# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Statistics of all times, and the scores with their intervals that are made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from earth2_corrdiff.base.times import Times
from earth2_corrdiff.verification.bootstrap import Bootstrap, memory
from earth2_corrdiff.verification.case_statistics import Domain
from earth2_corrdiff.verification.distribution import Histogram
from earth2_corrdiff.verification.scores import (
    NEEDS_MEMBERS,
    NEEDS_THRESHOLDS,
    SCORES,
    WITHOUT_INTERVAL,
    octaves,
)
from earth2_corrdiff.verification.targets import Target

Array = NDArray[np.float64]
PAIRED = ("difference", "gain")


@dataclass
class Series:
    """Statistics of one forecast of one quantity: a row for each time, and one histogram of all.

    Attributes
    ----------
    size : int
        Members of the forecast
    rows : list
        Statistics of each time, None where the truth is not known at all
    histogram : Histogram
        Of all values
    """

    size: int
    rows: list[dict[str, Array] | None] = field(default_factory=list)
    histogram: Histogram = field(default_factory=Histogram)

    @property
    def names(self) -> list[str]:
        """Of the statistics."""
        return list(next(row for row in self.rows if row is not None))

    def column(self, name: str) -> Array:
        """One statistic at all times, ``[T, ...]``; NaN where there is none."""
        known = next(row for row in self.rows if row is not None)
        empty = np.full(np.shape(known[name]), np.nan)
        return np.stack([empty if row is None else row[name] for row in self.rows])


class TimeMeans(Mapping[str, Array]):
    """Means over times by area, each time as often as ``counts [B, T]`` say: ``[B, ...]``, when asked for.

    A statistic that is NaN at a time is left out of its mean there.
    """

    def __init__(self, series: Series, counts: Array) -> None:
        self.series = series
        self.weights = counts * np.nan_to_num(series.column("weight"))

    def __getitem__(self, name: str) -> Array:
        return _weighted_mean(self.series.column(name), self.weights)

    def __iter__(self) -> Iterator[str]:
        return iter(self.series.names)

    def __len__(self) -> int:
        return len(self.series.names)


def _weighted_mean(values: Array, weights: Array) -> Array:
    """``[T, ...]`` with ``[B, T]`` → ``[B, ...]``; NaN where no finite value has a weight."""
    flat = values.reshape(len(values), -1)
    finite = np.isfinite(flat)
    total, weight = weights @ np.where(finite, flat, 0.0), weights @ finite
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(weight > 0, total / weight, np.nan)
    return mean.reshape(len(weights), *values.shape[1:])


@dataclass(frozen=True)
class Estimate:
    """A score with the limits of its interval, arrays of one shape; limits are NaN where there are none."""

    value: Array
    low: Array
    high: Array

    @property
    def has_interval(self) -> bool:
        """Whether there are limits anywhere."""
        return bool(np.isfinite(self.low).any())


@dataclass(frozen=True)
class Result:
    """What a verification found.

    Attributes
    ----------
    domain : Domain
        The grid
    times : np.ndarray
        ``[T]`` that were verified, in order
    targets : list[Target]
        Quantities
    forecasts : list[str]
        Names; the first is what is verified, the others are what it is compared with
    series : dict
        By forecast and quantity; a baseline may lack some
    truth_values : dict[str, Histogram]
        The truth's values by quantity
    bootstrap : Bootstrap
        How intervals are made
    truth : str
        Its name
    about : dict[str, str]
        What else to say of it: provenance of what was verified
    notes : list[str]
        Sentences that a reader needs: what was left out, what is synthetic
    coarse_km : float | None
        Distance of neighbours on the coarse grid; None where it is not known
    starts : np.ndarray | None
        ``[T]``: number of the start that each of the times is forecast from; None for analyses
    by_lead : dict[np.timedelta64, Result]
        Of each lead time alone, where there are several
    """

    domain: Domain
    times: Times
    targets: Sequence[Target]
    forecasts: Sequence[str]
    series: dict[tuple[str, str], Series]
    truth_values: dict[str, Histogram]
    bootstrap: Bootstrap
    truth: str
    about: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    coarse_km: float | None = None
    starts: NDArray[np.intp] | None = None
    by_lead: dict[np.timedelta64, Result] = field(default_factory=dict)

    @property
    def draws(self) -> int:
        """What the bootstrap draws: times, of forecasts starts with all their lead times."""
        return len(self.times) if self.starts is None else int(self.starts.max()) + 1

    @property
    def members(self) -> int:
        """Of the forecast that is verified."""
        return max(series.size for (name, _), series in self.series.items() if name == self.forecasts[0])

    @property
    def octaves(self) -> Array:
        """Shortest wavelength in km in each octave of the spectra."""
        waves = self.domain.rings.wavelength
        return np.array([waves[band.stop - 1] for band in octaves(len(waves))])

    def has(self, score: str, forecast: str, target: Target) -> bool:
        """Whether a score is defined for a forecast of a quantity."""
        series = self.series.get((forecast, target.name))
        if series is None or (score in NEEDS_MEMBERS and series.size < 2):
            return False
        return bool(target.thresholds) or score not in NEEDS_THRESHOLDS

    def score(self, score: str, forecast: str, target: Target) -> Estimate:
        """A score of ``SCORES``, with its interval if it can have one; ``KeyError`` where `has` says no."""
        if not self.has(score, forecast, target):
            raise KeyError(f"no {score} of {forecast} for {target.name}")
        estimate = self._of(score, forecast, target)
        return self._estimate(estimate, Bootstrap(0) if score in WITHOUT_INTERVAL else self.bootstrap)

    def gain(self, score: str, forecast: str, baseline: str, target: Target) -> Estimate:
        """By which share a score is below that of a baseline, of the same times drawn: 1 is perfect."""
        mine, theirs = (self._of(score, name, target) for name in (forecast, baseline))

        def gain(counts: Array) -> Array:
            return 1 - mine(counts) / theirs(counts)

        return self._estimate(gain)

    def difference(self, score: str, forecast: str, baseline: str, target: Target) -> Estimate:
        """A score minus that of a baseline, of the same times drawn: paired, in the quantity's units."""
        mine, theirs = (self._of(score, name, target) for name in (forecast, baseline))
        return self._estimate(lambda counts: mine(counts) - theirs(counts))

    def paired(self, how: str) -> Iterator[tuple[Target, str, Estimate]]:
        """Quantity, baseline and paired estimate of the CRPS of what is verified: one of ``PAIRED``."""
        first = self.forecasts[0]
        for target, baseline in product(self.targets, self.forecasts[1:]):
            if (baseline, target.name) in self.series:
                make = self.difference if how == "difference" else self.gain
                yield target, baseline, make("crps", first, baseline, target)

    def memory(self) -> tuple[float, str]:
        """Largest autocorrelation of neighbouring times' CRPS of what is verified, and of which quantity.

        NaN and no name where there are too few times to tell.
        """
        series = {
            t.name: self._by_draw(self.series[self.forecasts[0], t.name].column("crps")) for t in self.targets
        }
        found = {name: memory(column) for name, column in series.items()}
        known = {name: value for name, value in found.items() if value == value}
        return max(((value, name) for name, value in known.items()), default=(float("nan"), ""))

    def _by_draw(self, column: Array) -> Array:
        """Means ``[D]`` over the times that are drawn together, of ``[T]``."""
        if self.starts is None:
            return column
        with np.errstate(invalid="ignore"):
            known = np.isfinite(column)
            total = np.bincount(self.starts[known], column[known], minlength=self.draws)
            return np.asarray(total / np.bincount(self.starts[known], minlength=self.draws))

    def _of(self, score: str, forecast: str, target: Target) -> Callable[[Array], Array]:
        series = self.series[forecast, target.name]
        return lambda counts: SCORES[score].of(TimeMeans(series, counts), series.size)

    def _estimate(self, estimate: Callable[[Array], Array], how: Bootstrap | None = None) -> Estimate:
        T, starts = len(self.times), self.starts
        drawn = estimate if starts is None else lambda counts: estimate(counts[:, starts])
        low, high = (how or self.bootstrap).interval(drawn, self.draws)
        return Estimate(estimate(np.ones((1, T)))[0], low, high)


def joined(by_lead: Mapping[np.timedelta64, Result]) -> Result:
    """The result of all lead times together, which holds those of each: starts are drawn, not times.

    Parameters
    ----------
    by_lead : Mapping[np.timedelta64, Result]
        Of the same forecasts, on the same grid
    """
    parts = list(by_lead.values())
    first = parts[0]
    begun = np.concatenate([part.times - lead for lead, part in by_lead.items()])
    names = {t.name: t for part in parts for t in part.targets}
    keys = dict.fromkeys(key for part in parts for key in part.series)
    return replace(
        first,
        times=np.concatenate([part.times for part in parts]),
        targets=list(names.values()),
        series={key: _joined([(part.series.get(key), len(part.times)) for part in parts]) for key in keys},
        truth_values={name: _merged([part.truth_values[name] for part in parts]) for name in names},
        notes=list(dict.fromkeys(note for part in parts for note in part.notes)),
        starts=np.unique(begun, return_inverse=True)[1],
        by_lead=dict(by_lead),
    )


def _joined(parts: Sequence[tuple[Series | None, int]]) -> Series:
    """One series after the other; where there is none, so many times without statistics."""
    known = [series for series, _ in parts if series is not None]
    rows = [row for series, T in parts for row in (series.rows if series is not None else [None] * T)]
    return Series(known[0].size, rows, _merged([series.histogram for series in known]))


def _merged(histograms: Sequence[Histogram]) -> Histogram:
    whole = Histogram()
    for histogram in histograms:
        whole.merge(histogram)
    return whole
