# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Feature maps of the U-Net and what stands between its convolutions, with as few passes as possible.

A map carries the moments of its channels where a kernel that wrote it had them at hand, so that the next norm
reads it once. On GPUs Triton does this (:mod:`triton_maps`), elsewhere the operators of :mod:`ops` one after
the other, which are the specification.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from earth2_corrdiff.networks.kernels import ops
from earth2_corrdiff.networks.kernels.reference import Norm

MODES = ("same", "up", "down")
NHWC = torch.channels_last


@dataclass(frozen=True)
class FeatureMap:
    """A tensor ``[B, C, H, W]`` in NHWC and the moments of its channels (``None`` where they are not needed).

    Attributes
    ----------
    values : Tensor
        ``[B, C, H, W]``
    moments : Tensor | None
        ``[B, spans, 2, C]`` float32: of each span of pixels the means, and the squares about them
    """

    values: Tensor
    moments: Tensor | None = None

    @property
    def channels(self) -> int:
        """C."""
        return self.values.shape[1]


def _kernels(x: Tensor) -> Any:
    """The Triton kernels, if they take a tensor."""
    if not ops.on_triton(x):
        return None
    from earth2_corrdiff.networks.kernels import triton_maps

    return triton_maps


def measured(x: Tensor) -> FeatureMap:
    """A map of a tensor ``[B, C, H, W]`` that a convolution has made."""
    kernels = _kernels(x)
    if kernels is None:
        return FeatureMap(x)
    x = x.contiguous(memory_format=NHWC)
    return FeatureMap(x, kernels.moments(x))


def join(x: Tensor, side: Tensor | None, bias: Tensor, scale: float) -> FeatureMap:
    """``(x + bias + side) * scale``: the end of a block.

    Parameters
    ----------
    x : Tensor
        ``[B, C, H, W]``, as the convolution without a bias gives it
    side : Tensor | None
        Of the same shape, or at half the resolution: each value for four pixels
    bias : Tensor
        ``[C]`` float32
    scale : float
        Factor of the sum
    """
    kernels = _kernels(x)
    if kernels is not None:
        x = x.contiguous(memory_format=NHWC)
        side = None if side is None else side.contiguous(memory_format=NHWC)
        return FeatureMap(*kernels.join(x, side, bias, scale))
    if side is not None and side.shape != x.shape:
        side = F.interpolate(side, scale_factor=2, mode="nearest")
    wide = x.float() + bias.view(1, -1, 1, 1)
    wide = wide if side is None else wide + side.float()
    return FeatureMap((wide * scale).to(x.dtype))


def normalised(
    maps: Sequence[FeatureMap],
    weight: Tensor,
    bias: Tensor,
    norm: Norm,
    *,
    shift: Tensor | None = None,
    mode: str = "same",
    keep: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The norm (with SiLU, if ``norm`` has it) of one map, or of two as if they were concatenated.

    Parameters
    ----------
    maps : Sequence[FeatureMap]
        One, or two with the same B, H and W
    weight, bias : Tensor
        ``[C]`` float32, over the channels of all
    norm : Norm
        Groups, eps, SiLU
    shift : Tensor | None, optional
        ``[1, C]`` float32, added before the statistics, by default none
    mode : {"same", "up", "down"}, optional
        Resolution of the result: as it is, by default; twice (nearest); or half (the mean of four)
    keep : bool, optional
        True if the input itself is returned too, concatenated, for "down" at half the resolution

    Returns
    -------
    tuple[Tensor, Tensor | None]
        The result ``[B, C, H', W']``, and the input or None
    """
    maps = _side_by_side(maps)
    first = maps[0].values
    if maps[0].moments is not None:
        parts = [m.moments for m in maps]
        tensors = [m.values for m in maps]
        found: tuple[Tensor, Tensor | None] = _kernels(first).normalised(
            tensors, parts, weight, bias, shift, norm, MODES.index(mode), keep
        )
        return found
    x = first if len(maps) == 1 else torch.cat([m.values for m in maps], dim=1)
    y = ops.group_norm_silu(
        x, norm.groups, weight, bias, norm.eps, silu=norm.silu, shift=shift, unbiased=norm.unbiased
    )
    if mode == "up":
        return F.interpolate(y, scale_factor=2, mode="nearest"), x if keep else None
    if mode == "down":
        return F.avg_pool2d(y, 2), F.avg_pool2d(x, 2) if keep else None
    return y, x if keep else None


def _side_by_side(maps: Sequence[FeatureMap]) -> Sequence[FeatureMap]:
    """The same maps, as one where their channels do not fill tiles."""
    kernels = None if maps[0].moments is None else _kernels(maps[0].values)
    if kernels is None or kernels.fits([m.channels for m in maps]):
        return maps
    values = torch.cat([m.values for m in maps], dim=1).contiguous(memory_format=NHWC)
    moments = [m.moments for m in maps if m.moments is not None]
    return [FeatureMap(values, torch.cat(moments, dim=-1))]
