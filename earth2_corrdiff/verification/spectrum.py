# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Radially averaged power spectrum of a regional field, by the cosine transform.

A limited area is not periodic: a Fourier transform of it takes the jump between opposite borders for
small scales. The cosine transform continues the field as its mirror image, which has no jump, and
needs neither a trend removed nor a window (Denis, Côté and Laprise 2002, Mon. Wea. Rev. 130, 1812).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from earth2_corrdiff.base.errors import InputError

if TYPE_CHECKING:
    from earth2studio.utils.type import CoordSystem


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
    away = away - away.mean((-2, -1), keepdim=True)  # 300 K would leave its rounding in every mode
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
    """Mean variance per mode in each ring, in the field's units squared: ``[H, W] → [K]``.

    White noise has the same in all rings; summed over the modes, corners included, it is the variance.
    """
    return rings.average(mode_variance(field))


class RadialSpectrum:
    """Radially averaged power spectrum in the shape of Earth2Studio's ``Statistic``.

    Parameters
    ----------
    spacing : tuple[float, float]
        Distance in km of neighbours along the two spatial dimensions
    spatial_dimensions : tuple[str, str], optional
        Their names, by default ("lat", "lon")

    Raises
    ------
    InputError
        When called with a field that is not finite everywhere: gaps have no spectrum
    """

    def __init__(
        self, spacing: tuple[float, float], spatial_dimensions: tuple[str, str] = ("lat", "lon")
    ) -> None:
        self.spacing, self.spatial_dimensions = spacing, spatial_dimensions

    def __str__(self) -> str:
        return "_".join([*self.reduction_dimensions, "radial_spectrum"])

    @property
    def reduction_dimensions(self) -> list[str]:
        """The two spatial dimensions."""
        return list(self.spatial_dimensions)

    def output_coords(self, input_coords: CoordSystem) -> CoordSystem:
        """The other dimensions, and ``wavelength`` in km as the last."""
        from earth2studio.utils import handshake_dim

        for dimension in self.reduction_dimensions:
            handshake_dim(input_coords, dimension)
        kept = OrderedDict((k, v) for k, v in input_coords.items() if k not in self.reduction_dimensions)
        first, second = (np.asarray(input_coords[name]) for name in self.spatial_dimensions)
        shape = (first.shape[0], second.shape[-1])  # of 1-D coordinates, and of 2-D ones
        kept["wavelength"] = Rings.of(shape, self.spacing).wavelength
        return kept

    def __call__(self, x: Tensor, coords: CoordSystem) -> tuple[Tensor, CoordSystem]:
        """Spectra of ``x`` over its two spatial dimensions, the wavelengths as last dimension."""
        out_coords = self.output_coords(coords)
        if not torch.isfinite(x).all():
            raise InputError("a field with gaps has no spectrum; cut out a part that is complete")
        order = [list(coords).index(name) for name in self.spatial_dimensions]
        fields = x.movedim(order, (-2, -1))
        rings = Rings.of((fields.shape[-2], fields.shape[-1]), self.spacing)
        flat = [radial_power(field, rings) for field in fields.reshape(-1, *fields.shape[-2:])]
        return torch.stack(flat).reshape(*fields.shape[:-2], -1), out_coords
