# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The fused residual, and the fused operators as PyTorch sees them: checked, traced, compiled."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from axes import pairwise
from kernel_cases import FLOATS, LAYOUTS, NCHW, NHWC, Case, inputs
from torch import Tensor, nn

from earth2_corrdiff.networks.kernels import group_norm_silu, reference, residual_scale
from earth2_corrdiff.networks.unet import GroupNorm

SMALL = Case((2, 24, 5, 7))

# the residual


@pytest.mark.parametrize(
    ("shape", "dtype", "layouts"),
    pairwise([(1, 3, 1, 5), (3, 40, 17, 23)], [*FLOATS.values(), torch.float64], product(LAYOUTS, LAYOUTS)),
    ids=str,
)
def test_residual_and_scale(shape: tuple[int, ...], dtype: torch.dtype, layouts: tuple[str, str]) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y, grad = (torch.randn(shape, generator=generator).to(dtype) for _ in range(3))
    x, y = (t.contiguous(memory_format=LAYOUTS[name]) for t, name in zip((x, y), layouts, strict=True))
    x, y = x.requires_grad_(), y.requires_grad_()
    got = residual_scale(x, y, 0.7)
    wide = torch.promote_types(dtype, torch.float32)
    assert torch.equal(got, ((x.to(wide) + y.to(wide)) * 0.7).to(dtype))  # rounded once
    assert got.stride() == x.stride()
    got.backward(grad)
    assert torch.equal(x.grad, grad * 0.7) and torch.equal(y.grad, grad * 0.7)


@pytest.mark.parametrize(
    "other", [torch.zeros(2, 3, 4, 6), torch.zeros(2, 3, 4, 5).half()], ids=["shape", "dtype"]
)
def test_residual_refuses_what_does_not_fit(other: Tensor) -> None:
    with pytest.raises(ValueError, match=r"one shape, dtype and device are needed, got \[2, 3, 4, 5\]"):
        residual_scale(torch.zeros(2, 3, 4, 5), other, 1.0)


# the operators of PyTorch

OPERATORS = torch.ops.earth2_corrdiff


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "layout", "shifted"),
    [
        (torch.float32, NHWC, True),
        (torch.bfloat16, NHWC, False),
        (torch.bfloat16, NCHW, True),
        (torch.float64, NCHW, False),
    ],
    ids=str,
)
def test_operators_are_what_they_say(dtype: torch.dtype, layout: torch.memory_format, shifted: bool) -> None:
    """Schema, fake version, gradient and tracing with unknown shapes, by PyTorch's own checks."""
    given = inputs(replace(SMALL, shifted=shifted), dtype, layout)
    x, weight = given.x.requires_grad_(), given.weight.requires_grad_()
    torch.library.opcheck(
        OPERATORS.group_norm_silu.default, (x, weight, given.bias, given.shift, 6, 1e-6, True, True)
    )
    mean, rstd = torch.zeros(2, 2, 6, dtype=reference.working_dtype(dtype)).unbind()
    fixed = (given.grad, x.detach(), weight.detach(), given.bias, given.shift, mean, rstd)
    torch.library.opcheck(OPERATORS.group_norm_silu_backward.default, (*fixed, 6, True, False))
    torch.library.opcheck(OPERATORS.residual_scale.default, (x, given.grad, 0.5))


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(24, 24, 3, padding=1), GroupNorm(24)

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        y = group_norm_silu(self.conv(x), 6, self.norm.weight, self.norm.bias, shift=shift)
        return residual_scale(y, x, 0.7)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_compiler_sees_through_it(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    net, given = _Net().to(memory_format=layout), inputs(SMALL, layout=layout)
    gradients = []
    for run in (net, torch.compile(net, fullgraph=True, backend="aot_eager")):
        x = given.x.detach().requires_grad_()
        y = run(x, given.shift)
        net.zero_grad()
        y.backward(given.grad)
        gradients.append([y.detach(), x.grad, *(p.grad.clone() for p in net.parameters())])
    for eager, traced in zip(*gradients, strict=True):
        torch.testing.assert_close(traced, eager, rtol=1e-5, atol=1e-5)
        assert traced.stride() == eager.stride()
