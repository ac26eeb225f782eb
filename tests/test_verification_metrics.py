# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The metrics in Earth2Studio's shape: against its own, on 2-D coordinates, with axes in any order."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from earth2studio import statistics
from verification_kit import bent, cells, flat

from earth2_corrdiff.errors import InputError
from earth2_corrdiff.grid import Grid
from earth2_corrdiff.verification.fractions import Fractions
from earth2_corrdiff.verification.metrics import (
    EnsembleMetric,
    FairCRPS,
    FractionsSkillScore,
    RankHistogram,
    SpreadSkillRatio,
)
from earth2_corrdiff.verification.pointwise import crps, rank_weights

M, T = 5, 3


def state(grid: Grid, seed: int = 0) -> tuple[torch.Tensor, OrderedDict, torch.Tensor, OrderedDict]:
    """Forecast ``[time, sample, lat, lon]`` and truth ``[time, lat, lon]`` with their coordinates."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(T, M, *grid.shape, generator=generator, dtype=torch.float64)
    y = 0.5 + 1.2 * torch.randn(T, *grid.shape, generator=generator, dtype=torch.float64)
    space = {"lat": grid.lat, "lon": grid.lon}
    coords = OrderedDict(time=np.arange(T), **space)
    return x, OrderedDict(time=np.arange(T), sample=np.arange(M), **space), y, coords


@pytest.mark.parametrize("grid", [flat(), bent()], ids=["flat", "bent"])
def test_crps_averages_with_weights(grid: Grid) -> None:
    x, x_coords, y, y_coords = state(grid)
    weights = cells(grid)
    metric = FairCRPS("sample", ["lat", "lon"], weights)
    assert isinstance(metric, statistics.Metric)
    out, coords = metric(x, x_coords, y, y_coords)
    assert (
        list(coords) == ["time"] == list(metric.output_coords(x_coords)) and str(metric) == "lat_lon_FairCRPS"
    )
    fair = crps(x.movedim(1, 0), y)[0]
    torch.testing.assert_close(out, (fair * weights).mean((1, 2)))
    every, none = FairCRPS("sample", ["time", "lat", "lon"])(x, x_coords, y, y_coords)
    assert not none and every.item() == pytest.approx(fair.mean().item())


def test_order_of_axes_does_not_matter() -> None:
    x, x_coords, y, y_coords = state(flat())
    weights = cells(flat())
    order, truth_order = ("lon", "sample", "time", "lat"), ("lon", "time", "lat")
    turned = x.permute([list(x_coords).index(name) for name in order])
    truth = y.permute([list(y_coords).index(name) for name in truth_order])
    coords = OrderedDict((name, x_coords[name]) for name in order)
    truth_coords = OrderedDict((name, y_coords[name]) for name in truth_order)
    metrics: list[EnsembleMetric] = [
        FairCRPS("sample", ["lat", "lon"], weights),
        SpreadSkillRatio("sample", ["lat", "lon"], weights),
        RankHistogram("sample", ["lat", "lon"], weights),
        FractionsSkillScore("sample", ["lat", "lon"], [0.5], [1, 5], weights),
    ]
    for metric in metrics:
        expected, _ = metric(x, x_coords, y, y_coords)  # type: ignore[operator]
        found, _ = metric(turned, coords, truth, truth_coords)  # type: ignore[operator]
        torch.testing.assert_close(found, expected)


def test_spread_skill_against_earth2studio() -> None:
    x, x_coords, y, y_coords = state(flat())
    ours, coords = SpreadSkillRatio("sample", ["lat", "lon"])(x, x_coords, y, y_coords)
    theirs, _ = statistics.spread_skill_ratio("sample", ["lat", "lon"])(x, x_coords, y, y_coords)
    torch.testing.assert_close(ours, theirs * ((M + 1) / M) ** 0.5)
    assert list(coords) == ["time"]


@pytest.mark.parametrize("members", [2, 3, 10])
def test_spread_skill_of_a_reliable_ensemble_is_one(members: int) -> None:
    """Whatever its size: without the factor, two members would give 0.82."""
    draws = torch.randn(members + 1, 1, 300, 301, generator=torch.Generator().manual_seed(1)).double()
    coords = OrderedDict(sample=np.arange(members), time=np.arange(1), y=np.arange(300), x=np.arange(301))
    truth_coords = OrderedDict(list(coords.items())[1:])
    ratio, _ = SpreadSkillRatio("sample", ["y", "x"])(draws[1:], coords, draws[0], truth_coords)
    assert ratio.item() == pytest.approx(1, abs=0.01)


def test_rank_histogram() -> None:
    x, x_coords, y, y_coords = state(bent())
    weights = cells(bent())
    out, coords = RankHistogram("sample", ["lat", "lon"], weights)(x, x_coords, y, y_coords)
    assert list(coords) == ["time", "rank"] and out.shape == (T, M + 1)
    np.testing.assert_allclose(out.sum(-1), 1)
    for t in range(T):
        torch.testing.assert_close(out[t], rank_weights(x[t], y[t], weights / weights.sum()))


def test_fractions_skill_score() -> None:
    x, x_coords, y, y_coords = state(bent())
    metric = FractionsSkillScore("sample", ["lat", "lon"], [0.0, 1.0], [1, 3, 7], cells(bent()))
    out, coords = metric(x, x_coords, y, y_coords)
    assert list(coords) == ["time", "threshold", "window"] and out.shape == (T, 2, 3)
    fractions = Fractions(y[1], cells(bent()), [0.0, 1.0], [1, 3, 7])
    for member in x[1]:
        fractions.add(member)
    s = fractions.statistics()
    torch.testing.assert_close(out[1], 1 - s["fbs"] / s["fbs_worst"])


def test_what_does_not_fit() -> None:
    x, x_coords, y, y_coords = state(flat())
    metric = FairCRPS("sample", ["lat", "lon"])
    with pytest.raises(InputError, match="must have the dimension sample, the truth not"):
        metric(x, x_coords, x, x_coords)
    with pytest.raises(InputError, match="the truth has the dimensions"):
        metric(x, x_coords, y[0], OrderedDict(list(y_coords.items())[1:]))
    moved = OrderedDict(y_coords, lon=y_coords["lon"] + 1)
    with pytest.raises(ValueError, match="lon"):
        metric(x, x_coords, y, moved)
