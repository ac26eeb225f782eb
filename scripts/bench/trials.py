# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""One kernel at one size: PhysicsNeMo's operators, the readable reference, and the fused kernel.

All inputs are random, in NHWC, with a mean that is not zero. The truth is the reference in float64.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from earth2_corrdiff.networks import kernels
from earth2_corrdiff.networks.kernels import cpu_conv, reference
from earth2_corrdiff.networks.kernels.cpu_conv import Extras, Field, Norm, Residual
from earth2_corrdiff.networks.unet import EPS, SKIP_SCALE

Run = Callable[[], Tensor]


@dataclass(frozen=True)
class Trial:
    """What is timed.

    Attributes
    ----------
    works : dict[str, Callable]
        "stock", "reference" and "ours"
    truth : Tensor
        The result in float64
    passes : dict[str, int]
        Elements that each reads and writes, as counted from its operators; the reference's are not counted
    flops : int
        Of the convolution in it
    """

    works: dict[str, Run]
    truth: Tensor
    passes: dict[str, int]
    flops: int = 0


Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Inputs:
    """``x``, ``y`` ``[B, C, H, W]`` in NHWC, ``shift`` ``[B, C]``, and an upstream norm with its weights."""

    x: Tensor
    y: Tensor
    shift: Tensor
    norm: Any

    @property
    def how(self) -> tuple[int, Tensor, Tensor, float]:
        """Groups, weight, bias and eps of the norm."""
        return self.norm.num_groups, self.norm.weight, self.norm.bias, EPS

    def double(self) -> _Inputs:
        """The same numbers in float64."""
        return _Inputs(
            self.x.double(), self.y.double(), self.shift.double(), copy.deepcopy(self.norm).double()
        )


def _inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> _Inputs:
    from physicsnemo.nn import GroupNorm

    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device)

    def image(values: Tensor) -> Tensor:
        return values.to(dtype).contiguous(memory_format=torch.channels_last)

    B, C, _, _ = shape
    norm = GroupNorm(C, eps=EPS, act="silu").to(device).eval().requires_grad_(False)
    norm.weight.copy_(1 + 0.2 * random(C))
    norm.bias.copy_(0.2 * random(C))
    return _Inputs(image(2 * random(*shape) + 1), image(random(*shape)), random(B, C).to(dtype), norm)


def norm(shape: Shape, dtype: torch.dtype, device: torch.device) -> Trial:
    """GroupNorm and SiLU."""
    i = _inputs(shape, dtype, device)
    wide, n = i.double(), i.x.numel()
    return Trial(
        {
            "stock": lambda: i.norm(i.x),
            "reference": lambda: reference.group_norm_silu(i.x, *i.how, unbiased=True),
            "ours": lambda: kernels.group_norm_silu(i.x, *i.how, unbiased=True),
        },
        reference.group_norm_silu(wide.x, *wide.how, unbiased=True),
        {"stock": 12 * n, "ours": 3 * n},
    )


def shifted_norm(shape: Shape, dtype: torch.dtype, device: torch.device) -> Trial:
    """The noise embedding added before GroupNorm and SiLU."""
    i = _inputs(shape, dtype, device)
    wide, n = i.double(), i.x.numel()
    return Trial(
        {
            "stock": lambda: i.norm(i.x + i.shift[:, :, None, None]),
            "reference": lambda: reference.group_norm_silu(i.x, *i.how, shift=i.shift, unbiased=True),
            "ours": lambda: kernels.group_norm_silu(i.x, *i.how, shift=i.shift, unbiased=True),
        },
        reference.group_norm_silu(wide.x, *wide.how, shift=wide.shift, unbiased=True),
        {"stock": 14 * n, "ours": 3 * n},
    )


def residual(shape: Shape, dtype: torch.dtype, device: torch.device) -> Trial:
    """The end of a block: residual and scale."""
    i = _inputs(shape, dtype, device)
    wide, n = i.double(), i.x.numel()
    return Trial(
        {
            "stock": lambda: (i.x + i.y) * SKIP_SCALE,
            "reference": lambda: reference.residual_scale(i.x, i.y, SKIP_SCALE),
            "ours": lambda: kernels.residual_scale(i.x, i.y, SKIP_SCALE),
        },
        (wide.x + wide.y) * SKIP_SCALE,
        {"stock": 5 * n, "ours": 3 * n},
    )


def training(shape: Shape, dtype: torch.dtype, device: torch.device) -> Trial:
    """GroupNorm and SiLU, forward and gradients; stock as it trains."""
    i = _inputs(shape, dtype, device)
    i.norm.train()
    wide, n = i.double(), i.x.numel()

    def gradient(of: Callable[..., Tensor], inputs: _Inputs) -> Run:
        """Of x, with those of the weights computed too, as in training."""
        x = inputs.x.detach().requires_grad_()
        weights = [w.requires_grad_() for w in (inputs.norm.weight, inputs.norm.bias)]

        def run() -> Tensor:
            with torch.enable_grad():
                return torch.autograd.grad(of(x, *inputs.how), (x, *weights), inputs.y)[0]

        return run

    return Trial(
        {
            "stock": gradient(lambda x, *how: i.norm(x), i),
            "reference": gradient(reference.group_norm_silu, i),
            "ours": gradient(kernels.group_norm_silu, i),
        },
        gradient(reference.group_norm_silu, wide)(),
        {"ours": 3 * n + 5 * n},  # backward: twice x and its gradient, once the result
    )


def convolution(shape: Shape, dtype: torch.dtype, device: torch.device) -> Trial:
    """The second half of a block on a CPU: GroupNorm, SiLU, 3 x 3 convolution, residual, scale."""
    _, C, H, W = shape
    i = _inputs((1, C, H, W), dtype, device)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(C, C, 3, 3, generator=generator) / (9 * C) ** 0.5
    bias = 0.2 * torch.randn(C, generator=generator)
    kept = weight.to(dtype).contiguous(memory_format=torch.channels_last), bias.to(dtype)

    def plain(inputs: _Inputs, filters: Tensor, offset: Tensor) -> Tensor:
        z = reference.group_norm_silu(inputs.x, *inputs.how, unbiased=True)
        return reference.residual_scale(F.conv2d(z, filters, offset, padding=1), inputs.y, SKIP_SCALE)

    n = i.x.numel()
    return Trial(
        {
            "stock": lambda: (F.conv2d(i.norm(i.x), kept[0], kept[1], padding=1) + i.y) * SKIP_SCALE,
            "reference": lambda: plain(i, *kept),
            "ours": _fused_convolution(i, weight, bias),
        },
        plain(i.double(), weight.double(), bias.double()),
        {"stock": (12 + 2 + 5) * n + weight.numel(), "ours": 3 * n + weight.numel()},
        2 * n * C * 9,
    )


def _fused_convolution(inputs: _Inputs, weight: Tensor, bias: Tensor) -> Run:
    """The C kernel, given the moments of x, which the convolution before it makes."""
    image, other = (v[0].permute(1, 2, 0).contiguous() for v in (inputs.x, inputs.y))
    kept = torch.float32 if image.dtype is torch.float32 else torch.float16
    packed = cpu_conv.pack(weight, bias, kept)
    wide = image.double().flatten(0, 1)
    moments = torch.stack([wide.mean(0), (wide - wide.mean(0)).square().sum(0)]).float()
    groups, gamma, beta, eps = inputs.how
    around = Extras(Norm(gamma, beta, groups, eps), gain=SKIP_SCALE, residual=Residual(other, SKIP_SCALE))
    out = torch.empty_like(image)
    return lambda: cpu_conv.conv((Field(image, moments),), packed, out, around).data.permute(2, 0, 1)[None]


TRIALS = {
    "norm": norm,
    "shifted-norm": shifted_norm,
    "residual": residual,
    "training": training,
    "convolution": convolution,
}
