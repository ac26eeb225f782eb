# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Stock Earth2Studio as the baseline: its class on another grid, its networks in another type.

Upstream runs in float16 on CUDA, and in float32 elsewhere. ``in_type`` runs the same operators in any type on
any device, so that precision is compared with precision.
"""

from __future__ import annotations

import contextlib
import inspect
import types
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from earth2_corrdiff.networks.preconditioned import Denoiser, Regression

SIDE = 448  # the one grid that the stock class knows


def taiwan_class(module: types.ModuleType, side: int) -> Any:
    """Stock ``CorrDiffTaiwan`` for a grid of ``side`` squared.

    The class has the number 448 in the code of ``_forward``; that constant is exchanged, and nothing else.

    Parameters
    ----------
    module : ModuleType
        ``earth2studio.models.dx.corrdiff``
    side : int
        Points along each axis of the fine grid
    """
    stock = module.CorrDiffTaiwan
    if side == SIDE:
        return stock
    forward = cast(types.FunctionType, inspect.unwrap(stock._forward))
    code = forward.__code__
    if SIDE not in code.co_consts:
        raise RuntimeError(f"this Earth2Studio has no {SIDE} in CorrDiffTaiwan._forward; read what it does")
    code = code.replace(co_consts=tuple(side if c == SIDE else c for c in code.co_consts))
    changed = types.FunctionType(code, forward.__globals__, forward.__name__)
    return type("CorrDiffTaiwan", (stock,), {"_forward": torch.inference_mode()(changed)})


def network(ours: Regression | Denoiser) -> nn.Module:
    """PhysicsNeMo's network of the same architecture with the same weights, as the stock class has it."""
    from physicsnemo.diffusion.preconditioners import legacy
    from physicsnemo.models import diffusion_unets

    origin = ours.origin
    home = legacy if origin.name.startswith("EDM") else diffusion_unets
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = cast(nn.Module, getattr(home, origin.name)(**origin.args))
    net.load_state_dict(ours.state_dict(), strict=False)
    net.half().float()  # position features and frequencies too, as the stock class rounds them
    _check_copied(net, ours)
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _check_copied(net: nn.Module, ours: nn.Module) -> None:
    theirs = dict(net.named_parameters())
    for name, value in ours.named_parameters():
        if not torch.equal(theirs.pop(name).to(value.device), value):
            raise RuntimeError(f"the stock network did not take the weight {name}")
    if theirs:
        raise RuntimeError(f"the stock network has weights of its own: {', '.join(theirs)}")


class _InType(nn.Module):
    """An upstream U-Net between two casts; its labels stay float32, as on CUDA, except in float64."""

    def __init__(self, unet: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.unet, self.dtype = unet.to(dtype), dtype

    def forward(self, x: Tensor, labels: Tensor, class_labels: None = None) -> Tensor:
        labels = labels.to(torch.promote_types(labels.dtype, self.dtype))
        return cast(Tensor, self.unet(x.to(self.dtype), labels, class_labels=class_labels)).to(x.dtype)


def in_type(net: Any, dtype: torch.dtype) -> Any:
    """Let an upstream wrapper run its U-Net in ``dtype``, weights and activations; it stays float32."""
    net.model = _InType(net.model, dtype)
    return net


def as_shipped(net: Any) -> Any:
    """What ``CorrDiffTaiwan.load_model`` makes of a network: float16 weights, activations too on CUDA."""
    net.use_fp16 = True
    return net


def member_seeds(members: int, device: torch.device, seed: int = 0) -> list[int]:
    """The seeds that the stock class draws for its members on a device."""
    generator = torch.Generator(device=device).manual_seed(seed)
    return [
        int(s) for s in torch.randint(0, 2**32, (members,), device=device, generator=generator).cpu().tolist()
    ]


@contextlib.contextmanager
def noise_of_the_host() -> Iterator[None]:
    """Let stock draw its noise on the CPU, as this package does everywhere: a GPU's numbers are others.

    For the comparison of fields only; nothing is timed under it.
    """
    from physicsnemo.diffusion.generate import legacy_generate

    upstream = legacy_generate.StackedRandomGenerator

    class HostNoise(upstream):  # type: ignore[misc, valid-type]
        def __init__(self, device: torch.device, seeds: Sequence[int]) -> None:
            super().__init__(torch.device("cpu"), seeds)

        def randn(self, size: Sequence[int], device: torch.device, **kwargs: Any) -> Tensor:
            return cast(Tensor, super().randn(size, **kwargs)).to(device)

    legacy_generate.StackedRandomGenerator = HostNoise
    try:
        yield
    finally:
        legacy_generate.StackedRandomGenerator = upstream
