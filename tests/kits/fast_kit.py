# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""For the tests of the fast networks: tiny ones with weights that matter, and their input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import randomise
from torch import Tensor

from earth2_corrdiff.model.diffusion.solvers import karras_sigmas
from earth2_corrdiff.networks.mdlus import Checkpoint
from earth2_corrdiff.networks.preconditioned import Denoiser, Regression, create

H, W, COUT, COND = 16, 24, 2, 5
ARGS: dict[str, Any] = {
    "img_resolution": [H, W],
    "img_in_channels": COND + 4,
    "img_out_channels": COUT,
    "model_type": "SongUNetPosEmbd",
    "N_grid_channels": 4,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [8],
    "dropout": 0.0,
}
SIGMAS = karras_sigmas(6, 0.002, 80)[:-1]
with_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that PyTorch can use")


def make_denoiser(name: str = "EDMPrecondSR", seed: int = 0, **args: Any) -> Denoiser:
    net = create(Checkpoint(name, {**ARGS, **args}, {}, "diffusion.mdlus"))
    assert isinstance(net, Denoiser)
    randomise(net, seed).eval().requires_grad_(False)
    return net


def make_regression(seed: int = 0, **args: Any) -> Regression:
    net = create(Checkpoint("UNet", {**ARGS, "embedding_type": "zero", **args}, {}, "regression.mdlus"))
    assert isinstance(net, Regression)
    randomise(net, seed).eval().requires_grad_(False)
    return net


def fields(batch: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """x and conditioning."""
    both = torch.randn(batch, COUT + COND, H, W, generator=torch.Generator().manual_seed(seed))
    return both[:, :COUT], both[:, COUT:]


def noisy(x: Tensor, sigma: float) -> Tensor:
    return x * (0.25 + sigma**2) ** 0.5
