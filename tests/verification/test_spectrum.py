# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Spectra of known fields: noise, one wave, a slope; Parseval; SciPy's cosine transform."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from earth2_corrdiff.verification.spectrum import Rings, mode_variance, radial_power

H, W = 24, 37
SPACING = (3.0, 3.0)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_modes_against_scipy_and_parseval() -> None:
    field = noise(H, W) + 280.0
    modes = mode_variance(field)
    theirs = dctn(field.numpy(), norm="ortho") ** 2 / (H * W)
    theirs[0, 0] = 0
    np.testing.assert_allclose(modes.numpy(), theirs, atol=1e-10)
    assert modes.sum().item() == pytest.approx(field.var(correction=0).item(), rel=1e-12)


def test_rings_hold_all_modes_but_mean_and_corners() -> None:
    rings, field = Rings.of((H, W), SPACING), noise(H, W)
    inside = (radial_power(field, rings) * rings.count).sum()
    corners = mode_variance(field)[rings.ring == len(rings.count)].sum()
    assert (inside + corners).item() == pytest.approx(field.var(correction=0).item(), rel=1e-12)
    assert rings.count.min() > 0
    assert rings.wavelength[0] == pytest.approx(2 * H * SPACING[0])  # half a wave along the shorter side
    assert 2 * SPACING[0] < rings.wavelength[-1] < 2.2 * SPACING[0]


def test_white_noise_is_flat() -> None:
    rings = Rings.of((H, W), SPACING)
    power = torch.stack([radial_power(noise(H, W, seed=i), rings) for i in range(400)]).mean(0) * H * W
    # each ring averages count x 400 values of a chi-square with one degree of freedom: variance 2
    away = (power - 1).abs() / torch.sqrt(2 / (400 * rings.count))
    assert away.max() < 4


@pytest.mark.parametrize(("m", "n"), [(5, 0), (0, 5), (6, 8), (11, 0), (0, 30)])
def test_one_wave_is_in_its_ring(m: int, n: int) -> None:
    rows, columns = torch.arange(H) + 0.5, torch.arange(W) + 0.5
    wave = torch.cos(torch.pi * m * rows / H)[:, None] * torch.cos(torch.pi * n * columns / W)[None]
    rings = Rings.of((H, W), SPACING)
    power = radial_power(wave.double(), rings)
    wavelength = 2 * SPACING[0] / np.hypot(m / H, n / W)
    at = int(power.argmax())
    assert power[at] * rings.count[at] == pytest.approx(power.new_tensor(1.0) * wave.var(correction=0).item())
    edges = 1 / (1 / rings.wavelength[at] + np.array([-0.5, 0.5]) / rings.wavelength[0])
    assert edges[1] <= wavelength <= edges[0]


def test_wavelengths_are_lengths_where_cells_are_not_square() -> None:
    """The same wave, once along each axis, on cells of 2 x 5 km: 40 km both times."""
    rings = Rings.of((60, 40), (2.0, 5.0))
    rows, columns = 2.0 * (torch.arange(60) + 0.5), 5.0 * (torch.arange(40) + 0.5)
    tall = torch.cos(2 * torch.pi * rows / 40)[:, None].expand(60, 40).double()
    wide = torch.cos(2 * torch.pi * columns / 40)[None].expand(60, 40).double()
    found = [rings.wavelength[int(radial_power(field, rings).argmax())] for field in (tall, wide)]
    assert found == [40.0, 40.0]
    assert rings.wavelength[-1] >= 10  # two of the longer cells


def test_a_slope_leaves_the_small_scales_alone() -> None:
    """A Fourier transform puts the jump between the borders into all scales; mirrored, there is none."""
    slope = torch.linspace(0, 10, H).double()[:, None] + torch.linspace(0, 5, W).double()[None]
    fourier = torch.fft.fft2(slope).abs().square() / (H * W) ** 2
    short = mode_variance(slope)[H // 2 :, :].sum()
    assert short < 0.02 * fourier[H // 4 : H // 2 + 1].sum()


def test_a_constant_has_no_power() -> None:
    assert mode_variance(torch.full((H, W), 287.31, dtype=torch.float64)).max() < 1e-25
