# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Losses of the first two stages, per image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def squared_error(mean: Tensor, target: Tensor, known: Tensor | None = None) -> Tensor:
    """Mean squared error of each channel of each image: ``[B, Co, H, W]`` twice → ``[B, Co]``.

    ``known`` ``[B, Co, H, W]`` is 1 where the target has a value and 0 elsewhere; None for everywhere.
    """
    return image_mean((mean - target).square(), known)


def image_mean(error: Tensor, known: Tensor | None = None) -> Tensor:
    """Mean of each channel of each image, ``[B, Co, H, W] → [B, Co]``, where ``known`` is 1."""
    if known is None:
        return error.flatten(2).mean(2)
    return (error * known).flatten(2).sum(2) / known.flatten(2).sum(2).clamp(min=1)


@dataclass(frozen=True)
class EDMLoss:
    """Denoising loss over log-normal noise levels (Karras et al. 2022, equation 8 and table 1).

    Attributes
    ----------
    sigma_data : float
        Standard deviation of the residual
    P_mean, P_std : float
        Mean and standard deviation of log sigma; the values are those of CorrDiff's residual loss
    """

    sigma_data: float = 0.5
    P_mean: float = 0.0
    P_std: float = 1.2

    def sigma(self, z: Tensor) -> Tensor:
        """Noise level of standard normal numbers."""
        return (self.P_mean + self.P_std * z).exp()

    def __call__(self, clean: Tensor, residual: Tensor, sigma: Tensor, known: Tensor | None = None) -> Tensor:
        """Loss of each image: denoised and true residual ``[B, Co, H, W]``, levels ``[B]`` → ``[B, Co]``."""
        weight = (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2
        return weight[:, None] * squared_error(clean, residual, known)


@dataclass(frozen=True)
class FlowLoss(EDMLoss):
    """Squared error of the flow ``noise - residual``, whether the network makes it or the clean residual.

    It is the error of the clean residual, divided by ``max(t, clip)²`` (Li and He, arXiv 2511.13720). Times t
    are logit-normal, the best choice of Esser et al. (arXiv 2403.03206, section 3.1, there with a mean of 0
    and a deviation of 1): as ``log(t / (1 - t))`` is ``log sigma``, these are the noise levels of EDM.

    Attributes
    ----------
    clip : float
        Smallest divisor; 0 for a network that makes the flow
    """

    clip: float = 0.0

    def __call__(self, clean: Tensor, residual: Tensor, sigma: Tensor, known: Tensor | None = None) -> Tensor:
        """As :class:`EDMLoss`."""
        t = (sigma / (1 + sigma)).clamp(min=self.clip)
        return squared_error(clean, residual, known) / t.square()[:, None]


def generator(*key: int) -> torch.Generator:
    """Random numbers that depend on all parts of the key, and on nothing else."""
    import numpy as np

    (seed,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(seed) & (2**63 - 1))
