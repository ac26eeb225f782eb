# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Radially averaged power spectrum of a regional field, by the cosine transform.

A limited area is not periodic: its Fourier transform shows the jump between opposite borders as small scales.
The cosine transform continues the field as its mirror image, without a jump, and needs neither a trend
removed nor a window (Denis, Côté and Laprise 2002, Mon. Wea. Rev. 130, 1812).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


@lru_cache(maxsize=4)
def _cosines(n: int) -> Tensor:
    """The orthonormal DCT-II as a matrix ``[n, n]``."""
    k = torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(torch.pi / n * (k[None] + 0.5) * k[:, None]) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix


def mode_variance(field: Tensor) -> Tensor:
    """Variance of each cosine mode ``[..., H, W]``: their sum is the field's, the mean has none."""
    H, W = field.shape[-2:]
    away = field.to(torch.float64)
    away = away - away.mean((-2, -1), keepdim=True)  # else the rounding of 300 K is in every mode
    modes: Tensor = _cosines(H) @ away @ _cosines(W).T
    variance = modes.square() / (H * W)
    variance[..., 0, 0] = 0
    return variance


@dataclass(frozen=True, eq=False)
class Rings:
    """Rings of the wavenumber plane, as wide as the lowest wavenumber of the shorter side.

    Attributes
    ----------
    wavelength : np.ndarray
        ``[K]`` km of the middle of each ring, falling towards two cells
    ring : Tensor
        ``[H, W]`` number of each mode's ring; K for the mean and for what lies beyond the last ring
    count : Tensor
        ``[K]`` modes in each
    """

    wavelength: np.ndarray
    ring: Tensor
    count: Tensor

    @classmethod
    def of(cls, shape: tuple[int, int], spacing: tuple[float, float]) -> Rings:
        """Rings for fields ``[H, W]`` with neighbours this far apart, in km along each axis.

        Mode m of n points at a distance d has the wavenumber m / (2 n d): half waves fit.
        """
        lengths = [2 * n * d for n, d in zip(shape, spacing, strict=True)]
        rows, columns = (torch.arange(n).double() / L for n, L in zip(shape, lengths, strict=True))
        width = 1 / min(lengths)
        number = torch.round(torch.hypot(rows[:, None], columns[None]) / width).long()
        K = int(min(float(rows[-1]), float(columns[-1])) / width + 1e-9)  # beyond it only corners are left
        ring = torch.where((number >= 1) & (number <= K), number - 1, K)
        count = torch.bincount(ring.flatten(), minlength=K + 1)[:K]
        return cls(1 / (width * np.arange(1, K + 1)), ring, count)

    def average(self, modes: Tensor) -> Tensor:
        """Mean over each ring: ``[H, W] → [K]``."""
        total = torch.bincount(self.ring.flatten(), modes.flatten(), minlength=len(self.count) + 1)
        return total[:-1] / self.count


def radial_power(field: Tensor, rings: Rings) -> Tensor:
    """Mean variance per mode in each ring and of all fields, in their units squared: ``[..., H, W] → [K]``.

    White noise has the same in all rings; summed over the modes, corners included, it is the variance.
    """
    modes = mode_variance(field)
    return rings.average(modes if field.ndim == 2 else modes.flatten(0, -3).mean(0))
