# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The third training stage: a generator of one call or few, by the almost fair CRPS of its ensembles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (as everywhere in PyTorch code)

from earth2_corrdiff.base.errors import InputError, listed
from earth2_corrdiff.model.diffusion.solvers import FEW_STEP
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.outputs import OutputRule
from earth2_corrdiff.model.spec import Sampling
from earth2_corrdiff.networks.preconditioned import Denoiser
from earth2_corrdiff.training.config import FewStepConfig
from earth2_corrdiff.training.cutter import Cutter
from earth2_corrdiff.training.losses import EDMLoss, image_mean, squared_error
from earth2_corrdiff.training.stages import DiffusionStage, Images, MeanOf, last, position_of

LEVELS = -1.1, 2.0
"""Mean and deviation of log sigma in consistency tuning, and below the growth of its steps."""
Q, STAGES, K = 2.0, 8, 8.0
HUBER = 0.00054  # of the root mean square; Song and Dhariwal, arXiv 2310.14189, section 3.3


def almost_fair_crps(members: Tensor, truth: Tensor, alpha: Tensor) -> Tensor:
    """Almost fair CRPS at each point (Lang et al., arXiv 2412.15832, equation 4).

    With M members ``mean |x - y| - (1 - (1 - alpha) / M) sum_{j<k} |x_j - x_k| / (M (M - 1))``. An alpha of 1
    is the fair score, whose minimum of two members is degenerate; of complex numbers it is an energy score.

    Parameters
    ----------
    members, truth : Tensor
        ``[n, M, ...]`` and ``[n, ...]``, real or complex
    alpha : Tensor
        ``[n]``, in 0 to 1

    Returns
    -------
    Tensor
        ``[n, ...]``, real
    """
    M = members.shape[1]
    error = (members - truth[:, None]).abs().mean(1)
    apart = sum((members[:, j] - members[:, k]).abs() for j, k in combinations(range(M), 2))
    share = (1 - (1 - alpha) / M) / (M * (M - 1))
    return error - share.view(-1, *[1] * (error.ndim - 1)) * apart


def difference_score(
    members: Tensor, truth: Tensor, alpha: Tensor, pooling: int, known: Tensor | None = None
) -> Tensor:
    """Score of the differences of neighbouring cells of ``pooling`` points a side, ``[n, Co]``.

    Parameters
    ----------
    members, truth, alpha
        ``[n, M, Co, h, w]``, ``[n, Co, h, w]`` and ``[n]``, as for :func:`almost_fair_crps`
    pooling : int
        Points along each side of a cell; what remains at the end of a side is left out
    known : Tensor | None, optional
        As ``truth``: 1 where it has a value; cells without some of theirs do not count
    """
    fields = torch.cat([truth[:, None], members], dim=1)
    cells = F.avg_pool2d(fields.flatten(0, 1), pooling)
    cells = cells.reshape(*fields.shape[:3], *cells.shape[2:])
    whole = None if known is None else 1 - F.max_pool2d(1 - known, pooling)
    scores = []
    for axis in (-2, -1):
        steps, count = cells.diff(dim=axis), cells.shape[axis] - 1
        both = None
        if whole is not None:
            both = whole.narrow(axis, 0, count) * whole.narrow(axis, 1, count)
        scores.append(image_mean(almost_fair_crps(steps[:, 1:], steps[:, 0], alpha), both))
    return (scores[0] + scores[1]) / 2


def spectral_score(members: Tensor, truth: Tensor, alpha: Tensor) -> Tensor:
    """Energy score of the Fourier coefficients, ``[n, Co]``.

    A Hann window takes the fields to 0 at their edges. Its mean square is 1, and the transform keeps the sum
    of squares, so that a coefficient of white noise is as large as the noise. Coefficients weigh alike: there
    are four times as many in each octave.
    """
    sides = [torch.hann_window(n, periodic=False, device=truth.device) for n in truth.shape[-2:]]
    window = torch.outer(*(side / side.square().mean().sqrt() for side in sides))
    waves = [torch.fft.rfft2(window * field, norm="ortho") for field in (members, truth)]
    return almost_fair_crps(waves[0], waves[1], alpha).flatten(2).mean(2)


@dataclass(frozen=True)
class Physical:
    """Score of one output in its units.

    Attributes
    ----------
    channel : int
        Of the outputs; the mean of it is the same channel of the conditioning
    rule : OutputRule
        Inverse of its transform
    center, scale, least, weight : float
        Normalisation, smallest value that counts, and weight of the score
    """

    channel: int
    rule: OutputRule
    center: float
    scale: float
    least: float
    weight: float

    def __call__(self, members: Tensor, images: Images, alpha: Tensor) -> Tensor:
        """``[n]`` of residuals ``[n, M, Co, h, w]``."""
        c = self.channel
        mean, target = images.cond[:, c], images.target[:, c]
        score = almost_fair_crps(self._of(members[:, :, c] + mean[:, None]), self._of(target + mean), alpha)
        known = None if images.known is None else images.known[:, c : c + 1]
        return self.weight * image_mean(score[:, None], known)[:, 0]

    def _of(self, normalised: Tensor) -> Tensor:
        physical = self.rule.transform.inverse(self.center + self.scale * normalised)
        return physical.clamp(min=self.least) / self._unit

    @property
    def _unit(self) -> float:
        """The amount that is one deviation above the center; without a transform the deviation."""
        ends = torch.tensor([self.center, self.center + self.scale], dtype=torch.float64)
        low, high = self.rule.transform.inverse(ends).tolist()
        return float(high - low)


@dataclass(frozen=True)
class EnsembleScore:
    """The loss of an ensemble: of values, of differences, of Fourier coefficients, of physical values.

    Attributes
    ----------
    pooling : Sequence[int]
        See :func:`difference_score`; the smallest has a weight of its own in the images
    differences, spectral : float
        Weights
    physical : Sequence[Physical]
        Outputs that are scored in their units, too
    """

    pooling: Sequence[int] = (1, 2, 4)
    differences: float = 1.0
    spectral: float = 0.0
    physical: Sequence[Physical] = ()

    def __call__(self, members: Tensor, images: Images) -> Tensor:
        """``[n, Co]`` of residuals ``[n, M, Co, h, w]``."""
        alpha, finest = cast(Tensor, images.weights).unbind(1)
        truth, known = images.target, images.known
        score = image_mean(almost_fair_crps(members, truth, alpha), known)
        for pooling in self.pooling if self.differences else ():
            weight = self.differences * (finest[:, None] if pooling == min(self.pooling) else 1)
            score = score + weight * difference_score(members, truth, alpha, pooling, known)
        if self.spectral:
            score = score + self.spectral * spectral_score(members, truth, alpha)
        for own in self.physical:
            at = torch.tensor([own.channel], device=score.device)
            score = score.index_add(1, at, own(members, images, alpha)[:, None])
        return score


def score_of(how: FewStepConfig, model: Downscaler, shape: tuple[int, int]) -> EnsembleScore:
    """The loss of a configuration, for images of this (h, w).

    Raises
    ------
    InputError
        If the images are too small, an output is unknown, or a score does not go with the data
    """
    spec = model.spec
    names = spec.outputs.names
    if min(shape) < 2 * max(how.pooling):
        raise InputError(f"few_step.pooling of {max(how.pooling)} leaves no differences in {shape}")
    if how.spectral and spec.missing_inputs:
        raise InputError("few_step.spectral needs fields without gaps; leave it out where data are masked")
    if wrong := [name for name in how.physical if name not in names]:
        raise InputError(f"few_step.physical: {wrong[0]!r} is not an output; use one of {listed(names)}")
    if how.physical and not spec.hr_mean_conditioning:
        raise InputError("few_step.physical needs a denoiser that sees the mean")
    rules = spec.rules or (OutputRule(),) * len(names)
    physical = [
        Physical(c, rules[c], spec.outputs.center[c], spec.outputs.scale[c], own.least, own.weight)
        for c, own in ((names.index(name), own) for name, own in how.physical.items())
    ]
    return EnsembleScore(how.pooling, how.differences, how.spectral, physical)


class FewStepLoss(nn.Module):
    """Score of the ensembles that each call makes; no gradient goes from one call to the one before."""

    def __init__(self, net: Denoiser, score: EnsembleScore, sigmas: Sequence[float]) -> None:
        super().__init__()
        self.net, self.score, self.sigmas = net, score, tuple(sigmas)

    def forward(self, images: Images) -> Tensor:
        """``[Co]``: the mean over all images and calls."""
        noise = cast(Tensor, images.noise)
        n, calls, M = noise.shape[:3]
        cond = last(images.cond.repeat_interleave(M, dim=0))
        corner = None if images.corner is None else images.corner.repeat_interleave(M, dim=0)
        position = position_of(self.net, corner, cond.shape[2:])
        clean, total = torch.zeros_like(noise[:, 0].flatten(0, 1)), torch.zeros((), device=noise.device)
        for sigma, fresh in zip(self.sigmas, noise.unbind(1), strict=True):
            noisy = last(clean + sigma * fresh.flatten(0, 1))
            made = self.net(noisy, sigma, cond, position)
            total = total + self.score(made.unflatten(0, (n, M)), images)
            clean = made.detach()
        return (total / calls).mean(0)


class FewStepStage(DiffusionStage):
    """Third stage: a generator of the residual.

    Parameters
    ----------
    model : Downscaler
        With both trained networks; the denoiser becomes the generator
    cutter, means
        As of the second stage
    how : FewStepConfig
        Of this one
    """

    def __init__(self, model: Downscaler, cutter: Cutter, how: FewStepConfig, means: MeanOf) -> None:
        super().__init__(model, cutter, EDMLoss(model.denoiser.sigma_data), means)
        h, w = super()._noise_shape[1:]
        self.loss = FewStepLoss(self.net, score_of(how, model, (h, w)), how.sigmas)
        self._how = how

    @property
    def _noise_shape(self) -> tuple[int, ...]:
        return len(self._how.sigmas), self._how.members, *super()._noise_shape

    def _noisy(self, noise: Tensor, level: Tensor, step: int | None) -> dict[str, Tensor]:
        phase = self._how.phase(step)
        weights = torch.tensor([[phase.alpha, phase.finest]], device=noise.device)
        return {"noise": noise, "weights": weights.expand(len(noise), -1)}


class ConsistencyLoss(nn.Module):
    """Consistency tuning (ECT, Geng et al., arXiv 2406.14548), of each channel's root mean square.

    ``(sqrt(mean (D(y + t e; t) - stopped D(y + r e; r))² + c²) - c) / (t - r)`` for levels ``r < t``, and the
    true residual where r is 0.
    """

    def __init__(self, net: Denoiser) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Images) -> Tensor:
        """``[Co]``: the mean over all images."""
        t, r = cast(Tensor, images.sigma).unbind(1)
        target, position = images.target, position_of(self.net, images.corner, images.cond.shape[2:])
        noise = cast(Tensor, images.noise)
        with torch.no_grad():
            nearer = target + r.view(-1, 1, 1, 1) * noise
            clean = self.net(nearer, r.clamp(min=1e-6), images.cond, position)
            clean = torch.where(r.view(-1, 1, 1, 1) > 0, clean, target)
        made = self.net(target + t.view(-1, 1, 1, 1) * noise, t, images.cond, position)
        error = (squared_error(made, clean, images.known) + HUBER**2).sqrt() - HUBER
        return (error / (t - r)[:, None]).mean(0)


def nearer_level(t: Tensor, stage: int) -> Tensor:
    """The level r below each t: ``t (1 - q^-(stage + 1) (1 + 8 sigmoid(-t)))``, 0 or more."""
    return t * (1 - Q ** -(stage + 1) * (1 + K * torch.sigmoid(-t))).clamp(min=0)


class ConsistencyStage(DiffusionStage):
    """Consistency tuning before the third stage, whose parameters it takes."""

    def __init__(self, model: Downscaler, cutter: Cutter, how: FewStepConfig, means: MeanOf) -> None:
        super().__init__(model, cutter, EDMLoss(model.denoiser.sigma_data, *LEVELS), means)
        self.loss, self._steps = ConsistencyLoss(self.net), how.consistency

    def _noisy(self, noise: Tensor, level: Tensor, step: int | None) -> dict[str, Tensor]:
        made = super()._noisy(noise, level, step)
        stage = STAGES - 1 if step is None else STAGES * step // self._steps
        return made | {"sigma": torch.stack([made["sigma"], nearer_level(made["sigma"], stage)], dim=1)}


def few_step_sampling(how: FewStepConfig, old: Sampling) -> Sampling:
    """Sampling of the generator."""
    calls = len(how.sigmas)
    return Sampling(FEW_STEP, calls, schedule=FEW_STEP, levels=how.sigmas, noise=old.noise)
