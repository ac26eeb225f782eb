# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Embeddings against numbers worked out by hand, and against PhysicsNeMo's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from earth2_corrdiff.networks.embeddings import NoiseEmbedding, position_features


def test_noise_embedding_is_sines_then_cosines_of_falling_frequencies() -> None:
    (got,) = NoiseEmbedding(6)(torch.tensor([0.7]))
    frequencies = (1.0, 1e-2, 1e-4)
    want = [f(0.7 * w) for f in (math.sin, math.cos) for w in frequencies]
    assert np.allclose(got, want, rtol=1e-6, atol=1e-9)


def test_noise_embedding_equals_upstream_with_swapped_halves(upstream: object) -> None:
    from physicsnemo.nn.module.embedding_layers import PositionalEmbedding

    labels = torch.tensor([-1.55, 0.0, 0.4, 1.67])
    theirs = PositionalEmbedding(num_channels=16, endpoint=True)(labels)
    assert torch.equal(NoiseEmbedding(16)(labels), theirs.roll(8, 1))


def test_four_sinusoids_of_a_rectangular_domain() -> None:
    got = position_features("sinusoidal", 4, (5, 9))
    x, y = 2 * math.pi * 3 / 8, 2 * math.pi * 1 / 4  # column 3 of 9, row 1 of 5
    assert got.shape == (4, 5, 9) and got.dtype == np.float32
    assert np.allclose(got[:, 1, 3], [math.sin(x), math.sin(y), math.cos(x), math.cos(y)], atol=1e-7)
    assert np.array_equal(got[0, 0], got[0, 4]) and np.array_equal(got[1, :, 0], got[1, :, 8])


@pytest.mark.parametrize(("gridtype", "bands"), [("sinusoidal", (1, 4)), ("sinusoidal_octave", (1, 2))])
def test_bands_of_more_channels(gridtype: str, bands: tuple[int, int]) -> None:
    """The old formula is ``2 ** linspace(0, n, n)``: for n = 2 the frequencies 1 and 4, not 1 and 2."""
    got = position_features(gridtype, 8, (5, 9))
    x, y = 2 * math.pi * 3 / 8, 2 * math.pi * 1 / 4
    want = [f(b * a) for b in bands for f in (math.sin, math.cos) for a in (x, y)]
    assert np.allclose(got[:, 1, 3], want, atol=1e-6)


def test_linear_features() -> None:
    rows_and_columns = sorted(position_features("linear", 2, (3, 5))[:, 0, 3].tolist())
    assert rows_and_columns == [-1.0, 0.5]


@pytest.mark.parametrize(("gridtype", "channels"), [("sinusoidal", 6), ("linear", 4), ("test", 2)])
def test_unknown_features_are_refused(gridtype: str, channels: int) -> None:
    with pytest.raises(ValueError, match=f"{gridtype}.*{channels} channels"):
        position_features(gridtype, channels, (4, 4))
