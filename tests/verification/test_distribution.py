# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Histograms of a stream: the same in any order, quantiles as NumPy's, memory bounded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from earth2_corrdiff.verification.distribution import BINS, Histogram


def stream(seed: int = 0) -> list[torch.Tensor]:
    """Portions whose range grows, with negative values and an offset."""
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(50, 60, generator=generator).double() - 3 for scale in (0.1, 5.0, 1.0, 40.0)]


def filled(portions: list[torch.Tensor]) -> Histogram:
    histogram = Histogram()
    for portion in portions:
        histogram.add(portion, torch.ones_like(portion))
    return histogram


def same(one: Histogram, other: Histogram) -> None:
    assert (one.exponent, one.first) == (other.exponent, other.first)
    np.testing.assert_array_equal(one.counts, other.counts)


def test_any_order_and_portions_give_the_same() -> None:
    portions = stream()
    whole = filled(portions)
    same(whole, filled(portions[::-1]))
    same(whole, filled([torch.cat(portions)]))
    merged = Histogram()
    for portion in portions:
        merged.merge(filled([portion]))
    merged.merge(Histogram())
    same(whole, merged)
    assert len(whole.counts) <= BINS and whole.counts.sum() == 4 * 50 * 60


def test_quantiles_and_exceedance() -> None:
    values = torch.cat(stream()).flatten()
    histogram = filled(stream())
    for level in (0.0013, 0.1003, 0.5002, 0.9903, 0.99993):
        exact = np.quantile(values.numpy(), level, method="inverted_cdf")
        assert abs(histogram.quantile(level) - exact) <= histogram.width
    thresholds = np.array([-500.0, -3.0, 2.0, 25.0, 500.0])
    shares = [(values > t).double().mean().item() for t in thresholds]
    np.testing.assert_allclose(histogram.exceedance(thresholds), shares, atol=2e-3)


def test_weights_and_gaps() -> None:
    values = torch.tensor([[0.5, 1.5, torch.nan]]).double()
    histogram = Histogram()
    histogram.add(values, torch.tensor([[1.0, 3.0, 0.0]]).double())
    assert histogram.counts.sum() == 4
    assert float(histogram.exceedance(np.array(1.0))) == 0.75
    histogram.add(values, torch.zeros(1, 3).double())
    assert histogram.counts.sum() == 4


def test_a_constant_and_nothing() -> None:
    constant = filled([torch.full((10, 10), 287.3, dtype=torch.float64)])
    assert constant.quantile(0.5) == pytest.approx(287.3, abs=1e-5)
    empty = Histogram()
    assert np.isnan(empty.quantile(0.5)) and np.isnan(empty.exceedance(np.array([1.0]))).all()
    assert empty.density(10)[1].size == 0


def test_density_is_a_density() -> None:
    edges, density = filled(stream()).density(60)
    assert len(edges) == len(density) + 1 and len(density) <= 61
    assert (density * np.diff(edges)).sum() == pytest.approx(1.0)


def test_rain_keeps_its_zeros() -> None:
    rain = torch.zeros(1000).double()
    rain[:100] = torch.linspace(0.5, 60, 100).double()
    histogram = filled([rain])
    assert float(histogram.exceedance(np.array(0.25))) == pytest.approx(0.1, abs=1e-3)
    assert histogram.quantile(0.8) < 0.05
