# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""For the tests of the fused operators: fields, the truth in float64, and how far from it they may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from earth2_corrdiff.networks.kernels import reference
from earth2_corrdiff.networks.kernels.reference import Norm

NCHW, NHWC = torch.contiguous_format, torch.channels_last
LAYOUTS = {"nchw": NCHW, "nhwc": NHWC}
FLOATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Largest error over largest value, by the field's mean in standard deviations: the row "two-level" of the
# design's table; a result in 16 bits is rounded once.
FORWARD = {0: 1e-6, 100: 7e-6, 1000: 9e-5}
BACKWARD = {0: 3e-6, 100: 2e-5, 1000: 2e-4}
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
NAMES = ("y", "x", "weight", "bias", "shift")


@dataclass(frozen=True)
class Case:
    """A field ``[B, C, H, W]`` with mean ``offset`` and what is done with it."""

    shape: tuple[int, int, int, int]
    offset: int = 0
    silu: bool = True
    unbiased: bool = True
    shifted: bool = True

    @property
    def norm(self) -> Norm:
        return Norm(min(32, self.shape[1] // 4), 1e-6, self.silu, self.unbiased)

    def __str__(self) -> str:
        flags = [name for name in ("silu", "unbiased", "shifted") if getattr(self, name)]
        return "-".join(["x".join(map(str, self.shape)), f"mean{self.offset}", *flags])


@dataclass(frozen=True)
class Inputs:
    """Tensors of a case."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    shift: Tensor | None
    grad: Tensor

    def double(self) -> Inputs:
        """The same numbers in float64."""
        shift = None if self.shift is None else self.shift.double()
        x, weight, bias, grad = (t.double() for t in (self.x, self.weight, self.bias, self.grad))
        return replace(self, x=x, weight=weight, bias=bias, shift=shift, grad=grad)


def inputs(
    case: Case,
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = NHWC,
    device: str = "cpu",
    seed: int = 0,
) -> Inputs:
    generator = torch.Generator().manual_seed(seed)

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device)

    def field(values: Tensor) -> Tensor:
        return values.to(dtype).contiguous(memory_format=layout)

    B, C, _, _ = case.shape
    x, grad = field(2 * random(*case.shape) + 2 * case.offset), field(random(*case.shape))
    return Inputs(x, 1 + 0.2 * random(C), random(C), random(B, C) if case.shifted else None, grad)


def results(run: Callable[..., Tensor], case: Case, given: Inputs) -> dict[str, Tensor]:
    """The result of an operator with the reference's signature, and its gradients by autograd."""
    leaves = {"x": given.x, "weight": given.weight, "bias": given.bias, "shift": given.shift}
    leaves = {name: None if t is None else t.detach().requires_grad_() for name, t in leaves.items()}
    norm = case.norm
    y = run(
        *(leaves["x"], norm.groups, leaves["weight"], leaves["bias"], norm.eps),
        silu=norm.silu,
        shift=leaves["shift"],
        unbiased=norm.unbiased,
    )
    y.backward(given.grad)
    return {"y": y.detach()} | {name: t.grad for name, t in leaves.items() if t is not None}


def truth(case: Case, given: Inputs) -> dict[str, Tensor]:
    """By autograd through the reference in float64."""
    return results(reference.group_norm_silu, case, given.double())


def assert_close(got: dict[str, Tensor], want: dict[str, Tensor], case: Case, rounding: float = 0.0) -> None:
    """``rounding`` is that of the dtype, for what is as large as the field."""
    assert got.keys() == want.keys()
    for name, value in got.items():
        bound = (FORWARD if name == "y" else BACKWARD)[case.offset]
        bound += rounding if name in ("y", "x") else 0.0
        scale = float(want[name].abs().max())
        error = float((value.double() - want[name]).abs().max())
        assert error <= bound * scale, f"{name}: {error / scale:.1e} > {bound:.1e}"
