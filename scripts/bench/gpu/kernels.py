# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Bk: the fused kernels at the shapes of the network against the reference in float64; a process per type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from earth2_corrdiff import kernels
from earth2_corrdiff.kernels import reference
from earth2_corrdiff.unet import SKIP_SCALE

from ..roofline import TYPES
from .layers import layers, size_of
from .meter import relative_l2
from .record import Record

# relative L2 that rounding of the result explains, with room
BOUNDS = {"fp32": 2e-6, "fp16": 6e-4, "bf16": 5e-3}
GRADIENT = 4.0  # times the bound, for gradients
SHIFT = 0.1  # of the shift's gradient: a sum that nearly vanishes
ODD = ((3, 96, 17, 23), (2, 160, 1, 5))  # channels and pixels that fill no tile
LARGE = 2_000_000  # values from which on one norm is enough: each variant is three kernels to compile
Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Inputs:
    """``x``, ``other`` ``[B, C, H, W]``, ``shift`` ``[B, C]``, and a norm's ``weight``, ``bias`` ``[C]``."""

    x: Tensor
    other: Tensor
    shift: Tensor
    weight: Tensor
    bias: Tensor

    @property
    def norm(self) -> tuple[int, Tensor, Tensor]:
        """Groups, weight and bias of the norm."""
        return min(32, (self.x.shape[1] + 3) // 4), self.weight, self.bias

    def first(self) -> Inputs:
        """The first sample alone."""
        return replace(self, x=self.x[:1], other=self.other[:1], shift=self.shift[:1])

    def double(self) -> Inputs:
        """The same numbers in float64."""
        return Inputs(*(t.double() for t in (self.x, self.other, self.shift, self.weight, self.bias)))


KERNELS: dict[str, Callable[[Any, Inputs], Tensor]] = {
    "norm, SiLU": lambda on, i: on.group_norm_silu(i.x, *i.norm, unbiased=True),
    "norm": lambda on, i: on.group_norm_silu(i.x, *i.norm, silu=False, unbiased=True),
    "shift, norm, SiLU": lambda on, i: on.group_norm_silu(i.x, *i.norm, shift=i.shift, unbiased=True),
    "residual": lambda on, i: on.residual_scale(i.x, i.other, SKIP_SCALE),
}
EVERYWHERE = ("norm, SiLU", "residual")


def run(record: Record) -> None:
    """Judge all kernels in the type that the process is named after."""
    kind = record.task.name.partition("-")[2]
    if record.cuda:
        record.put("version", value=_version(record))
    for shape in shapes(record.tiny):
        record.attempt(f"forward {shape}", forward, record, kind, shape, least=3)
    record.attempt("forward, NCHW", forward, record, kind, shapes(record.tiny)[-1], torch.contiguous_format)
    for shape in ((2, 8, 8, 8),) if record.tiny else ((4, 128, 128, 128), (16, 256, 64, 64), ODD[0]):
        record.attempt(f"backward {shape}", backward, record, kind, shape, least=3)
    bad = [name for name, row in record.found.get("rows", {}).items() if not row["good"]]
    record.put("bad", value=bad)
    record.say(f"{kind}: {len(bad)} bad: {bad}")


def _version(record: Record) -> str:
    """Where the fused kernels of this device come from."""
    from earth2_corrdiff.kernels import ops

    probe = torch.empty(1, 1, 1, 1, device=record.device)
    return str(getattr(ops._version(probe, lambda x: False), "__name__", "unknown"))


def shapes(tiny: bool) -> list[Shape]:
    """[B, C, H, W] of all norms of the network; of some in batches; and odd ones."""
    found: list[Shape] = [(1, c, side, side) for c, side in layers(size_of(tiny)).norms]
    batches: list[Shape] = [] if tiny else [(4, 128, 448, 448), (16, 256, 56, 56)]
    return [*found, *batches, *ODD]


def _inputs(device: torch.device, kind: str, shape: Shape, layout: torch.memory_format) -> Inputs:
    B, C, _, _ = shape

    def random(*size: int) -> Tensor:
        return torch.randn(size, device=device)

    def image(values: Tensor) -> Tensor:
        return values.to(TYPES[kind]).contiguous(memory_format=layout)

    shift = random(B, C).to(TYPES[kind])
    return Inputs(
        image(2 * random(*shape) + 5), image(random(*shape)), shift, 1 + 0.2 * random(C), 0.2 * random(C)
    )


def forward(
    record: Record, kind: str, shape: Shape, layout: torch.memory_format = torch.channels_last
) -> None:
    """Record the errors of all kernels at a shape, and whether their bits depend on run or batch."""
    given = _inputs(record.device, kind, shape, layout)
    row: dict[str, Any] = {"good": True}
    for name, kernel in KERNELS.items():
        if name in EVERYWHERE or given.x.numel() < LARGE:
            row[name] = _judge(kernel, given)
            row["good"] &= _good(row[name], BOUNDS[kind])
    where = "" if layout is torch.channels_last else ", NCHW"
    record.put("rows", f"forward {shape}{where}", value=row)


def _judge(kernel: Callable[[Any, Inputs], Tensor], given: Inputs) -> dict[str, Any]:
    """Error of a kernel, and checks that must be true."""
    want = kernel(reference, given.double())
    torch.full_like(given.x, torch.nan)  # the result lies where this was: what is not written shows
    got, again = kernel(kernels, given), kernel(kernels, given)
    checks = {"same bits again": torch.equal(got, again), "same layout": got.stride() == given.x.stride()}
    if len(given.x) > 1:
        checks["same bits alone"] = torch.equal(kernel(kernels, given.first()), got[:1])
    return {"error": relative_l2(got, want), **checks}


def _good(row: dict[str, Any], bound: float) -> bool:
    return bool(row["error"] <= bound) and all(row[name] for name in row if name != "error")


def backward(record: Record, kind: str, shape: Shape) -> None:
    """Record the errors of the norm's gradients."""
    given = _inputs(record.device, kind, shape, torch.channels_last)
    grad = torch.randn_like(given.x)

    def gradients(on: Any, i: Inputs) -> tuple[Tensor, ...]:
        leaves = [t.detach().requires_grad_() for t in (i.x, i.weight, i.bias, i.shift)]
        y = on.group_norm_silu(leaves[0], i.norm[0], *leaves[1:3], shift=leaves[3])
        return torch.autograd.grad(y, leaves, grad.to(y.dtype))

    pairs = zip(gradients(kernels, given), gradients(reference, given.double()), strict=True)
    names = ("x", "weight", "bias", "shift")
    errors = {name: relative_l2(*pair) for name, pair in zip(names, pairs, strict=True)}
    bounds = dict.fromkeys(names, GRADIENT * BOUNDS[kind]) | {"shift": SHIFT}
    good = all(errors[name] <= bounds[name] for name in names)
    record.put("rows", f"backward {shape}", value={"good": good, "gradients": errors})
