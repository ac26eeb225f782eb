# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Result of a verification: statistics of all times, and scores with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from earth2_corrdiff.base.times import Times
from earth2_corrdiff.verification.bootstrap import Bootstrap, memory
from earth2_corrdiff.verification.case_statistics import Domain
from earth2_corrdiff.verification.distribution import Histogram
from earth2_corrdiff.verification.scores import NEEDS_MEMBERS, SCORES, WITHOUT_INTERVAL, Score, octaves
from earth2_corrdiff.verification.targets import Target

Array = NDArray[np.float64]
PAIRED: dict[str, Callable[[Array, Array], Array]] = {
    "difference": lambda mine, theirs: mine - theirs,
    "gain": lambda mine, theirs: 1 - mine / theirs,
}
"""Comparisons of a score with that of a baseline."""


@dataclass
class Series:
    """Statistics of one forecast of one quantity: a row for each time, and one histogram of all.

    Attributes
    ----------
    size : int
        Number of members of the forecast
    rows : list
        Statistics of each time, None if the truth is unknown
    histogram : Histogram
        Histogram of all values
    """

    size: int
    rows: list[dict[str, Array] | None] = field(default_factory=list)
    histogram: Histogram = field(default_factory=Histogram)

    def column(self, name: str) -> Array:
        """One statistic at all times, ``[T, ...]``; NaN where it is missing."""
        known = next(row for row in self.rows if row is not None)
        empty = np.full(np.shape(known[name]), np.nan)
        return np.stack([empty if row is None else row[name] for row in self.rows])


class TimeMeans:
    """Means ``[B, ...]`` of statistics over times, weighted by known area and by ``counts [B, T]``.

    Each is computed when it is read; times at which it is NaN do not count.
    """

    def __init__(self, series: Series, counts: Array) -> None:
        self.series = series
        self.weights = counts * np.nan_to_num(series.column("weight"))

    def __getitem__(self, name: str) -> Array:
        return _weighted_mean(self.series.column(name), self.weights)


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
    """A score with the limits of its interval, arrays of one shape; limits are NaN without an interval."""

    value: Array
    low: Array
    high: Array

    @property
    def has_interval(self) -> bool:
        """True if any of the limits is finite."""
        return bool(np.isfinite(self.low).any())


@dataclass(frozen=True)
class Result:
    """Result of a verification.

    Attributes
    ----------
    domain : Domain
        The grid
    times : np.ndarray
        ``[T]`` verified times, in order
    targets : list[Target]
        Quantities
    forecasts : list[str]
        Names: the first is verified, the others are baselines
    series : dict
        By forecast and quantity; a baseline may lack some
    truth_values : dict[str, Histogram]
        The truth's values by quantity
    bootstrap : Bootstrap
        Settings of the intervals
    truth : str
        Name of the truth
    about : dict[str, str]
        Provenance of the store
    notes : list[str]
        Sentences for readers: times left out, synthetic data
    coarse_km : float | None
        Distance of neighbours on the coarse grid; None if unknown
    starts : np.ndarray | None
        ``[T]`` number of the start of the forecast for each time; None for analyses
    by_lead : dict[np.timedelta64, Result]
        Results of single lead times
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
        """Number of units of the bootstrap: times, or starts of forecasts with all their lead times."""
        return len(self.times) if self.starts is None else int(self.starts.max()) + 1

    @property
    def members(self) -> int:
        """Number of members of the forecast that is verified."""
        return max(series.size for (name, _), series in self.series.items() if name == self.forecasts[0])

    @property
    def octaves(self) -> Array:
        """Shortest wavelength in km in each octave of the spectra."""
        waves = self.domain.rings.wavelength
        return np.array([waves[band.stop - 1] for band in octaves(len(waves))])

    def has(self, score: str, forecast: str, target: Target) -> bool:
        """True if a score is defined for a forecast of a quantity."""
        series = self.series.get((forecast, target.name))
        if series is None or (score in NEEDS_MEMBERS and series.size < 2):
            return False
        return bool(target.thresholds) or "threshold" not in SCORES[score].dims

    def score(self, score: str, forecast: str, target: Target) -> Estimate:
        """A score of ``SCORES``, with its interval if it can have one; ``KeyError`` if it is not defined."""
        if not self.has(score, forecast, target):
            raise KeyError(f"no {score} of {forecast} for {target.name}")
        estimate = self._of(score, forecast, target)
        return self._estimate(estimate, Bootstrap(0) if score in WITHOUT_INTERVAL else self.bootstrap)

    def estimates(
        self, scores: Iterable[Score] = tuple(SCORES.values())
    ) -> Iterator[tuple[Target, str, Score, Estimate]]:
        """All scores that are defined, with their quantity and forecast."""
        for target, forecast, score in product(self.targets, self.forecasts, scores):
            if self.has(score.name, forecast, target):
                yield target, forecast, score, self.score(score.name, forecast, target)

    def gain(self, score: str, forecast: str, baseline: str, target: Target) -> Estimate:
        """Share by which a score is below that of a baseline at the same times drawn: 1 is perfect."""
        return self._paired("gain", score, forecast, baseline, target)

    def difference(self, score: str, forecast: str, baseline: str, target: Target) -> Estimate:
        """A score minus that of a baseline at the same times drawn, in the quantity's units."""
        return self._paired("difference", score, forecast, baseline, target)

    def _paired(self, how: str, score: str, forecast: str, baseline: str, target: Target) -> Estimate:
        mine, theirs = (self._of(score, name, target) for name in (forecast, baseline))
        return self._estimate(lambda counts: PAIRED[how](mine(counts), theirs(counts)))

    def paired(self, how: str) -> Iterator[tuple[Target, str, Estimate]]:
        """Quantity, baseline and comparison of the CRPS, one of ``PAIRED``, for all baselines."""
        first = self.forecasts[0]
        for target, baseline in product(self.targets, self.forecasts[1:]):
            if (baseline, target.name) in self.series:
                yield target, baseline, self._paired(how, "crps", first, baseline, target)

    def memory(self) -> tuple[float, str]:
        """Largest autocorrelation of the CRPS of neighbouring times, and its quantity.

        NaN and no name if there are too few times.
        """
        series = {
            t.name: self._by_draw(self.series[self.forecasts[0], t.name].column("crps")) for t in self.targets
        }
        found = {name: memory(column) for name, column in series.items()}
        known = {name: value for name, value in found.items() if value == value}
        return max(((value, name) for name, value in known.items()), default=(float("nan"), ""))

    def _by_draw(self, column: Array) -> Array:
        """Means ``[D]`` of a column ``[T]`` over the times that are drawn together."""
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


def joined(by_lead: Mapping[np.timedelta64, Result], by_valid: bool = False) -> Result:
    """The result of all lead times together, with that of each; its bootstrap draws starts, not times.

    Parameters
    ----------
    by_lead : Mapping[np.timedelta64, Result]
        Results of the same forecasts, on the same grid
    by_valid : bool, optional
        True if valid times are drawn, each with the forecasts of all starts: where the forecast's error does
        not count (perfect prognosis)
    """
    parts = list(by_lead.values())
    first = parts[0]
    begun = [part.times - (0 * lead if by_valid else lead) for lead, part in by_lead.items()]
    names = {t.name: t for part in parts for t in part.targets}
    keys = dict.fromkeys(key for part in parts for key in part.series)
    return replace(
        first,
        times=np.concatenate([part.times for part in parts]),
        targets=list(names.values()),
        series={key: _joined([(part.series.get(key), len(part.times)) for part in parts]) for key in keys},
        truth_values={name: _merged([part.truth_values[name] for part in parts]) for name in names},
        notes=list(dict.fromkeys(note for part in parts for note in part.notes)),
        starts=np.unique(np.concatenate(begun), return_inverse=True)[1],
        by_lead=dict(by_lead),
    )


def _joined(parts: Sequence[tuple[Series | None, int]]) -> Series:
    """Series one after the other; a missing one is that number of times without statistics."""
    known = [series for series, _ in parts if series is not None]
    rows = [row for series, T in parts for row in (series.rows if series is not None else [None] * T)]
    return Series(known[0].size, rows, _merged([series.histogram for series in known]))


def _merged(histograms: Sequence[Histogram]) -> Histogram:
    whole = Histogram()
    for histogram in histograms:
        whole.merge(histogram)
    return whole
