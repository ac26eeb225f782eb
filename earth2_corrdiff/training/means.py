# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The regression's means for the second stage, and the scale of the residual."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from earth2_corrdiff.base.files import writing
from earth2_corrdiff.model.conditioning import interpolated
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.spec import CorrDiffSpec
from earth2_corrdiff.networks.dit import ConvDetokenizer, DiT
from earth2_corrdiff.networks.fast.accelerate import accelerate
from earth2_corrdiff.networks.preconditioned import Regression
from earth2_corrdiff.networks.unet import SongUNet
from earth2_corrdiff.training.pairs import PairFile
from earth2_corrdiff.training.stages import normalised
from earth2_corrdiff.training.statistics import Moments
from earth2_corrdiff.training.trainer import evenly

BALANCE_TIMES, BALANCE_PIXELS = 512, 2**24
"""Most times, and pixels, that the scale of the residual is estimated from; at least four times."""


def checksum(net: nn.Module) -> str:
    """Checksum of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(name.encode() + value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class Means:
    """The regression's mean of any times, in float32 on the fast kernels.

    Parameters
    ----------
    model : Downscaler
        With the trained regression
    pairs : PairFile
        The data that indices count
    folder : Path | None, optional
        Keep means in files there, and read them from these; several processes may share them
    """

    def __init__(self, model: Downscaler, pairs: PairFile, folder: Path | None = None) -> None:
        regression: Regression = model.regression
        self._spec, self._net = model.spec, accelerate(regression, "fp32").eval().requires_grad_(False)
        self._kept: NDArray[np.float32] | None = None
        if folder is not None:
            of = hashlib.sha256(pairs.times.tobytes() + str(pairs.path.resolve()).encode()).hexdigest()[:8]
            path, count = folder / f"means-{checksum(regression)}-{of}.f32", len(pairs.times)
            shape = (count, len(pairs.channels.outputs), *pairs.fine_grid.shape)
            self._kept = _mapped(path, np.float32, shape)
            self._done = _mapped(path.with_suffix(".done"), np.uint8, (count,))

    @torch.no_grad()
    def __call__(self, indices: Sequence[int], cond: Tensor) -> Tensor:
        """``[N, Cc, H, W] → [N, Co, H, W]``, normalised."""
        made = self._made(indices, cond)
        return made + interpolated(self._spec, cond) if self._spec.differences else made

    def _made(self, indices: Sequence[int], cond: Tensor) -> Tensor:
        """What the network makes."""
        if self._kept is None:
            return self._net(cond)  # type: ignore[no-any-return]
        for n, index in enumerate(indices):
            if not self._done[index]:
                self._kept[index] = self._net(cond[n : n + 1])[0].cpu().numpy()
                self._done[index] = 1  # last: a process may be killed in between
        return torch.from_numpy(self._kept[list(indices)]).to(cond.device)


def _mapped(path: Path, kind: type[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """An array in a file, which starts with zeros that take no room on the disk."""
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    with writing(path), path.open("ab") as file:
        file.truncate(size)  # makes it longer; what another process has written stays
    return np.memmap(path, kind, "r+", shape=shape)


def residual_scale(
    model: Downscaler, pairs: PairFile, indices: Sequence[int], means: Means
) -> tuple[float, ...]:
    """Standard deviation of each channel of the residual, normalised, over some training times."""
    moments, pixels = Moments(), math.prod(model.spec.output_grid.shape)
    for index in evenly(indices, min(BALANCE_TIMES, max(4, BALANCE_PIXELS // pixels))):
        cond, truth = normalised(model, pairs.read([index]))
        moments.add((truth - means([index], cond)).cpu())
    return tuple(moments.std.tolist())


def balance(model: Downscaler, scale: Sequence[float], sigma: float) -> Downscaler:
    """The same model with outputs scaled such that the residual's standard deviation is ``sigma``.

    The preconditioning of EDM (Karras et al. 2022, table 1) and the solver ``trigflow`` suppose that of
    every channel. The regression's last layers take up the change, and its physical mean stays what it was.
    """
    return rescaled(model, torch.tensor(scale) / sigma)


def rescaled(model: Downscaler, ratio: Tensor) -> Downscaler:
    """The same model with ``ratio [Co]`` times the scale of its outputs, and the same physical mean."""
    divide_output(cast(SongUNet | DiT, model.regression.model), ratio)
    old: CorrDiffSpec = model.spec
    scales = tuple(s * r for s, r in zip(old.outputs.scale, ratio.tolist(), strict=True))
    spec = replace(old, outputs=replace(old.outputs, scale=scales))
    return Downscaler(spec, model.regression, model.denoiser, "fp32", accelerated=False)


@torch.no_grad()
def divide_output(net: SongUNet | DiT, ratio: Tensor) -> None:
    """Divide the output channels of a network by ``ratio [Co]``, in the weights of its last layers."""
    if isinstance(net, SongUNet):
        _divide(list(net.dec.values())[-1], ratio)
        return
    head, (p, q) = cast(Any, net.detokenizer), net.patch_size
    whole = head.proj if isinstance(head, ConvDetokenizer) else head
    _divide(whole.proj_layer.output_projection, ratio.repeat(p * q))
    if isinstance(head, ConvDetokenizer):  # its convolutions see the image as it was
        first: Any = head.conv_head[0]
        first.weight.mul_(ratio.to(first.weight).view(1, -1, 1, 1))
        _divide(head.conv_head[-1], ratio)


def _divide(layer: Any, ratio: Tensor) -> None:
    for value in (layer.weight, layer.bias):
        value.div_(ratio.to(value).view(-1, *[1] * (value.ndim - 1)))
