# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Fractions skill score: known cases, ``scores``, Earth2Studio, gaps."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch

from earth2_corrdiff.verification.fractions import Fractions, integral, odd_windows, window_sums

H, W = 21, 30
ONES = torch.ones(H, W, dtype=torch.float64)


def smooth(*shape: int, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(*shape, H, W, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise + noise.roll(1, -1) + noise.roll(1, -2)


def score(
    truth: torch.Tensor,
    members: torch.Tensor,
    thresholds: tuple[float, ...],
    windows: tuple[int, ...],
    weights: torch.Tensor = ONES,
) -> tuple[torch.Tensor, torch.Tensor]:
    """FSS of the probabilities and of the members, ``[K, S]``."""
    fractions = Fractions(truth, weights, thresholds, windows)
    for member in members:
        fractions.add(member)
    s = fractions.statistics()
    return 1 - s["fbs"] / s["fbs_worst"], 1 - s["member_fbs"] / s["member_fbs_worst"]


def test_sums_over_windows() -> None:
    field = smooth(2)
    sums = window_sums(integral(field), 5)
    assert sums.shape == (2, H - 4, W - 4)
    assert sums[1, 3, 7].item() == pytest.approx(field[1, 3:8, 7:12].sum().item())


@pytest.mark.parametrize("window", [1, 3, 7, 11])
@pytest.mark.slow
def test_one_field_against_scores(window: int) -> None:
    truth, field = smooth(seed=1), smooth(seed=2)
    from scores.spatial import fss_2d_single_field

    theirs = fss_2d_single_field(
        field.numpy(), truth.numpy(), event_threshold=0.8, window_size=(window, window), zero_padding=False
    )
    probability, single = score(truth, field[None], (0.8,), (window,))
    assert probability.item() == pytest.approx(theirs, abs=1e-6)  # single precision there
    assert single.item() == probability.item()


def test_an_ensemble_against_earth2studio() -> None:
    """Its windows are round; of three cells they are square (and of one cell it fails)."""
    truth, members = smooth(seed=3), smooth(4, seed=4)
    coords = OrderedDict(y=np.arange(H), x=np.arange(W))
    from earth2studio import statistics  # takes seconds

    upstream = statistics.fss(["y", "x"], [3], [0.5, 1.5], ensemble_dimension="sample")
    theirs, _ = upstream(members, OrderedDict(sample=np.arange(4), **coords), truth, coords)
    ours, _ = score(truth, members, (0.5, 1.5), (3,))
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-6)


def test_perfect_and_hopeless() -> None:
    truth = smooth(seed=5)
    assert (score(truth, truth[None], (0.0, 2.0), (1, 5))[0] == 1).all()
    left = torch.where(torch.arange(W) < 10, 1.0, 0.0).double().expand(H, W)
    right = torch.where(torch.arange(W) >= 20, 1.0, 0.0).double().expand(H, W)
    assert score(left, right[None], (0.5,), (3, 9))[0].tolist() == [[0.0, 0.0]]
    assert score(left, right[None], (5.0,), (3,))[0].isnan().all()  # no event anywhere


@pytest.mark.parametrize("shift", [1, 2, 4, 6])
def test_displacement(shift: int) -> None:
    """One cell, moved by d: windows of n cells see both with a share of (n - d) / n of them."""
    truth, field = torch.zeros(2, H, W, dtype=torch.float64)
    truth[10, 12] = field[10, 12 + shift] = 1
    found = score(truth, field[None], (0.5,), (1, 3, 5))[0]
    expected = [[max(0.0, 1 - shift / n) for n in (1, 3, 5)]]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_members_by_themselves_and_as_probabilities() -> None:
    """Half the members with the event on each side of the truth: probabilities are better than members."""
    truth, members = torch.zeros(H, W, dtype=torch.float64), torch.zeros(2, H, W, dtype=torch.float64)
    truth[10, 12] = members[0, 10, 11] = members[1, 10, 13] = 1
    probability, single = score(truth, members, (0.5,), (3,))
    assert single.item() == pytest.approx(2 / 3)
    # ninths in columns 10 to 14 of each of three rows: truth 0 1 1 1 0, ensemble 1/2 1/2 1 1/2 1/2
    assert probability.item() == pytest.approx(1 - 1 / (3 + 2))


def test_gaps_are_left_out() -> None:
    """Where the truth is not known nothing counts, whatever is there."""
    truth, members = smooth(seed=6), smooth(3, seed=7)
    weights = ONES.clone()
    weights[:, 25:] = 0
    spoilt, other = truth.clone(), members.clone()
    spoilt[:, 25:], other[:, :, 25:] = 9.0, -9.0
    kept = score(truth, members, (0.5,), (1, 5), weights)
    for ours, theirs in zip(kept, score(spoilt, other, (0.5,), (1, 5), weights), strict=True):
        assert torch.equal(ours, theirs)
    # windows of one cell: the score of the part that is known
    part = Fractions(truth[:, :25].contiguous(), ONES[:, :25], (0.5,), (1,))
    for member in members:
        part.add(member[:, :25])
    s = part.statistics()
    assert (1 - s["fbs"] / s["fbs_worst"]).item() == pytest.approx(kept[0][0, 0].item())


def test_weights_and_frequencies() -> None:
    truth, members = smooth(seed=8), smooth(2, seed=9)
    weights = torch.linspace(0.5, 1.5, H).double()[:, None].expand(H, W)
    fractions = Fractions(truth, weights, (1.0,), (1,))
    for member in members:
        fractions.add(member)
    s = fractions.statistics()
    events, happens = (members >= 1).double().mean(0), (truth >= 1).double()
    w = weights / weights.sum()
    assert s["frequency"].item() == pytest.approx((events * w).sum().item())
    assert s["frequency_truth"].item() == pytest.approx((happens * w).sum().item())
    assert s["fbs"].item() == pytest.approx(((events - happens) ** 2 * w).sum().item())


def test_windows_of_scales() -> None:
    assert odd_windows((0, 25, 50, 100, 200), 8.0, (112, 112)) == [1, 3, 7, 13, 25]
    assert odd_windows((0, 25, 50, 100, 200), 2.0, (448, 448)) == [1, 13, 25, 49, 101]
    assert odd_windows((1, 2, 500), 8.0, (20, 28)) == [1]
