# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The first two training stages: inputs and loss of each network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from earth2_corrdiff.model.conditioning import interpolated, transformed
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.networks.preconditioned import Denoiser, Regression
from earth2_corrdiff.training.cutter import Cutter, corners_of
from earth2_corrdiff.training.losses import EDMLoss, generator, squared_error
from earth2_corrdiff.training.pairs import Pairs

MeanOf = Callable[[Sequence[int], Tensor], Tensor]
"""Indices and conditioning of some times → the regression's mean ``[N, Co, H, W]``, normalised."""


@dataclass(frozen=True)
class Drawn:
    """Random numbers of some times, on the host.

    Attributes
    ----------
    level, noise : Tensor
        ``[n]`` and ``[n, Co, h, w]``, standard normal; of the third stage ``[n, K, M, Co, h, w]`` for K calls
        and M members
    """

    level: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Batch:
    """Some times, and the keys of their random numbers.

    Attributes
    ----------
    indices : Sequence[int]
        Numbers of the times
    pairs : Pairs
        Their fields
    keys : Sequence[tuple[int, ...]]
        One per time, of all its random numbers: the same whatever process or batch it is in
    drawn : Drawn | None
        The stage's noise for these keys, where it was drawn beforehand
    step : int | None
        Of the training, from 0; None for a validation
    """

    indices: Sequence[int]
    pairs: Pairs
    keys: Sequence[tuple[int, ...]]
    drawn: Drawn | None = None
    step: int | None = None

    def pinned(self) -> Batch:
        """The same in page-locked memory, which a GPU reads while the host continues."""
        pairs = replace(self.pairs, coarse=self.pairs.coarse.pin_memory(), fine=self.pairs.fine.pin_memory())
        drawn = self.drawn and Drawn(self.drawn.level.pin_memory(), self.drawn.noise.pin_memory())
        return replace(self, pairs=pairs, drawn=drawn)


@dataclass(frozen=True)
class Images:
    """Inputs and target of a network; all have the images as their first dimension.

    Attributes
    ----------
    cond, target : Tensor
        ``[n, Cc, h, w]`` and ``[n, Co, h, w]``, normalised
    noise, sigma : Tensor | None
        ``[n, Co, h, w]`` and ``[n]``: of the second stage; of the third the noise alone, as in ``Drawn``
    corner : Tensor | None
        ``[n, 2]``: first row and column of a patch; None for whole domains
    known : Tensor | None
        ``[n, Co, h, w]``: 1 where the target has a value, else 0; None for everywhere
    weights : Tensor | None
        ``[n, 2]``: alpha, and the weight of the finest differences, of the third stage
    """

    cond: Tensor
    target: Tensor
    noise: Tensor | None = None
    sigma: Tensor | None = None
    corner: Tensor | None = None
    known: Tensor | None = None
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.cond)

    def split(self, most: int | None) -> list[Images]:
        """Parts of at most so many images."""
        if most is None or most >= len(self):
            return [self]
        parts = [
            [None] * -(-len(self) // most) if value is None else value.split(most)
            for value in vars(self).values()
        ]
        return [Images(*part) for part in zip(*parts, strict=True)]


class Stage(Protocol):
    """A stage of a training."""

    loss: nn.Module  # Images → the mean loss of each channel, of its .net; what data-parallel training wraps

    @property
    def net(self) -> Regression | Denoiser:
        """The network that is trained."""
        ...

    def draw(self, keys: Sequence[tuple[int, ...]]) -> Drawn | None:
        """The noise of some times, for :meth:`images`; None where there is none."""
        ...

    def images(self, batch: Batch) -> Images:
        """Inputs and target of a batch."""
        ...


def last(x: Tensor) -> Tensor:
    """Channels last, as the weights are."""
    return x.contiguous(memory_format=torch.channels_last)


def position_of(net: Regression | Denoiser, corner: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    """The network's positional embedding of these patches; None where it adds its own."""
    whole = net.position()
    if corner is None or whole is None:
        return None
    h, w = shape
    return last(torch.cat([whole[:, :, y : y + h, x : x + w] for y, x in corner.tolist()]))


class RegressionLoss(nn.Module):
    """Mean squared error of the mean."""

    def __init__(self, net: Regression) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Images) -> Tensor:
        """``[Co]``: the mean over all images."""
        cond, net = images.cond, self.net
        latent = last(cond.new_zeros(len(cond), net.latent_channels, *cond.shape[2:]))
        labels = torch.zeros(1, dtype=torch.float32, device=cond.device)
        position = position_of(net, images.corner, cond.shape[2:])
        mean = net.model(torch.cat([latent, cond], dim=1), labels, position)
        return squared_error(mean.float(), images.target, images.known).mean(0)


class DiffusionLoss(nn.Module):
    """Denoising loss of the residual."""

    def __init__(self, net: Denoiser, edm: EDMLoss) -> None:
        super().__init__()
        self.net, self.edm = net, edm

    def forward(self, images: Images) -> Tensor:
        """``[Co]``: the mean over all images."""
        noise, sigma = cast(Tensor, images.noise), cast(Tensor, images.sigma)
        noisy = images.target + sigma.view(-1, 1, 1, 1) * noise
        position = position_of(self.net, images.corner, noisy.shape[2:])
        clean = self.net(noisy, sigma, images.cond, position)
        return self.edm(clean, images.target, sigma, images.known).mean(0)


def without_gaps(model: Downscaler, target: Tensor) -> tuple[Tensor, Tensor | None]:
    """A target with 0 where it has no value, and where it has one; None for everywhere."""
    if not model.spec.missing_inputs:
        return target, None
    known = torch.isfinite(target)
    return torch.where(known, target, 0), known.to(target.dtype)


@torch.no_grad()
def normalised(model: Downscaler, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Conditioning ``[N, Cc, H, W]`` and truth ``[N, Co, H, W]`` of the whole domain, normalised."""
    cond = model.condition(pairs.coarse.to(model.device, non_blocking=True), pairs.times)
    fine = pairs.fine.to(model.device, non_blocking=True)
    if model.spec.rules:
        fine = transformed(fine, [rule.transform for rule in model.spec.rules])
    return cond, (fine - model.center_out) / model.scale_out


class RegressionStage:
    """First stage: the mean.

    Parameters
    ----------
    model : Downscaler
        With the network that is trained
    cutter : Cutter
        Part of each time to train on
    """

    def __init__(self, model: Downscaler, cutter: Cutter) -> None:
        self.net: Regression = model.regression
        self.loss: nn.Module = RegressionLoss(self.net)
        self._model, self._cutter = model, cutter

    def draw(self, keys: Sequence[tuple[int, ...]]) -> None:
        """There is no noise in this stage."""

    def images(self, batch: Batch) -> Images:
        """Conditioning and truth."""
        cond, truth = normalised(self._model, batch.pairs)
        cutter = self._cutter
        cuts = cutter.cuts(batch.pairs.fine, batch.keys)
        if self._model.spec.differences:
            truth = truth - interpolated(self._model.spec, cond)
        target, known = without_gaps(self._model, cutter.cut(truth, cuts))
        return Images(last(cutter.cut(cond, cuts)), target, corner=corners_of(cuts), known=known)


class DiffusionStage:
    """Second stage: the residual.

    Parameters
    ----------
    model : Downscaler
        With the trained regression and the network that is trained
    cutter : Cutter
        Part of each time to train on; all patches of a time share its mean and its conditioning
    edm : EDMLoss
        The loss
    means : MeanOf
        The regression's mean of some times
    """

    def __init__(self, model: Downscaler, cutter: Cutter, edm: EDMLoss, means: MeanOf) -> None:
        self.net: Denoiser = model.denoiser
        self.loss: nn.Module = DiffusionLoss(self.net, edm)
        self._model, self._cutter = model, cutter
        self._edm, self._means = edm, means

    def draw(self, keys: Sequence[tuple[int, ...]]) -> Drawn:
        """Noise of some times, drawn by a single thread: the trainer calls it in the background."""
        size = (self._cutter.per_time, *self._noise_shape)
        draws: list[Any] = []
        for source in (generator(*key, 0) for key in keys):
            level = torch.randn(size[0], generator=source)
            draws.append((level, torch.randn(size, generator=source)))
        return Drawn(*(torch.cat(part) for part in zip(*draws, strict=True)))

    @property
    def _noise_shape(self) -> tuple[int, ...]:
        """Shape of an image's noise."""
        patches, spec = self._cutter.patches, self._model.spec
        return len(spec.outputs.names), *(spec.output_grid.shape if patches is None else patches.shape)

    def _noisy(self, noise: Tensor, level: Tensor, step: int | None) -> dict[str, Tensor]:
        """The fields of :class:`Images` that are made of random numbers."""
        return {"noise": last(noise), "sigma": self._edm.sigma(level)}

    @torch.no_grad()
    def images(self, batch: Batch) -> Images:
        """Conditioning with the mean, true residual, noise."""
        model, cutter = self._model, self._cutter
        cond, truth = normalised(model, batch.pairs)
        mean = self._means(batch.indices, cond)
        cuts = cutter.cuts(batch.pairs.fine, batch.keys)
        seen = torch.cat([mean, cond], dim=1) if model.spec.hr_mean_conditioning else cond
        parts = [cutter.cut(seen, cuts)]
        if cutter.patches is not None and model.domain.whole:
            parts.append(cutter.shrunk(cond))
        target, known = without_gaps(model, cutter.cut(truth - mean, cuts))
        drawn = batch.drawn or self.draw(batch.keys)
        noise, level = (x.to(target.device, non_blocking=True) for x in (drawn.noise, drawn.level))
        seen, made = last(torch.cat(parts, dim=1)), self._noisy(noise, level, batch.step)
        return Images(seen, last(target), corner=corners_of(cuts), known=known, **made)
