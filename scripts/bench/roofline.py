# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The roofline of this machine: measured matrix products and copies, and the least time of a network.

The FLOPs are those of direct convolutions: an algorithm that needs fewer (Winograd) can pass the roofline,
and so can data that stays in a cache.

Source: Williams et al., "Roofline" (CACM 2009), per operator, as in NVIDIA's speed-of-light analysis.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from .counts import Operation, elements
from .timing import Work, clock_of, warm_up

TYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp64": torch.float64,
}


@dataclass(frozen=True)
class Peaks:
    """What the machine can do.

    Attributes
    ----------
    matmul : dict[str, float]
        FLOP/s per precision of a large matrix product, plain or as a convolution; at least that of fp32, in
        which a type without arithmetic of its own can be computed
    copy : float
        Bytes read and written per second by a copy larger than the caches
    """

    matmul: dict[str, float]
    copy: float


def measure(device: torch.device, precisions: Iterable[str], tries: int = 20) -> Peaks:
    """Best of some tries on this machine, with the threads and the settings of now."""
    fp32 = _product(torch.float32, device, tries)
    rest = {p: max(fp32, _product(TYPES[p], device, tries)) for p in precisions if p != "fp32"}
    return Peaks({"fp32": fp32, **rest}, _copy(device, tries))


def _best(work: Work, device: torch.device, tries: int, patience: float = 3.0) -> float:
    """Shortest seconds per call; fewer tries where they take more than ``patience`` seconds together."""
    clock = clock_of(device)
    best, repeats = warm_up(work, clock)
    spent = best
    for _ in range(tries):
        if spent > patience:  # a type that this machine emulates
            break
        found = clock.time(work, repeats)
        best, spent = min(best, found), spent + found * repeats
    return best


def _product(dtype: torch.dtype, device: torch.device, tries: int) -> float:
    """The better of a plain product and a convolution: BLAS libraries favour one maker's processors."""
    n, batch = (8192, 16) if device.type == "cuda" else (1024, 1)

    def random(*shape: int) -> Tensor:  # a GPU draws less power, and clocks higher, on constants
        return torch.randn(shape, device=device).to(dtype)

    a, b, c = (random(n, n) for _ in range(3))
    image, weight = (
        random(*shape).contiguous(memory_format=torch.channels_last)
        for shape in ((batch, 256, 56, 56), (256, 256, 3, 3))
    )
    return max(
        2 * n**3 / _best(lambda: torch.mm(a, b, out=c), device, tries),
        2
        * image.numel()
        * weight[0].numel()
        / _best(lambda: conv2d(image, weight, padding=1), device, tries),
    )


def _copy(device: torch.device, tries: int) -> float:
    size = 2**30 if device.type == "cuda" else 2**28
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _best(lambda: target.copy_(source), device, tries)


def floor(operations: Iterable[Operation], precision: str, model: str, peaks: Peaks) -> float:
    """Least seconds: each operator at the matrix product's FLOP/s or the copy's B/s, whichever is slower."""
    peak, rate = peaks.matmul[precision], peaks.copy / TYPES[precision].itemsize
    return sum(max(op.flops / peak, elements([op], model) / rate) for op in operations)
