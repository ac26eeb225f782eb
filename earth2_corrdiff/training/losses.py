# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Losses of the two stages."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from earth2_corrdiff.networks import Denoiser, Regression


def regression_loss(net: Regression, cond: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the mean: ``[B, Cc, H, W], [B, Co, H, W]`` normalised → scalar."""
    mean: Tensor = net(cond)
    return (mean - target).square().mean()


@dataclass(frozen=True)
class EDMLoss:
    """Denoising loss over log-normal noise levels (Karras et al. 2022, equations 8 and table 1).

    Attributes
    ----------
    P_mean, P_std : float
        Mean and standard deviation of log sigma; the values are those of CorrDiff's residual loss
    """

    P_mean: float = 0.0
    P_std: float = 1.2

    def __call__(self, net: Denoiser, cond: Tensor, residual: Tensor, generator: torch.Generator) -> Tensor:
        """``cond [B, Cc, H, W]`` (mean included), ``residual [B, Co, H, W]`` normalised → scalar."""
        z = torch.randn(len(residual), generator=generator)
        noise = torch.randn(residual.shape, generator=generator).to(residual.device)
        sigma = (self.P_mean + self.P_std * z).exp().to(residual.device).view(-1, 1, 1, 1)
        weight = (sigma**2 + net.sigma_data**2) / (sigma * net.sigma_data) ** 2
        clean: Tensor = net(residual + sigma * noise, sigma.flatten(), cond)
        return (weight * (clean - residual).square()).mean()
