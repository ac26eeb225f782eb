# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Bk: the fused kernels at the shapes of the network against the reference in float64; a process per type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (as everywhere in PyTorch code)

from earth2_corrdiff.networks import kernels
from earth2_corrdiff.networks.kernels import feature_maps, reference
from earth2_corrdiff.networks.kernels.reference import Norm
from earth2_corrdiff.networks.unet import SKIP_SCALE

from ..roofline import TYPES
from .layers import layers, size_of
from .meter import relative_l2
from .record import Record

# relative L2 that rounding of the result explains, with room
BOUNDS = {"fp32": 2e-6, "fp16": 6e-4, "bf16": 5e-3}
GRADIENT = 4.0  # times the bound, for gradients
SHIFT = 0.1  # of the shift's gradient: a sum that nearly vanishes
ODD = ((3, 96, 17, 23), (2, 160, 1, 5))  # channels and pixels that fill no tile
WIDTHS = ((2, 128, 56, 56), (2, 256, 56, 56), (1, 384, 28, 28), (2, 160, 10, 6))  # for all kernels
LARGE = 2_000_000  # values from which on some kernels are not judged: each takes seconds to compile
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


@dataclass(frozen=True)
class Kernel:
    """A kernel and its specification, which takes the same inputs in float64.

    Attributes
    ----------
    fused, truth : Callable[[Inputs], Tensor]
        What is judged, and what it should give
    everywhere : bool
        True if it is judged at every shape of the network, and not at the small ones alone
    even : bool
        True if it halves or doubles the resolution, or takes a side at half of it
    """

    fused: Callable[[Inputs], Tensor]
    truth: Callable[[Inputs], Tensor]
    everywhere: bool = False
    even: bool = False


def _op(call: Callable[[Any, Inputs], Tensor], everywhere: bool = False) -> Kernel:
    """One of ``earth2_corrdiff.networks.kernels``: the reference has it under the same name."""
    return Kernel(lambda i: call(kernels, i), lambda i: call(reference, i), everywhere)


def _map_norm(mode: str, sources: int = 1) -> Kernel:
    """The norm of feature maps, whose moments were made before, with a shift for all samples."""

    def parameters(i: Inputs) -> tuple[Tensor, Tensor, Norm, Tensor]:
        weight, bias, shift = (t.repeat(sources) for t in (i.weight, i.bias, i.bias))
        return weight, bias, Norm(min(32, (len(weight) + 3) // 4), unbiased=True), shift[None]

    def fused(i: Inputs) -> Tensor:
        weight, bias, norm, shift = parameters(i)
        maps = [feature_maps.measured(t) for t in (i.x, i.other)[:sources]]
        return feature_maps.normalised(maps, weight, bias, norm, shift=shift, mode=mode)[0]

    def truth(i: Inputs) -> Tensor:
        weight, bias, norm, shift = parameters(i)
        x = torch.cat((i.x, i.other)[:sources], dim=1)
        y, _, _ = reference.forward(x, weight, bias, shift.expand(len(x), -1), norm)
        if mode == "down":
            return F.avg_pool2d(y, 2)
        return F.interpolate(y, scale_factor=2, mode="nearest") if mode == "up" else y

    return Kernel(fused, truth, everywhere=mode == "same" and sources == 1, even=mode == "down")


def _join(half: bool) -> Kernel:
    """The end of a block, its side at the same resolution or at half of it."""

    def side(i: Inputs) -> Tensor:
        image = i.other[..., ::2, ::2] if half else i.other
        return image.contiguous(memory_format=torch.channels_last)

    def truth(i: Inputs) -> Tensor:
        other = F.interpolate(side(i), scale_factor=2, mode="nearest") if half else i.other
        return (i.x + i.bias.view(1, -1, 1, 1) + other) * SKIP_SCALE

    return Kernel(
        lambda i: feature_maps.join(i.x, side(i), i.bias, SKIP_SCALE).values,
        truth,
        everywhere=not half,
        even=half,
    )


KERNELS = {
    "norm, SiLU": _op(lambda on, i: on.group_norm_silu(i.x, *i.norm, unbiased=True), everywhere=True),
    "norm": _op(lambda on, i: on.group_norm_silu(i.x, *i.norm, silu=False, unbiased=True)),
    "shift, norm, SiLU": _op(lambda on, i: on.group_norm_silu(i.x, *i.norm, shift=i.shift, unbiased=True)),
    "residual": _op(lambda on, i: on.residual_scale(i.x, i.other, SKIP_SCALE), everywhere=True),
    "join": _join(half=False),
    "join, side at half the resolution": _join(half=True),
    "norm of a map": _map_norm("same"),
    "norm of a map, doubled": _map_norm("up"),
    "norm of a map, halved": _map_norm("down"),
    "norm of two maps": _map_norm("same", 2),
    "norm of two maps, doubled": _map_norm("up", 2),
}


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
    from earth2_corrdiff.networks.kernels import ops

    probe = torch.empty(1, 1, 1, 1, device=record.device)
    return str(getattr(ops._version(probe, lambda x: False), "__name__", "unknown"))


def shapes(tiny: bool) -> list[Shape]:
    """[B, C, H, W] of all norms of the network; of some in batches; and odd ones."""
    found: list[Shape] = [(1, c, side, side) for c, side in layers(size_of(tiny)).norms]
    more: list[Shape] = [] if tiny else [*WIDTHS, (4, 128, 448, 448), (16, 256, 56, 56)]
    return [*found, *more, *ODD]


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
    small, even = given.x.numel() < LARGE, not any(side % 2 for side in shape[2:])
    for name, kernel in KERNELS.items():
        if (small or kernel.everywhere) and (even or not kernel.even):
            row[name] = _judge(kernel, given)
            row["good"] &= _good(row[name], BOUNDS[kind])
    where = "" if layout is torch.channels_last else ", NCHW"
    record.put("rows", f"forward {shape}{where}", value=row)


def _judge(kernel: Kernel, given: Inputs) -> dict[str, Any]:
    """Error of a kernel, and checks that must be true."""
    want = kernel.truth(given.double())
    # the result will lie where this was: what is not written shows
    torch.full_like(want, torch.nan, dtype=given.x.dtype)
    got, again = kernel.fused(given), kernel.fused(given)
    checks = {"same bits again": torch.equal(got, again), "same type": got.dtype == given.x.dtype}
    if len(given.x) > 1:
        checks["same bits alone"] = torch.equal(kernel.fused(given.first()), got[:1])
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
