# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""FLOPs and memory traffic of PhysicsNeMo's U-Net, per operator, from a forward pass without data.

The traffic is counted four times: as stock runs ("eager"), as fused kernels run ("fused"), as the best
known fusion would ("ideal"), and as this package's engine for GPUs runs ("ours", ``gpu``). Passes
over a tensor of n elements, reads and writes:

========================================  =====  =====  =====  =====================================
operator                                  eager  fused  ideal  ours
========================================  =====  =====  =====  =====================================
GroupNorm with SiLU                       12     3      2      2; 3 behind a block's first convolution
GroupNorm alone                           10     3      2      2
embedding, residual and scale of a block  7      3      1      3
residual and scale of an attention        5      3      1      3
concatenation with a skip                 2      2      0      1
bias of a convolution (cuDNN adds it)     2      0      0      0
========================================  =====  =====  =====  =====================================

Fused: two reads and a write in the norm, with the embedding and biases folded in; residual and scale in one
kernel. Ideal: the norm's statistics and the residual in the convolution's epilogue, a norm with two sources.
Convolutions, resampling and attention read their inputs and write their outputs once in these three; in ours
the norm writes at the resolution that is needed, and what is doubled in the end is convolved before.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from earth2_corrdiff.networks.unet import SongUNet

NORM, ELEMENTWISE, CAT, RESAMPLE = "GroupNorm, SiLU", "elementwise", "cat", "resample"
ATTENTION, LINEAR = "attention", "embedding"
MODELS = ("eager", "fused", "ideal", "ours")


def convolution(kernel: int, height: int) -> str:
    """Class of a convolution: those of 3 x 3 by the height of their output, 1 x 1 all together."""
    return "convolution 1x1" if kernel == 1 else f"convolution {kernel}x{kernel} at {height}"


@dataclass(frozen=True)
class Operation:
    """One operator: FLOPs (a multiply-add is two), and elements read and written under each model."""

    kind: str
    flops: int
    eager: int
    fused: int
    ideal: int
    ours: int


Counter = Callable[[str, nn.Module, Tensor, Tensor], list[Operation]]


def _same(kind: str, flops: int, elements: int) -> Operation:
    return Operation(kind, flops, elements, elements, elements, elements)


def _convolution(name: str, module: Any, x: Tensor, y: Tensor) -> list[Operation]:
    B, C_out, H, W = y.shape
    C_in, kernel = module.weight.shape[1], module.weight.shape[-1]
    inputs = B * C_in * H * W
    elements = inputs + y.numel() + module.weight.numel()
    flops = 2 * B * C_out * H * W * C_in * kernel**2
    skip = name.rpartition(".")[2] == "skip"
    ours = x.numel() + y.numel() // 4 + module.weight.numel() if skip and module.up else elements
    found = [Operation(convolution(kernel, H), flops, elements + 2 * y.numel(), elements, elements, ours)]
    if module.up or module.down:
        passes = x.numel() + inputs
        # the norm's output, counted at its input's resolution; the skip's input, written beside it
        beside = (inputs if module.down else 0) if skip else inputs - x.numel()
        found.append(Operation(RESAMPLE, 0, passes, passes, passes, beside))
    return found


def _norm(name: str, module: Any, x: Tensor, y: Tensor) -> list[Operation]:
    # the last norm's SiLU is a separate operator upstream: the same passes
    silu = getattr(module, "act", "attn" not in name) or name.endswith("aux_norm")
    passes = 12 if silu else 10
    n = x.numel()
    return [Operation(NORM, 0, passes * n, 3 * n, 2 * n, (3 if name.endswith("norm1") else 2) * n)]


def _block(name: str, module: Any, x: Tensor, y: Tensor) -> list[Operation]:
    n = y.numel()
    found = [Operation(ELEMENTWISE, 0, 7 * n, 3 * n, n, 3 * n)]
    if module.attn:
        found.append(Operation(ELEMENTWISE, 0, 5 * n, 3 * n, n, 3 * n))
    if "dec." in name and "_block" in name:
        found.append(Operation(CAT, 0, 2 * x.numel(), 2 * x.numel(), 0, x.numel()))
    return found


def _attention(name: str, module: Any, x: Tensor, y: Tensor) -> list[Operation]:
    B, C, H, W = y.shape
    return [_same(ATTENTION, 4 * B * (H * W) ** 2 * C, 4 * y.numel())]


def _linear(name: str, module: Any, x: Tensor, y: Tensor) -> list[Operation]:
    return [_same(LINEAR, 2 * y.numel() * x.shape[-1], module.weight.numel())]


_COUNTERS: dict[str, Counter] = {
    "Conv2d": _convolution,
    "GroupNorm": _norm,
    "UNetBlock": _block,
    "UNetAttention": _attention,
    "Block": _block,  # from here on this package's own
    "Attention": _attention,
    "Linear": _linear,
}


def count(unet: nn.Module, shape: tuple[int, int, int, int]) -> list[Operation]:
    """Operators of one forward pass of a ``SongUNet``, PhysicsNeMo's or ours, on ``[B, C, H, W]``."""
    unet = copy.deepcopy(unet).to("meta")
    found: list[Operation] = []

    def hook(name: str, counter: Counter) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, inputs, y: found.extend(counter(name, module, inputs[0], y))

    for name, module in unet.named_modules():
        counter = _COUNTERS.get(type(module).__name__)
        if counter is not None:
            module.register_forward_hook(hook(name, counter))
    with torch.inference_mode():
        image, labels = torch.empty(shape, device="meta"), torch.empty(shape[0], device="meta")
        unet(image, labels, **({} if isinstance(unet, SongUNet) else {"class_labels": None}))
    return found


def flops(operations: Iterable[Operation]) -> int:
    """Sum of the FLOPs."""
    return sum(op.flops for op in operations)


def elements(operations: Iterable[Operation], model: str) -> int:
    """Sum of the elements moved under a traffic model, one of ``MODELS``."""
    return sum(getattr(op, model) for op in operations)


def by_kind(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    """Operators sorted into their classes."""
    kinds: dict[str, list[Operation]] = {}
    for op in operations:
        kinds.setdefault(op.kind, []).append(op)
    return kinds
