# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Scores as functions of means over times.

A ratio or a root of means is not the mean of ratios or roots. A score that is a function of means can be
computed with any weights of the times, as the bootstrap needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
RESOLVED_CELLS = 4
"""Shortest wavelength, in cells, that counts as resolved by the grid."""


class Means(Protocol):
    """Means of statistics over times by name: ``[B]``, or ``[B, …]`` of those with dimensions."""

    def __getitem__(self, name: str, /) -> Array: ...


@dataclass(frozen=True)
class Score:
    """One number, or one row of numbers, of a forecast of a quantity.

    Attributes
    ----------
    name, title : str
        Names in files, and in text
    of : Callable[[Means, int], Array]
        The score from means and the number of members; ``[B]``, or ``[B, *dims]``
    dims : tuple[str, ...]
        Names of its own dimensions: ``rank``, ``wavelength``, ``octave``, ``threshold``, ``scale``
    best : float | None
        Value of a perfect forecast; None where there is none
    """

    name: str
    title: str
    of: Callable[[Means, int], Array]
    dims: tuple[str, ...] = ()
    best: float | None = None


def _ratio(above: Array, below: Array) -> Array:
    """Quotient, NaN without a warning where the divisor is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below > 0, above / below, np.nan)


def spread_skill(means: Means, members: int) -> Array:
    """Spread over error of the ensemble mean, 1 for a reliable ensemble of any size.

    The spread is the square root of the mean unbiased variance. The mean of M members has itself an error
    of 1 / M of that variance, so the variance is multiplied by (M + 1) / M (Fortin et al. 2014, doi
    10.1175/JHM-D-14-0008.1). NaN for a single member, which has no spread.
    """
    return np.sqrt(_ratio((members + 1) / members * means["variance"], means["squared_error"]))


def rank_frequency(means: Means, members: int) -> Array:
    """Frequency of each rank of the truth over 1 / (M + 1): flat at 1 for a reliable ensemble."""
    return (members + 1) * _ratio(means["rank"], means["rank"].sum(-1, keepdims=True))


def outliers(means: Means, members: int) -> Array:
    """Frequency of the truth outside all members over the expected one, 2 of M + 1 ranks."""
    ranks = rank_frequency(means, members)
    return np.asarray((ranks[:, 0] + ranks[:, -1]) / 2)


def power_ratio(means: Means, members: int) -> Array:
    """Power of the members over that of the truth at each wavelength."""
    return _ratio(means["power"], means["power_truth"])


def resolved(rings: int, cells: int = RESOLVED_CELLS) -> int:
    """Number of rings with wavelengths of ``cells`` cells and more: ring k of K has 2 (K + 1) / k."""
    return max(2 * (rings + 1) // cells, 1)


def octaves(rings: int) -> list[slice]:
    """Rings by octaves of wavelength, long waves first, to 8, 4, 2 cells: the last is not resolved."""
    ends, cells = [rings], RESOLVED_CELLS
    while 2 * (rings + 1) // cells > 0:
        ends.append(2 * (rings + 1) // cells)
        cells *= 2
    return [slice(start, stop) for start, stop in pairwise([0, *ends[::-1]]) if stop > start]


def octave_ratio(means: Means, members: int) -> Array:
    """Variance of the members over that of the truth in each octave: a ring alone has few waves.

    Ring k has modes in proportion to k.
    """
    bands = octaves(means["power"].shape[1])
    weights = np.arange(1, means["power"].shape[1] + 1)
    mine, theirs = (
        np.stack([(means[name] * weights)[:, band].sum(1) for band in bands], axis=1)
        for name in ("power", "power_truth")
    )
    return _ratio(mine, theirs)


def spectral_error(means: Means, members: int) -> Array:
    """Root-mean-square difference of the spectra in dB, over the resolved rings, each octave the same."""
    ratio = power_ratio(means, members)
    ratio = ratio[:, : resolved(ratio.shape[1])]
    weights = 1 / np.arange(1, ratio.shape[1] + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        decibels = 10 * np.log10(ratio)
    error = np.sqrt((weights * decibels**2).sum(1) / weights.sum())
    return np.where(np.isfinite(error), error, np.nan)  # a constant has no power to compare


def spectral_worst(means: Means, members: int) -> Array:
    """Largest deviation of the power ratio from 1 in any of the resolved rings."""
    ratio = power_ratio(means, members)
    return np.asarray(np.abs(ratio[:, : resolved(ratio.shape[1])] - 1).max(1))


def spectral_worst_all(means: Means, members: int) -> Array:
    """Largest deviation of the power ratio from 1 in any ring, down to waves of two cells."""
    return np.asarray(np.abs(power_ratio(means, members) - 1).max(1))


def fss(means: Means, members: int) -> Array:
    """Fractions skill score of the ensemble's probabilities, of sums over all times."""
    return 1 - _ratio(means["fbs"], means["fbs_worst"])


def member_fss(means: Means, members: int) -> Array:
    """Fractions skill score of single members, of sums over all times and members."""
    return 1 - _ratio(means["member_fbs"], means["member_fbs_worst"])


def frequency_ratio(means: Means, members: int) -> Array:
    """Frequency of an event in the forecast over that in the truth."""
    return _ratio(means["frequency"], means["frequency_truth"])


SCORES = {
    score.name: score
    for score in (
        Score("crps", "fair CRPS", lambda m, n: m["crps"], best=0.0),
        Score("crps_biased", "CRPS of the empirical distribution", lambda m, n: m["crps_biased"], best=0.0),
        Score("mae", "mean absolute error of the ensemble mean", lambda m, n: m["absolute_error"], best=0.0),
        Score("rmse", "RMSE of the ensemble mean", lambda m, n: np.sqrt(m["squared_error"]), best=0.0),
        Score("bias", "bias of the ensemble mean", lambda m, n: m["error"], best=0.0),
        Score("spread", "root of the mean variance", lambda m, n: np.sqrt(m["variance"])),
        Score("spread_skill", "spread over skill", spread_skill, best=1.0),
        Score("outliers", "truth outside the ensemble, over expected", outliers, best=1.0),
        Score("spectral_error", "spectral error in dB", spectral_error, best=0.0),
        Score("spectral_worst", "largest deviation of a power ratio from 1", spectral_worst, best=0.0),
        Score("spectral_worst_all", "the same down to waves of two cells", spectral_worst_all, best=0.0),
        Score("rank", "frequency of ranks, over expected", rank_frequency, ("rank",), 1.0),
        Score("power", "power spectrum", lambda m, n: m["power"], ("wavelength",)),
        Score("power_truth", "power spectrum of the truth", lambda m, n: m["power_truth"], ("wavelength",)),
        Score("power_ratio", "power over the truth's", power_ratio, ("wavelength",), 1.0),
        Score("octave_ratio", "variance in an octave over the truth's", octave_ratio, ("octave",), 1.0),
        Score("fss", "FSS of probabilities", fss, ("threshold", "scale"), 1.0),
        Score("member_fss", "FSS of single members", member_fss, ("threshold", "scale"), 1.0),
        Score("frequency", "frequency of the event", lambda m, n: m["frequency"], ("threshold",)),
        Score("frequency_truth", "frequency of the truth", lambda m, n: m["frequency_truth"], ("threshold",)),
        Score("frequency_ratio", "frequency over the truth's", frequency_ratio, ("threshold",), 1.0),
    )
}
NEEDS_MEMBERS = ("spread", "spread_skill", "outliers", "rank")
WITHOUT_INTERVAL = ("spectral_error", "spectral_worst", "spectral_worst_all")
"""Norms of a noisy ratio: fewer different times only raise them, so replicates do not surround the value."""
