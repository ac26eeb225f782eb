# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The fused operators in plain PyTorch: the specification that every other version of them is tested against.

They work on any device, in any dtype and layout, and keep the layout. Below 32 bits all arithmetic is
float32 and only the result is rounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (as everywhere in PyTorch code)


@dataclass(frozen=True)
class Norm:
    """Settings of a fused normalisation, apart from its tensors: see :func:`group_norm_silu`."""

    groups: int
    eps: float = 1e-6
    silu: bool = True
    unbiased: bool = False


def group_norm_silu(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-6,
    *,
    silu: bool = True,
    shift: Tensor | None = None,
    unbiased: bool = False,
) -> Tensor:
    """SiLU of the group normalisation (Wu & He, arXiv 1803.08494) of ``x + shift``.

    Parameters
    ----------
    x : Tensor
        ``[B, C, H, W]``
    groups : int
        Divides C
    weight, bias : Tensor
        ``[C]``
    eps : float, optional
        Added to the variance, by default 1e-6
    silu : bool, optional
        Apply ``z * sigmoid(z)`` at the end, by default True
    shift : Tensor | None, optional
        ``[B, C]``, added before the statistics (a block's noise embedding), by default none
    unbiased : bool, optional
        Divide the variance by n - 1 as PhysicsNeMo does in evaluation, by default by n

    Returns
    -------
    Tensor
        ``[B, C, H, W]``, dtype and layout of ``x``
    """
    return forward(x, weight, bias, shift, Norm(groups, eps, silu, unbiased))[0]


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, norm: Norm
) -> tuple[Tensor, Tensor, Tensor]:
    """The result, and of each group ``[B, groups]`` the mean and 1 / standard deviation."""
    y = torch.unflatten(_shifted(x, shift), 1, (norm.groups, -1))
    rough = y.mean(dim=(2, 3, 4))
    centred = y - _spread(rough)  # two-pass, and the first mean corrected: a large mean costs no digits
    rest = centred.mean(dim=(2, 3, 4))
    mean = rough + rest
    squares = (centred - _spread(rest)).square().sum(dim=(2, 3, 4))
    rstd = (squares / (_count(x, norm) - norm.unbiased) + norm.eps).rsqrt()
    z = _normalised(x, shift, mean, rstd) * _along(weight, mean) + _along(bias, mean)
    return (F.silu(z) if norm.silu else z).to(x.dtype), mean, rstd


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    shift: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    norm: Norm,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients with respect to x, weight, bias and shift (``[B, C]``, also where there is none).

    With h = (x + shift - mean) * rstd and z = h * weight + bias, and c = 1 where the variance is unbiased,
    dx = rstd * (dh - sum(dh) / n - h * sum(dh * h) / (n - c)): sums over a group of n values.
    """
    h = _normalised(x, shift, mean, rstd)
    dz = grad.to(h.dtype)
    if norm.silu:
        z = h * _along(weight, mean) + _along(bias, mean)
        s = z.sigmoid()
        dz = dz * s * (1 + z * (1 - s))
    dh = torch.unflatten(dz * _along(weight, mean), 1, (norm.groups, -1))
    hg = torch.unflatten(h, 1, (norm.groups, -1))
    n = _count(x, norm)
    mean_dh = dh.sum(dim=(2, 3, 4)) / n
    slope = (dh * hg).sum(dim=(2, 3, 4)) / (n - norm.unbiased)
    dx = (_spread(rstd) * (dh - _spread(mean_dh) - hg * _spread(slope))).flatten(1, 2)
    return dx.to(x.dtype), (dz * h).sum(dim=(0, 2, 3)), dz.sum(dim=(0, 2, 3)), dx.sum(dim=(2, 3))


def residual_scale(x: Tensor, y: Tensor, scale: float) -> Tensor:
    """``(x + y) * scale`` of two tensors of one shape and dtype, rounded once."""
    wide = working_dtype(x.dtype)
    return ((x.to(wide) + y.to(wide)) * scale).to(x.dtype)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of statistics and arithmetic: float64 for float64, else float32."""
    return torch.promote_types(dtype, torch.float32)


def _count(x: Tensor, norm: Norm) -> int:
    _, C, H, W = x.shape
    return C // norm.groups * H * W


def _shifted(x: Tensor, shift: Tensor | None) -> Tensor:
    wide = x.to(working_dtype(x.dtype))
    return wide if shift is None else wide + shift.to(wide.dtype)[:, :, None, None]


def _normalised(x: Tensor, shift: Tensor | None, mean: Tensor, rstd: Tensor) -> Tensor:
    y = torch.unflatten(_shifted(x, shift), 1, (mean.shape[1], -1))
    return ((y - _spread(mean)) * _spread(rstd)).flatten(1, 2)


def _spread(values: Tensor) -> Tensor:
    """``[B, G]`` → ``[B, G, 1, 1, 1]``, to meet ``[B, G, C / G, H, W]``."""
    return values[:, :, None, None, None]


def _along(values: Tensor, like: Tensor) -> Tensor:
    """``[C]`` → ``[1, C, 1, 1]``."""
    return values.to(like.dtype).view(1, -1, 1, 1)
