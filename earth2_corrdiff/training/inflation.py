# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Inflation of the residual: its size is fitted to times that were not trained on, and kept in the weights.

A diffusion model knows its training times too well where they are few, and its members are too alike at
others. With r the regression's mean, a member x becomes ``r + c (x - r)`` of its normalised values, with the
c of least fair CRPS over the validation times, one for each output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.diffusion.noise import member_seed
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.networks.unet import SongUNet
from earth2_corrdiff.training.few_step import almost_fair_crps
from earth2_corrdiff.training.means import rescaled
from earth2_corrdiff.training.pairs import PairFile

FACTORS = np.round(np.arange(0.6, 1.61, 0.05), 2)
"""That are tried; between them the score is taken as a parabola."""


@torch.inference_mode()
def fit_inflation(
    model: Downscaler, pairs: PairFile, indices: Sequence[int], members: int, seed: int
) -> tuple[float, ...]:
    """Factor of each output's residual with the least fair CRPS, in physical units, over some times.

    Parameters
    ----------
    model : Downscaler
        With both networks trained
    pairs : PairFile
        Their truth
    indices : Sequence[int]
        Numbers of the times
    members, seed : int
        Of the ensembles
    """
    scores = torch.zeros(len(FACTORS), len(model.spec.outputs.names), dtype=torch.float64)
    for index in indices:
        some = pairs.read([index])
        case = model.prepare(some.coarse.to(model.device), None, pairs.times[index])
        seeds = [member_seed(seed, pairs.times[index], i) for i in range(members)]
        mean, truth = model.mean_of(case), some.fine.to(model.device)
        residual = model.residual(case.cond, case.mean, seeds)
        for k, factor in enumerate(FACTORS.tolist()):
            drawn = model.physical(mean + factor * residual, case)[None]
            known = torch.isfinite(truth) & torch.isfinite(drawn).all(1)
            score = almost_fair_crps(drawn, truth, torch.ones(1, device=model.device))
            score = torch.where(known, score, 0).double().sum((0, 2, 3)) / known.sum((0, 2, 3)).clamp(min=1)
            scores[k] += score.cpu()
    return tuple(lowest(FACTORS, column) for column in scores.T.numpy())


def lowest(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Where the parabola through the lowest value and its neighbours is least; the end if it lies there."""
    k = int(y.argmin())
    if k in (0, len(x) - 1):
        return float(x[k])
    left, middle, right = y[k - 1 : k + 2]
    bend = left - 2 * middle + right
    return float(x[k] + (x[1] - x[0]) * (0.5 * (left - right) / bend if bend > 0 else 0))


@torch.no_grad()
def inflate(model: Downscaler, factors: Sequence[float]) -> Downscaler:
    """The same model with residuals that are so many times as large; its mean stays as it is.

    The scale of the outputs takes up the factor, the regression's last layers lose it, and the first layer of
    the denoiser, which sees the mean, multiplies it again. So the package has the layout that it had.

    Raises
    ------
    InputError
        If the denoiser is not a U-Net
    """
    net, ratio = check_inflation(model), torch.tensor(tuple(factors), dtype=torch.float32)
    if model.spec.hr_mean_conditioning:
        first, count = cast(Any, next(iter(net.enc.values()))).weight, len(ratio)
        first[:, count : 2 * count] *= ratio.to(first).view(1, -1, 1, 1)  # after the latent
    return rescaled(model, ratio)


def check_inflation(model: Downscaler) -> SongUNet:
    """The network of a denoiser that can keep an inflation; InputError if it is not a U-Net."""
    net = model.denoiser.model
    if not isinstance(net, SongUNet):
        raise InputError("the inflation is kept in the first layer of a U-Net; leave out inflation for a DiT")
    return net
