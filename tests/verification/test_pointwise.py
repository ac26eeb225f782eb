# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""CRPS and ranks: against ``scores``, Earth2Studio, slow loops and numbers by hand."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
import xarray as xr

from earth2_corrdiff.verification.pointwise import crps, rank_weights

H, W = 7, 11


def case(M: int, seed: int = 0, ties: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """An ensemble ``[M, H, W]`` and a truth; with ties many values are zero, as rain is."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(M, H, W, generator=generator, dtype=torch.float64)
    y = torch.randn(H, W, generator=generator, dtype=torch.float64)
    return (x.clamp(min=0.3).round(decimals=1), y.clamp(min=0.3).round(decimals=1)) if ties else (x, y)


def arrays(x: torch.Tensor, y: torch.Tensor) -> tuple[xr.DataArray, xr.DataArray]:
    return xr.DataArray(x.numpy(), dims=("member", "y", "x")), xr.DataArray(y.numpy(), dims=("y", "x"))


@pytest.mark.parametrize("M", [2, 3, 4, 17])
@pytest.mark.parametrize("ties", [False, True])
def test_crps_against_scores(M: int, ties: bool) -> None:
    from scores.probability import crps_for_ensemble

    x, y = case(M, ties=ties)
    forecast, truth = arrays(x, y)
    for ours, method in zip(crps(x, y), ("fair", "ecdf"), strict=True):
        theirs = crps_for_ensemble(forecast, truth, "member", method=method, preserve_dims="all")
        np.testing.assert_allclose(ours.numpy(), theirs.transpose("y", "x").values, atol=1e-13)


def test_crps_against_earth2studio() -> None:
    from earth2studio.statistics import crps as upstream

    x, y = case(5)
    coords = OrderedDict(y=np.arange(H), x=np.arange(W))
    for ours, fair in zip(crps(x, y), (True, False), strict=True):
        theirs, _ = upstream("sample", fair=fair)(x, OrderedDict(sample=np.arange(5), **coords), y, coords)
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-13)


def test_crps_against_all_pairs() -> None:
    x, y = case(6, ties=True)
    error = np.mean([abs(float(x[i, 2, 3]) - float(y[2, 3])) for i in range(6)])
    pairs = sum(abs(float(x[i, 2, 3]) - float(x[j, 2, 3])) for i in range(6) for j in range(6))
    fair, biased = crps(x, y)
    assert float(fair[2, 3]) == pytest.approx(error - pairs / (2 * 6 * 5), abs=1e-14)
    assert float(biased[2, 3]) == pytest.approx(error - pairs / (2 * 6 * 6), abs=1e-14)


def test_crps_by_hand() -> None:
    # members 1 and 4, truth 2: mean error 1.5, distance 3; fair 1.5 - 3 / 2, biased 1.5 - 3 / 4
    fair, biased = crps(torch.tensor([[1.0], [4.0]]), torch.tensor([2.0]))
    assert (fair.item(), biased.item()) == (0.0, 0.75)
    fair, biased = crps(torch.tensor([[1.0]]), torch.tensor([3.5]))
    assert fair.item() == biased.item() == 2.5


def test_crps_does_not_lose_digits_to_an_offset() -> None:
    x, y = case(16)
    for offset in (300.0, 1e5):
        near, far = crps(x, y)[0], crps(x + offset, y + offset)[0]
        assert (near - far).abs().max() < 16 * offset * np.finfo(np.float64).eps * 4


def test_fair_crps_does_not_depend_on_the_number_of_members() -> None:
    """Of a perfect ensemble its expectation is that of infinitely many; the biased one's is not."""
    generator = torch.Generator().manual_seed(1)
    draws = torch.randn(9, 40_000, generator=generator, dtype=torch.float64)
    few, many = crps(draws[:2], draws[-1]), crps(draws[:8], draws[-1])
    assert abs(few[0].mean() - many[0].mean()) < 0.01  # 1 / sqrt(pi) = 0.564
    assert many[0].mean().item() == pytest.approx(np.pi**-0.5, abs=0.01)
    assert few[1].mean() - many[1].mean() > 0.15


@pytest.mark.parametrize("ties", [False, True])
def test_ranks_against_scores(ties: bool) -> None:
    x, y = case(4, ties=ties)
    weights = torch.rand(H, W, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    forecast, truth = arrays(x, y)
    from scores.probability import rank_histogram

    theirs = rank_histogram(forecast, truth, "member", weights=xr.DataArray(weights.numpy(), dims=("y", "x")))
    ours = rank_weights(x, y, weights) / weights.sum()
    np.testing.assert_allclose(ours.numpy(), theirs.values, atol=1e-14)


def test_ranks_by_hand() -> None:
    members = torch.tensor([[1.0, 0.0, 5.0], [2.0, 0.0, 5.0], [3.0, 7.0, 5.0]])
    truth = torch.tensor([2.5, 0.0, 5.0])
    # rank 2; two ties below the third: a third each in 0, 1, 2; three ties: a quarter each
    expected = [1 / 3 + 1 / 4, 1 / 3 + 1 / 4, 1 + 1 / 3 + 1 / 4, 1 / 4]
    np.testing.assert_allclose(rank_weights(members, truth, torch.ones(3).double()), expected, atol=1e-15)
    kept = rank_weights(members, truth, torch.tensor([1.0, 0.0, 0.0]).double())
    assert kept.tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("wet", [False, True])
def test_ranks_of_a_perfect_ensemble_are_flat(wet: bool) -> None:
    """Chi-square with a fixed seed; of rain, zero at 60 % of the points, the ties keep it flat."""
    M, N = 5, 6000
    generator = torch.Generator().manual_seed(3)
    draws = torch.randn(M + 1, N, generator=generator, dtype=torch.float64)
    draws = draws.clamp(min=0.25) if wet else draws
    counts = rank_weights(draws[1:], draws[0], torch.ones(N).double())
    assert counts.sum().item() == pytest.approx(N)
    from scipy.stats import chisquare

    assert chisquare(counts.numpy()).pvalue > 0.05
    narrow = rank_weights(0.7 * draws[1:] + 0.3 * draws[1:].mean(0), draws[0], torch.ones(N).double())
    assert chisquare(narrow.numpy()).pvalue < 1e-6  # the test can tell
