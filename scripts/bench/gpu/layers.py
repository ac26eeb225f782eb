# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Shapes of the norms and convolutions of the published network, from a forward pass without data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch

from earth2_corrdiff.networks.unet import Conv2d, GroupNorm

from ..cases import SIZES, Size, fresh_networks


@dataclass(frozen=True)
class Convolution:
    """A convolution of ``kernel`` squared with its output of ``side`` squared."""

    c_in: int
    c_out: int
    kernel: int
    side: int

    def flops(self, batch: int) -> int:
        """A multiply-add is two."""
        return 2 * batch * self.c_in * self.c_out * self.kernel**2 * self.side**2

    def __str__(self) -> str:
        return f"{self.c_in}->{self.c_out} {self.kernel}x{self.kernel} at {self.side}"


@dataclass(frozen=True)
class Layers:
    """Layers of a denoising step.

    Attributes
    ----------
    norms : tuple[tuple[int, int], ...]
        (channels, side) of the inputs of its norms, each once, the largest first
    convolutions : tuple[tuple[Convolution, int], ...]
        Each with how often it is there, the costliest first
    """

    norms: tuple[tuple[int, int], ...]
    convolutions: tuple[tuple[Convolution, int], ...]


def size_of(tiny: bool) -> Size:
    """The published size, or a toy."""
    return SIZES["tiny" if tiny else "full"]


def layers(size: Size) -> Layers:
    """Layers of the denoiser of a size."""
    with torch.device("meta"):
        denoiser = fresh_networks(size)[1].eval()
    net: Any = denoiser.model.to("meta")
    norms: set[tuple[int, int]] = set()
    convolutions: Counter[Convolution] = Counter()

    def convolve(module: Any, inputs: Any, y: torch.Tensor) -> None:
        c_out, c_in, kernel, _ = module.weight.shape
        doubled = module.up and kernel == 1  # commutes with the doubling, which comes after it
        convolutions[Convolution(c_in, c_out, kernel, y.shape[-1] // (2 if doubled else 1))] += 1

    def normalise(module: Any, inputs: Any, y: torch.Tensor) -> None:
        norms.add((y.shape[1], y.shape[2]))

    for module in net.modules():
        if isinstance(module, Conv2d):
            module.register_forward_hook(convolve)
        elif isinstance(module, GroupNorm):
            module.register_forward_hook(normalise)
    shape = (1, denoiser.image_channels, size.side, size.side)
    with torch.inference_mode():
        net(torch.empty(shape, device="meta"), torch.empty(1, device="meta"))
    costly = sorted(convolutions.items(), key=lambda item: -item[1] * item[0].flops(1))
    return Layers(tuple(sorted(norms, key=lambda n: -n[0] * n[1] ** 2)), tuple(costly))
