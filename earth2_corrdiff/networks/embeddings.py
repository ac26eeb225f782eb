# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Embeddings of CorrDiff's networks: of the noise level, and of a pixel's position in the domain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


def xavier(shape: Sequence[int], fan_in: int, fan_out: int, gain: float) -> nn.Parameter:
    """Weights drawn uniformly, of a spread that keeps the variance (Glorot and Bengio 2010)."""
    bound = gain * (6 / (fan_in + fan_out)) ** 0.5
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


class Linear(nn.Module):
    """``x @ weight.T + bias`` in float32, Xavier-uniform weights and zero bias to start with."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = xavier((n_out, n_in), n_in, n_out, 1.0)
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.t() + self.bias


class NoiseEmbedding(nn.Module):
    """``[B] → [B, C]``: sines, then cosines, of the noise label at C/2 frequencies from 1 to 1e-4.

    Parameters
    ----------
    channels : int
        C
    max_positions : float, optional
        Inverse of the lowest frequency
    endpoint : bool, optional
        True if the lowest frequency is one of them, False if it would be the next one
    cosines_first : bool, optional
        True if the cosines come first
    """

    freqs: Tensor

    def __init__(
        self, channels: int, max_positions: float = 10000, endpoint: bool = True, cosines_first: bool = False
    ) -> None:
        super().__init__()
        half, self.cosines_first = channels // 2, cosines_first
        # never on the meta device: there PyTorch decomposes it in Python and imports its compiler, 0.8 s
        ramp = torch.arange(half, dtype=torch.float32, device="cpu") / (half - endpoint)
        self.register_buffer("freqs", (1 / max_positions) ** ramp)

    def forward(self, labels: Tensor) -> Tensor:
        phase = torch.outer(labels, self.freqs)
        parts = [phase.sin(), phase.cos()]
        return torch.cat(parts[::-1] if self.cosines_first else parts, dim=1)


def position_features(gridtype: str, channels: int, shape: tuple[int, int]) -> np.ndarray:
    """Features of a pixel's position, ``[channels, H, W]`` float32.

    Parameters
    ----------
    gridtype : {"sinusoidal", "sinusoidal_octave", "linear"}
        ``sinusoidal`` with 4 channels is (sin x, sin y, cos x, cos y); with more, its frequencies are
        ``2 ** linspace(0, n, n)`` and not octaves, kept for checkpoints trained that way
    channels : int
        Number of features: a multiple of four, or two for ``linear``
    shape : tuple[int, int]
        (H, W) of the whole domain

    Raises
    ------
    ValueError
        If the kind is unknown or has another number of channels

    Source: ``SongUNetPosEmbd._get_positional_embedding``.
    """
    H, W = shape
    if gridtype == "linear" and channels == 2:
        x, y = np.meshgrid(np.linspace(-1, 1, W), np.linspace(-1, 1, H))
        # upstream exchanges the names of its axes, and so the row index comes second
        return np.stack([x, y]).astype(np.float32)
    if gridtype not in ("sinusoidal", "sinusoidal_octave") or channels % 4:
        raise ValueError(f"gridtype {gridtype!r} with {channels} channels is not known")
    n = channels // 4
    octave = gridtype == "sinusoidal_octave"
    bands = 2.0 ** np.arange(n) if octave or n == 1 else 2.0 ** np.linspace(0.0, n, n)
    x, y = np.meshgrid(np.linspace(0, 2 * np.pi, W), np.linspace(0, 2 * np.pi, H))
    rows = [f(axis * band) for band in bands for f in (np.sin, np.cos) for axis in (x, y)]
    return np.stack(rows).astype(np.float32)
