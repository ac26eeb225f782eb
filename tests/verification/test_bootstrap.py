# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Intervals: coverage on toys, SciPy's BCa, blocks, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.verification.bootstrap import Bootstrap, Estimator, fitting_block, memory


def mean_of(values: np.ndarray) -> Estimator:
    return lambda counts: counts @ values / counts.sum(1)


def coverage(how: Bootstrap, draw: object, truth: float, times: int = 40, repeats: int = 300) -> float:
    """How often the interval of a mean holds the truth."""
    hits = 0
    for seed in range(repeats):
        values = draw(np.random.default_rng(seed), times)  # type: ignore[operator]
        low, high = how.interval(mean_of(values), times)
        hits += bool(low <= truth <= high)
    return hits / repeats


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_coverage_of_independent_times(method: str) -> None:
    how = Bootstrap(300, 0.9, method=method)
    found = coverage(how, lambda rng, n: rng.exponential(2.0, n), 2.0)
    assert 0.83 <= found <= 0.94  # a skewed distribution, 40 times: somewhat below 0.9


def ar1(rng: np.random.Generator, n: int) -> np.ndarray:
    values = np.empty(n)
    values[0] = rng.standard_normal() / np.sqrt(1 - 0.7**2)
    for i in range(1, n):
        values[i] = 0.7 * values[i - 1] + rng.standard_normal()
    return values


@pytest.mark.slow
def test_blocks_hold_the_memory_of_the_weather() -> None:
    single, blocks = (
        coverage(Bootstrap(200, 0.9, block, "percentile"), ar1, 0.0, times=120, repeats=200)
        for block in (1, 12)
    )
    assert single < 0.65 and blocks > single + 0.12


@pytest.mark.slow
def test_bca_against_scipy() -> None:
    values = np.random.default_rng(5).lognormal(size=30)
    low, high = Bootstrap(9000, method="bca").interval(mean_of(values), 30)
    from scipy.stats import bootstrap as scipy_bootstrap

    theirs = scipy_bootstrap((values,), np.mean, n_resamples=9000, method="BCa", rng=1).confidence_interval
    width = theirs.high - theirs.low
    assert abs(low - theirs.low) < 0.04 * width and abs(high - theirs.high) < 0.04 * width
    plain = Bootstrap(9000, method="percentile").interval(mean_of(values), 30)
    assert high > plain[1] + 0.05 * width  # the correction for skewness is there


def test_seeds_and_counts() -> None:
    how = Bootstrap(50, block=3)
    counts = how.counts(25)
    assert counts.shape == (50, 25) and (counts.sum(1) == 25).all()
    assert np.array_equal(counts, how.counts(25))
    assert not np.array_equal(counts, Bootstrap(50, block=3, seed=1).counts(25))
    neighbours = np.mean([np.corrcoef(row, np.roll(row, 1))[0, 1] for row in counts])
    assert neighbours > 0.4  # blocks are of neighbours
    assert abs(np.mean([np.corrcoef(r, np.roll(r, 1))[0, 1] for r in Bootstrap(50).counts(25)])) < 0.15


@pytest.mark.parametrize("how", [Bootstrap(0), Bootstrap(100), Bootstrap(100, block=2)])
def test_too_few_times_have_no_interval(how: Bootstrap) -> None:
    times = 7 if how.block == 1 else 15
    low, high = how.interval(lambda counts: counts[:, :1].repeat(3, axis=1), times)
    assert low.shape == (3,) and np.isnan([low, high]).all()


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_constants_and_undefined_scores(method: str) -> None:
    values = np.array([[1.0] * 10, [np.nan] * 10]).T
    low, high = Bootstrap(100, method=method).interval(lambda counts: counts @ values / 10, 10)
    assert low[0] == high[0] == 1.0 and np.isnan([low[1], high[1]]).all()


@pytest.mark.parametrize(("at", "has"), [(1, False), (2, False), (6, True)])
def test_an_event_at_one_time_has_no_interval(at: int, has: bool) -> None:
    """Its ratio would be the same in all replicates that have the event at all."""
    happens, forecast = np.zeros(12), np.zeros(12)
    happens[:at], forecast[:at] = 0.1, 0.1 + 0.02 * np.arange(at)

    def ratio(counts: np.ndarray) -> np.ndarray:
        below = counts @ happens
        return np.where(below > 0, counts @ forecast / np.where(below > 0, below, 1), np.nan)

    low, _ = Bootstrap(500).interval(ratio, 12)
    assert bool(np.isfinite(low)) == has


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"replicates": -1}, "bootstrap replicates"),
        ({"level": 1.0}, "between 0 and 1"),
        ({"block": 0}, "block of times"),
        ({"method": "basic"}, "bca, percentile"),
        ({"seed": 1.5}, "whole number"),
    ],
)
def test_what_cannot_be(what: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Bootstrap(**what)  # type: ignore[arg-type]


def test_memory_of_a_process_and_the_blocks_for_it() -> None:
    """The autocorrelation of an autoregressive process, and Wilks' rule by its own equation."""
    rng = np.random.default_rng(1)
    assert memory(ar1(rng, 4000)) == pytest.approx(0.7, abs=0.04)
    assert abs(memory(rng.standard_normal(4000))) < 0.04
    assert np.isnan(memory(np.ones(20))) and np.isnan(memory(np.arange(5.0)))
    assert np.isfinite(memory(np.append(rng.standard_normal(9), np.nan)))
    length = fitting_block(100, 0.7)
    sides = [(100 - l + 1) ** (2 / 3 * (1 - 0.3 / 1.7)) - l for l in (length - 1, length)]  # noqa: E741
    assert sides[0] > 0 >= sides[1] and 8 < length < 16
    assert fitting_block(100, 0.15) == fitting_block(100, -0.4) == fitting_block(100, np.nan) == 1
